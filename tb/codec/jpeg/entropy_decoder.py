"""Testbench of hw/codec/jpeg/entropy_decoder.py."""

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from tessera.golden.jpeg.huffman import codes
from tessera.golden.jpeg.tables import HUFF_AC_CHROMA, HUFF_AC_LUMA, HUFF_DC_CHROMA, HUFF_DC_LUMA
from tessera.hw.codec.jpeg.entropy_decoder import EntropyDecoder, EntropyError
from tessera.tb.bench import Bench, Dut
from tessera.tb.codec.jpeg.huffman import loads
from tessera.tb.codec.jpeg.multiplex import random_table

DUTS = {"short6": Dut(lambda: EntropyDecoder(6), stalls=True), "short8": Dut(lambda: EntropyDecoder(8))}
STANDARD = {0: HUFF_DC_LUMA, 1: HUFF_DC_CHROMA, 4: HUFF_AC_LUMA, 5: HUFF_AC_CHROMA}


class Coder:
    """Codes random blocks and keeps the tokens that must come out."""

    def __init__(self, tables, seed, dense=0.3):
        self.random = np.random.default_rng(seed)
        self.tables, self.dense = tables, dense
        self.codes = {number: codes(*table) for number, table in tables.items()}
        self.bits, self.tokens, self.blocks = "", [], []
        self.predictors = [0, 0, 0]
        self.cycles = 0

    def put(self, number, symbol, value=0):
        """One symbol with its magnitude."""
        code, length = self.codes[number][symbol]
        size = symbol & 15
        self.bits += format(code, f"0{length}b")
        if size:
            self.bits += format(value if value > 0 else value + (1 << size) - 1, f"0{size}b")
        self.cycles += 1 if length <= 6 else 4

    def value_of(self, size):
        magnitude = int(self.random.integers(1 << size >> 1, 1 << size))
        return -magnitude if self.random.integers(2) else magnitude

    def block(self, **flags):
        """A random block, and its tokens."""
        dcs, acs = ([n for n in self.tables if n >> 2 == ac] for ac in (0, 1))
        td, ta = int(self.random.choice(dcs)), int(self.random.choice(acs)) & 3
        x, y = (int(n) for n in self.random.integers(1 << 13, size=2))
        place = {"plane": int(self.random.integers(3)), "x": x, "y": y}
        inside, tq = int(self.random.integers(2)), int(self.random.integers(4))
        self.blocks.append({"place": place, "inside": inside, "td": td, "ta": ta, "tq": tq, **flags})
        size = int(self.random.choice([s for s in self.codes[td] if s <= 11]))
        difference = self.value_of(size) if size else 0
        self.put(td, size, difference)
        plane = place["plane"]
        self.predictors[plane] = (self.predictors[plane] + difference + 2**15) % 2**16 - 2**15
        tokens = [(0, self.predictors[plane])]
        symbols = [s for s in self.codes[4 + ta] if 1 <= s & 15 <= 10 or s in (0, 0xF0)]
        k, long_blocks = 1, self.random.random() < self.dense
        while k < 64:
            fitting = [s for s in symbols if k + (s >> 4) <= 63 and (s or not long_blocks or k > 40)]
            assert fitting, "the table must have an EOB or short runs"
            symbol = int(self.random.choice(fitting))
            value = self.value_of(symbol & 15) if symbol & 15 else 0
            self.put(4 + ta, symbol, value)
            k += symbol >> 4
            tokens.append((k, value))
            k = 64 if symbol == 0 else k + 1
        last = len(tokens) - 1
        self.tokens += [(x, y, plane, inside, tq, k, value, n == last) for n, (k, value) in enumerate(tokens)]

    def groups(self, random, pairs):
        """The bits as the unstuffer gives them, two bytes at a time or one; the last byte filled up with ones."""
        raw = self.bits + "1" * (-len(self.bits) % 8)
        raw = [int(raw[n : n + 8], 2) for n in range(0, len(raw), 8)]
        while raw:
            two = len(raw) > 1 and random.random() < pairs
            yield {"bits": raw[0] << 8 | (raw[1] if two else 0x5A), "two": two}
            raw = raw[1 + two :]


async def load(bench, tables):
    for number, table in tables.items():
        await bench.within(3000, bench.send("load", loads(number, table)))


def fields(tokens):
    return [(t.place.x, t.place.y, t.place.plane, t.inside, t.tq, t.k, t.value, bool(t.last)) for t in tokens]


async def segment(bench, coder, stall_in, stall_out, tokens=None, scan=1, pairs=0.8):
    """Run a segment; its tokens."""
    dut = bench.dut
    dut.begin_scan.value = scan
    dut.begin.value = 1
    await bench.cycles(1)
    # Until now the segment before has ended.
    dut.begin.value = dut.ended.value = 0

    async def feed():
        await bench.send("i", coder.groups(bench.random, pairs), stall_in)
        await bench.cycles(9 if bench.stalled else 1)
        dut.ended.value = 1

    blocks = cocotb.start_soon(bench.send("block", coder.blocks, stall_in))
    feeding = cocotb.start_soon(feed())
    count = len(coder.tokens) if tokens is None else tokens
    got = await bench.within(60_000, bench.receive("o", count, stall_out))
    return fields(got), blocks, feeding


def compare(found, expected):
    for n, (a, b) in enumerate(zip(found, expected)):
        assert a == b, f"token {n}: (x, y, plane, inside, tq, k, value, last) {b} expected, {a} found"


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.3], stall_out=[0.0, 0.5])
async def decodes_random_blocks(dut, stall_in, stall_out):
    bench = Bench(dut, DUTS)
    await bench.reset()
    random = np.random.default_rng(1)
    for seed in range(6):
        tables = STANDARD if seed % 2 == 0 else {n: random_table(random, n >= 4) for n in (2, 3, 5, 7)}
        await load(bench, tables)
        coder = Coder(tables, seed)
        for n in range(30):
            coder.block(mcu_last=n % 3 == 2, segment_last=n == 29)
        found, *_ = await segment(bench, coder, stall_in, stall_out)
        compare(found, coder.tokens)
        await bench.cycles(2)
        assert dut.done.value and not dut.failed.value and bench.get("mcu") == 10
    coder = Coder(STANDARD, 77)
    for n in range(4):
        coder.block(mcu_last=1, segment_last=n == 3)
    await load(bench, STANDARD)
    found, *_ = await segment(bench, coder, stall_in, stall_out, scan=0)
    compare(found, coder.tokens)
    await bench.cycles(2)
    assert bench.get("mcu") == 14


# Symbols of at most 12 bits, so that bits are never lacking; some have codes of 9 bits, long ones in each build.
NARROW = {
    0: ((0, 3) + (0,) * 14, (0, 1, 2)),
    4: ((0, 2, 1, 1, 0, 0, 0, 0, 3) + (0,) * 7, (0x00, 0x01, 0x11, 0x02, 0x31, 0x12, 0xF0)),
}


@cocotb.test()
async def one_symbol_per_cycle(dut):
    bench = Bench(dut, DUTS)
    if bench.stalled:
        return
    await bench.reset()
    await load(bench, NARROW)
    overheads = set()
    for seed, dense in ((5, 0.0), (6, 1.0), (7, 0.5)):
        coder = Coder(NARROW, seed, dense)
        for n in range(20):
            coder.block(mcu_last=1, segment_last=n == 19)
        began = bench.now()
        running = cocotb.start_soon(segment(bench, coder, 0.0, 0.0, pairs=1.0))
        await bench.cycles(3)
        while not dut.done.value:
            assert bench.now() - began < 2 * coder.cycles, f"not done within {2 * coder.cycles} cycles"
            await RisingEdge(dut.clk)
        overheads.add(bench.now() - began - coder.cycles)
        found, *_ = await running
        compare(found, coder.tokens)
    # To begin, to have and to know the first bits, and the way through the stages after the last symbol.
    assert overheads == {9}


async def fails(bench, coder, error, mcu):
    """Run a segment that must fail; its good blocks before come out."""
    dut = bench.dut
    _, blocks, feeding = await segment(bench, coder, 0.0, 0.0, tokens=0)
    draining = cocotb.start_soon(bench.receive("o", None))
    for _ in range(3000):
        await bench.cycles(1)
        if dut.failed.value:
            break
    assert dut.failed.value and not dut.done.value, error
    assert (EntropyError(bench.get("error")), bench.get("mcu")) == (error, mcu)
    for task in (blocks, feeding, draining):
        task.cancel()
    await bench.reset()


@cocotb.test()
async def says_what_is_wrong(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    one = [0, 1, *[0] * 14]
    deep = [1, 1, *[0] * 14]
    ladder = [1] * 16
    # (BITS, AC symbols or what is no DC symbol, what follows good blocks, the error)
    padded = [
        (one, [12], "10", EntropyError.BadCoefficient),
        (one, [0x11], "10", EntropyError.BadCoefficient),
        (deep, [0, 0x0B], "00" + "10", EntropyError.BadCoefficient),
        (deep, [0, 0x50], "00" + "10", EntropyError.BadCoefficient),
        (deep, [0, 0xF1], "00" + "101" * 4, EntropyError.BadCoefficient),
        (deep, [0, 0xF0], "00" + "10" * 4, EntropyError.BadCoefficient),
        (deep, [0, 0xF1], "00" + "11" + "1" * 20, EntropyError.BadCode),
    ]
    # The segment's last byte is exactly full, so that not a bit is there by chance.
    exact = [
        (deep, [0, 0xF1], "00" + "11" + "1" * 4, EntropyError.Ended),
        (deep, [0, 0xF1], "00" + "101" * 2, EntropyError.Ended),
        (deep, [0, 0xF1], "", EntropyError.Ended),
    ]
    # What is wrong is told from a code that is there as a whole, whatever became of its magnitude.
    whole_codes = [
        (one, [12], "10", EntropyError.BadCoefficient),
        (one, [0x11], "10", EntropyError.BadCoefficient),
        (deep, [0, 0xF1], "00" + "101" * 3 + "10", EntropyError.BadCoefficient),
        (deep, [0, 0xF0], "00" + "10" * 4, EntropyError.BadCoefficient),
        (deep, [0, 0xF1], "00" + "1" * 16, EntropyError.BadCode),
        *((ladder, [0, *[0x0B] * 15], "00" + "1" * (n - 1) + "0", EntropyError.BadCoefficient) for n in range(3, 17)),
    ]
    exact += whole_codes
    exact += [(bits, symbols, tail[:-1], EntropyError.Ended) for bits, symbols, tail, _ in whole_codes]
    for number, (bits, symbols, tail, error) in enumerate(padded + exact):
        ac = (bits, symbols)
        if symbols[0] in (12, 0x11):
            tables = {0: (deep, [0, symbols[0]]), 4: (one, [0])}
            good = "0" + "00"
        else:
            tables = {0: (one, [0]), 4: ac}
            good = "00" + "0"
        await load(bench, tables)
        coder = Coder({n: (t[0], t[1]) for n, t in tables.items()}, 1)
        whole = good * 3 + tail
        if number >= len(padded):
            whole = good * (3 + 8 * 3) + tail
            while len(whole) % 8:
                whole = good + whole
        blocks = (len(whole) - len(tail)) // len(good)
        coder.bits = whole
        for n in range(blocks + 1):
            flags = {"inside": 1, "mcu_last": 1, "segment_last": n == blocks}
            coder.blocks.append({"place": {}, "td": 0, "ta": 0, "tq": 0, **flags})
        await fails(bench, coder, error, blocks)


def junk(bench, count):
    return [{"bits": bench.random.randrange(2**16), "two": bench.random.randrange(2)} for _ in range(count)]


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def segments_follow_each_other(dut, stall):
    """Blocks are offered all the time, and bits between the segments too; `ended` falls the cycle after `begin`."""
    bench = Bench(dut, DUTS)
    dut.begin.value = dut.ended.value = 0
    await bench.reset()
    await load(bench, STANDARD)
    coders = [Coder(STANDARD, 100 + n) for n in range(9)]
    for n, coder in enumerate(coders):
        for left in reversed(range(n % 4 + 1)):
            coder.block(mcu_last=1, segment_last=left == 0)
    blocks = [block for coder in coders for block in coder.blocks]
    count = sum(len(coder.tokens) for coder in coders)
    receiving = cocotb.start_soon(bench.receive("o", count, stall))
    cocotb.start_soon(bench.send("block", blocks, stall))
    mcu = 0
    for number, coder in enumerate(coders):
        await bench.within(1000, bench.send("i", junk(bench, 12)), "bits between segments")
        dut.begin.value, dut.begin_scan.value = 1, number % 4 == 0
        if not bench.stalled:
            cocotb.start_soon(bench.send("i", junk(bench, 1)))
        await bench.cycles(1)
        dut.begin.value = dut.ended.value = 0
        await bench.within(20_000, bench.send("i", coder.groups(bench.random, 0.8), stall), f"bits of segment {number}")
        dut.ended.value = 1
        for _ in range(3000):
            await bench.cycles(1)
            if dut.done.value or dut.failed.value:
                break
        mcu = (mcu if number % 4 else 0) + len(coder.blocks)
        assert (dut.done.value, dut.failed.value, bench.get("mcu")) == (1, 0, mcu), f"segment {number}"
        assert not bench.port("block.ready").value, f"a block is taken after the last one of segment {number}"
    got = await bench.within(20_000, receiving, "the tokens")
    compare(fields(got), [token for coder in coders for token in coder.tokens])


@cocotb.test()
async def begins_again_after_a_failure(dut):
    """Nothing of the segment that failed is left: no block taken ahead, no bits, no predictors."""
    bench = Bench(dut, DUTS)
    dut.begin.value = dut.ended.value = 0
    await bench.reset()
    await load(bench, STANDARD)
    mcu = 0
    for case in range(8):
        bad = Coder(STANDARD, 200 + case)
        good_blocks = case % 3
        for _ in range(good_blocks):
            bad.block(mcu_last=1, segment_last=0)
        good_tokens = list(bad.tokens)
        # No code is all ones: in place of a block's DC symbol, or of its AC ones. Behind it, bits of a good block.
        if case % 4 < 2:
            bad.put(0, 0)
        bad.bits += "1" * 16
        bad.block(mcu_last=1, segment_last=0)
        bad.blocks[-1] |= {"td": 0, "ta": 0}
        bad.block(mcu_last=1, segment_last=case % 2)
        _, blocks, feeding = await segment(bench, bad, 0.0, 0.0, tokens=0, scan=0)
        receiving = cocotb.start_soon(bench.receive("o", None, until=lambda token: got.append(token)))
        got = []
        for _ in range(3000):
            await bench.cycles(1)
            if dut.failed.value and dut.empty.value:
                break
        mcu += good_blocks
        for task in (blocks, feeding):
            await bench.within(1000, task, "what is offered after the failure")
        await bench.within(1000, bench.send("i", junk(bench, 20)), "bits after the failure")
        found = dut.failed.value, dut.done.value, EntropyError(bench.get("error")), bench.get("mcu")
        assert found == (1, 0, EntropyError.BadCode, mcu), f"case {case}: {found}"
        assert fields(got)[: len(good_tokens)] == good_tokens, f"case {case}: tokens before the block that failed"
        receiving.cancel()
        bench.port("o.ready").value = 0
        good = Coder(STANDARD, 300 + case)
        for n in range(3):
            good.block(mcu_last=1, segment_last=n == 2)
        found, *_ = await segment(bench, good, 0.0, 0.0, scan=0)
        compare(found, good.tokens)
        await bench.cycles(4)
        mcu += 3
        assert (dut.done.value, dut.failed.value, bench.get("mcu")) == (1, 0, mcu), f"after case {case}"


@cocotb.test()
async def waits_while_tokens_wait(dut):
    """With 24 of them waiting no symbol is decoded any more; it is empty when the last one was taken."""
    bench = Bench(dut, DUTS)
    dut.begin.value = dut.ended.value = 0
    await bench.reset()
    await load(bench, NARROW)
    for ready_after in (300,) if bench.stalled else (300, 40, 41, 42, 43):
        coder = Coder(NARROW, ready_after)
        mcus = 300 if ready_after == 300 else 40
        for n in range(mcus):
            coder.blocks.append({"place": {"x": n}, "mcu_last": 1, "segment_last": n == mcus - 1})
            coder.put(0, 0)
            coder.put(4, 0)
            coder.tokens += [(n, 0, 0, 0, 0, 0, 0, False), (n, 0, 0, 0, 0, 1, 0, True)]
        await segment(bench, coder, 0.0, 0.0, tokens=0)
        await bench.cycles(ready_after)
        assert not dut.empty.value
        if ready_after == 300:
            # Four symbols and one more were on their way when it was seen.
            assert bench.get("mcu") == 14
        got = []
        for _ in range(2000):
            (token,) = await bench.within(100, bench.receive("o", 1))
            got.append(token)
            left = len(coder.tokens) - len(got)
            assert not (dut.empty.value and dut.done.value and left), f"empty, but {left} tokens have not come"
            assert bench.get("mcu") <= mcus
            if not left:
                break
        compare(fields(got), coder.tokens)
        await bench.cycles(1)
        assert (dut.empty.value, dut.done.value, bench.get("mcu")) == (1, 1, mcus)


@cocotb.test()
async def waits_until_tables_are_written(dut):
    """A segment begins right behind the table that it needs, of whose entries the last one is written last."""
    bench = Bench(dut, DUTS)
    dut.begin.value = dut.ended.value = 0
    await bench.reset()
    single = 1, *[0] * 15
    for size in (7, 10, 8, 9):
        tables = {4: (single, (0,)), 0: (single, (size,))}
        await load(bench, tables)
        coder = Coder(tables, size)
        coder.put(0, size, (1 << size) - 1)
        coder.put(4, 0)
        coder.blocks.append({"place": {}, "mcu_last": 1, "segment_last": 1})
        coder.tokens = [(0, 0, 0, 0, 0, 0, (1 << size) - 1, False), (0, 0, 0, 0, 0, 1, 0, True)]
        found, *_ = await segment(bench, coder, 0.0, 0.0)
        compare(found, coder.tokens)


@cocotb.test()
async def blocks_end_with_each_run(dut):
    """At the block's last coefficient it needs no EOB; one before it does."""
    bench = Bench(dut, DUTS)
    dut.begin.value = dut.ended.value = 0
    await bench.reset()
    await load(bench, STANDARD)
    coder = Coder(STANDARD, 1)
    for run in range(16):
        for missing in (0, 1):
            x = len(coder.blocks)
            coder.blocks.append({"place": {"x": x}, "mcu_last": 1, "segment_last": x == 31})
            coder.put(0, 0)
            tokens, k = [(0, 0)], 1
            while k < 63 - missing - run:
                step = min(16, 63 - missing - run - k)
                coder.put(4, (step - 1) << 4 | 1, 1)
                tokens.append((k + step - 1, 1))
                k += step
            coder.put(4, run << 4 | 1, -1)
            tokens.append((k + run, -1))
            if missing:
                coder.put(4, 0)
                tokens.append((63, 0))
            last = len(tokens) - 1
            coder.tokens += [(x, 0, 0, 0, 0, k, value, n == last) for n, (k, value) in enumerate(tokens)]
    found, *_ = await segment(bench, coder, 0.0, 0.0)
    compare(found, coder.tokens)
