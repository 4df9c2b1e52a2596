"""Testbench of hw/link/receiver.py: both ends, with a channel between them that loses and spoils packets."""

import cocotb
from amaranth.hdl import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import connect
from tessera.hw.link.packet import CLASSES, CheckedPart
from tessera.hw.link.receiver import PacketReceiver
from tessera.hw.link.retry import RetryParameters
from tessera.hw.link.sender import PacketSender
from tessera.tb.bench import Bench, Dut
from tessera.tb.link.traffic import Sink, Source, Totals

CELLS = (32, 32, 128, 32, 16, 16)


class Channel(wiring.Component):
    """Brings parts, ``latency`` cycles late; of every 256 packets ``bad`` are wrong, or cut short, or not there."""

    def __init__(self, seed):
        self.seed = seed
        super().__init__(
            {
                "i": In(stream.Signature(CheckedPart)),
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
        part, way, now = self.i.payload.part, Signal(2), Signal(2)
        taken = self.i.valid & self.i.ready
        m.d.comb += now.eq(Mux(part.first, Mux(dice[:8] < self.bad, 1 + dice[8:10] % 3, 0), way))
        with m.If(taken):
            m.d.sync += [way.eq(now), self.lost.eq(self.lost + (part.first & (now != 0)))]
        entry = Signal(shape)
        m.d.comb += [
            self.i.ready.eq(queue.w_rdy & (dice[16:20] >= self.stall)),
            entry.part.eq(self.i.payload),
            entry.due.eq(time + self.latency),
            # 1: a wrong CRC. 2: no last part. 3: nothing.
            entry.part.crc.eq((now == 1) << dice[20:25]),
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


class Ends(wiring.Component):
    """Two ends, a channel each way, and traffic of all classes both ways."""

    def __init__(self, timeout_bits=10):
        self.p = RetryParameters(CELLS, timeout_bits=timeout_bits)
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
                **{name: Out(data.ArrayLayout(32, 2)) for name in counts},
            }
        )

    def elaborate(self, platform):
        m = Module()
        senders, receivers = [PacketSender(self.p) for _ in range(2)], [PacketReceiver(self.p) for _ in range(2)]
        for n, (sender, receiver) in enumerate(zip(senders, receivers)):
            m.submodules[f"sender{n}"], m.submodules[f"receiver{n}"] = sender, receiver
            m.submodules[f"channel{n}"] = channel = Channel(seed=77 + n)
            m.submodules[f"sink{n}"] = sink = Sink()
            connect(m, sender.o, channel.i)
            connect(m, channel.o, receivers[1 - n].i)
            connect(m, receiver.o, sink.i)
            m.d.comb += [
                channel.bad.eq(self.bad[n]),
                channel.latency.eq(self.latency),
                channel.stall.eq(self.stall),
                sender.report.eq(receiver.report),
                *(getattr(sender, name).eq(getattr(receiver, name)) for name in ("counts", "last", "lost", "tell")),
                receiver.told.eq(sender.told),
                receiver.room.eq(sink.room),
                sink.rate.eq(self.drain),
                sink.lines.eq(self.lines),
                self.totals[n].eq(sink.totals),
                self.lost[n].eq(channel.lost),
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
