"""Measures every figure of the design and prints it beside its baseline and its target.

``make bench``; with ``ACCEPT=1`` what was measured becomes ``baseline.json``. Measured are: the testbenches' tests
that write figures, the default job on the whole system, and every block after synthesis, placed where it is marked so.
"""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import tessera.tb
from tessera.hw.lib.streams import Instruments
from tessera.sim import measure, synth
from tessera.sim.build import BuildError, bench_hash, build, build_folder, elaborate
from tessera.tb.bench import keep_figures

__all__ = ["measuring_tests", "run_bench"]

ROOT = Path(__file__).resolve().parent.parent
JOB = "transcode"


def measuring_tests(module: str) -> list[str]:
    """Names of the cocotb tests of `module` that keep figures, by themselves or through a function of it."""
    tree = ast.parse(Path(str(importlib.import_module(module).__file__)).read_text())
    functions = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]

    def named(node: ast.AST) -> set[str]:
        return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}

    writers = {node.name for node in functions if keep_figures.__name__ in named(node)}
    writers |= {node.name for node in functions if named(node) & writers}
    return [node.name for node in functions if node.name in writers and node.decorator_list]


def _benches() -> Iterator[tuple[str, str, list[str]]]:
    for found in pkgutil.walk_packages(tessera.tb.__path__, "tessera.tb."):
        if found.ispkg or not hasattr(importlib.import_module(found.name), "DUTS"):
            continue
        tests = measuring_tests(found.name)
        if tests:
            for dut, entry in importlib.import_module(found.name).DUTS.items():
                measures = [test for test in tests if re.search(entry.tests or "", f"{found.name}.{test}/")]
                if measures:
                    yield found.name, dut, measures


def run_bench(module: str, dut: str, tests: list[str]) -> dict[str, float]:
    """Run the measuring `tests` of one build of a testbench; its figures by full name."""
    entry = importlib.import_module(module).DUTS[dut]
    key = f"{module} {dut} {bench_hash(module)}"
    program = build(elaborate(key, entry.simulated, instruments=Instruments(checkers=True)))
    run = f"{module.removeprefix('tessera.tb.')}-{dut}"
    folder = build_folder() / "bench" / run
    (folder / measure.FIGURES).unlink(missing_ok=True)
    # A test's full name ends in its parameters, if it has any; what a build leaves out stays out.
    chosen = rf"\.({'|'.join(tests)})(/|$)"
    chosen = rf"(?=.*{chosen})(?=.*(?:{entry.tests}))" if entry.tests else chosen
    try:
        results = program.run(module, folder=folder, environment={"TESSERA_DUT": dut, "TESSERA_STALLS": ""},
                              test_filter=chosen)
    except BuildError as error:
        if "no test of" in str(error):
            return {}
        raise
    failed = [f"{result.name}: {result.message}" for result in results if not result.passed]
    if failed:
        raise BuildError(f"{run}: {failed[0]} (log: {folder}/simulation.log)")
    return measure.read_figures(folder, run)


def _run_system() -> dict[str, float]:
    out = build_folder() / "bench" / f"run-{JOB}"
    command = [str(Path(sys.executable).parent / "tessera"), "run", JOB]
    result = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, cwd=ROOT)
    if result.returncode:
        said = (result.stdout + result.stderr).strip().splitlines() or ["?"]
        raise BuildError(f"the job {JOB} failed with code {result.returncode}: {said[-1]}")
    report = next(out.rglob("report.json"))
    return measure.figures_of_run(json.loads(report.read_text()), JOB)


def _synthesize(block: synth.Block, say: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, float]]:
    counts, key = synth.count(block)
    row: dict[str, Any] = {"netlist": key, **asdict(counts)}
    if block.place:
        say(f"placing {block.name}: minutes, unless it was done before")
        placed = synth.place(block)
        assert placed
        row |= {"fmax": placed.fmax, "placed": placed.netlist, "path": placed.path}
    numbers = {name: row[name] for name in ("lut", "ff", "bram", "dsp", "fmax") if name in row}
    return row, {f"synth/{block.name}/{name}": value for name, value in numbers.items()}


def main(
    accept: Annotated[bool, typer.Option(help="What is measured becomes the baseline")] = False,
    only: Annotated[str, typer.Option(help="Only what has this word in its name: blocks, system, synth")] = "",
) -> None:
    """Every measured figure beside its baseline and its target."""
    console = Console()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    work: dict[str, Callable[[], Any]] = {}
    for module, dut, tests in _benches():
        work[f"{module.removeprefix('tessera.tb.')}-{dut}"] = lambda m=module, d=dut, t=tests: run_bench(m, d, t)
    work["system"] = _run_system
    for block in synth.BLOCKS.values():
        work[f"synth {block.name}"] = lambda b=block: _synthesize(b, say)
    work = {name: job for name, job in work.items() if only in name}

    figures: dict[str, float] = {}
    rows: dict[str, Any] = {}
    failures: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        jobs = {name: pool.submit(job) for name, job in work.items()}
        for name, job in jobs.items():
            try:
                result = job.result()
            except BuildError as error:
                failures.append(f"{name}: {error}")
                continue
            if isinstance(result, tuple):
                rows[name.removeprefix("synth ")] = result[0]
                result = result[1]
            figures |= result
            say(f"{name}: {len(result)} figures")

    accepted = measure.baseline()
    before = accepted["figures"]
    console.print(_table(figures, before))
    gone = sorted(set(before) - set(figures)) if not only and not failures else []
    for name in gone:
        say(f"{name}: in the baseline, but no longer measured")
    for line in failures + measure.missed(figures):
        say(line)
    if accept:
        kept = {name: value for name, value in before.items() if name not in gone} | figures
        synthesized = {name: row for name, row in (accepted["synth"] | rows).items() if name in synth.BLOCKS}
        content = {"figures": dict(sorted(kept.items())), "synth": dict(sorted(synthesized.items()))}
        measure.BASELINE.write_text(json.dumps(content, indent=1) + "\n")
        say(f"accepted: {measure.BASELINE.name}")
    changed = gone + measure.differences(figures)
    if changed and not accept:
        say(f"{len(changed)} figures are not the baseline's: make bench ACCEPT=1 accepts them")
    if failures or measure.missed(figures) or (changed and not accept):
        raise typer.Exit(1)


def _table(figures: dict[str, float], before: dict[str, float]) -> Table:
    shown = Table("figure")
    for name in ("value", "unit", "baseline", "target", ""):
        shown.add_column(name, justify="right")
    for name, value in sorted(figures.items()):
        wanted = measure.target(name)
        verdict = "" if wanted is None else "ok" if wanted.met(value) else "MISSED"
        old = before.get(name)
        same = "" if old is None else "same" if old == value else _number(old)
        shown.add_row(name, _number(value), measure.unit(name), same, str(wanted or ""), verdict)
    return shown


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 1e4 else f"{value:.4f}"


if __name__ == "__main__":
    typer.run(main)
