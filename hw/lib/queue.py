"""A short queue that costs no time while it is empty."""

from amaranth.hdl import *
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import observe

__all__ = ["PassingQueue"]


class PassingQueue(wiring.Component):
    """Offers what comes in the same cycle, and keeps what is not taken then.

    The oldest one that is kept is in a register, so that no memory's time is in what is offered.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.
    depth : int
        A power of two, 2 to 16.

    Members
    -------
    i : :py:`In(stream.Signature(shape))`
        From registers, as far as timing goes: ``i`` and ``o`` are joined while the queue is empty.
    o : :py:`Out(stream.Signature(shape))`
    """

    def __init__(self, shape, depth):
        if not 2 <= depth <= 16 or depth & (depth - 1):
            raise ValueError(f"depth is {depth}; a power of two from 2 to 16 expected")
        self.shape, self.depth = shape, depth
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.storage = storage = memory.Memory(shape=self.shape, depth=self.depth, init=[])
        write, read = storage.write_port(), storage.read_port(domain="comb")
        level, put, get = Signal(range(self.depth + 1)), Signal(), Signal()
        # Of one meaning; the second is for what is wide.
        empty, holds, alone = Signal(init=1), Signal(), Signal(init=1)
        # The oldest is in the memory too; `second` is the place of the one behind it.
        oldest, second = Signal(Shape.cast(self.shape).width, reset_less=True), Signal.like(read.addr, init=1)
        m.d.comb += [
            self.i.ready.eq(level != self.depth),
            self.o.valid.eq(~empty | self.i.valid),
            self.o.payload.eq(Mux(holds, oldest, Value.cast(self.i.payload))),
            put.eq(self.i.valid & self.i.ready & ~(empty & self.o.ready)),
            get.eq(~empty & self.o.ready),
            write.en.eq(put),
            write.data.eq(self.i.payload),
            read.addr.eq(second),
        ]
        with m.If(empty | get):
            m.d.sync += oldest.eq(Mux(alone, Value.cast(self.i.payload), Value.cast(read.data)))
        following = Signal.like(level)
        m.d.comb += following.eq(level + put - get)
        m.d.sync += [
            level.eq(following),
            empty.eq(following == 0),
            holds.eq(following != 0),
            alone.eq(following <= 1),
            write.addr.eq(write.addr + put),
            second.eq(second + get),
        ]
        observe(m, self.o)
        return m
