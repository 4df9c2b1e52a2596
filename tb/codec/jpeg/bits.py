"""Testbench of hw/codec/jpeg/bits.py."""

import cocotb
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge, Timer

from tessera.golden.jpeg.huffman import next_marker, unstuff
from tessera.hw.codec.jpeg.bits import WINDOW_BITS, BitWindow, ByteFeed, Ending, FileBytes, SegmentBits, Unstuffer
from tessera.hw.lib.streams import connect
from tessera.hw.memory.bitstream_reader import ByteGroup
from tessera.tb.bench import Bench, Dut, pack, unpack


class Segments(wiring.Component):
    """A feed and an unstuffer."""

    i: In(stream.Signature(ByteGroup))
    run: In(1)
    o: Out(stream.Signature(SegmentBits))
    ending: Out(Ending)

    def elaborate(self, platform):
        m = Module()
        m.submodules.feed = feed = ByteFeed()
        m.submodules.unstuffer = unstuffer = Unstuffer()
        connect(m, self.i, feed.i)
        connect(m, unstuffer.o, self.o)
        m.d.comb += [
            unstuffer.run.eq(self.run),
            unstuffer.file.eq(feed.o),
            unstuffer.offset.eq(feed.offset),
            feed.take.eq(unstuffer.take),
            self.ending.eq(unstuffer.ending),
        ]
        return m


DUTS = {
    "feed": Dut(ByteFeed, tests="feed"),
    "unstuffer": Dut(Segments, stalls=True, tests="unstuffer"),
    "window": Dut(lambda: BitWindow(6), tests="window"),
}


async def _settle():
    """Let outputs follow what was just clocked or set."""
    await Timer(1, unit="ps")


def groups(data):
    """As the bitstream reader gives them."""
    if not data:
        return [{"data": 0xDEAD, "count": 0, "last": 1}]
    return [
        {"data": int.from_bytes(data[n : n + 8], "little"), "count": len(data[n : n + 8]), "last": n + 8 >= len(data)}
        for n in range(0, len(data), 8)
    ]


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.6], greedy=[True, False])
async def feed_gives_each_byte_once(dut, stall, greedy):
    bench = Bench(dut, DUTS)
    random = bench.random
    valid, ready, payload = (bench.port(f"i.{part}") for part in ("valid", "ready", "payload"))
    for size in (0, 1, 2, 7, 8, 9, 15, 16, 17, 100, 257):
        dut.take.value = 0
        await bench.reset()
        data = random.randbytes(size)
        waiting = groups(data)
        offered = False
        got, cycles, end = b"", 0, 0
        # `ready` answers to `take` within the cycle, so both sides are driven here.
        while not end and cycles < 20 * size + 50:
            await _settle()
            state = unpack(FileBytes, dut.o.value.to_unsigned())
            end = state.end
            for n in range(state.count):
                assert state.bytes[n] == data[len(got) + n], f"byte {len(got) + n} of {size}"
            assert bench.get("offset") == len(got)
            take = state.count if greedy else random.randint(0, state.count)
            offered = bool(waiting) and (offered or random.random() >= stall)
            dut.take.value = take
            valid.value = offered
            payload.value = pack(ByteGroup, waiting[0]) if offered else 0
            got += bytes(state.bytes[n] for n in range(take))
            await _settle()
            if offered and ready.value:
                waiting.pop(0)
                offered = False
            await RisingEdge(dut.clk)
            cycles += 1
        assert got == data and end, f"{len(got)} of {size} bytes came"
        if greedy and not stall:
            assert cycles <= 2 + -(-size * 5 // 8), f"{size} bytes in {cycles} cycles"
        valid.value = 0


@cocotb.test()
async def feed_counts_a_mebibyte(dut):
    bench = Bench(dut, DUTS)
    dut.take.value = 0
    await bench.reset()
    bench.port("i.payload").value = pack(ByteGroup, {"data": 0, "count": 8, "last": 0})
    bench.port("i.valid").value = 1
    await bench.cycles(2)
    dut.take.value = 2
    before = 0
    for size in (1 << n for n in range(10, 21)):
        await bench.cycles((size - before) // 2)
        await _settle()
        assert bench.get("offset") == size, f"at {size}: offset {bench.get('offset')}"
        before = size


def coded(random, size):
    """Bytes of a segment, rich in FF, stuffing and fill; and those of a marker."""
    out = b""
    for _ in range(size):
        plain = [bytes((random.randrange(255),))] * 6
        out += random.choice([*plain, b"\xff\0", b"\xff\xff\0", b"\xff\xff\xff\0", b"\0"])
    return out, b"\xff" * random.randint(1, 3) + bytes((random.randrange(1, 255),))


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.4], stall_out=[0.0, 0.5])
async def unstuffer_equals_golden(dut, stall_in, stall_out):
    bench = Bench(dut, DUTS)
    dut.run.value = 0
    await bench.reset()
    random = bench.random
    pieces = [coded(random, random.choice([0, 1, 2, 3, 30])) for _ in range(20)]
    data = b"".join(a + b for a, b in pieces) + b"\x12\x34\xff\0\x56\xff\xff"
    cocotb.start_soon(bench.send("i", groups(data), stall_in))
    position = 0
    for _ in range(len(pieces) + 1):
        stop = next_marker(data, position)
        expected = unstuff(data[position:stop])
        dut.run.value = 1
        receiver = cocotb.start_soon(bench.receive("o", None, stall_out))
        got = []
        ending = None
        valid, ready, payload = (bench.port(f"o.{part}") for part in ("valid", "ready", "payload"))
        for _ in range(5000):
            await RisingEdge(dut.clk)
            await ReadOnly()
            if valid.value and ready.value:
                bits = unpack(SegmentBits, payload.value.to_unsigned())
                got += [bits.bits >> 8] + ([bits.bits & 255] if bits.two else [])
            ending = unpack(Ending, dut.ending.value.to_unsigned())
            if ending.found:
                break
        assert bytes(got) == expected, f"segment at {position}"
        assert ending.found and ending.file == (stop == len(data))
        if not ending.file:
            assert (ending.code, ending.where) == (data[stop + 1], stop)
        position = stop + 2
        await RisingEdge(dut.clk)
        receiver.cancel()
        dut.run.value = 0
        bench.port("o.ready").value = 0
        await bench.cycles(1)


def cycles_for(data):
    """Cycles in which an unstuffer takes `data`: of an offer of two bytes both, unless one is FF or follows it."""
    place, after_ff, cycles = 0, False, 0
    while place < len(data):
        pair = data[place : min(place + 2, place // 8 * 8 + 8)]
        place += 1 if after_ff or 0xFF in pair else len(pair)
        after_ff = pair[0] == 0xFF
        cycles += 1
    return cycles


@cocotb.test()
async def unstuffer_takes_two_bytes_a_cycle(dut):
    bench = Bench(dut, DUTS)
    if bench.stalled:
        return
    plain = bytes(range(200))
    for data in (plain + b"\xff\xd9", plain[1:] + b"\xff\xff\xd9", b"".join(coded(bench.random, 100))):
        dut.run.value = 0
        await bench.reset()
        cocotb.start_soon(bench.send("i", groups(data)))
        await bench.cycles(4)
        dut.run.value = bench.port("o.ready").value = 1
        began = bench.now()
        for _ in range(2000):
            await bench.cycles(1)
            if unpack(Ending, dut.ending.value.to_unsigned()).found:
                break
        expected, found = cycles_for(data) + 1, bench.now() - began
        assert found == expected, f"{len(data)} bytes: {expected} cycles expected, {found} found"


async def follow(bench, items, stall):
    """Use the bits of `items`, any number at a time, and check all that is shown in each cycle; the counts seen."""
    dut, random = bench.dut, bench.random
    expected = "".join(format(i["bits"], "016b")[: 16 if i["two"] else 8] for i in items)
    cocotb.start_soon(bench.send("i", items, stall))
    used, known, known_short, following, counts = 0, 0, 0, 0, set()
    known_following, before, idle = 0, 0, 0
    while used < len(expected):
        await _settle()
        count = bench.get("count")
        shown = format(bench.get("bits"), f"0{WINDOW_BITS}b")
        assert shown == expected[used : used + count].ljust(WINDOW_BITS, "0"), f"bit {used}, {count} held"
        assert bench.get("i.ready") == (count <= 48), f"bit {used}, {count} held"
        assert bench.get("enough_short") == (known_short >= 17), f"bit {used}, {known_short} known"
        assert before or bench.get("enough_long") == (known >= 31), f"bit {used}, {known} known"
        first = expected[used : used + max(known_following, 0)][:6].ljust(6, "0")
        assert format(following, "06b") == first, f"bit {used}, {known_following} known"
        counts.add(count)
        # Now and then nothing is used until it is full.
        idle = idle - 1 if idle else 8 * (random.random() < 0.03)
        most = 31 if before == 0 else 17
        use = 0 if idle else min(random.choice([0, 1, 5, most, random.randint(0, most)]), count)
        # One of the two, or none; what is not used is anything.
        choices = ["none"] * (use == 0) + ["short"] * (use <= 17) + ["long"] * (before == 0)
        which = random.choice(choices)
        before = use
        other = random.randrange(32)
        dut.which.value = chosen = random.randrange(2)
        dut.short.value = use << 5 * chosen | other << 5 * (1 - chosen)
        dut.long.value = other if which == "short" else use
        dut.use_short.value = int(which == "short")
        dut.use_long.value = int(which == "long" or (which == "short" and random.random() < 0.3))
        used += use
        known, known_short = count - use, known - use
        known_following = known if which == "long" else known_short
        await _settle()
        following = bench.get("next_first")
        await RisingEdge(dut.clk)
    dut.use_short.value = dut.use_long.value = 0
    return counts


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def window_shows_the_next_bits(dut, stall):
    bench = Bench(dut, DUTS)
    dut.clear.value = dut.use_short.value = dut.use_long.value = 0
    await bench.reset()
    random = bench.random
    for number, size in enumerate((400, 40, 40, 40)):
        items = [{"bits": random.randrange(2**16), "two": random.randrange(2)} for _ in range(size)]
        counts = await follow(bench, items, stall)
        assert number or (0 in counts and max(counts) > 56)
        # Full, and then cleared while bits are used: at last more than are held.
        cocotb.start_soon(bench.send("i", items[:12]))
        await bench.cycles(8)
        assert bench.get("count") > 48
        dut.which.value, dut.short.value = 0, 17
        dut.use_short.value = 1
        await bench.cycles(2 * number + 1)
        dut.clear.value = 1
        await bench.cycles(12)
        dut.use_short.value = 0
        await bench.cycles(1)
        dut.clear.value = 0
        await bench.cycles(1)
        assert bench.get("count") == 0 and bench.get("bits") == 0
