"""The scaler: a row-stream stage that does what ``golden.ops.scale`` says."""

from dataclasses import dataclass

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.golden.ops_tables import SAMPLE_BITS
from tessera.hw.compute.passes import Across, Down, Samples
from tessera.hw.compute.reorder import Ring, Turn
from tessera.hw.compute.steps import Steps
from tessera.hw.compute.stream import LANES, Row
from tessera.hw.lib.streams import connect

__all__ = ["ScalePlane", "ScaleSize", "Scaler", "ScalerConfig"]


@dataclass(frozen=True)
class ScalerConfig:
    """What the scaler has room for.

    Parameters
    ----------
    max_width
        Luma samples of the widest source or target: a power of two, 16 to 16384.
    """

    max_width: int = 2048

    def __post_init__(self):
        if not 16 <= self.max_width <= 16384 or self.max_width & (self.max_width - 1):
            raise ValueError(f"max_width is {self.max_width}; a power of two from 16 to 16384 expected")


class ScaleSize(data.Struct):
    """Sizes along one axis, in luma samples: 1 or more, and a ratio of 1/8 to 8."""

    source: 16
    target: 16
    halved: 1
    """The source's chroma is halved along this axis. The target's always is."""


class ScalePlane(data.Struct):
    """What to do with the next plane."""

    chroma: 1
    across: ScaleSize
    down: ScaleSize


class _Axis:
    """A plane's numbers along one axis, two cycles after `size`."""

    def __init__(self, m, name, chroma, size):
        self.source = Signal(16, name=f"{name}_source")
        self.target = Signal(16, name=f"{name}_target")
        self.grow = Signal(name=f"{name}_grow")
        self.source_tiles = Signal(14, name=f"{name}_source_tiles")
        self.target_tiles = Signal(14, name=f"{name}_target_tiles")
        ratio = Signal(17, name=f"{name}_ratio")
        m.d.sync += [
            self.source.eq(Mux(chroma & size.halved, (size.source + 1) >> 1, size.source)),
            self.target.eq(Mux(chroma, (size.target + 1) >> 1, size.target)),
            ratio.eq(Mux(chroma & ~size.halved, size.source << 1, size.source)),
            self.source_tiles.eq((self.source + 7) >> 3),
            self.target_tiles.eq((self.target + 7) >> 3),
            self.grow.eq(ratio <= size.target),
        ]
        self._ratio, self._size = ratio, size

    def task(self, task, repeats):
        """Statements that set an :class:`AxisTask`."""
        return [
            task.grow.eq(self.grow),
            task.fine.eq(Mux(self.grow, self.target, self.source)),
            task.coarse.eq(Mux(self.grow, self.source, self.target)),
            task.part.eq(Mux(self.grow, self._ratio, self._size.target)),
            task.whole.eq(Mux(self.grow, self._size.target, self._ratio)),
            task.repeats.eq(repeats),
        ]


class Scaler(wiring.Component):
    """Scales planes one after the other.

    For each plane it takes an ``i_plane``, then the plane's rows, in tiles of the source's plane, and gives rows in
    tiles of the target's. Samples beyond the source's edge are not used; those
    beyond the target's edges are of no meaning.

    The pass across goes first where it shrinks, so that what lies between the passes is never larger than both source
    and target, and eight samples a cycle are enough everywhere. If it is never held up, a plane takes at most ::

        max(S, T, A, D) + 3 R + 150 cycles

        S, T   tiles of the source's and of the target's plane, times 8
        A      rows of tiles between the passes x (the wider one's columns + 4)
        D      tiles across between the passes, at least 2 x (the higher one's rows + 4)
        R      tiles across the wider one, times 8

    That is 0.20 cycles per pixel of the larger of source and target for 4:2:0, and 0.40 for 4:4:4 of the target's size,
    at 352x288.

    Memory, for 2048 samples across: two rings of 26 block RAMs of 18 kbit and 24 for sums. 80 multipliers: for each of
    8 lanes 4 for weights and 1 for reciprocals, in each pass.

    Bad input: sizes of 0, wider than `max_width`, or ratios beyond 1/8 to 8 are for the engine to refuse.

    Parameters
    ----------
    config : :class:`ScalerConfig`

    Members
    -------
    i_plane : :py:`In(stream.Signature(ScalePlane))`
        Taken when the plane before has left.
    i, o : streams of :class:`Row`
    """

    def __init__(self, config):
        self.config = config
        super().__init__(
            {
                "i_plane": In(stream.Signature(ScalePlane)),
                "i": In(stream.Signature(Row)),
                "o": Out(stream.Signature(Row)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        groups = self.config.max_width // LANES
        plane = Signal(ScalePlane)
        across = _Axis(m, "across", plane.chroma, plane.across)
        down = _Axis(m, "down", plane.chroma, plane.down)
        across_first = ~across.grow

        m.submodules.across_steps = across_steps = Steps()
        m.submodules.down_steps = down_steps = Steps()
        m.submodules.to_columns = to_columns = Turn("columns")
        m.submodules.across = pass_across = Across()
        m.submodules.to_rows = to_rows = Turn("rows")
        m.submodules.to_picture = to_picture = Ring("rows", groups)
        m.submodules.down = pass_down = Down(groups)
        m.submodules.to_tiles = to_tiles = Ring("tiles", groups)
        connect(m, across_steps.o, pass_across.i_step)
        connect(m, to_columns.o, pass_across.i)
        connect(m, pass_across.o, to_rows.i)
        connect(m, down_steps.o, pass_down.i_step)
        connect(m, to_picture.o, pass_down.i)
        connect(m, pass_down.o, to_tiles.i)

        # Both passes have tiles at either end, so either may go first.
        width = Mux(across_first, across.target_tiles, across.source_tiles)
        m.d.comb += [
            to_columns.width.eq(across.source),
            to_rows.width.eq(across.target),
            to_picture.tiles.eq(width),
            to_picture.rows.eq(down.source),
            pass_down.groups.eq(width),
            to_tiles.tiles.eq(width),
            to_tiles.rows.eq(down.target),
            *across.task(across_steps.i.payload, Mux(across_first, down.source_tiles, down.target_tiles)),
            *down.task(down_steps.i.payload, 1),
        ]
        running = Signal()
        first, second = Signal(Samples), Signal(Samples)
        m.d.comb += [first[n].eq(self.i.payload.samples[n] << SAMPLE_BITS) for n in range(LANES)]
        with m.If(across_first):
            m.d.comb += [
                to_columns.i.valid.eq(self.i.valid & running),
                to_columns.i.payload.eq(first),
                self.i.ready.eq(to_columns.i.ready & running),
                to_picture.i.valid.eq(to_rows.o.valid),
                to_picture.i.payload.eq(to_rows.o.payload),
                to_rows.o.ready.eq(to_picture.i.ready),
                self.o.valid.eq(to_tiles.o.valid),
                second.eq(to_tiles.o.payload),
                to_tiles.o.ready.eq(self.o.ready),
            ]
        with m.Else():
            m.d.comb += [
                to_picture.i.valid.eq(self.i.valid & running),
                to_picture.i.payload.eq(first),
                self.i.ready.eq(to_picture.i.ready & running),
                to_columns.i.valid.eq(to_tiles.o.valid),
                to_columns.i.payload.eq(to_tiles.o.payload),
                to_tiles.o.ready.eq(to_columns.i.ready),
                self.o.valid.eq(to_rows.o.valid),
                second.eq(to_rows.o.payload),
                to_rows.o.ready.eq(self.o.ready),
            ]
        for n in range(LANES):
            rounded = Signal(signed(12), name=f"rounded{n}")
            m.d.comb += rounded.eq((second[n] + (1 << (SAMPLE_BITS - 1))) >> SAMPLE_BITS)
            m.d.comb += self.o.payload.samples[n].eq(Mux(rounded < 0, 0, Mux(rounded > 255, 255, rounded)))

        # What is left to give, and what is left to take, of the plane.
        def tiles_left(name, tiles_x, tiles_y, item):
            x, y, row = (Signal(width, name=f"{name}_{axis}") for width, axis in ((13, "x"), (13, "y"), (3, "row")))
            last = (row == 7) & (x + 1 == tiles_x) & (y + 1 == tiles_y)
            with m.If(item.valid & item.ready):
                m.d.sync += row.eq(row + 1)
                with m.If(row == 7):
                    m.d.sync += x.eq(x + 1)
                    with m.If(x + 1 == tiles_x):
                        m.d.sync += [x.eq(0), y.eq(y + 1)]
                with m.If(last):
                    m.d.sync += y.eq(0)
            return last

        target_last = tiles_left("given", across.target_tiles, down.target_tiles, self.o)
        source_last = tiles_left("taken", across.source_tiles, down.source_tiles, self.i)
        given = Signal()
        tasks = Signal(2)
        m.d.comb += [across_steps.i.valid.eq(tasks[0]), down_steps.i.valid.eq(tasks[1])]
        for n, steps in enumerate((across_steps, down_steps)):
            with m.If(steps.i.ready):
                m.d.sync += tasks[n].eq(0)
        with m.FSM(name="scaler"):
            with m.State("TakePlane"):
                m.d.comb += self.i_plane.ready.eq(1)
                m.d.sync += [plane.eq(self.i_plane.payload), given.eq(0)]
                with m.If(self.i_plane.valid):
                    m.next = "Measure"
            with m.State("Measure"):
                m.next = "Count"
            with m.State("Count"):
                m.next = "Begin"
            with m.State("Begin"):
                m.d.sync += [tasks.eq(3), running.eq(1)]
                m.next = "Run"
            with m.State("Run"):
                with m.If(self.i.valid & self.i.ready & source_last):
                    m.d.sync += running.eq(0)
                with m.If(self.o.valid & self.o.ready & target_last):
                    m.d.sync += given.eq(1)
                with m.If(given & ~running):
                    m.next = "Rest"
            with m.State("Rest"):
                # The rings have given all of the plane, and go back to their starts.
                m.next = "TakePlane"
        return m
