"""The sending end: packets of each class to what goes on the wires, again where it was lost."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.queue import PassingQueue
from tessera.hw.lib.streams import connect
from tessera.hw.lib.turns import Turns, one_of
from tessera.hw.link.cells import Cells
from tessera.hw.link.crc import PacketCrc
from tessera.hw.link.packet import CLASSES, Kind, Part, PartWords, StatusHead, form_code, part_words
from tessera.hw.link.retry import RetrySender

__all__ = ["IDLE_CYCLES", "PacketSender"]

IDLE_CYCLES = 8
"""From one ``Status`` to the next, while there is nothing else to send."""
_FRAMES = 7
"""``counted`` of the last frame received."""


class PacketSender(wiring.Component):
    """Keeps the packets of all classes until the other side has passed them on, and sends them.

    One part is taken each cycle, from the classes in turns; of a packet only when its class has room for a longest one.
    It is offered on ``o`` six cycles after its last part was taken, or behind others. A ``Status`` goes
    before the next packet when a loss is to be told, and every :data:`IDLE_CYCLES` cycles while there is none.

    From the choice of what is sent next to ``o`` nothing ever waits: no more parts are on the way there than what
    cannot be taken from ``o`` has room in a queue.

    Parameters
    ----------
    parameters : :class:`RetryParameters`
        Of six classes.
    under_way : int
        Parts that may have been chosen and not been taken from ``o``, 2 to 16. More than five are of no use to who
        takes one each cycle, and make a ``Status`` wait longer for one who does not.

    Members
    -------
    i0 .. i5 : :py:`In(stream.Signature(Part))`
        Packets of each class, each without a part of another one in between. Of the heads, the fields of retry and
        credits (``kind``, ``frame``, ``cell``, ``counted``, ``count``) are set here.
    o : :py:`Out(stream.Signature(PartWords))`
        With the packet's CRC.
    report : :py:`In(parameters.report)`
        What the other side tells.
    counts, last, lost, tell : In, told : Out
        What it is to be told, as of :class:`RetryReceiver`.
    timed_out : :py:`Out(1)`
        As of :class:`RetrySender`.
    begun, again : :py:`Out(1)`
        A packet is chosen, for the first time or not.
    stalled : :py:`Out(6)`
        A class has a packet to take, and no room.
    """

    def __init__(self, parameters, under_way=5):
        if len(parameters.cells) != CLASSES:
            raise ValueError(f"cells are {parameters.cells}; {CLASSES} classes expected")
        if not 2 <= under_way <= 16:
            raise ValueError(f"under_way is {under_way}; 2 to 16 expected")
        self.parameters, self.under_way = parameters, under_way
        p = parameters
        super().__init__(
            {
                **{f"i{n}": In(stream.Signature(Part)) for n in range(CLASSES)},
                "o": Out(stream.Signature(PartWords)),
                "report": In(p.report),
                "counts": In(p.counts),
                "last": In(p.frame_bits),
                "lost": In(p.history),
                "tell": In(1),
                "told": Out(1),
                "timed_out": Out(1),
                "begun": Out(1),
                "again": Out(1),
                "stalled": Out(CLASSES),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.retry = retry = RetrySender(p)
        m.submodules.cells = cells = Cells(p, extra=data.StructLayout({"frame": p.frame_bits, "again": 1}))
        m.submodules.crc = crc = PacketCrc()
        m.submodules.queue = queue = PassingQueue(PartWords, 1 << (self.under_way - 1).bit_length())
        m.d.comb += [retry.report.eq(self.report), self.timed_out.eq(retry.timed_out)]
        self._keep(m, retry, cells)

        # Of the parts under way there is room for all in the queue.
        under_way, may = Signal(range(self.under_way + 1)), Signal()
        choose_status, is_status = Signal(), Signal()
        begins, goes = Signal(), Signal()
        m.d.comb += [
            may.eq(under_way != self.under_way),
            goes.eq(choose_status | may & (cells.busy | begins)),
        ]
        m.d.sync += under_way.eq(under_way + goes - (self.o.valid & self.o.ready))

        # A Status or a packet.
        idle = Signal(range(IDLE_CYCLES))
        urgent, asked = Signal(), cells.i.payload
        m.d.comb += [
            # One that is on the way to the heads takes what it has to tell with it there.
            urgent.eq(self.tell & ~is_status),
            choose_status.eq(may & ~cells.busy & (urgent | (idle == IDLE_CYCLES - 1) & ~retry.send.valid)),
            # Whether a packet can go does not depend on whether there is one.
            cells.go.eq(may & (cells.busy | ~urgent)),
            cells.i.valid.eq(retry.send.valid),
            retry.send.ready.eq(cells.i.ready),
            begins.eq(cells.i.valid & cells.i.ready),
            *(asked[name].eq(retry.send.payload[name]) for name in ("kind", "cell", "cells", "place")),
            *(asked.extra[name].eq(retry.send.payload[name]) for name in ("frame", "again")),
            self.begun.eq(begins & ~retry.send.payload.again),
            self.again.eq(begins & retry.send.payload.again),
            self.told.eq(is_status),
        ]
        m.d.sync += is_status.eq(choose_status)
        with m.If(choose_status):
            m.d.sync += idle.eq(0)
        with m.Elif(idle != IDLE_CYCLES - 1):
            m.d.sync += idle.eq(idle + 1)

        # Heads say what is known when they leave the cells.
        given = cells.o.payload
        counted, count = self._counts(m, cells.o.valid & given.part.first)
        next_frame, status = Signal(p.frame_bits), Signal(StatusHead)
        with m.If(cells.o.valid):
            m.d.sync += next_frame.eq(given.extra.frame + 1)
        m.d.comb += [
            status.form.eq(form_code(0, 1)),
            status.kind.eq(Kind.Status),
            status.frame.eq(next_frame),
            status.last_frame.eq(self.last),
            status.lost.eq(self.lost),
            status.counted.eq(0),
            status.count.eq(self.counts[0]),
            *(status.counts[n].eq(self.counts[n + 1]) for n in range(CLASSES - 1)),
        ]
        i, part = crc.i, Signal(Part, reset_less=True)
        m.d.comb += i.payload.part.eq(part)
        m.d.sync += [i.valid.eq(cells.o.valid | is_status), part.eq(given.part)]
        with m.If(is_status):
            m.d.sync += [part.first.eq(1), part.last.eq(1), part.has_body.eq(1), part.has_line.eq(0)]
            m.d.sync += Cat(part.head.as_value(), part.body).eq(status)
        with m.Else():
            m.d.sync += [
                part.head.frame.eq(given.extra.frame),
                part.head.cell.eq(given.cell),
                part.head.counted.eq(counted),
                part.head.count.eq(count),
            ]
        # While the CRC is reckoned, words get into their places. No joint before the queue: what comes does not wait.
        coming, come = Signal(PartWords), Signal(PartWords, reset_less=True)
        words, ends = part_words(crc.coming)
        names = ("first", "last", "has_body", "has_line")
        m.d.comb += [*(coming[name].eq(crc.coming[name]) for name in names), *map(Value.eq, coming.words, words)]
        m.d.sync += come.eq(coming)
        m.d.comb += [queue.i.valid.eq(crc.o.valid), queue.i.payload.eq(come), crc.o.ready.eq(1)]
        for n, end in ends.items():
            is_end = Signal(name=f"is_end{n}")
            m.d.sync += is_end.eq(end)
            with m.If(is_end):
                m.d.comb += queue.i.payload.words[n].eq(crc.o.payload.crc)
        connect(m, queue.o, self.o)
        return m

    def _keep(self, m, retry, cells):
        """Parts of all classes into cells: numbered at once, and written in the next cycle."""
        p, classes = self.parameters, range(CLASSES)
        m.submodules.turns = turns = Turns(CLASSES, range(p.places))
        inputs = [getattr(self, f"i{n}") for n in classes]
        parts, chosen = [Signal(Part, name=f"part{n}", reset_less=True) for n in classes], Signal(CLASSES)

        def cells_of(part):
            lines = part.head.form[:4]
            return Mux(part.first, Mux(lines == 0, 1, lines), 0)

        m.d.comb += [
            turns.wants.eq(Cat(i.valid for i in inputs) & retry.room),
            turns.go.eq(1),
            *(i.ready.eq(turns.chosen[n]) for n, i in enumerate(inputs)),
            self.stalled.eq(Cat(i.valid for i in inputs) & ~retry.room),
            retry.put.eq(turns.chosen),
            retry.last.eq(Cat(i.payload.last for i in inputs)),
            *(retry.cells[n].eq(cells_of(i.payload)) for n, i in enumerate(inputs)),
            *(turns.items[n].eq(p.place(n, retry.next[n])) for n in classes),
            cells.put.eq(chosen.any()),
            Value.cast(cells.part).eq(one_of(chosen, parts)),
        ]
        m.d.sync += [
            chosen.eq(turns.chosen),
            *(part.eq(i.payload) for part, i in zip(parts, inputs)),
            cells.place.eq(turns.item),
        ]

    def _counts(self, m, told_head):
        """What a head tells: by turns a count that has changed since it was told, and any."""
        p = self.parameters
        counts = [self.counts[n] for n in range(CLASSES)]
        told = Signal(data.ArrayLayout(p.cell_bits, CLASSES))
        turn, changed_turn, any_turn = Signal(), Signal(range(_FRAMES + 1)), Signal(range(_FRAMES + 1), init=_FRAMES)
        counted, count = Signal(range(_FRAMES + 1), init=_FRAMES), Signal(p.cell_bits, init=-1)
        changed = Signal(CLASSES)
        m.d.comb += changed.eq(Cat(now != told[n] for n, now in enumerate(counts)))
        next_changed = Signal.like(changed_turn)
        m.d.comb += next_changed.eq(_FRAMES)
        for n in reversed(range(2 * CLASSES)):
            with m.If(changed[n % CLASSES] & ((n % CLASSES > changed_turn) if n < CLASSES else 1)):
                m.d.comb += next_changed.eq(n % CLASSES)
        by_number = Array([*counts, self.last, self.last])
        chosen = Mux(turn, next_changed, any_turn)
        with m.If(told_head):
            m.d.sync += [turn.eq(~turn), any_turn.eq(Mux(any_turn == CLASSES - 1, _FRAMES, any_turn + 1))]
            with m.If(counted != _FRAMES):
                m.d.sync += [told[counted].eq(count), changed_turn.eq(counted)]
        m.d.sync += [counted.eq(chosen), count.eq(by_number[chosen])]
        return counted, count
