"""Packets that number themselves, made and checked in Amaranth, so that long runs need no Python."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.link.packet import CLASSES, Kind, Part, form_code
from tessera.hw.link.receiver import ROOM, Delivery

__all__ = ["PASSING", "Sink", "Source", "Totals"]

PASSING = [Kind.SyncFirst, Kind.SyncSecond]
"""Classes of which nothing ends in a link's port."""

_ODD = 0x9E3779B1


class Totals(data.Struct):
    """What a sink has seen of a class, in packets and lines; ``wrong`` are parts that were not due."""

    packets: 32
    lines: 32
    wrong: 32


def _mixed(m, number, salt, name):
    """32 bits that look random."""
    steps = [Signal(32, name=f"{name}{n}") for n in range(3)]
    m.d.comb += [
        steps[0].eq((number + salt) * _ODD),
        steps[1].eq((steps[0] ^ (steps[0] >> 15)) * 0x85EBCA6B),
        steps[2].eq(steps[1] ^ (steps[1] >> 13)),
    ]
    return steps[2]


def _part(m, kind, number, index, fixed):
    """Part `index` of packet `number` of a class; `fixed` is its lines, or 15 for any number of them."""
    part, lines = Signal(Part, name=f"part_{kind}"), Signal(4, name=f"lines_{kind}")
    form, fields, line = (_mixed(m, number, (kind << 24) + n, f"mixed{kind}_{n}_") for n in (1, 2, 3))
    any_lines = Mux(form[0], 0, Mux(form[1:4] == 0, 8, form[1:4])) if kind < 4 else form[0]
    m.d.comb += [
        lines.eq(Mux(fixed == 15, any_lines, fixed)),
        part.first.eq(index == 0),
        part.last.eq(index + 1 >= lines),
        part.has_body.eq(form[8] & part.first),
        part.has_line.eq(lines != 0),
        part.head.form.eq(Array(form_code(n, body) for body in (0, 1) for n in range(9))[lines + 9 * form[8]]),
        Cat(part.head.source, part.head.target, part.head.tag, part.head.first, part.head.status).eq(fields),
        part.head.epoch.eq(form[10:]),
        part.body.eq(fields ^ line),
    ]
    for n in range(16):
        m.d.comb += part.line.word_select(n, 32).eq(line ^ (index << 4 | n) * _ODD)
    return part


class Source(wiring.Component):
    """Packets of one class, numbered from 0, while ``go``; each with probability ``rate``/16 in a cycle.

    What is offered stays so without ``go``, and is among those ``sent``, taken or not.
    """

    def __init__(self, kind):
        self.kind = kind
        super().__init__(
            {"go": In(1), "rate": In(5), "lines": In(4), "o": Out(stream.Signature(Part)), "sent": Out(32)}
        )

    def elaborate(self, platform):
        m = Module()
        number, index, dice = Signal(32), Signal(3), Signal(16, init=0xACE1 + self.kind)
        m.d.sync += dice.eq(Cat(dice[1:], dice[0] ^ dice[2] ^ dice[3] ^ dice[5]))
        part = _part(m, self.kind, number, index, self.lines)
        offered = Signal()
        m.d.comb += [
            self.o.payload.eq(part),
            self.o.valid.eq(offered | (index != 0) | (self.go & (dice[3:7] < self.rate))),
            self.sent.eq(number + self.o.valid),
        ]
        m.d.sync += offered.eq(self.o.valid & ~self.o.ready)
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += index.eq(Mux(part.last, 0, index + 1))
            with m.If(part.last):
                m.d.sync += number.eq(number + 1)
        return m


class Sink(wiring.Component):
    """Takes what is delivered, each class's packets in order; a queue for each class drains at ``rate``/16."""

    def __init__(self):
        super().__init__(
            {
                "rate": In(5),
                "lines": In(4),
                "i": In(stream.Signature(Delivery)),
                "room": Out(CLASSES),
                "totals": Out(data.ArrayLayout(Totals, CLASSES)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.i.ready.eq(1)
        dice = Signal(16, init=0xBEEF)
        m.d.sync += dice.eq(Cat(dice[1:], dice[0] ^ dice[2] ^ dice[3] ^ dice[5]))
        for kind in range(CLASSES):
            total, index, waiting = self.totals[kind], Signal(3, name=f"index{kind}"), Signal(8, name=f"waiting{kind}")
            mine = self.i.valid & (self.i.payload.kind == kind)
            gone = (waiting != 0) & (dice[kind : kind + 4] < self.rate)
            # More than there is room for shows as a wrong part.
            full = waiting == 2 * ROOM
            m.d.sync += waiting.eq(waiting + mine - gone)
            m.d.comb += self.room[kind].eq(waiting <= ROOM)
            expected, part = _part(m, kind, total.packets, index, self.lines), self.i.payload.part
            fields = ("form", "source", "target", "tag", "first", "status", "epoch")
            head = Cat(getattr(part.head, name) == getattr(expected.head, name) for name in fields).all()
            right = (part.first == expected.first) & (part.last == expected.last) & ~full
            right &= (part.has_line == expected.has_line) & (~part.has_line | (part.line == expected.line))
            right &= ~part.first | head & (part.head.kind.as_value() == kind) & (part.has_body == expected.has_body)
            right &= ~(part.first & part.has_body) | (part.body == expected.body)
            with m.If(mine):
                m.d.sync += [total.wrong.eq(total.wrong + ~right), index.eq(Mux(part.last, 0, index + 1))]
                m.d.sync += [total.packets.eq(total.packets + part.last), total.lines.eq(total.lines + part.has_line)]
        return m
