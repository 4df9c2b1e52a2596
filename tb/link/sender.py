"""Testbench of hw/link/sender.py: what it sends, what its heads and its Status tell, and when it has no room."""

from collections import deque

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.packet import CLASSES, StatusHead
from tessera.hw.link.retry import RetryParameters
from tessera.hw.link.sender import IDLE_CYCLES, PacketSender
from tessera.tb.bench import Bench, Dut, pack
from tessera.tb.link.model import Packet, checked, crc32c, form_of

CELLS = (32, 32, 128, 32, 16, 16)
FRAMES = 7
"""``counted`` of the last frame received."""
UNDER_WAY = 5

DUTS = {"sender": Dut(lambda: PacketSender(RetryParameters(CELLS), UNDER_WAY), watched=True)}


class Heads:
    """What heads tell: by turns one count after the other, the last frame first, and the next one that has changed."""

    def __init__(self):
        self.number, self.latest, self.told = 0, 0, [0] * CLASSES

    def choice(self, counts, last):
        """``counted`` and ``count`` of the next head."""
        counted = (FRAMES, *range(CLASSES))[self.number % (CLASSES + 1)]
        if self.number % 2:
            behind = [(self.latest + 1 + n) % CLASSES for n in range(CLASSES)]
            counted = next((n for n in behind if counts[n] != self.told[n]), FRAMES)
        return counted, last if counted == FRAMES else counts[counted]

    def goes(self, counted, count):
        self.number += 1
        if counted != FRAMES:
            self.told[counted], self.latest = count, counted


class SenderBench(Bench):
    """Packets in, packets and Status out; the other end is the test."""

    watching = None

    async def start(self):
        if self.watching:
            self.watching.cancel()
        self.dut.report.value = self.dut.tell.value = 0
        self.know(counts=0, last=255, lost=0)
        await self.reset()
        self.watching = cocotb.start_soon(self.watch())

    def know(self, **fields):
        """What is to be told from now on."""
        for name, value in fields.items():
            self.port(name).value = value

    def news(self):
        """All of it new."""
        widths = {"counts": 8 * CLASSES, "last": 8, "lost": 16}
        fields = {name: self.random.getrandbits(bits) for name, bits in widths.items()}
        self.know(**fields)
        return fields

    async def seen(self):
        """What is offered in this cycle, if anything."""
        await ReadOnly()
        item = None
        if self.dut.o__valid.value:
            item = checked(self.dut.o__payload.value.to_unsigned()).part
        await RisingEdge(self.dut.clk)
        return item

    async def is_told(self):
        """Whether it is told in this cycle."""
        await ReadOnly()
        told = bool(self.dut.told.value)
        await RisingEdge(self.dut.clk)
        return told

    async def until_told(self):
        while not await self.is_told():
            pass

    async def watch(self):
        """What is chosen, and what heads and Status tell, which is known a cycle later: for ever, cycle by cycle."""
        heads, chosen, expected = Heads(), deque(), (FRAMES, 255)
        held, new, before = None, None, {"told": False, "tell": False, "begun": None}
        idle, quiet, next_frame, cells = 1, 0, 0, [0] * CLASSES
        while True:
            await ReadOnly()
            ready, tell, told = (bool(self.port(name).value) for name in ("o.ready", "tell", "told"))
            begun, again = bool(self.dut.begun.value), bool(self.dut.again.value)
            counts = self.dut.counts.value.to_unsigned()
            known = {"counts": counts, "last": self.get("last"), "lost": self.get("lost")}

            # Whether a Status was chosen in the cycle before.
            urgent = before["tell"] and not before["told"]
            assert not (urgent and before["begun"] is not None), "a packet goes before a Status that tells of a loss"
            due = urgent or idle == IDLE_CYCLES - 1
            assert not told or due, f"a Status that is not due, {idle} cycles after another"
            assert told or not due or quiet < 16, "nothing goes, and a Status is due"
            if told:
                chosen.append(known)
            following = heads.choice([counts >> 8 * n & 255 for n in range(CLASSES)], known["last"])
            if before["begun"] is not None:
                chosen.append((*expected, before["begun"]))
                heads.goes(*expected)
            expected = following
            idle = 0 if told else min(idle + 1, IDLE_CYCLES - 1)

            offered = self.dut.o__payload.value.to_unsigned() if self.dut.o__valid.value else None
            assert held is None or offered == held, "what was offered has changed before it was taken"
            held = None if ready else offered
            item = None if offered is None else checked(offered).part
            if item is not None and item.first and ready:
                told_here, head = chosen.popleft(), item.head
                if head.kind.value == 7:
                    found = status_of(head, item.body)
                    assert fields_of(found) == told_here, "what a Status tells"
                    assert found.frame == next_frame, "frame of a Status"
                else:
                    kind, new = head.kind.value, head.cell == cells[head.kind.value]
                    assert (head.counted, head.count, new) == told_here, "what a head tells, and whether it is new"
                    cells[kind] = (cells[kind] + new * max(1, head.form & 15)) % 256
                    next_frame = (head.frame + 1) % 256
            packet = item is not None and not (item.first and item.head.kind.value == 7)
            quiet = 0 if begun or again or packet or not ready else quiet + 1
            before = {"told": told, "tell": tell, "begun": begun if begun or again else None}
            await RisingEdge(self.dut.clk)

    async def give(self, kind, packets, stall=0.0):
        parts = [part["part"] for packet in packets for part in packet.parts()]
        await self.send(f"i{kind}", parts, stall)

    async def take(self, count, stall=0.0):
        """So many packets without Status, as (kind, head, body, lines), and all Status until then."""
        packets, told, lines = [], [], []
        while len(packets) < count:
            (item,) = await self.receive("o", 1, stall)
            item = checked(item.as_bits())
            part = item.part
            if part.first:
                assert not lines, "a packet begins amid another"
                head, body = part.head, part.body if part.has_body else None
            if part.has_line:
                lines.append(part.line)
            if not part.last:
                continue
            content = head.as_bits().to_bytes(8, "little") + (b"" if body is None else body.to_bytes(4, "little"))
            assert item.crc == crc32c(content + b"".join(line.to_bytes(64, "little") for line in lines)), "CRC"
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
    """Six cycles from a packet's last part to the first one on ``o``, and a part each cycle, also behind Status."""
    bench = SenderBench(dut, DUTS)
    await bench.start()
    dut.o__ready.value = 1
    for lines in (0, 1, 4, 8):
        for delay in range(IDLE_CYCLES):
            # What was urgent before is not any more.
            dut.tell.value = 1
            await bench.cycles(1)
            dut.tell.value = 0
            await bench.cycles(20 + delay)
            packet = Packet.random(bench.random, lines, True)
            sending = cocotb.start_soon(bench.give(2, [packet]))
            times, began = [], bench.now()
            for _ in range(30):
                await ReadOnly()
                part = checked(dut.o__payload.value.to_unsigned()).part
                if dut.o__valid.value and (not part.first or part.head.kind.value != 7):
                    times.append(bench.now() - began)
                await RisingEdge(dut.clk)
            await sending
            count = max(1, lines)
            assert times == list(range(6 + count - 1, 6 + 2 * count - 1)), f"{lines} lines: parts in cycles {times}"


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
                assert not await bench.is_told() and await bench.is_told()
                dut.tell.value = 0
            (item,) = await bench.receive("o", 1)
            times.append(bench.now())
            part = checked(item.as_bits()).part
            status = status_of(part.head, part.body)
            assert (status.kind.value, status.frame) == (7, number)
            assert (status.last_frame, status.lost, status.counted) == (last, lost, 0)
            assert status.count | sum(count << 8 * (n + 1) for n, count in enumerate(status.counts)) == counts
        assert times[1] - times[0] == IDLE_CYCLES and times[2] - times[1] == 5, f"Status in cycles {times}"
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


@cocotb.test()
@cocotb.parametrize(stalls=[(0.0, 0.0), (0.0, 0.5), (0.7, 0.0), (0.7, 0.3)])
async def tells_what_is_known(dut, stalls):
    """In heads and Status, whatever changes; a loss before the next packet."""
    bench = SenderBench(dut, DUTS)
    await bench.start()
    for kind in range(CLASSES):
        cocotb.start_soon(bench.give(kind, packets_of(bench.random, CELLS[kind] // 4, [0, 0, 0, 1, 2]), stalls[0]))
    taking = cocotb.start_soon(bench.receive("o", stall=stalls[1], until=lambda item: False))
    known, draw, rate = [0] * CLASSES, bench.random.randrange, 0
    for cycle in range(300):
        # Seldom or often, by a bit or by any.
        rate = draw(9) if cycle % 50 == 0 else rate
        if draw(8) < rate:
            known[draw(CLASSES)] ^= draw(256) if rate > 4 else 1 << draw(8)
            bench.know(counts=sum(count << 8 * n for n, count in enumerate(known)))
        if draw(4) == 0:
            bench.know(last=draw(256), lost=draw(1 << 16))
        told = await bench.is_told()
        dut.tell.value = draw(12) == 0 if told or not dut.tell.value else 1
    taking.cancel()


@cocotb.test()
async def a_loss_is_told_amid_packets(dut):
    """Before the next packet is chosen, however the packets lie to the last Status before them."""
    bench = SenderBench(dut, DUTS)
    for delay in range(IDLE_CYCLES):
        await bench.start()
        dut.o__ready.value = 1
        await bench.cycles(20 + delay)
        cocotb.start_soon(bench.give(2, packets_of(bench.random, 16, range(1, 4))))
        await bench.cycles(14 + bench.random.randrange(8))
        news, items, cycles = bench.news(), [], 0
        dut.tell.value = 1
        while not await bench.is_told():
            cycles += 1
            assert cycles < 5, f"not told {cycles} cycles later"
        dut.tell.value = 0
        while not (items and items[-1].first and items[-1].head.kind.value == 7):
            assert len(items) < UNDER_WAY, f"no Status, {delay} cycles later"
            items.append(await bench.seen())
        assert fields_of(status_of(items[-1].head, items[-1].body)) == news, f"{delay} cycles later"


@cocotb.test()
@cocotb.parametrize(packets=[True, False])
async def no_more_parts_are_under_way(dut, packets):
    """Than are of use: while none is taken no more is chosen, and for each one taken then one, two cycles later."""
    bench = SenderBench(dut, DUTS)
    await bench.start()
    dut.o__ready.value = 0
    if packets:
        cocotb.start_soon(bench.give(2, packets_of(bench.random, 80, [0])))

    async def chosen(cycles, count):
        seen = []
        for _ in range(cycles):
            await ReadOnly()
            seen.append(any(bool(bench.port(name).value) for name in ("told", "begun")))
            await RisingEdge(dut.clk)
        assert sum(seen) == count, f"{sum(seen)} chosen, {count} expected"
        return seen

    await chosen(100, UNDER_WAY)
    for _ in range(4):
        dut.tell.value = not packets
        await chosen(bench.random.randrange(1, 20), 0)
        dut.o__ready.value = 1
        await chosen(1, 0)
        dut.o__ready.value = 0
        # A packet is seen when it is chosen, a Status in the cycle after that.
        assert (await chosen(1 + (not packets), 1))[-1]
        dut.tell.value = 0


@cocotb.test()
async def sends_again_what_was_lost(dut):
    """The packets of lost frames, under new frames; a loss told twice does nothing."""
    bench = SenderBench(dut, DUTS)
    await bench.start()
    for kind in range(CLASSES):
        cocotb.start_soon(bench.give(kind, packets_of(bench.random, 2, range(5))))
    sent, _ = await bench.within(100, bench.take(12))
    lost, again = 0b1010_0110_0101, []
    for _ in range(2):
        dut.report.value = pack(bench.component.parameters.report, {"losses": 1, "last": 11, "lost": lost})
        await bench.cycles(1)
        dut.report.value = 0
        if not again:
            again, _ = await bench.within(100, bench.take(lost.bit_count()))
    assert [head.frame for _, head, _, _ in again] == list(range(12, 12 + len(again)))
    expected = [sent[11 - n] for n in range(12) if lost >> n & 1]
    assert sorted(map(content_of, again)) == sorted(map(content_of, expected))
    await bench.cycles(20)
    cocotb.start_soon(bench.give(0, packets_of(bench.random, 1)))
    ((kind, head, _, _),), _ = await bench.within(100, bench.take(1))
    assert kind == 0 and head.cell == sum(max(1, len(lines)) for kind, _, _, lines in sent if kind == 0)


def content_of(packet):
    """All of one that stays the same when it is sent again."""
    kind, head, body, lines = packet
    names = ("form", "cell", "source", "target", "tag", "first", "status", "epoch")
    return kind, *(getattr(head, name) for name in names), body or 0, lines


@cocotb.test()
async def takes_whole_packets_in_turns(dut):
    """A part each cycle. A packet begins when its class has cells for a longest one, and then all of it is taken."""
    bench = SenderBench(dut, DUTS)
    await bench.start()
    packets = [packets_of(bench.random, 100) for _ in CELLS]
    lasts = [[part["part"]["last"] for packet in given for part in packet.parts()] for given in packets]
    whole, passed, came, taken, amid, turn = *([0] * CLASSES for _ in range(4)), [False] * CLASSES, CLASSES - 1
    gone, waited = [[] for _ in CELLS], set()

    async def drain():
        while True:
            ((kind, _, body, lines),), _ = await bench.take(1)
            packet = packets[kind][came[kind]]
            assert (body, lines) == (packet.body, packet.lines), f"packet {came[kind]} of class {kind}"
            came[kind] += 1
            gone[kind].append(max(1, len(lines)))

    cocotb.start_soon(drain())
    for kind in range(CLASSES):
        cocotb.start_soon(bench.give(kind, packets[kind], 0.1))
    for cycle in range(400):
        # At first none is passed on, so that every class runs out of cells.
        classes = [n for n in range(CLASSES) if gone[n] and cycle > 270 and bench.random.random() < 0.05]
        cells = [sum(gone[n]) if n in classes else 0 for n in range(CLASSES)]
        for n in classes:
            gone[n].clear()
        told = [(count + more) % 256 for count, more in zip(passed, cells)]
        report = {"classes": sum(1 << n for n in classes), "passed": told}
        dut.report.value = pack(bench.component.parameters.report, report) if classes else 0
        await ReadOnly()
        valid = [bool(bench.port(f"i{n}.valid").value) for n in range(CLASSES)]
        ready = [bool(bench.port(f"i{n}.ready").value) for n in range(CLASSES)]
        may = [amid[n] or whole[n] - passed[n] <= CELLS[n] - 8 for n in range(CLASSES)]
        stalled = sum(valid[n] and not may[n] and 1 << n for n in range(CLASSES))
        assert bench.get("stalled") == stalled, f"stalled in cycle {cycle}: {bench.get('stalled'):06b}, {stalled:06b}"
        waited |= {n for n in range(CLASSES) if stalled >> n & 1 and not lasts[n][taken[n]]}
        due = [n for n in (*range(turn + 1, CLASSES), *range(turn + 1)) if valid[n] and may[n]]
        assert [n for n in range(CLASSES) if valid[n] and ready[n]] == due[:1], f"taken in cycle {cycle}"
        for turn in due[:1]:
            # Every part takes a cell.
            taken[turn] += 1
            amid[turn] = not lasts[turn][taken[turn] - 1]
            whole[turn] = whole[turn] if amid[turn] else taken[turn]
        passed = [count + more for count, more in zip(passed, cells)]
        await RisingEdge(dut.clk)
    assert waited == set(range(CLASSES)), f"of {waited} alone a packet of many parts had to wait"


def status_of(head, body):
    return StatusHead.from_bits(head.as_bits() | body << 64)


def fields_of(status):
    """What a Status tells of the receiver beside it."""
    assert status.counted == 0
    counts = status.count | sum(count << 8 * (n + 1) for n, count in enumerate(status.counts))
    return {"counts": counts, "last": status.last_frame, "lost": status.lost}


@cocotb.test()
async def numbers_come_round(dut):
    """Of frames, cells and counts, in heads and in Status."""
    bench = SenderBench(dut, DUTS)
    await bench.start()
    shape = bench.component.parameters.report
    sent = 0
    while sent < 600:
        packets = packets_of(bench.random, 30, [0, 0, 1])
        cocotb.start_soon(bench.give(2, packets))
        await bench.within(500, bench.take(len(packets)))
        sent += len(packets)
        await bench.within(20, bench.receive("o", 1))
        passed = [sent % 256 if n == 2 else 0 for n in range(CLASSES)]
        told = {"classes": 4, "passed": passed, "frames": 1, "last": (sent - 1) % 256}
        dut.report.value = pack(shape, told)
        await RisingEdge(dut.clk)
        dut.report.value = 0
