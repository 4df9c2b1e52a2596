"""A plan on the simulated chip: built, run, and read back."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tessera.golden.frames import ChromaFormat, Frame
from tessera.hw.config import SystemConfig
from tessera.hw.engine import EngineKind
from tessera.hw.host.descriptor import RECORD_BYTES
from tessera.hw.lib.streams import Instruments
from tessera.hw.memory.layout import SurfaceLayout
from tessera.hw.memory.port import LINE_BYTES
from tessera.hw.system import System
from tessera.sim.build import NO_GROUPS, BuildError, Program, build, build_folder, elaborate
from tessera.sim.plan import Plan, Record

__all__ = ["Outcome", "Progress", "SimulationError", "build_system", "simulate", "system_verilog"]

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is; 0 of 0 where nobody knows."""

_NAMED = 6


class SimulationError(Exception):
    """The simulation did not come to its end; one line that says where it stood."""


@dataclass(frozen=True)
class Outcome:
    """What came out of a simulation.

    Parameters
    ----------
    records
        How each task ended, by tag.
    results
        The bytes that each task sent to the host, by tag.
    cycles, seconds
        From the doorbell to the last interrupt: of the chip, and of the simulator's time.
    counters
        The chip's performance counters by name.
    errors
        Its error counters, by register.
    violations
        DRAM timing rules that were broken.
    """

    plan: Plan
    records: Mapping[int, Record]
    results: Mapping[int, bytes]
    cycles: int
    seconds: float
    counters: Mapping[str, int]
    errors: Mapping[str, int]
    violations: int
    _surfaces: bytes

    def surface(self, stream: int, frame: int) -> Frame | None:
        """What was decoded from a frame of a stream, or composed, whose surfaces are kept; None if the task failed."""
        pool = self.plan.surfaces[stream]
        makers = [t for t in self.plan.tasks if t.engine in (EngineKind.JpegDecode, EngineKind.Compose) and not t.lists]
        tag = next(t.tag for t in makers if (t.stream, t.frame) == (stream, frame))
        record = self.records[tag]
        if record.status != "Ok":
            return None
        layout = SurfaceLayout(ChromaFormat(record.chroma_format), record.width, record.height)
        first = (pool.body_line(frame) - self.plan.surfaces_range()[0]) * LINE_BYTES
        return layout.unpack(self._surfaces[first : first + layout.lines * LINE_BYTES])


def system_verilog(config: SystemConfig, instruments: Instruments | None = None) -> str:
    """The whole simulated system as Verilog; quick when it was made before."""
    return elaborate(f"system {config!r}", lambda: System(config), instruments=instruments)


def build_system(
    config: SystemConfig,
    *,
    instruments: Instruments | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Program:
    """The whole system as a program; quick when it was made before.

    It can write a waveform of the top's ports: the events of the tasks.
    """
    progress("making the chip's Verilog", 0, 0)
    text = system_verilog(config, instruments)
    return build(text, waves="vcd", control=NO_GROUPS, effort="-O2", progress=lambda line: progress(line, 0, 0))


def simulate(
    plan: Plan,
    program: Program,
    *,
    seed: int = 1,
    knobs: Mapping[str, int] | None = None,
    waves_to: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Outcome:
    """Run a plan on a built system.

    Parameters
    ----------
    seed
        Of the host's stalls, 0 to 2**31 - 1.
    knobs
        How the host behaves: fields of :class:`tessera.hw.models.host.HostKnobs`.
    waves_to
        Where the waveform goes; None for none.

    Raises
    ------
    SimulationError
        Tasks did not end within ``plan.limit`` cycles, or the testbench failed.
    """
    with _work_folder() as folder:
        plan.write(folder, dump_surfaces=bool(plan.surfaces), knobs={"seed": seed, **(knobs or {})})
        with _watched(folder / "progress", len(plan.tasks), progress):
            try:
                (result,) = program.run(
                    "tessera.tb.system",
                    folder=folder,
                    environment={"TESSERA_DUT": "system"},
                    seed=seed,
                    trace=waves_to is not None,
                )
            except BuildError as error:
                raise SimulationError(f"{error}{_kept_log(folder)}") from None
        if waves_to is not None:
            shutil.move(next(file for file in folder.iterdir() if file.suffix in (".vcd", ".fst")), waves_to)
        if not result.passed or not (folder / "outcome.json").exists():
            raise SimulationError(f"the testbench failed: {result.message.strip().splitlines()[-1]}{_kept_log(folder)}")
        outcome = json.loads((folder / "outcome.json").read_text())
        records = _records(folder / "completions.bin", outcome["ended"])
        if outcome["ended"] < outcome["tasks"]:
            raise SimulationError(_unfinished(plan, records, outcome["cycles"]))
        return Outcome(
            plan=plan,
            records=records,
            results=_results(plan, records, folder / "results.bin"),
            cycles=outcome["cycles"],
            seconds=outcome["seconds"],
            counters=outcome["counters"],
            errors=outcome["errors"],
            violations=outcome["violations"],
            _surfaces=(folder / "surfaces.bin").read_bytes() if plan.surfaces else b"",
        )


@contextmanager
def _work_folder() -> Iterator[Path]:
    parent = build_folder() / "runs"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _kept_log(folder: Path) -> str:
    """Words that say where the log of a failed run now is."""
    log = folder / "simulation.log"
    if not log.exists():
        return ""
    kept = build_folder() / "failed-simulation.log"
    shutil.copy(log, kept)
    return f" (log: {kept})"


@contextmanager
def _watched(file: Path, total: int, progress: Progress) -> Iterator[None]:
    """While the simulator writes `file`, tell how far it is."""
    over = threading.Event()

    def watch() -> None:
        told = -1
        while not over.wait(0.25):
            words = file.read_text().split() if file.exists() else ["0", "0"]
            if len(words) == 2 and int(words[0]) != told:
                told = int(words[0])
                progress(f"simulating, {int(words[1]):,} cycles", told, total)

    progress("simulating", 0, total)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _records(file: Path, count: int) -> dict[int, Record]:
    lines = file.read_bytes()
    records = [Record.parse(lines[n * RECORD_BYTES : (n + 1) * RECORD_BYTES]) for n in range(count)]
    return {record.tag: record for record in records}


def _results(plan: Plan, records: Mapping[int, Record], file: Path) -> dict[int, bytes]:
    if not plan.results:
        return {}
    content, first = file.read_bytes(), plan.results_range()[0] * LINE_BYTES
    return {
        tag: content[address - first : address - first + min(records[tag].bytes, room)]
        for tag, (address, room) in plan.results.items()
        if records[tag].status == "Ok"
    }


def _unfinished(plan: Plan, records: Mapping[int, Record], cycles: int) -> str:
    """Which tasks did not end, and what they wait for."""
    left = [task for task in plan.tasks if task.tag not in records]
    ready = [t for t in left if all(need is None or need in records for need in (t.source, *t.frees))]
    shown: Sequence[str] = [plan.name(task.tag) for task in ready[:_NAMED]]
    more = f" and {len(ready) - _NAMED} more" if len(ready) > _NAMED else ""
    return (
        f"{len(left)} of {len(plan.tasks)} tasks did not end within {cycles} cycles; "
        f"those that wait for no other: {'; '.join(shown)}{more}"
    )
