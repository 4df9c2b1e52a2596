"""The picture of docs/link.md, read out of a waveform: a link trains, a line is read, and one more over a bad wire.

``python -m tessera.sim.link_trace [FILE]``
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from vcdvcd import VCDVCD

from tessera.hw.lib.streams import Instruments
from tessera.hw.link.link import LinkCounts
from tessera.hw.link.packet import BLOCK_WORDS, FILL, Kind
from tessera.hw.link.training import LinkState
from tessera.hw.models.load import LoadCounts
from tessera.sim.build import NO_GROUPS, BuildError, bench_hash, build, build_folder, elaborate
from tessera.tb.models import load

__all__ = ["Chip", "draw", "record", "words"]

ROOT = Path(__file__).resolve().parent.parent
MODULE, DUT = "tessera.tb.models.load", "story"
TRACED = "top.port{n}.link.sender"
PORTS = "$rootio"
"""Where Verilator puts the ports of the top."""
COLOURS = {
    "marker": "#222222",
    "filling": "#e8e8e8",
    "Status": "#e0a100",
    "request": "#2f6fb7",
    "response": "#2e8b57",
    "response again": "#8fd6ae",
}
STATES = {LinkState.Training: "#f3d3a2", LinkState.Active: "#cfe6d4"}


@dataclass
class Chip:
    """What one chip did, by cycle since reset."""

    state: list[LinkState] = field(default_factory=list)
    blocks: list[list[str]] = field(default_factory=list)
    """What each word of the block is that goes to the serializer."""
    noise: list[bool] = field(default_factory=list)
    """The wire from this chip on is noise."""
    asked: list[int] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    """Packets that came with a wrong CRC, so far."""
    again: list[int] = field(default_factory=list)
    """Packets sent again, so far."""


def words(blocks: Iterator[tuple[bool, bool, bool, list[int]]]) -> Iterator[list[str]]:
    """What the words of blocks of one lane are, each told as: it is a marker, it is of a stripe, its ``start``, its
    words."""
    left, what = 0, ""
    seen: set[tuple[int, int]] = set()
    for marker, taken, start, content in blocks:
        # One of filling may stand amid a packet.
        if marker or not taken or (start and content[0] == FILL):
            yield ["marker" if marker else "filling"] * BLOCK_WORDS
            continue
        kinds: list[str] = []
        for number, word in enumerate(content):
            if left == 0 and word == FILL:
                kinds += ["filling"] * (BLOCK_WORDS - number)
                break
            if left == 0:
                left = 3 + (word >> 4 & 1) + 16 * (word & 15)
                kind, cell = Kind(word >> 10 & 7), word >> 21 & 0xFF
                what = {Kind.RequestFirst: "request", Kind.ResponseFirst: "response"}.get(kind, kind.name)
                if kind is not Kind.Status and (kind.value, cell) in seen:
                    what += " again"
                seen.add((kind.value, cell))
            kinds.append(what)
            left -= 1
        yield kinds


def record(folder: Path) -> list[Chip]:
    """Run the story in `folder`, and read what both chips did out of its waveform."""
    entry = load.DUTS[DUT]
    text = elaborate(f"{MODULE} {DUT} {bench_hash(MODULE)}", entry.simulated, instruments=Instruments(checkers=True))
    on = "\n".join(f'tracing_on -scope "{TRACED.format(n=n)}"' for n in range(2))
    program = build(text, waves="vcd", control=f"{NO_GROUPS}\n{on}", effort="-O0")
    results = program.run(
        MODULE,
        folder=folder,
        environment={"TESSERA_DUT": DUT, "TESSERA_STALLS": ""},
        test_filter=entry.tests,
        trace=True,
    )
    failed = [f"{result.name}: {result.message}" for result in results if not result.passed]
    if failed:
        raise BuildError(f"{failed[0]} (log: {folder}/simulation.log)")
    wave = VCDVCD(str(next(folder.glob("*.vcd"))))
    return [_chip(wave, n) for n in range(2)]


def _chip(wave: VCDVCD, n: int) -> Chip:
    signals = {re.sub(r"\[\d+:0\]$", "", name): name for name in wave.signals}

    def signal(name: str) -> Any:
        if name not in signals:
            raise BuildError(f"the waveform has no {name}")
        return wave[signals[name]]

    rises = [time for time, value in signal(f"{PORTS}.clk").tv if value == "1"]
    reset = signal(f"{PORTS}.rst")
    # Just before an edge all is as it was in the cycle.
    cycles = [time - 1 for time in rises if reset[time - 1] == "0"]

    def values(name: str) -> list[int]:
        one = signal(name)
        return [int(one[time], 2) if set(one[time]) <= {"0", "1"} else 0 for time in cycles]

    sender = TRACED.format(n=n)
    content = values(f"{sender}.i__payload")
    blocks = (
        (bool(marker), bool(taking), bool(block & 1), [block >> 1 + 32 * k & 0xFFFFFFFF for k in range(BLOCK_WORDS)])
        for marker, taking, block in zip(values(f"{sender}.marker"), values(f"{sender}.taking"), content)
    )
    counts = [LinkCounts.from_bits(value) for value in values(f"{PORTS}.counts{n}")]
    loads = [LoadCounts.from_bits(value) for value in values(f"{PORTS}.load{n}")]
    return Chip(
        state=[LinkState(value) for value in values(f"{PORTS}.state{n}")],
        blocks=list(words(blocks)),
        # A block is on the wire a cycle after it goes to the serializer.
        noise=[value != 0 for value in [*values(f"{PORTS}.drops{n}")[1:], 0]],
        asked=[one.asked for one in loads],
        answered=[one.answered for one in loads],
        wrong=[one.wrong for one in counts],
        again=[one.again for one in counts],
    )


def _rises(counts: list[int]) -> list[int]:
    """Cycles in which a count has gone up."""
    return [cycle for cycle in range(1, len(counts)) if counts[cycle] > counts[cycle - 1]]


def _blocks(axes: Axes, chip: Chip, row: float, cycles: range) -> None:
    for cycle in cycles:
        for place, what in enumerate(chip.blocks[cycle]):
            if what != "filling":
                axes.barh(row, 1 / BLOCK_WORDS, 0.7, cycle + place / BLOCK_WORDS, color=COLOURS[what], linewidth=0)
        if chip.noise[cycle]:
            axes.barh(row, 1, 0.9, cycle, facecolor="none", edgecolor="#c00000", hatch="///", linewidth=1)


def _training(axes: Axes, chips: list[Chip], cycles: range) -> None:
    axes.set_title("Training: dense markers, until both sides hear a lane and agree on a session", loc="left")
    for row, chip in enumerate(chips):
        for state, colour in STATES.items():
            spans = [(cycle, 1) for cycle in cycles if chip.state[cycle] is state]
            axes.broken_barh(spans, (row - 0.45, 0.9), facecolors=colour)
        for cycle in cycles:
            for what in ("marker", "Status"):
                if what in chip.blocks[cycle]:
                    axes.barh(row, 1, 0.5, cycle, color=COLOURS[what], linewidth=0)
    axes.set_yticks(range(2), [f"chip {n} sends" for n in range(2)])


def _read(axes: Axes, chips: list[Chip], cycles: range, title: str) -> None:
    axes.set_title(title, loc="left")
    axes.barh([1, 0], len(cycles), 0.7, cycles.start, color=COLOURS["filling"], linewidth=0)
    for row, chip in zip((1, 0), chips):
        _blocks(axes, chip, row, cycles)
    events = (
        (2, chips[0].asked, "v", "#2f6fb7", "asks"),
        (2, chips[0].answered, "^", "#2e8b57", "has it"),
        (2, chips[0].wrong, "x", "#c00000", "wrong CRC"),
        (-1, chips[1].again, "*", "#2e8b57", "sends it again"),
    )
    for row, counts, mark, colour, what in events:
        for cycle in (cycle for cycle in _rises(counts) if cycle in cycles):
            axes.plot(cycle, row, mark, color=colour, markersize=8, clip_on=False)
            axes.annotate(f"   {what}, {cycle - cycles.start}", (cycle, row), va="center", fontsize=8)
    axes.set_yticks((2, 1, 0, -1), ["chip 0", "chip 0 sends", "chip 1 sends", "chip 1"])
    axes.set_ylim(-1.6, 2.6)


def draw(chips: list[Chip], file: Path) -> None:
    """The picture, as SVG or PNG by the file's name."""
    first, second = _rises(chips[0].asked)
    up = max(next(n for n, state in enumerate(chip.state) if state is LinkState.Active) for chip in chips)
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    training, read, bad = figure.subplots(3, 1, gridspec_kw={"height_ratios": (1.2, 2, 2)})
    answers = _rises(chips[0].answered)
    _training(training, chips, range(min(up + 60, first)))
    _read(read, chips, range(first, answers[0] + 15), "A read of one line; cycles from the request on")
    _read(bad, chips, range(second, answers[1] + 15), "Another, while a block of the answer is noise")
    for axes, begin in ((training, 0), (read, first), (bad, second)):
        low, high = axes.dataLim.intervalx
        axes.set_xlim(low, high)
        step = 100 if axes is training else 10
        ticks = range(0, int(high - begin) + 1, step)
        axes.set_xticks([begin + tick for tick in ticks], [str(tick) for tick in ticks])
        axes.spines[["top", "right", "left"]].set_visible(False)
    colours = {**{state.name: colour for state, colour in STATES.items()}, **COLOURS}
    handles = [Patch(color=colour, label=what) for what, colour in colours.items()]
    figure.legend(handles=handles, ncols=len(handles), loc="outside lower center", fontsize=8)
    partial = file.with_name(f".{file.name}")
    figure.savefig(partial, format=file.suffix[1:], dpi=100)
    partial.replace(file)


def main(file: Annotated[Path, typer.Argument(help="PNG or SVG")] = ROOT / "docs" / "link-trace.png") -> None:
    """Run the story and draw it."""
    if file.suffix not in (".svg", ".png"):
        typer.echo(f"{file}: .svg or .png expected")
        raise typer.Exit(2)
    try:
        draw(record(build_folder() / "link-trace"), file)
    except BuildError as error:
        typer.echo(str(error))
        raise typer.Exit(1) from None
    typer.echo(str(file))


if __name__ == "__main__":
    typer.run(main)
