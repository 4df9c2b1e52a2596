"""Joining streams, with a contract checker or a staller at every joint when a simulation asks for them.

Joints are made with :func:`connect`. What stands at a joint is chosen for a whole build by :func:`instrumented`;
silicon gets plain wires.
"""

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Instruments", "Skid", "Staller", "StreamChecker", "connect", "instrumented", "observe"]


@dataclass(frozen=True)
class Instruments:
    """What a build puts at each joint.

    Parameters
    ----------
    checkers
        A :class:`StreamChecker` at each joint.
    stalls
        Seed of a :class:`Staller` at each joint; None for none. Each joint draws its own sequence.
    """

    checkers: bool = False
    stalls: int | None = None

    def __post_init__(self):
        if self.stalls is not None and not 0 <= self.stalls < 2**32:
            raise ValueError(f"stalls is {self.stalls}; None or 0 to 2**32 - 1 expected")


_PLAIN = Instruments()
_instruments = ContextVar("instruments", default=_PLAIN)
_joints = ContextVar("joints", default=None)


@contextmanager
def instrumented(instruments):
    """Everything that is elaborated inside gets these :class:`Instruments`."""
    tokens = _instruments.set(instruments), _joints.set([0])
    try:
        yield
    finally:
        _instruments.reset(tokens[0])
        _joints.reset(tokens[1])


def _shape_of(interface):
    payload = interface.payload
    return payload.shape() if hasattr(payload, "shape") else Shape.cast(payload)


def connect(m, source, sink):
    """Join stream ``source`` to stream ``sink``.

    Either may be a member of a submodule or of the component itself, whichever way it faces.

    Raises
    ------
    TypeError
        The payloads' shapes differ, even if their widths are equal.
    """
    shape = _shape_of(source)
    if shape != _shape_of(sink):
        raise TypeError(f"cannot join a stream of {shape!r} to a stream of {_shape_of(sink)!r}")
    instruments = _instruments.get()
    if instruments.stalls is not None:
        count = _joints.get()
        count[0] += 1
        staller = Staller(shape, seed=(instruments.stalls * 0x9E3779B1 + count[0] * 0x85EBCA77) & 0xFFFF | 1)
        m.submodules += staller
        _wire(m, source, staller.i)
        source = staller.o
    _wire(m, source, sink)
    observe(m, source)


def _wire(m, source, sink):
    m.d.comb += [sink.valid.eq(source.valid), sink.payload.eq(source.payload), source.ready.eq(sink.ready)]


def observe(m, interface):
    """Put a :class:`StreamChecker` at a stream that :func:`connect` does not make, if this build has checkers."""
    if _instruments.get().checkers:
        checker = StreamChecker(_shape_of(interface))
        m.submodules += checker
        m.d.comb += [
            checker.valid.eq(interface.valid),
            checker.ready.eq(interface.ready),
            checker.payload.eq(interface.payload),
        ]


class StreamChecker(wiring.Component):
    """Asserts that a stream keeps its contract: once valid, it stays so with its payload until it is taken.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.
    """

    def __init__(self, shape):
        super().__init__({"valid": In(1), "ready": In(1), "payload": In(shape)})

    def elaborate(self, platform):
        m = Module()
        waiting = Signal()
        held = Signal(Value.cast(self.payload).shape())
        m.d.sync += [waiting.eq(self.valid & ~self.ready), held.eq(self.payload)]
        with m.If(waiting):
            m.d.sync += [
                Assert(self.valid, "valid was withdrawn before ready"),
                Assert(Value.cast(self.payload) == held, "the payload changed before it was taken"),
            ]
        return m


class Staller(wiring.Component):
    """Holds a stream back at random: about half of the cycles, in runs of 1 to 8.

    The output keeps the stream contract; the order and the payloads are unchanged.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.
    seed : int
        1 to 65535, start of the sequence.
    """

    def __init__(self, shape, seed):
        if not 1 <= seed < 2**16:
            raise ValueError(f"seed is {seed}; 1 to 65535 expected")
        self.seed = seed
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        lfsr = Signal(16, init=self.seed)
        left = Signal(3)
        go = Signal()
        offered = Signal()
        m.d.sync += lfsr.eq(Cat(lfsr[1:], lfsr[0] ^ lfsr[2] ^ lfsr[3] ^ lfsr[5]))
        with m.If(left == 0):
            m.d.sync += [left.eq(lfsr[0:3] & lfsr[3:6]), go.eq(lfsr[8])]
        with m.Else():
            m.d.sync += left.eq(left - 1)
        passing = go | offered
        m.d.comb += [
            self.o.valid.eq(self.i.valid & passing),
            self.o.payload.eq(self.i.payload),
            self.i.ready.eq(self.o.ready & passing),
        ]
        m.d.sync += offered.eq(self.o.valid & ~self.o.ready)
        return m


class Skid(wiring.Component):
    """Cuts both the forward and the backward path of a stream by a register.

    Throughput is one item per cycle without gaps; latency one cycle; holds two items.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.
    """

    def __init__(self, shape):
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        spare = Signal.like(self.i.payload, name="spare")
        spare_full = Signal()
        m.d.comb += self.i.ready.eq(~spare_full)
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [
                self.o.valid.eq(self.i.valid | spare_full),
                self.o.payload.eq(Mux(spare_full, Value.cast(spare), Value.cast(self.i.payload))),
                spare_full.eq(0),
            ]
        with m.Elif(self.i.valid):
            m.d.sync += spare_full.eq(1)
        # It follows the input until it is full: so neither end's handshake reaches its wide clock enable.
        with m.If(~spare_full):
            m.d.sync += spare.eq(self.i.payload)
        return m
