"""Every testbench, on every build that it names; an hw module without a testbench fails."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import tessera.hw
import tessera.tb
from tessera.hw.lib.streams import Instruments
from tessera.sim import measure
from tessera.sim.build import bench_hash, build, build_folder, elaborate

NOT_BENCHES = {"tessera.tb.bench", "tessera.tb.system"}
NO_BENCH_NEEDED = {
    # Only shapes and figures, no logic.
    "tessera.hw.config",
    "tessera.hw.engine",
    "tessera.hw.memory.port",
    # Figures in Python: tests/hw/test_layout.py.
    "tessera.hw.memory.layout",
    # Proven through every bench that keeps frames in it.
    "tessera.hw.models.storage",
}

LONG = re.compile(
    r"codec\.jpeg\.decoder-(decoder|memory)|codec\.jpeg\.encoder|compute\.(compose|engine|scale|steps)|memory\.ddr-"
)
"""Benches that simulate for so long that compiling for speed pays."""


def modules(package):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.ispkg:
            yield module.name


def benches():
    for name in modules(tessera.tb):
        if name in NOT_BENCHES:
            continue
        module = importlib.import_module(name)
        for dut, entry in getattr(module, "DUTS", {}).items():
            for stalls in (False, True) if entry.stalls else (False,):
                short = name.removeprefix("tessera.tb.")
                marks = [pytest.mark.soak] if entry.soak else []
                case = f"{short}-{dut}" + ("-stalls" if stalls else "")
                yield pytest.param(name, dut, entry, stalls, id=case, marks=marks)


@pytest.mark.parametrize("name, dut, entry, stalls", list(benches()))
def test_bench(name, dut, entry, stalls, request):
    instruments = Instruments(checkers=True, stalls=1 if stalls else None)
    text = elaborate(f"{name} {dut} {bench_hash(name)}", entry.simulated, instruments=instruments)
    long = entry.soak or LONG.match(request.node.callspec.id)
    program = build(text, effort="-O1" if long else "-O0")
    folder = build_folder() / "tests" / request.node.callspec.id
    (folder / measure.FIGURES).unlink(missing_ok=True)
    environment = {"TESSERA_DUT": dut, "TESSERA_STALLS": "1" if stalls else ""}
    results = program.run(name, folder=folder, environment=environment, test_filter=entry.tests)
    failed = [f"{result.name}: {result.message}" for result in results if not result.passed]
    again = f"python -m pytest 'tests/test_tb.py::test_bench[{request.node.callspec.id}]'"
    assert not failed, f"{len(failed)} of {len(results)} tests failed: {failed} (log: {folder}/simulation.log; {again})"
    if not stalls:
        changed = measure.differences(measure.read_figures(folder, request.node.callspec.id))
        assert not changed, "; ".join(changed)


def test_every_block_has_a_bench():
    blocks = set(modules(tessera.hw)) - NO_BENCH_NEEDED
    missing = {name for name in blocks if not hasattr(_bench_of(name), "DUTS")}
    assert not missing, f"without a testbench of the same name: {sorted(missing)}"


def _bench_of(block):
    try:
        return importlib.import_module(block.replace("tessera.hw.", "tessera.tb.", 1))
    except ModuleNotFoundError:
        return None


def test_bench_names_follow_blocks():
    blocks = {name.replace("tessera.hw.", "tessera.tb.", 1) for name in modules(tessera.hw)}
    strays = {
        name
        for name in modules(tessera.tb)
        if name not in blocks | NOT_BENCHES and hasattr(importlib.import_module(name), "DUTS")
    }
    assert not strays, f"testbenches of no block: {sorted(strays)}; in {Path(tessera.tb.__file__).parent}"
