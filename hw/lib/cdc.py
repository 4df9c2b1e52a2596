"""Where signals cross from one clock to another; nothing else in the chip does."""

from functools import reduce
from operator import xor

from amaranth.hdl import *
from amaranth.lib import memory, stream, wiring
from amaranth.lib.cdc import AsyncFFSynchronizer, FFSynchronizer
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

__all__ = ["AsyncQueue"]


class AsyncQueue(wiring.Component):
    """A queue from clock domain ``write`` to clock domain ``read``.

    What is written at an edge of ``write`` is offered after the second edge of ``read`` behind it, and room is seen
    after the second edge of ``write`` behind the edge of ``read`` that made it. So with clocks alike, a queue of 8 or
    more never stops a writer whose reader takes all at once: one item in every cycle.

    A reset of either side, or ``clear``, however short, empties the queue; then each side goes on within three cycles
    of its own.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.
    depth : int
        A power of two, 4 to 256.

    Members
    -------
    i : :py:`In(stream.Signature(shape))`
        In ``write``.
    o : :py:`Out(stream.Signature(shape))`
        In ``read``. Withdrawn when the queue is emptied.
    level : :py:`Out(range(depth + 1))`
        In ``read``: items that are offered, and those behind them that this side knows of.
    clear : :py:`In(1)`
        In ``read``, straight from a register.
    """

    def __init__(self, shape, depth):
        if not 4 <= depth <= 256 or depth & (depth - 1):
            raise ValueError(f"depth is {depth}; a power of two from 4 to 256 expected")
        self.shape, self.depth = shape, depth
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "level": Out(range(depth + 1)),
                "clear": In(1),
            },
        )
        # What each side has moved, modulo twice the depth; the same in Gray code, and as the other side sees that.
        width = exact_log2(depth) + 1
        self.written, self.taken, self.written_gray, self.taken_gray, self.written_seen, self.taken_seen = (
            Signal(width, name=name)
            for name in ("written", "taken", "written_gray", "taken_gray", "written_seen", "taken_seen")
        )

    def elaborate(self, platform):
        m = Module()

        # Both sides' pointers fall to 0 at once, whichever clock runs, and leave it each in its own time: so neither
        # ever sees the other's pointer change by more than one bit.
        empty_all = Signal()
        m.d.comb += empty_all.eq(
            ResetSignal("write", allow_reset_less=True) | ResetSignal("read", allow_reset_less=True) | self.clear
        )
        for side in ("write", "read"):
            m.domains += ClockDomain(f"{side}_side", local=True, async_reset=True)
            m.d.comb += ClockSignal(f"{side}_side").eq(ClockSignal(side))
            m.submodules[f"reset_{side}"] = AsyncFFSynchronizer(empty_all, ResetSignal(f"{side}_side"), o_domain=side)

        storage = m.submodules.storage = memory.Memory(shape=self.shape, depth=self.depth, init=[])
        write_port = storage.write_port(domain="write")
        read_port = storage.read_port(domain="comb")

        written, taken, written_gray, taken_gray = self.written, self.taken, self.written_gray, self.taken_gray
        written_seen, taken_seen, width = self.written_seen, self.taken_seen, len(self.written)
        m.submodules.written = FFSynchronizer(written_gray, written_seen, o_domain="read_side", reset_less=False)
        m.submodules.taken = FFSynchronizer(taken_gray, taken_seen, o_domain="write_side", reset_less=False)

        m.d.comb += [
            # Full when the writer is one round ahead: in Gray code, when just the two highest bits differ.
            self.i.ready.eq((written_gray != Cat(taken_seen[:-2], ~taken_seen[-2:])) & ~ResetSignal("write_side")),
            write_port.addr.eq(written[:-1]),
            write_port.data.eq(self.i.payload),
            write_port.en.eq(self.i.valid & self.i.ready),
            self.o.valid.eq(taken_gray != written_seen),
            self.level.eq((Cat(reduce(xor, written_seen[n:]) for n in range(width)) - taken)[:width]),
            read_port.addr.eq(taken[:-1]),
            self.o.payload.eq(read_port.data),
        ]
        for domain, pointer, gray, moved in (
            ("write_side", written, written_gray, write_port.en),
            ("read_side", taken, taken_gray, self.o.valid & self.o.ready),
        ):
            following = (pointer + 1)[:width]
            with m.If(moved):
                m.d[domain] += [pointer.eq(following), gray.eq(following ^ (following >> 1))]
        return m
