"""Testbench of hw/link/sender.py: what it sends, what its heads and its Status tell, and when it has no room."""

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.packet import CLASSES, StatusHead
from tessera.hw.link.retry import RetryParameters
from tessera.hw.link.sender import IDLE_CYCLES, PacketSender
from tessera.tb.bench import Bench, Dut, pack
from tessera.tb.link.model import Packet, form_of

CELLS = (32, 32, 128, 32, 16, 16)

DUTS = {"sender": Dut(lambda: PacketSender(RetryParameters(CELLS)), watched=True)}


class SenderBench(Bench):
    """Packets in, packets and Status out; the other end is the test."""

    async def start(self):
        for name in ("report", "counts", "last", "lost", "tell"):
            self.port(name).value = 0
        self.dut.last.value = 255
        await self.reset()

    async def give(self, kind, packets, stall=0.0):
        parts = [part["part"] for packet in packets for part in packet.parts()]
        await self.send(f"i{kind}", parts, stall)

    async def take(self, count, stall=0.0):
        """So many packets without Status, as (kind, head, body, lines), and all Status until then."""
        packets, told, lines = [], [], []
        while len(packets) < count:
            (item,) = await self.receive("o", 1, stall)
            part = item.part
            assert item.crc == 0
            if part.first:
                assert not lines, "a packet begins amid another"
                head, body = part.head, part.body if part.has_body else None
            if part.has_line:
                lines.append(part.line)
            if not part.last:
                continue
            if head.kind.value == 7:
                assert head.form == form_of(0, 1) and not lines
                told.append(status_of(head, body))
            else:
                packets.append((head.kind.value, head, body, tuple(lines)))
            lines = []
        return packets, told


def packets_of(random, count, lines=range(9)):
    return [Packet.random(random, random.choice(list(lines)), random.random() < 0.5) for _ in range(count)]


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def sends_what_it_was_given(dut, stall):
    """Of each class in order; frames are numbered as they leave, cells by class; counts change meanwhile."""
    bench = SenderBench(dut, DUTS)
    await bench.start()
    given = [packets_of(bench.random, max(2, cells // 16), range(5)) for cells in CELLS]
    for kind in range(CLASSES):
        cocotb.start_soon(bench.give(kind, given[kind], stall))
    changing = True

    async def change():
        while changing:
            await bench.cycles(bench.random.randrange(1, 6))
            dut.counts.value = bench.random.getrandbits(48)
            dut.last.value = bench.random.getrandbits(8)

    cocotb.start_soon(change())
    total = sum(map(len, given))
    sent, told = await bench.within(5000, bench.take(total, stall))
    changing = False
    cells, seen = [0] * CLASSES, [iter(packets) for packets in given]
    for number, (kind, head, body, lines) in enumerate(sent):
        packet = next(seen[kind])
        assert (head.frame, head.cell) == (number, cells[kind]), f"packet {number} of class {kind}"
        assert (body, lines) == (packet.body, packet.lines), f"packet {number} of class {kind}"
        mine = int.from_bytes(packet.content[:8], "little")
        assert head.form == mine & 0x3FF
        for name, at, bits in (("source", 40, 4), ("target", 44, 4), ("tag", 48, 8), ("first", 56, 4)):
            assert getattr(head, name) == mine >> at & (1 << bits) - 1, name
        cells[kind] += max(1, len(lines))
    assert {head.counted for _, head, _, _ in sent} >= {0, 1, 2, 3, 4, 5, 7}
    assert all(status.frame <= total for status in told)


@cocotb.test()
async def is_quick(dut):
    """Four cycles from a packet's last part to the first one on ``o``, and a part each cycle; five behind a Status."""
    bench = SenderBench(dut, DUTS)
    await bench.start()
    dut.o__ready.value = 1
    for lines in (0, 1, 4, 8):
        for delay in range(IDLE_CYCLES):
            await bench.cycles(20 + delay)
            packet = Packet.random(bench.random, lines, True)
            sending = cocotb.start_soon(bench.give(2, [packet]))
            times, began = [], bench.now()
            for _ in range(30):
                await ReadOnly()
                part = bench.shape("o").from_bits(dut.o__payload.value.to_unsigned()).part
                if dut.o__valid.value and (not part.first or part.head.kind.value != 7):
                    times.append(bench.now() - began)
                await RisingEdge(dut.clk)
            await sending
            count = max(1, lines)
            assert times[0] - (count - 1) in (4, 5), f"{lines} lines: parts in cycles {times}"
            assert times == list(range(times[0], times[0] + count)), f"{lines} lines: parts in cycles {times}"


@cocotb.test()
async def tells_all_while_it_is_idle(dut):
    """A Status in every eighth cycle, with what is to be told and the number of the next packet; at once when asked."""
    bench = SenderBench(dut, DUTS)
    await bench.start()
    for number in range(3):
        counts, last, lost = bench.random.getrandbits(48), bench.random.getrandbits(8), bench.random.getrandbits(16)
        dut.counts.value, dut.last.value, dut.lost.value = counts, last, lost
        await bench.receive("o", 2)
        times = []
        for n in range(3):
            if n == 2:
                dut.tell.value = 1
                await ReadOnly()
                assert dut.told.value
                await RisingEdge(dut.clk)
                dut.tell.value = 0
            (item,) = await bench.receive("o", 1)
            times.append(bench.now())
            status = status_of(item.part.head, item.part.body)
            assert (status.kind.value, status.frame) == (7, number)
            assert (status.last_frame, status.lost, status.counted) == (last, lost, 0)
            assert status.count | sum(count << 8 * (n + 1) for n, count in enumerate(status.counts)) == counts
        assert times[1] - times[0] == IDLE_CYCLES and times[2] - times[1] == 2, f"Status in cycles {times}"
        cocotb.start_soon(bench.give(4, [Packet.random(bench.random, 0, False)]))
        packets, _ = await bench.within(50, bench.take(1))
        assert packets[0][1].frame == number


@cocotb.test()
async def waits_for_room(dut):
    """A class takes packets while a longest one has cells; what was passed on makes room, another class's does not."""
    bench = SenderBench(dut, DUTS)
    await bench.start()
    for kind, cells in enumerate(CELLS):
        taken = 0
        giving = cocotb.start_soon(bench.give(kind, [Packet.random(bench.random, 0, False) for _ in range(cells + 8)]))
        for _ in range(cells + 20):
            await ReadOnly()
            taken += bool(bench.port(f"i{kind}.valid").value and bench.port(f"i{kind}.ready").value)
            await RisingEdge(dut.clk)
        assert taken == cells - 7, f"class {kind}: {taken} taken"
        assert bench.get("stalled") == 1 << kind
        for passed, more in ((0, 0), (5, 5)):
            classes = 1 << kind if passed else 0x3F ^ 1 << kind
            told = [passed if n == kind else 0 for n in range(CLASSES)]
            dut.report.value = pack(bench.component.parameters.report, {"classes": classes & 1 << kind, "passed": told})
            await RisingEdge(dut.clk)
            dut.report.value = 0
            came = 0
            for _ in range(20):
                await ReadOnly()
                came += bool(bench.port(f"i{kind}.valid").value and bench.port(f"i{kind}.ready").value)
                await RisingEdge(dut.clk)
            assert came == more, f"class {kind}: {came} taken after {passed} were passed on"
        giving.cancel()
        bench.port(f"i{kind}.valid").value = 0
        await bench.start()


def status_of(head, body):
    return StatusHead.from_bits(head.as_bits() | body << 64)
