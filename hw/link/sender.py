"""The sending end: packets of each class to what goes on the wires, again where it was lost."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.arbiter import RoundRobin
from tessera.hw.lib.streams import observe
from tessera.hw.link.cells import Cells
from tessera.hw.link.packet import CLASSES, CheckedPart, Kind, Part, StatusHead, form_code
from tessera.hw.link.retry import RetrySender

__all__ = ["IDLE_CYCLES", "PacketSender"]

IDLE_CYCLES = 8
"""From one ``Status`` to the next, while there is nothing else to send."""
_FRAMES = 7
"""``counted`` of the last frame received."""


class PacketSender(wiring.Component):
    """Keeps the packets of all classes until the other side has passed them on, and sends them.

    One part is taken each cycle, from the classes in turns; of a packet only when its class has room for a longest one.
    It is offered on ``o`` four cycles after its last part was taken, or behind others. A ``Status`` goes
    before the next packet when a loss is to be told, and every :data:`IDLE_CYCLES` cycles while there is none.

    Parameters
    ----------
    parameters : :class:`RetryParameters`
        Of six classes.

    Members
    -------
    i0 .. i5 : :py:`In(stream.Signature(Part))`
        Packets of each class, each without a part of another one in between. Of the heads, the fields of retry and
        credits (``kind``, ``frame``, ``cell``, ``counted``, ``count``) are set here.
    o : :py:`Out(stream.Signature(CheckedPart))`
        ``crc`` is 0.
    report : :py:`In(parameters.report)`
        What the other side tells.
    counts, last, lost, tell : In, told : Out
        What it is to be told, as of :class:`RetryReceiver`.
    timed_out : :py:`Out(1)`
        As of :class:`RetrySender`.
    begun, again : :py:`Out(1)`
        A packet leaves ``o``, for the first time or not.
    stalled : :py:`Out(6)`
        A class has a packet to take, and no room.
    """

    def __init__(self, parameters):
        if len(parameters.cells) != CLASSES:
            raise ValueError(f"cells are {parameters.cells}; {CLASSES} classes expected")
        self.parameters = p = parameters
        super().__init__(
            {
                **{f"i{n}": In(stream.Signature(Part)) for n in range(CLASSES)},
                "o": Out(stream.Signature(CheckedPart)),
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
        m.d.comb += [retry.report.eq(self.report), self.timed_out.eq(retry.timed_out)]

        # Parts into cells.
        item = data.StructLayout({"kind": range(CLASSES), "part": Part})
        m.submodules.turns = turns = RoundRobin(item, CLASSES)
        for n in range(CLASSES):
            i, turn = getattr(self, f"i{n}"), getattr(turns, f"i{n}")
            m.d.comb += [
                turn.valid.eq(i.valid & retry.room[n]),
                turn.payload.kind.eq(n),
                turn.payload.part.eq(i.payload),
                i.ready.eq(turn.ready & retry.room[n]),
                self.stalled[n].eq(i.valid & ~retry.room[n]),
            ]
        kind, part = turns.o.payload.kind, turns.o.payload.part
        lines = part.head.form[:4]
        m.d.comb += [
            turns.o.ready.eq(1),
            retry.put.eq(turns.o.valid),
            retry.kind.eq(kind),
            retry.cells.eq(Mux(part.first, Mux(lines == 0, 1, lines), 0)),
            retry.last.eq(part.last),
            cells.put.eq(turns.o.valid),
            cells.cell.kind.eq(kind),
            cells.cell.cell.eq(Array(retry.next)[kind]),
            cells.part.eq(part),
        ]

        # Cells into packets.
        asked = cells.i.payload
        m.d.comb += [
            cells.i.valid.eq(retry.send.valid),
            retry.send.ready.eq(cells.i.ready),
            asked.cell.kind.eq(retry.send.payload.kind),
            asked.cell.cell.eq(retry.send.payload.cell),
            asked.extra.frame.eq(retry.send.payload.frame),
            asked.extra.again.eq(retry.send.payload.again),
        ]

        # What a head tells: by turns a count that has changed since it was told, and any.
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
        given, told_head = cells.o.payload, Signal()
        waits, waited = Signal(), Signal()
        urgent, status_waited = Signal(), Signal()
        with m.If(told_head):
            m.d.sync += [turn.eq(~turn), any_turn.eq(Mux(any_turn == CLASSES - 1, _FRAMES, any_turn + 1))]
            with m.If(counted != _FRAMES):
                m.d.sync += [told[counted].eq(count), changed_turn.eq(counted)]
        # It holds still while a head waits.
        with m.If(~waits):
            m.d.sync += [counted.eq(chosen), count.eq(by_number[chosen])]

        # A Status, with the number of the packet that comes behind it.
        status, status_valid = Signal(StatusHead), Signal()
        next_frame, amid_packet = Signal(p.frame_bits), Signal()
        idle = Signal(range(IDLE_CYCLES))
        take_status, choose_status = Signal(), Signal()
        idle_due = (idle == IDLE_CYCLES - 1) & ~cells.o.valid & ~amid_packet
        # What is in one follows the counts until it is offered: it may have to wait for packets.
        fixed = choose_status & ~take_status
        m.d.comb += self.told.eq((self.tell | idle_due) & ~fixed)
        with m.If(~fixed):
            m.d.sync += [
                status_valid.eq(self.told | (status_valid & ~take_status)),
                urgent.eq(self.tell | (urgent & ~take_status)),
                status.form.eq(form_code(0, 1)),
                status.kind.eq(Kind.Status),
                status.last_frame.eq(self.last),
                status.lost.eq(self.lost),
                status.counted.eq(0),
                status.count.eq(counts[0]),
                *(status.counts[n].eq(counts[n + 1]) for n in range(CLASSES - 1)),
            ]
        with m.If(self.told):
            m.d.sync += idle.eq(0)
        with m.Else():
            m.d.sync += idle.eq(Mux(idle == IDLE_CYCLES - 1, idle, idle + 1))

        m.d.comb += [
            # One that tells of no loss can wait for what there is to send.
            choose_status.eq(status_valid & ~amid_packet & ~waited & (urgent | status_waited | ~cells.o.valid)),
            self.o.valid.eq(choose_status | cells.o.valid),
            cells.o.ready.eq(~choose_status & self.o.ready),
            take_status.eq(choose_status & self.o.ready),
            told_head.eq(cells.o.valid & cells.o.ready & given.part.first),
            self.begun.eq(told_head & ~given.extra.again),
            self.again.eq(told_head & given.extra.again),
        ]
        m.d.comb += waits.eq(cells.o.valid & ~choose_status & ~self.o.ready)
        m.d.sync += [waited.eq(waits), status_waited.eq(choose_status & ~self.o.ready)]
        part = self.o.payload.part
        with m.If(choose_status):
            announced = Signal(StatusHead)
            m.d.comb += [announced.eq(status), announced.frame.eq(next_frame)]
            m.d.comb += [part.first.eq(1), part.last.eq(1), part.has_body.eq(1)]
            m.d.comb += Cat(part.head.as_value(), part.body).eq(announced)
        with m.Else():
            m.d.comb += [
                part.eq(given.part),
                part.head.frame.eq(given.extra.frame),
                part.head.cell.eq(given.cell.cell),
                part.head.counted.eq(counted),
                part.head.count.eq(count),
            ]
        with m.If(cells.o.valid & cells.o.ready):
            m.d.sync += amid_packet.eq(~given.part.last)
            with m.If(given.part.first):
                m.d.sync += next_frame.eq(given.extra.frame + 1)
        observe(m, self.o)
        return m
