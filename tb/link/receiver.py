"""Testbench of hw/link/receiver.py: both ends, with a channel between them that loses and spoils packets."""

from functools import cache

import cocotb
from amaranth.hdl import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.lib.streams import connect
from tessera.hw.link.crc import PacketCrc
from tessera.hw.link.packet import CLASSES, LINE_WORDS, CheckedPart, PartWords, StatusHead
from tessera.hw.link.receiver import Delivery, PacketReceiver
from tessera.hw.link.retry import RetryParameters
from tessera.hw.link.sender import PacketSender
from tessera.tb.bench import Bench, Dut
from tessera.tb.link.traffic import Sink, Source, Totals

CELLS = (32, 32, 128, 32, 16, 16)
NODES = (3, 9)


def _checked(m, words):
    """The :class:`CheckedPart` that a :class:`PartWords` is."""
    come = Signal(CheckedPart)
    part, at = come.part, Mux(words.first, Mux(words.has_body, 3, 2), 0)
    lines = {n: Cat(words.words[n + k] for k in range(LINE_WORDS)) for n in (0, 2, 3)}
    m.d.comb += [
        *(part[name].eq(words[name]) for name in ("first", "last", "has_body", "has_line")),
        part.head.eq(Cat(words.words[0], words.words[1])),
        part.body.eq(words.words[2]),
        come.crc.eq(words.words[at + Mux(words.has_line, LINE_WORDS, 0)]),
    ]
    with m.Switch(at):
        for n, line in lines.items():
            with m.Case(n):
                m.d.comb += part.line.eq(line)
    return come


class Channel(wiring.Component):
    """Brings parts, ``latency`` cycles late; of every 256 packets ``bad`` are wrong, or cut short, or not there."""

    def __init__(self, seed):
        self.seed = seed
        super().__init__(
            {
                "i": In(stream.Signature(PartWords)),
                "o": Out(stream.Signature(CheckedPart)),
                "bad": In(8),
                "latency": In(8),
                "stall": In(4),
                "lost": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        shape = data.StructLayout({"part": CheckedPart, "due": 16})
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(width=shape.size, depth=256)
        dice, time = Signal(32, init=self.seed), Signal(16)
        m.d.sync += [dice.eq(Cat(dice[1:], dice[0] ^ dice[10] ^ dice[30] ^ dice[31])), time.eq(time + 1)]
        come, way, now = _checked(m, self.i.payload), Signal(2), Signal(2)
        part = come.part
        taken = self.i.valid & self.i.ready
        m.d.comb += now.eq(Mux(part.first, Mux(dice[:8] < self.bad, 1 + dice[8:10] % 3, 0), way))
        with m.If(taken):
            m.d.sync += [way.eq(now), self.lost.eq(self.lost + (part.first & (now != 0)))]
        entry = Signal(shape)
        m.d.comb += [
            self.i.ready.eq(queue.w_rdy & (dice[16:20] >= self.stall)),
            entry.part.eq(come),
            entry.due.eq(time + self.latency),
            # 1: a wrong CRC. 2: no last part. 3: nothing.
            entry.part.crc.eq(come.crc ^ ((now == 1) << dice[20:25])),
            queue.w_data.eq(entry),
            queue.w_en.eq(taken & ~((now == 3) | (now == 2) & part.last)),
        ]
        oldest = data.View(shape, queue.r_data)
        m.d.comb += [
            self.o.valid.eq(queue.r_rdy & ((time - oldest.due)[:16] < 0x8000)),
            self.o.payload.eq(oldest.part),
            queue.r_en.eq(self.o.valid),
        ]
        return m


def seen_of(p):
    """All that goes into a receiver and comes out of it in a cycle."""
    flags = ("come", "given", "tell", "told", "right", "wrong", "double")
    return data.StructLayout(
        {
            **dict.fromkeys(flags, 1),
            "i": CheckedPart,
            "o": Delivery,
            "room": CLASSES,
            "report": p.report,
            "counts": p.counts,
            "last": p.frame_bits,
            "lost": p.history,
        }
    )


class Ends(wiring.Component):
    """Two ends, a channel each way, and traffic of all classes both ways."""

    def __init__(self, timeout_bits=10):
        self.p = RetryParameters(CELLS, timeout_bits=timeout_bits)
        self.seen_shape = seen_of(self.p)
        counts = ("right", "wrong", "double", "again", "timed_out")
        super().__init__(
            {
                "go": In(CLASSES),
                "rate": In(5),
                "lines": In(4),
                "drain": In(5),
                "bad": In(data.ArrayLayout(8, 2)),
                "latency": In(8),
                "stall": In(4),
                "sent": Out(data.ArrayLayout(data.ArrayLayout(32, CLASSES), 2)),
                "totals": Out(data.ArrayLayout(data.ArrayLayout(Totals, CLASSES), 2)),
                "lost": Out(data.ArrayLayout(32, 2)),
                "seen": Out(data.ArrayLayout(self.seen_shape, 2)),
                **{name: Out(data.ArrayLayout(32, 2)) for name in counts},
            }
        )

    def elaborate(self, platform):
        m = Module()
        senders, receivers = [PacketSender(self.p) for _ in range(2)], [PacketReceiver(self.p) for _ in range(2)]
        for n, (sender, receiver) in enumerate(zip(senders, receivers)):
            m.submodules[f"sender{n}"], m.submodules[f"receiver{n}"] = sender, receiver
            m.submodules[f"channel{n}"] = channel = Channel(seed=77 + n)
            m.submodules[f"crc{n}"] = crc = PacketCrc()
            m.submodules[f"sink{n}"] = sink = Sink()
            connect(m, sender.o, channel.i)
            connect(m, channel.o, crc.i)
            connect(m, crc.o, receivers[1 - n].i)
            connect(m, receiver.o, sink.i)
            m.d.comb += [
                channel.bad.eq(self.bad[n]),
                channel.latency.eq(self.latency),
                channel.stall.eq(self.stall),
                sender.report.eq(receiver.report),
                *(getattr(sender, name).eq(getattr(receiver, name)) for name in ("counts", "last", "lost", "tell")),
                receiver.told.eq(sender.told),
                receivers[1 - n].coming.eq(crc.coming),
                receiver.node.eq(NODES[n]),
                receiver.room.eq(sink.room),
                sink.rate.eq(self.drain),
                sink.lines.eq(self.lines),
                self.totals[n].eq(sink.totals),
                self.lost[n].eq(channel.lost),
            ]
            seen = self.seen[n]
            m.d.comb += [
                *(seen[name].eq(getattr(receiver, name)) for name in ("tell", "told", "right", "wrong", "double")),
                *(seen[name].eq(getattr(receiver, name)) for name in ("room", "report", "counts", "last", "lost")),
                seen.come.eq(receiver.i.valid),
                seen.i.eq(receiver.i.payload),
                seen.given.eq(receiver.o.valid),
                seen.o.eq(receiver.o.payload),
            ]
            for kind in range(CLASSES):
                m.submodules[f"source{n}_{kind}"] = source = Source(kind)
                connect(m, source.o, getattr(sender, f"i{kind}"))
                m.d.comb += [
                    source.go.eq(self.go[kind]),
                    source.rate.eq(self.rate),
                    source.lines.eq(self.lines),
                    self.sent[n][kind].eq(source.sent),
                ]
            for name, end in (
                ("right", receiver), ("wrong", receiver), ("double", receiver), ("again", sender), ("timed_out", sender)
            ):  # fmt: skip
                count = getattr(self, name)[n]
                m.d.sync += count.eq(count + getattr(end, name))
        return m


DUTS = {"ends": Dut(Ends, stalls=False)}


KEPT = ("form", "source", "target", "tag", "first", "status", "epoch")
"""Fields of a head that a packet keeps from end to end."""


class Fields:
    """The fields of a number by their names; much quicker to read than Amaranth's constants."""

    def __init__(self, shape, bits):
        self.plan, self.bits = places_of(shape), bits

    def __getattr__(self, name):
        at, width, shape = self.plan[name]
        bits = self.bits >> at & (1 << width) - 1
        return bits if shape is None else Fields(shape, bits)

    __getitem__ = __getattr__


@cache
def places_of(shape):
    """Where each field is, how wide, and its shape if it has fields itself."""
    layout = data.Layout.cast(shape)
    inner = ((key, field, Shape.cast(field.shape).width) for key, field in layout)
    return {key: (field.offset, width, field.shape if is_layout(field.shape) else None) for key, field, width in inner}


def is_layout(shape):
    return isinstance(shape, data.Layout) or (isinstance(shape, type) and issubclass(shape, data.Struct))


class Twin:
    """A receiver in Python, cycle by cycle."""

    def __init__(self, p, node):
        self.p, self.node, self.here = p, node, None
        self.counts, self.next = [0] * CLASSES, [0] * CLASSES
        self.stored, self.cells = [set() for _ in CELLS], {}
        self.last, self.lost, self.unsaid, self.since, self.framed = 255, 0, False, 0, None
        self.head, self.staged, self.begun, self.written, self.read, self.out = None, [None] * 16, 0, 0, 0, None
        self.asked, self.accepted, self.turn, self.index, self.given = None, False, CLASSES - 1, 0, [None, None]
        self.taken, self.passed, self.pending, self.report = None, [None, None], False, {}
        self.double = False
        self.flags = {"right": False, "wrong": False, "double": False}

    def check(self, seen):
        """What comes out in this cycle."""
        for name, value in self.flags.items():
            assert seen[name] == value, f"{name}: {seen[name]}, {value} expected"
        told = {
            "counts": [seen.counts[n] for n in range(CLASSES)],
            "last": seen.last,
            "lost": seen.lost,
            "tell": bool(seen.tell),
        }
        tell = self.unsaid or self.since == self.p.again + 1
        assert told == {"counts": self.counts, "last": self.last, "lost": self.lost, "tell": tell}
        report = seen.report
        classes = {n: report.passed[n] for n in range(CLASSES) if report.classes >> n & 1}
        found = {"last": report.last} if report.frames else {}
        found |= {"lost": report.lost} if report.losses else {}
        assert found | classes == self.report, "report"
        part = seen.o.part
        given = None
        if seen.given:
            given = {"kind": seen.o.kind, "first": part.first, "last": part.last, "has_line": part.has_line}
            given |= {"line": part.line} if part.has_line else {}
            if part.first:
                given |= {name: getattr(part.head, name) for name in KEPT} | {"body": part.has_body and part.body}
                assert part.head.kind == given["kind"]
                self.here = part.head.target == self.node
            assert seen.o.here == self.here, "whether it is for this node"
        assert given == self.given[0], "what is passed on"

    def cycle(self, seen):
        """To the next one."""
        self._pass(seen)
        alone = self._come(seen)
        self._put(self.out or alone)
        self.out, self.read = (self.staged[self.read % 16], self.read + 1) if self.pending else (None, self.read)

    def _pass(self, seen):
        """Classes whose next packet is there take turns, a packet each."""
        holds = self.index != 0
        may = [n for n in range(CLASSES) if self.next[n] % CELLS[n] in self.stored[n] and seen.room >> n & 1]
        self.given, self.passed = [self.given[1], None], [self.passed[1], None]
        if not holds and not may:
            return
        kind = self.turn if holds else min(may, key=lambda n: (n <= self.turn, n))
        at = self.taken[1] if holds else self.next[kind]
        first, (_, line) = (self.cells[kind, (at + n) % CELLS[kind]] for n in (0, self.index))
        head, body = first[0]
        lines, last = head.form & 15, self.index + 1 >= head.form & 15
        given = {"kind": kind, "first": not holds, "last": last, "has_line": lines > 0}
        given |= {"line": line} if lines else {}
        if not holds:
            given |= {name: getattr(head, name) for name in KEPT} | {"body": head.form >> 4 & 1 and body}
        self.turn, self.index, self.given[1] = kind, 0 if last else self.index + 1, given
        if not holds:
            self.taken = kind, at, max(1, lines)
            self.stored[kind].remove(at % CELLS[kind])
            self.next[kind] = (at + max(1, lines)) % 256
        if last:
            self.passed[1] = kind, max(1, lines)

    def _come(self, seen):
        """A part is there: what it tells, and itself if it need not wait for others."""
        part = seen.i.part
        frame, self.framed = self.framed, None
        self._frame(frame, bool(seen.told))
        self.report, self.pending, alone = {}, self.begun != self.read, None
        ended = bool(seen.come and part.last)
        right = ended and seen.i.crc == 0
        self.flags = {"right": right, "wrong": ended and not right, "double": self.double}
        if not seen.come:
            return None
        self.head = head = part.head if part.first else self.head
        place = self.begun if part.first else self.written
        self.staged[place % 16], self.written = part, place + 1
        if not right:
            return None
        self.framed = head.frame, head.kind == 7
        if head.kind == 7:
            status = Fields(StatusHead, head.bits | part.body << 64)
            self.report = {"last": status.last_frame, "lost": status.lost, 0: status.count}
            self.report |= {n + 1: count for n, count in enumerate(status.counts[n] for n in range(CLASSES - 1))}
        else:
            self.report = {"last" if head.counted == 7 else head.counted: head.count}
            alone = part if part.first and not self.pending and self.out is None else None
            self.begun += 0 if alone is not None else self.written - self.begun
        return alone

    def _frame(self, came, told):
        """The losses that a frame's number shows."""
        frame, behind = came or (self.last, False)
        ahead = (frame - self.last - behind) % 256
        due = self.since == self.p.again + 1
        if ahead and (behind or ahead != 1):
            self.unsaid, self.since = True, 0
        elif told:
            self.unsaid, self.since = False, int(self.unsaid)
        elif ahead and self.since and not due:
            self.since += 1
        new = (1 << min(ahead, 16)) - 1 - (ahead > 0 and not behind)
        self.last, self.lost = (self.last + ahead) % 256, (self.lost << min(ahead, 16) | new) & 0xFFFF

    def _put(self, part):
        """A part of a right packet into its cell, if it is new; what was passed on leaves its own."""
        if part is not None:
            if part.first:
                kind, cell = part.head.kind, part.head.cell
                is_ahead = (cell - self.next[kind]) % 256 < CELLS[kind]
                self.accepted = is_ahead and cell % CELLS[kind] not in self.stored[kind]
                self.asked = kind, cell, 0
            kind, cell, offset = self.asked
            if self.accepted:
                self.cells[kind, (cell + offset) % CELLS[kind]] = (part.head, part.body), part.line
            self.asked = kind, cell, offset + 1
        if self.passed[0]:
            kind, count = self.passed[0]
            self.counts[kind] = (self.counts[kind] + count) % 256
        self.double = part is not None and bool(part.last) and not self.accepted
        if part is not None and part.last and self.accepted:
            self.stored[self.asked[0]].add(self.asked[1] % CELLS[self.asked[0]])


class EndsBench(Bench):
    """Traffic on and off, and what came of it."""

    def words(self, name):
        """An array of two 32-bit numbers."""
        bits = self.port(name).value.to_unsigned()
        return [bits >> 32 * n & 0xFFFFFFFF for n in range(2)]

    async def start(self, *, go=0x3F, rate=16, lines=15, drain=16, bad=(0, 0), latency=1, stall=0):
        for name, value in (("go", 0), ("rate", rate), ("lines", lines), ("drain", drain), ("latency", latency)):
            self.port(name).value = value
        self.dut.stall.value = stall
        self.dut.bad.value = bad[0] | bad[1] << 8
        await self.reset()
        self.dut.go.value = go

    async def watch(self, cycles):
        """Both receivers beside their twins, from the cycle after a reset on."""
        shape, twins = self.component.seen_shape, [Twin(self.component.p, node) for node in NODES]
        for cycle in range(cycles):
            await ReadOnly()
            bits = self.dut.seen.value.to_unsigned()
            for n, twin in enumerate(twins):
                seen = Fields(shape, bits >> shape.size * n & (1 << shape.size) - 1)
                try:
                    twin.check(seen)
                except AssertionError as error:
                    raise AssertionError(f"receiver {n}, cycle {cycle}: {error}") from None
                twin.cycle(seen)
            await RisingEdge(self.dut.clk)

    def sent_and_come(self):
        sent, totals = self.dut.sent.value.to_unsigned(), self.dut.totals.value.to_unsigned()
        sent = [[sent >> 32 * (6 * n + kind) & 0xFFFFFFFF for kind in range(6)] for n in range(2)]
        come = [
            [[totals >> 96 * (6 * n + kind) + 32 * k & 0xFFFFFFFF for k in range(3)] for kind in range(6)]
            for n in (1, 0)
        ]
        return sent, come

    async def finish(self, cycles, most=30_000):
        """Let it run, then stop the sources: all that was sent comes, and nothing else. What came, by way and class."""
        await self.cycles(cycles)
        self.dut.go.value = 0
        for _ in range(0, most, 50):
            await self.cycles(50)
            sent, come = self.sent_and_come()
            if [[kind[0] for kind in way] for way in come] == sent:
                break
        assert [[kind[0] for kind in way] for way in come] == sent, f"sent {sent}, come {come}"
        await self.cycles(500)
        assert self.sent_and_come() == (sent, come), "more came than was sent"
        assert not any(kind[2] for way in come for kind in way), f"wrong parts: {come}"
        return come


@cocotb.test()
@cocotb.parametrize(case=[(1, 16, 0), (40, 16, 0), (1, 3, 8), (40, 3, 0)])
async def all_comes_in_order(dut, case):
    bench = EndsBench(dut, DUTS)
    latency, drain, stall = case
    await bench.start(latency=latency, drain=drain, stall=stall)
    come = await bench.finish(3000)
    assert all(kind[0] > 20 for way in come for kind in way), f"{come}"
    assert bench.words("again") == bench.words("wrong") == bench.words("double") == [0, 0]


@cocotb.test()
@cocotb.parametrize(case=[(10, 0, 60), (0, 100, 1), (60, 60, 60), (128, 128, 1)])
async def all_comes_whatever_is_lost(dut, case):
    """So many of 256 packets, each way; half of them at the worst, when only a timeout may help."""
    bench = EndsBench(dut, DUTS)
    *bad, latency = case
    await bench.start(latency=latency, bad=bad, drain=10)
    come = await bench.finish(4000, most=100_000)
    assert all(kind[0] > 5 for way in come for kind in way), f"{come}"
    lost, again = bench.words("lost"), bench.words("again")
    for n in range(2):
        assert bool(bad[n]) == bool(lost[n]) == bool(again[n]), f"{bad}: {lost} lost, {again} sent again"


@cocotb.test()
@cocotb.parametrize(
    case=[
        {"lines": 0},
        {"lines": 15, "drain": 3},
        {"lines": 15, "bad": (60, 40), "latency": 8, "drain": 12},
        {"lines": 1, "bad": (40, 80), "latency": 3, "rate": 6},
        {"lines": 3, "bad": (20, 20), "latency": 2},
        # All cells are in use.
        *({"lines": lines, "drain": 0} for lines in (2, 4, 8)),
    ]
)
async def each_cycle_is_right(dut, case):
    """What is passed on and when, what is reported and told: as of a receiver in Python."""
    bench = EndsBench(dut, DUTS)
    await bench.start(**case)
    await bench.watch(500)
    # What is offered now may change only in reset.
    dut.rst.value = 1
    await bench.cycles(1)


@cocotb.test()
async def what_stands_still_comes_twice(dut):
    """When nothing is taken, the oldest packets come again, and are known by their cells."""
    bench = EndsBench(dut, DUTS)
    await bench.start(drain=0)
    await bench.cycles(5000)
    again, double = bench.words("again"), bench.words("double")
    assert min(again) >= 2 * CLASSES and double == again[::-1], f"{again} sent again, {double} known"
    dut.drain.value = 16
    await bench.finish(100)
