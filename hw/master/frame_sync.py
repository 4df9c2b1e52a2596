"""Frame sync: which frames are done, on this chip and on all others."""

from amaranth.hdl import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.host.descriptor import COUNTERS
from tessera.hw.lib.streams import observe
from tessera.hw.memory.port import NODES

__all__ = ["AHEAD", "FrameSync", "SyncCast", "SyncMessage", "SyncSignal"]

AHEAD = 16
"""How far beyond its count a counter's numbers may be known."""
_READERS = 2


class SyncSignal(data.Struct):
    """Something is done: number ``number`` of a counter."""

    counter: 6
    number: 20
    tell: NODES
    """Nodes that are to know it."""


class SyncMessage(data.Struct):
    """What one chip tells another of a counter: all that it knows, so that it does no harm to hear it twice."""

    counter: 6
    session: 6
    count: 20
    """All numbers below it are done, and it is not."""
    ahead: AHEAD
    """Which of the numbers behind it are done."""


class SyncCast(data.Struct):
    """A :class:`SyncMessage` and the nodes that are to have it."""

    nodes: NODES
    message: SyncMessage


class FrameSync(wiring.Component):
    """Keeps 64 counters alike on all chips.

    A counter is a set of numbers, from 0 on, of what is done: a *count*, below which all are, and which of the 16
    numbers behind it are too, since what is done by several chips need not be done in order. Nothing is ever taken
    out, and what two chips know is the union of what each does. So each tells the others all that it knows of a
    counter: messages may be lost, doubled, late, or overtake each other; what comes later makes up for it. Numbers are
    modulo 2**20, and what two chips know lies less than 2**19 apart.

    What is signalled here is told at once, and all that was ever signalled here once more when ``again`` pulses, and
    every ``2 ** repeat_bits`` cycles: what the last message said is not lost for ever. What comes is not told on.

    A number more than 16 beyond the count waits at ``signal`` until it is not. Nothing waits for ``cast``: while that
    is not taken, counters are told later, as they are then.

    From a signal to its message, and to ``count`` if it is the next number, pass 3 cycles; from a message that comes to
    ``count`` 3 if it is told of a single new number, and one more for each that the count grows by beyond the first.

    Parameters
    ----------
    repeat_bits : int
        8 to 24.

    Members
    -------
    signal : :py:`In(stream.Signature(SyncSignal))`
        Counter 0 stands for none.
    come : :py:`In(stream.Signature(SyncMessage))`
        From other chips. Taken within 100 cycles, whatever waits. One of another session is dropped.
    cast : :py:`Out(stream.Signature(SyncCast))`
        To other chips.
    read0, read1 : :py:`In(6)`, count0, count1 : :py:`Out(20)`
        Two counters' counts, one cycle later.
    session : :py:`In(6)`
    clear : :py:`In(1)`
        Begins ``session`` with nothing done and nobody to tell, in 64 cycles.
    clearing : :py:`Out(1)`
        It has begun and is not over: ``count`` means nothing.
    again : :py:`In(1)`
    """

    def __init__(self, repeat_bits=14):
        if not 8 <= repeat_bits <= 24:
            raise ValueError(f"repeat_bits is {repeat_bits}; 8 to 24 expected")
        self.repeat_bits = repeat_bits
        super().__init__(
            {
                "signal": In(stream.Signature(SyncSignal)),
                "come": In(stream.Signature(SyncMessage)),
                "cast": Out(stream.Signature(SyncCast)),
                **{f"read{n}": In(6) for n in range(_READERS)},
                **{f"count{n}": Out(20) for n in range(_READERS)},
                "session": In(6),
                "clear": In(1),
                "clearing": Out(1),
                "again": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        known = data.StructLayout({"count": 20, "ahead": AHEAD})
        m.submodules.knowledge = knowledge = memory.Memory(shape=known, depth=COUNTERS, init=[])
        m.submodules.listeners = listeners = memory.Memory(shape=NODES, depth=COUNTERS, init=[])
        put, get = knowledge.write_port(), knowledge.read_port()
        note, noted = listeners.write_port(), listeners.read_port()
        for n in range(_READERS):
            shown = knowledge.read_port()
            m.d.comb += [shown.addr.eq(getattr(self, f"read{n}")), getattr(self, f"count{n}").eq(shown.data.count)]

        counter, clearing = Signal(6), Signal(init=1)
        told, owed = Signal(COUNTERS), Signal(COUNTERS)
        place = Signal(6)
        m.d.comb += self.clearing.eq(clearing | self.clear)
        with m.If(self.clear):
            m.d.sync += clearing.eq(1)

        # Of the set that is looked at: its first number that may be missing, and which from there on are there.
        base, bits, tell, ours, grown = Signal(20), Signal(AHEAD + 1), Signal(NODES), Signal(), Signal()
        new = Signal(SyncMessage)
        old_bits, new_bits = Cat(C(0, 1), get.data.ahead), Cat(C(0, 1), new.ahead)
        # How far the second one is behind the first one, and the other way round.
        distance = (new.count - get.data.count)[:20]
        back = (get.data.count - new.count)[:20]
        behind = distance[19]
        result = Signal(known)
        m.d.comb += [result.count.eq(base), result.ahead.eq(bits[1:])]

        repeat, due = Signal(self.repeat_bits), Signal()
        m.d.sync += repeat.eq(repeat + 1)
        with m.If(self.again | (repeat == 0)):
            m.d.sync += due.eq(1)

        cast = self.cast
        free = ~cast.valid | cast.ready
        with m.If(cast.ready):
            m.d.sync += cast.valid.eq(0)
        message = cast.payload.message

        def say(content):
            return [
                cast.valid.eq(1),
                cast.payload.nodes.eq(Mux(ours, tell, noted.data)),
                message.counter.eq(counter),
                message.session.eq(self.session),
                message.count.eq(content.count),
                message.ahead.eq(content.ahead),
            ]

        m.d.comb += [get.en.eq(1), noted.en.eq(1), get.addr.eq(counter), noted.addr.eq(counter)]
        signal, come = self.signal.payload, self.come.payload
        too_far = Signal()
        with m.FSM(name="frame_sync"):
            with m.State("Look"):
                m.d.comb += [get.addr.eq(place), noted.addr.eq(place)]
                m.d.sync += [counter.eq(place), too_far.eq(0), ours.eq(0)]
                with m.If(clearing):
                    m.d.sync += [counter.eq(0), told.eq(0), owed.eq(0)]
                    m.next = "Clear"
                with m.Elif(self.signal.valid & ~too_far):
                    m.d.comb += get.addr.eq(signal.counter)
                    m.d.sync += [counter.eq(signal.counter), ours.eq(1), tell.eq(signal.tell)]
                    m.next = "AddNumber"
                with m.Elif(self.come.valid):
                    m.d.comb += [get.addr.eq(come.counter), self.come.ready.eq(1)]
                    m.d.sync += [counter.eq(come.counter), new.eq(come)]
                    with m.If(come.session == self.session):
                        m.next = "Unite"
                with m.Else():
                    m.d.sync += place.eq(place + 1)
                    with m.If(due):
                        m.d.sync += [owed.eq(told), due.eq(0)]
                    with m.Elif(owed.bit_select(place, 1) & free):
                        m.next = "Tell"
            with m.State("Clear"):
                m.d.comb += [put.en.eq(1), note.en.eq(1)]
                m.d.sync += [counter.eq(counter + 1), cast.valid.eq(cast.valid & ~cast.ready)]
                with m.If(counter.all()):
                    m.d.sync += clearing.eq(self.clear)
                    m.next = "Look"
            with m.State("AddNumber"):
                # Numbers that are known already change nothing.
                ahead = (signal.number - get.data.count)[:20]
                m.d.sync += [
                    base.eq(get.data.count),
                    bits.eq(old_bits | (1 << ahead[:5])),
                    grown.eq(~(old_bits >> ahead[:5])[0]),
                ]
                m.next = "Grow"
                with m.If(ahead[19] | (signal.counter == 0)):
                    m.d.comb += self.signal.ready.eq(1)
                    m.next = "Look"
                with m.Elif(ahead > AHEAD):
                    m.d.sync += too_far.eq(1)
                    m.next = "Look"
                with m.Else():
                    m.d.comb += self.signal.ready.eq(1)
            with m.State("Unite"):
                far_behind, far_ahead = back > AHEAD, distance > AHEAD
                with m.If(behind):
                    m.d.sync += base.eq(get.data.count)
                    m.d.sync += bits.eq(old_bits | Mux(far_behind, 0, new_bits >> back[:5]))
                with m.Else():
                    m.d.sync += base.eq(new.count)
                    m.d.sync += bits.eq(new_bits | Mux(far_ahead, 0, old_bits >> distance[:5]))
                m.d.sync += grown.eq(0)
                m.next = "Grow"
            with m.State("Grow"):
                with m.If(bits[0]):
                    m.d.sync += [base.eq(base + 1), bits.eq(bits >> 1)]
                grows = bits[1] & bits[0]
                final = Signal(known)
                m.d.comb += [
                    final.count.eq(base + bits[0]),
                    final.ahead.eq(Mux(bits[0], bits[2:], bits[1:])),
                    put.data.eq(final),
                    put.en.eq(~grows & ~clearing),
                    note.data.eq(tell),
                    note.en.eq(~grows & ~clearing & ours),
                ]
                with m.If(~grows):
                    m.next = "Look"
                    with m.If(ours & ~clearing):
                        m.d.sync += told.bit_select(counter, 1).eq(tell.any())
                        with m.If(grown & tell.any()):
                            with m.If(free):
                                m.d.sync += say(final)
                            with m.Else():
                                m.d.sync += owed.bit_select(counter, 1).eq(1)
            with m.State("Tell"):
                m.d.sync += [say(get.data), owed.bit_select(counter, 1).eq(0)]
                m.next = "Look"
        m.d.comb += [put.addr.eq(counter), note.addr.eq(counter)]
        for interface in (self.signal, self.come, cast):
            observe(m, interface)
        return m
