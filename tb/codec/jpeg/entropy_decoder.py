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
        place = {"plane": int(self.random.integers(3)), "x": len(self.blocks) & 0xFFF, "y": 5}
        tq = int(self.random.integers(4))
        self.blocks.append({"place": place, "inside": 1, "td": td, "ta": ta, "tq": tq, **flags})
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
        self.tokens += [(place["x"], plane, tq, k, value, n == len(tokens) - 1) for n, (k, value) in enumerate(tokens)]

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
    found = [(t.place.x, t.place.plane, t.tq, t.k, t.value, bool(t.last)) for t in got]
    return found, blocks, feeding


def compare(found, expected):
    for n, (a, b) in enumerate(zip(found, expected)):
        assert a == b, f"token {n}: (block, plane, tq, k, value, last) {b} expected, {a} found"


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


# Symbols of at most 12 bits, so that bits are never lacking; some have codes of 9 bits.
NARROW = {
    0: ((0, 3) + (0,) * 14, (0, 1, 2)),
    4: ((0, 2, 1, 1, 0, 0, 0, 0, 3) + (0,) * 7, (0x00, 0x01, 0x11, 0x02, 0x31, 0x12, 0xF0)),
}


@cocotb.test()
async def one_symbol_per_cycle(dut):
    bench = Bench(dut, DUTS)
    if bench.stalled or bench.name != "short6":
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
    # (DC symbols, AC symbols, what follows three good blocks, the error)
    cases = [
        (one, [12], "00", EntropyError.BadCoefficient),
        (one, [0x11], "00", EntropyError.BadCoefficient),
        (deep, [0, 0x0B], "00" + "10", EntropyError.BadCoefficient),
        (deep, [0, 0x50], "00" + "10", EntropyError.BadCoefficient),
        (deep, [0, 0xF1], "00" + "101" * 4, EntropyError.BadCoefficient),
        (deep, [0, 0xF0], "00" + "10" * 4, EntropyError.BadCoefficient),
        (deep, [0, 0xF1], "00" + "11" + "1" * 20, EntropyError.BadCode),
        (deep, [0, 0xF1], "00" + "11" + "1" * 4, EntropyError.Ended),
        (deep, [0, 0xF1], "00" + "101" * 2, EntropyError.Ended),
        (deep, [0, 0xF1], "", EntropyError.Ended),
    ]
    for bits, symbols, tail, error in cases:
        ac = (bits, symbols)
        if symbols[0] in (12, 0x11):
            tables = {0: (deep, [0, symbols[0]]), 4: (one, [0])}
            good, tail = "0" + "00", "10"
        else:
            tables = {0: (one, [0]), 4: ac}
            good = "00" + "0"
        await load(bench, tables)
        coder = Coder({n: (t[0], t[1]) for n, t in tables.items()}, 1)
        whole = good * 3 + tail
        if error is EntropyError.Ended:
            # The segment's last byte is exactly full, so that not a bit is there by chance.
            whole = good * (3 + 8 * 3) + tail
            while len(whole) % 8:
                whole = good + whole
        blocks = (len(whole) - len(tail)) // len(good)
        coder.bits = whole
        for n in range(blocks + 1):
            flags = {"inside": 1, "mcu_last": 1, "segment_last": n == blocks}
            coder.blocks.append({"place": {}, "td": 0, "ta": 0, "tq": 0, **flags})
        await fails(bench, coder, error, blocks)
