"""The last test module of a simulation that holds mutants: everything is imported once, then forked for each mutant.

``TESSERA_MUTANTS`` lists them; each child runs the tests with its own in a folder of its name, for at most
``TESSERA_LIMIT`` seconds of processor time, so that a busy machine decides nothing. See ``sim/mutate.py``.
"""

import os
import time
from pathlib import Path

_POLL = 0.01


def _seconds(child: int) -> float:
    """Processor time that a running child has taken."""
    user, system = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _await(child: int, results: Path, limit: float) -> None:
    # A forked simulation may wait at its very end for threads that it does not have: its results are its end.
    asleep = time.monotonic() + 20 * limit
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        over = _seconds(child) > limit or time.monotonic() > asleep
        if over or (results.exists() and "</testsuites>" in results.read_text()):
            os.kill(child, 9)
            os.waitpid(child, 0)
            return
        time.sleep(_POLL)


def _become(number: str) -> None:
    folder = Path(number).absolute()
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    log = os.open("simulation.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ["TESSERA_MUTANT"] = number
    os.environ["COCOTB_RESULTS_FILE"] = str(folder / "results.xml")


def _fork() -> None:
    for number in os.environ["TESSERA_MUTANTS"].split():
        child = os.fork()
        if not child:
            _become(number)
            return
        _await(child, Path(number) / "results.xml", float(os.environ["TESSERA_LIMIT"]))
    # Whoever started this wants to see a result: here it is that all children have ended.
    Path(os.environ["COCOTB_RESULTS_FILE"]).write_text('<testsuites><testcase name="forked" /></testsuites>')
    os._exit(0)


_fork()
