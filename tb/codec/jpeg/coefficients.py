"""Testbench of hw/codec/jpeg/coefficients.py."""

import cocotb
import numpy as np

from tessera.golden.jpeg.dct import dequantize
from tessera.golden.jpeg.tables import ZIGZAG_TO_NATURAL
from tessera.hw.codec.jpeg.coefficients import Dequantizer
from tessera.tb.bench import Bench, Dut

DUTS = {"dequantizer": Dut(Dequantizer, stalls=True)}


def blocks(seed, count, sparse=True):
    """Zig-zag coefficients as (k, value) lists; some only of a DC, some full, with extremes."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        places = [0, *sorted(random.choice(np.arange(1, 64), random.choice([0, 1, 5, 63] if sparse else [63]), False))]
        values = random.choice([1, -1, 1023, -1023, 32767, -32768, 0, 77], len(places))
        yield [(int(k), int(v)) for k, v in zip(places, values)]


def tokens(block, place, tq, inside):
    for n, (k, value) in enumerate(block):
        yield {"place": place, "inside": inside, "tq": tq, "k": k, "value": value, "last": n == len(block) - 1}


def columns(block, table):
    zigzag = np.zeros(64, np.int16)
    for k, value in block:
        zigzag[k] = value
    natural = np.zeros((2, 64), np.int64)
    natural[:, list(ZIGZAG_TO_NATURAL)] = zigzag, table
    return dequantize(natural[0].astype(np.int16), natural[1].astype(np.uint16)).reshape(8, 8).T


async def load(bench, random):
    tables = random.integers(1, 2**16, (4, 64))
    tables[0] = random.integers(1, 256, 64)
    entries = [{"tq": tq, "k": k, "value": int(tables[tq, k])} for tq in range(4) for k in range(64)]
    await bench.send("load", entries)
    return tables


async def anything_but_loads(bench):
    """The payload of loads without their valid."""
    while True:
        bench.port("load.payload").value = bench.random.getrandbits(24)
        await bench.cycles(5)


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.3], stall_out=[0.0, 0.7])
async def equals_golden(dut, stall_in, stall_out):
    bench = Bench(dut, DUTS)
    await bench.reset()
    random = np.random.default_rng(2)
    tables = await load(bench, random)
    cocotb.start_soon(anything_but_loads(bench))
    sent, expected, places = [], [], []
    for n, block in enumerate(blocks(1, 120)):
        tq, inside = int(random.integers(4)), random.random() < 0.8
        places.append((n % 3, *random.integers(0, 1 << 13, 2).tolist()))
        place = dict(zip(("plane", "x", "y"), places[-1]))
        sent += tokens(block, place, tq, inside)
        if inside:
            expected += [(n, c, column) for c, column in enumerate(columns(block, tables[tq]))]
    cocotb.start_soon(bench.send("i", sent, stall_in))
    got = await bench.within(60_000, bench.receive("o", len(expected), stall_out))
    for column, (n, c, right) in zip(got, expected):
        assert (column.place.plane, column.place.x, column.place.y) == places[n], f"block {n}, column {c}"
        found = [column.column[r] for r in range(8)]
        assert found == right.tolist(), f"block {n}, column {c}: {right.tolist()} expected, {found} found"


@cocotb.test()
async def one_token_per_cycle(dut):
    bench = Bench(dut, DUTS)
    if bench.stalled:
        return
    await bench.reset()
    await load(bench, np.random.default_rng(3))
    full = list(blocks(4, 10, sparse=False))
    sent = [token for block in full for token in tokens(block, {}, 0, 1)]
    began = bench.now()
    sending = cocotb.start_soon(bench.send("i", sent))
    await bench.within(2000, bench.receive("o", 8))
    # 3 cycles after the 64th token was taken, then 8 columns.
    assert bench.now() - began == 64 + 3 + 7
    await bench.within(2000, bench.receive("o", 72))
    assert sending.result() - began == 640
    began = bench.now()
    dropped = [token for block in full[:2] for token in tokens([*block[:4], (60, 1)], {}, 0, 0)]
    ended = await bench.send("i", dropped)
    assert ended - began == 5 + 2 + 5
