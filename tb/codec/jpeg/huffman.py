"""Testbench of hw/codec/jpeg/huffman.py."""

import cocotb
import numpy as np
from amaranth.lib import data
from cocotb.triggers import RisingEdge

from tessera.golden.jpeg.huffman import lookup
from tessera.golden.jpeg.tables import HUFF_AC_CHROMA, HUFF_AC_LUMA, HUFF_DC_CHROMA, HUFF_DC_LUMA
from tessera.hw.codec.jpeg.huffman import LONG_CYCLES, Entry, HuffmanTables, LoadKind
from tessera.tb.bench import Bench, Dut, unpack
from tessera.tb.codec.jpeg.multiplex import random_table

DUTS = {f"short{n}": Dut(lambda n=n: HuffmanTables(n)) for n in (5, 6, 8)}
STANDARD = {0: HUFF_DC_LUMA, 1: HUFF_DC_CHROMA, 4: HUFF_AC_LUMA, 5: HUFF_AC_CHROMA}
EMPTY = (0,) * 16, ()
DEEP = (1,) * 16, (*range(0x11, 0x18), 0, 0xF0, 0x0B, 0x5A, 0x1B, 0x50, 0x0A, 0xFA, 0x01)
# So mixed that a wrong index of one bit gives another symbol, most often one that has a meaning.
MIXED = tuple((0x11 + 37 * n) % 256 for n in reversed(range(256)))
FULL = (0, 0, 0, 0, 0, 0, 0, 255, 1) + (0,) * 7, MIXED
LONGEST = (0,) * 14 + (1, 255), tuple(range(255, -1, -1))
LARGE = (*(0,) * 6, 3, 0, 85, 0, 107, 0, 51, 0, 1, 0), MIXED[-247:]
HALVES = (*(0,) * 8, 128, 0, 127, 0, 1, 0, 0, 0), MIXED
SHORT5, SHORT6, SHORT = (
    ((*bits, *(0,) * (16 - len(bits))), MIXED[-sum(bits) :])
    for bits in ((0, 0, 0, 0, 31), (0, 0, 0, 0, 0, 63), (0, 0, 0, 0, 21, 20))
)


def loads(number, table):
    bits, values = table
    yield {"kind": LoadKind.Table, "byte": number}
    yield from ({"kind": LoadKind.Count, "byte": count} for count in bits)
    yield from ({"kind": LoadKind.Value, "byte": value} for value in values)


def windows(table, random, count):
    """16-bit windows at the edges of all codes, and random ones."""
    code, edges = 0, {0, 0xFFFF}
    for length, n in enumerate(table[0], 1):
        for _ in range(n + 1):
            edges |= {w & 0xFFFF for w in ((code << (16 - length)) - 1, code << (16 - length))}
            code += 1
        code = (code - 1) << 1
    return sorted(edges | {random.randrange(2**16) for _ in range(count)})


async def until(bench, port, value):
    """Wait until `port` has `value`, which is a matter of one code's entries."""
    for _ in range(300):
        if bench.get(port) == value:
            return
        await bench.cycles(1)
    raise AssertionError(f"{port} is not {value} after 300 cycles")


async def check(bench, number, table, count=100):
    """All entries against golden's lookup."""
    bits, values = table
    is_ac = number >= 4
    expected = lookup(tuple(bits), tuple(values), is_ac)
    lengths = [length for length, n in enumerate(bits, 1) for _ in range(n)]
    clk, dut = bench.dut.clk, bench.dut
    dut.table.value = number
    ends, code = [], 0
    for length, n in enumerate(bits, 1):
        code += n << (16 - length)
        ends.append(code)
    for window in windows(table, bench.random, count):
        # Of the table that it is not, nothing matters, and only the cycle before counts.
        this, other = (dut.next_ta, dut.next_td) if is_ac else (dut.next_td, dut.next_ta)
        dut.next_first.value = window >> (16 - bench.component.short_bits)
        this.value, other.value = number & 3, bench.random.randrange(4)
        await RisingEdge(clk)
        dut.next_first.value, this.value = ~window & 31, ~number & 3
        dut.bits.value = window
        await RisingEdge(clk)
        short = unpack(data.ArrayLayout(Entry, 2), dut.short.value.to_unsigned())[is_ac]
        in_short = dut.short_valid.value
        for _ in range(LONG_CYCLES):
            await RisingEdge(clk)
        long = unpack(Entry, dut.long.value.to_unsigned())
        run, size, total = expected[window]
        length = next((n for n, end in enumerate(ends, 1) if window < end), None)
        where = f"table {number}, window {window:016b}, length {length}"
        assert in_short == (length is not None and length <= bench.component.short_bits), where
        assert length is None or length in lengths
        for name, entry in [("short", short)] if in_short else [("long", long)]:
            found = entry.valid, entry.bad, entry.length + 1, entry.total
            bad = run > 15
            assert found == (length is not None, bad, length or 16, total), f"{name}, {where}: {found}"
            if not bad:
                assert (entry.run, entry.size) == (run, size), f"{name}, {where}"
                assert entry.eob == (is_ac and run == size == 0), f"{name}, {where}"


@cocotb.test()
async def standard_tables(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    for number, table in STANDARD.items():
        await bench.within(5000, bench.send("load", loads(number, table)))
    await bench.cycles(4)
    for number, table in STANDARD.items():
        await check(bench, number, table)


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def tables_replace_each_other(dut, stall):
    bench = Bench(dut, DUTS)
    await bench.reset()
    random = np.random.default_rng(3)
    tables = {}
    extremes = [(n, t) for n in (2, 6) for t in (FULL, DEEP, EMPTY, LONGEST, DEEP, SHORT5, SHORT6, SHORT)]
    extremes += [(6, LARGE), (7, HALVES)]
    for n in range(32):
        # In an order in which tables of one Th follow each other, AC after DC and DC after AC.
        number = 3 * n % 8
        number, table = extremes.pop(0) if extremes else (number, random_table(random, number >= 4))
        tables[number] = table
        await bench.within(8000, bench.send("load", loads(number, table), stall))
        await bench.cycles(1)
        await until(bench, "writing", 0)
        assert not dut.bad.value and bench.get("codes") == len(table[1])
        await check(bench, number, table, 40)
    for number, table in tables.items():
        await check(bench, number, table, 40)


@cocotb.test()
async def too_many_codes_are_bad(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    random = bench.random
    seen = set()
    for _ in range(300):
        bits = [0] * 16
        for _ in range(random.randint(1, 6)):
            bits[random.randrange(16)] = random.choice([0, 1, 2, 3, 255, random.randrange(256)])
        code, bad = 0, False
        await bench.send("load", [{"kind": LoadKind.Table, "byte": random.randrange(8)}])
        for length, count in enumerate(bits, 1):
            code = (code + count) << 1
            bad = bad or code >> 1 >= 1 << length
            await bench.send("load", [{"kind": LoadKind.Count, "byte": count}])
            await bench.cycles(1)
            await until(bench, "load.ready", 1)
            assert bool(dut.bad.value) == bad, f"{bits}, length {length}"
            if bad:
                seen.add(length)
                break
        assert bench.get("codes") == sum(bits[:length])
    assert len(seen) >= 8, f"lengths at which there were too many: {seen}"


@cocotb.test()
async def counts_are_summed(dut):
    """Also where there are more than 256 codes, or too many of a length."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    for bits in ([255] * 16, [0] * 10 + [255] * 6, [bench.random.randrange(256) for _ in range(16)], [0] * 16):
        await bench.send("load", [{"kind": LoadKind.Table, "byte": 4}])
        for length, count in enumerate(bits, 1):
            await bench.within(50, bench.send("load", [{"kind": LoadKind.Count, "byte": count}]))
            await bench.cycles(2)
            found = bench.get("codes")
            assert found == sum(bits[:length]), f"{bits[:length]}: {sum(bits[:length])} codes expected, {found} found"


@cocotb.test()
async def loading_takes_so_many_cycles(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    short_bits = bench.component.short_bits
    tables = {"AC luma": HUFF_AC_LUMA, "DC luma": HUFF_DC_LUMA, "AC chroma": HUFF_AC_CHROMA}
    tables |= {"DC chroma": HUFF_DC_CHROMA, "large": LARGE, "halves": HALVES, "short": SHORT, "full": FULL}
    for name, table in tables.items():
        bits, _ = table
        longest = max(length for length, n in enumerate(bits, 1) if n)
        await bench.cycles(16)
        began = bench.now()
        ended = await bench.send("load", loads(4, table))
        after = await bench.within(1000, bench.send("load", [{"kind": LoadKind.Table, "byte": 5}]))
        # The entries of a length's last code are written while the next length is looked for.
        cycles, free = 1 + 2 * 16, 0
        for length, count in enumerate(bits, 1):
            cycles += length <= longest
            for _ in range(count):
                cycles = max(cycles, free) + 1
                free = cycles - 1 + (1 << max(short_bits - length, 0))
        assert ended - began == cycles, f"{name}: {cycles} cycles expected, {ended - began} found"
        walk = max(1 + 16 - longest, 1 << max(short_bits - longest, 0))
        assert after - ended == walk, f"{name}: the next table {walk} cycles later expected, {after - ended} found"
