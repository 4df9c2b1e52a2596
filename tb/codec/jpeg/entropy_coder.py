"""Testbench of the entropy coder: codes, packing, stuffing, markers."""

import cocotb
import numpy as np

from tessera.golden.jpeg.huffman import codes
from tessera.golden.jpeg.tables import HUFF_AC_CHROMA, HUFF_AC_LUMA, HUFF_DC_CHROMA, HUFF_DC_LUMA
from tessera.hw.codec.jpeg.entropy_coder import EntropyCoder
from tessera.hw.codec.jpeg.symbols import SymbolKind
from tessera.tb.bench import Bench, Dut

DUTS = {"coder": Dut(EntropyCoder, stalls=True)}

DC, AC, FILL, MARKER = SymbolKind
CODES = {
    (DC, 0): codes(*HUFF_DC_LUMA),
    (DC, 1): codes(*HUFF_DC_CHROMA),
    (AC, 0): codes(*HUFF_AC_LUMA),
    (AC, 1): codes(*HUFF_AC_CHROMA),
}
AC_SYMBOLS = sorted(CODES[AC, 0])


def symbol(kind, chroma=0, run=0, size=0, magnitude=0):
    return {"kind": kind, "chroma": chroma, "run": run, "size": size, "magnitude": magnitude}


END = [symbol(FILL), symbol(MARKER, run=1)]
RESTART = [symbol(FILL), symbol(MARKER)]


def expected_bytes(symbols):
    out, bits, restarts = bytearray(), "", 0
    for s in symbols:
        if s["kind"] == FILL:
            bits += "1" * (-len(bits) % 8)
            out += int("1" + bits, 2).to_bytes(len(bits) // 8 + 1, "big")[1:].replace(b"\xff", b"\xff\x00")
            bits = ""
        elif s["kind"] == MARKER:
            out += bytes((0xFF, 0xD9 if s["run"] else 0xD0 + restarts % 8))
            restarts = 0 if s["run"] else restarts + 1
        else:
            number = s["size"] if s["kind"] == DC else s["run"] * 16 + s["size"]
            code, length = CODES[s["kind"], s["chroma"]][number]
            bits += format(code, f"0{length}b")
            if s["size"]:
                bits += format(s["magnitude"] & ((1 << s["size"]) - 1), f"0{s['size']}b")
    assert not bits
    return bytes(out)


async def check(bench, symbols, stalls=(0.0, 0.0)):
    """Send symbols that end with EOI; the output's chunks."""
    cocotb.start_soon(bench.send("i", symbols, stalls[0]))
    chunks = await bench.within(
        100 * len(symbols) + 1000, bench.receive("o", None, stalls[1], until=lambda chunk: chunk.last)
    )
    assert all(1 <= chunk.count <= 8 for chunk in chunks), "a chunk has 1 to 8 bytes"
    found = b"".join(bytes(chunk.data[n] for n in range(chunk.count)) for chunk in chunks)
    expected = expected_bytes(symbols)
    if found != expected:
        place = next((n for n, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
        raise AssertionError(
            f"byte {place} of {len(expected)}: {expected[place : place + 8].hex()} expected, "
            f"{found[place : place + 8].hex()} found"
        )
    return chunks


def random_symbols(random, count, ones):
    """Symbols with magnitudes at random; all ones with probability `ones`. Bits above the size are garbage."""
    symbols = []
    for _ in range(count):
        chroma, magnitude = int(random.integers(2)), int(random.integers(2048)) if random.random() >= ones else 2047
        if random.random() < 0.2:
            symbols.append(symbol(DC, chroma, 0, int(random.integers(12)), magnitude))
        else:
            run, size = divmod(AC_SYMBOLS[random.integers(len(AC_SYMBOLS))], 16)
            symbols.append(symbol(AC, chroma, run, size, magnitude))
    return symbols


@cocotb.test()
async def every_code(dut):
    """Every code of the four tables, with magnitudes of all zeros, all ones and at random."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    random = np.random.default_rng(1)
    for magnitude in (0, 2047, None):
        symbols = [symbol(DC, chroma, 0, size) for chroma in range(2) for size in range(12)]
        symbols += [symbol(AC, chroma, *divmod(number, 16)) for chroma in range(2) for number in AC_SYMBOLS]
        for s in symbols:
            s["magnitude"] = int(random.integers(2048)) if magnitude is None else magnitude
        random.shuffle(symbols)
        await check(bench, symbols + END)


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.5], stall_out=[0.0, 0.5])
async def random_segments(dut, stall_in, stall_out):
    """Segments of all lengths, with restarts, back to back; many bytes of 0xFF."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    random = np.random.default_rng(2)
    counts = set()
    for ones in (0.0, 0.6, 1.0):
        symbols = []
        for _ in range(40):
            symbols += random_symbols(random, int(random.integers(0, 12)), ones)
            symbols += RESTART if random.random() < 0.8 else END
        symbols += END
        last = 0
        for end in [n + 1 for n, s in enumerate(symbols) if s["kind"] == MARKER and s["run"]]:
            chunks = await check(bench, symbols[last:end], (stall_in, stall_out))
            counts |= {chunk.count for chunk in chunks}
            last = end
    # No two symbols of annex K have more than 26 ones in a row, so at most three of four bytes are stuffed.
    assert counts == set(range(1, 8)), f"sizes of chunks: {counts}"


@cocotb.test()
async def each_number_of_bits_before_a_marker(dut):
    """Segments of 0 to 70 bits, of ones as far as there are codes for that."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    symbols, lengths = [], set()
    for dcs in range(0, 12):
        for count in range(6):
            # Luma DC of size 0 is 2 bits, of size 11 is 20 bits; chroma AC of run 0 size 1 is 3 bits.
            segment = [symbol(DC, 0, 0, dcs, 2047)] * (count // 2) + [symbol(AC, 1, 0, 1, 2047)] * count
            lengths.add(8 * len(expected_bytes([*segment, symbol(FILL)])))
            symbols += segment + RESTART
    await check(bench, symbols + END)
    assert lengths >= set(range(0, 64, 8)), f"lengths of segments: {sorted(lengths)}"


@cocotb.test()
async def waits_for_nobody(dut):
    """What completes four bytes is offered though nobody asks for it."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    await bench.within(100, bench.send("i", [symbol(AC, 0, 4, 10, 0)] * 2))
    await bench.cycles(200)
    assert bench.port("o.valid").value


@cocotb.test()
async def cycles(dut):
    """The figures of the docstring."""
    bench = Bench(dut, DUTS)
    if bench.stalled:
        return
    await bench.reset()
    # 26 bits each, none of them in runs.
    symbols = [symbol(AC, 0, 4, 10, 0b1010101010)] * 100
    bits = CODES[AC, 0][0x4A][1] + 10
    start = bench.now()
    sender = cocotb.start_soon(bench.send("i", symbols))
    await bench.within(100, bench.receive("o", 1))
    # The second symbol completes the first four bytes.
    assert bench.now() - start - 1 == 1 + 6, bench.now() - start - 1
    await bench.within(200, bench.receive("o", 100 * bits // 32 - 1))
    assert await sender - start == 100
