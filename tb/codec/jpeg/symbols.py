"""Testbench of the run-length coder."""

import cocotb
import numpy as np

from tessera.golden.jpeg.tables import ZIGZAG_TO_NATURAL
from tessera.hw.codec.jpeg.symbols import RunLength, Symbol, SymbolKind
from tessera.tb.bench import Bench, Dut, unpack

DUTS = {"symbols": Dut(RunLength, stalls=True)}

DC, AC, FILL, MARKER = (kind.value for kind in SymbolKind)


def coded(value):
    """(size, magnitude bits) of a value (Ref: ITU-T T.81 F.1.2.1.1)."""
    size = int(abs(value)).bit_length()
    return size, int(value) + (1 << size) - 1 if value < 0 else int(value)


def expected_symbols(blocks, infos):
    """(kind, chroma, run, size, magnitude) of each symbol; `blocks` (n, 64) in natural order, one for each that is no
    dummy."""
    blocks = iter(blocks)
    predictors = [0, 0, 0]
    for info in infos:
        chroma = int(info["component"] != 0)
        if info["restart"]:
            yield FILL, None, None, None, None
            yield MARKER, None, 0, None, None
            predictors = [0, 0, 0]
        block = None if info["dummy"] else next(blocks)[list(ZIGZAG_TO_NATURAL)]
        difference = 0 if block is None else int(block[0]) - predictors[info["component"]]
        if block is not None:
            predictors[info["component"]] = int(block[0])
        yield DC, chroma, None, *coded(difference)
        zeros = 0
        for value in [] if block is None else block[1:]:
            if value:
                while zeros > 15:
                    yield AC, chroma, 15, 0, 0
                    zeros -= 16
                yield AC, chroma, zeros, *coded(value)
                zeros = 0
            else:
                zeros += 1
        if block is None or zeros:
            yield AC, chroma, 0, 0, 0
        if info["last"]:
            yield FILL, None, None, None, None
            yield MARKER, None, 1, None, None
            predictors = [0, 0, 0]


def observed(symbol, expected):
    """A symbol's fields as in `expected`, whose Nones are of no meaning."""
    magnitude = symbol.magnitude & ((1 << symbol.size) - 1)
    fields = symbol.kind.value, symbol.chroma, symbol.run, symbol.size, magnitude
    return tuple(None if e is None else field for field, e in zip(fields, expected))


def random_blocks(random, count, density):
    """Sparse blocks with coefficients of all magnitudes."""
    sizes = random.integers(1, 11, (count, 64))
    values = random.integers(0, 1 << 10, (count, 64)) % (1 << sizes) * random.choice([-1, 1], (count, 64))
    values[random.random((count, 64)) >= density] = 0
    values[:, 0] = random.integers(-1024, 1024, count)
    return values


def random_infos(random, count, dummies=0.2, restarts=0.1, last=0.02):
    infos = []
    for _ in range(count):
        ended = not infos or infos[-1]["last"]
        dummy = not ended and random.random() < dummies
        infos.append(
            {
                "component": 0 if dummy else int(random.integers(0, 3)),
                "dummy": int(dummy),
                "restart": int(not ended and not dummy and random.random() < restarts),
                "last": int(random.random() < last),
            }
        )
    infos[-1]["last"] = 1
    return infos


def plain_infos(count):
    """Of a scan of one component without restarts."""
    return [{"component": 0, "dummy": 0, "restart": 0, "last": int(n == count - 1)} for n in range(count)]


def pairs(blocks):
    return np.asarray(blocks).reshape(-1, 8, 8).transpose(0, 2, 1).reshape(-1, 2).tolist()


async def check(bench, blocks, infos, stalls=(0.0, 0.0, 0.0)):
    expected = list(expected_symbols(blocks, infos))
    cocotb.start_soon(bench.send("i", pairs(blocks), stalls[0]))
    cocotb.start_soon(bench.send("i_info", infos, stalls[1]))
    found = await bench.within(4000 * len(infos) + 4000, bench.receive("o", len(expected), stalls[2]))
    for n, (symbol, want) in enumerate(zip(found, expected)):
        actual = observed(symbol, want)
        assert actual == want, f"symbol {n} (kind, chroma, run, size, magnitude): {want} expected, {actual} found"
    return expected


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.5], stall_info=[0.0, 0.9], stall_out=[0.0, 0.5])
async def random_scans(dut, stall_in, stall_info, stall_out):
    bench = Bench(dut, DUTS)
    await bench.reset()
    random = np.random.default_rng(1)
    for density in (0.02, 0.15, 1.0):
        infos = random_infos(random, 40)
        blocks = random_blocks(random, sum(not info["dummy"] for info in infos), density)
        await check(bench, blocks, infos, (stall_in, stall_info, stall_out))


@cocotb.test()
async def restarts_anywhere(dut):
    """A marker goes before each block that says so, the first and the last of a scan too."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    infos = []
    for flags in (0b1, 0b10, 0b111, 0b100, 0b101):
        infos += [dict(info, restart=flags >> n & 1, component=n) for n, info in enumerate(plain_infos(3))]
    await check(bench, random_blocks(np.random.default_rng(2), len(infos), 0.1), infos)


@cocotb.test()
async def every_run_and_size(dut):
    """Every run of 0 to 62 with every size, both signs."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    blocks = []
    for run in range(63):
        for size in range(1, 11):
            value = (1 << size) - 1 if (run + size) % 2 else -(1 << (size - 1))
            block = np.zeros(64, int)
            block[ZIGZAG_TO_NATURAL[1 + run]] = value
            if run < 62 and size % 3 == 0:
                block[ZIGZAG_TO_NATURAL[63]] = -value
            blocks.append(block)
    infos = plain_infos(len(blocks))
    symbols = await check(bench, blocks, infos)
    all_coded = {(run, size) for run in range(16) for size in range(1, 11)}
    assert {symbol[2:4] for symbol in symbols if symbol[0] == AC} == all_coded | {(15, 0), (0, 0)}


@cocotb.test()
async def every_difference_size(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    steps = [0, *(sign * ((1 << size) - k) for size in range(1, 12) for sign in (1, -1) for k in (1, (1 << size) // 2))]
    dcs = [-1024]
    for step in steps:
        start = -1024 if step > 0 else 1023
        dcs += [start, start + step]
    dcs = [dc for dc in dcs if -1024 <= dc <= 1023]
    blocks = np.zeros((len(dcs), 64), int)
    blocks[:, 0] = dcs
    symbols = await check(bench, blocks, plain_infos(len(dcs)))
    assert {s[3] for s in symbols if s[0] == DC} == set(range(12))


@cocotb.test()
async def waits_for_nobody(dut):
    """A symbol is offered though nobody asks for it."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    cocotb.start_soon(bench.send("i_info", plain_infos(1)))
    await bench.within(500, bench.send("i", pairs(np.zeros((1, 64), int))))
    await bench.cycles(200)
    assert bench.get("o.valid"), "no symbol of a block that is there"
    assert observed(unpack(Symbol, bench.get("o.payload")), (0,) * 5) == (DC, 0, 0, 0, 0)


@cocotb.test()
async def cycles(dut):
    """The figures of the docstring."""
    bench = Bench(dut, DUTS)
    if bench.stalled:
        return
    await bench.reset()
    random = np.random.default_rng(3)
    info = {"component": 0, "dummy": 0, "restart": 0, "last": 0}
    cocotb.start_soon(bench.send("i_info", [info] * 30))
    # Sparse blocks: as fast as they come in.
    start = bench.now()
    blocks = random_blocks(random, 10, 0.2)
    symbols = list(expected_symbols(blocks, [info] * 10))
    sender = cocotb.start_soon(bench.send("i", pairs(blocks)))
    await bench.within(1000, bench.receive("o", 1))
    assert bench.now() - start - 1 == 32 + 6, bench.now() - start - 1
    await bench.within(1000, bench.receive("o", len(symbols) - 1))
    assert await sender - start == 320
    # Full blocks: a symbol a cycle, once the first is there.
    blocks = random_blocks(random, 20, 1.0)
    blocks[:, 1:] |= 1
    cocotb.start_soon(bench.send("i", pairs(blocks)))
    await bench.within(1000, bench.receive("o", 1))
    start = bench.now()
    await bench.within(2000, bench.receive("o", 64 * 20 - 1))
    assert bench.now() - start == 64 * 20 - 1, bench.now() - start
