"""Testbench of the header writer."""

import cocotb
import numpy as np

from tessera.golden.frames import ChromaFormat, Frame
from tessera.golden.jpeg.encoder import encode, quantizers
from tessera.golden.jpeg.tables import ZIGZAG_TO_NATURAL
from tessera.hw.codec.jpeg.headers import HeaderWriter
from tessera.tb.bench import Bench, Dut

DUTS = {"headers": Dut(HeaderWriter)}

SIZES = [(1, 1), (65535, 1), (1, 65535), (0x1234, 3), (5, 0x2BCD), (256, 255)]


def expected_headers(chroma_format, width, height, quality, interval):
    """What the golden writes before the scan. It codes a small picture, and then the size is set."""
    small = Frame(
        chroma_format,
        tuple(np.zeros(chroma_format.plane_size(n, 16, 16)[::-1], np.uint8) for n in range(chroma_format.planes)),
    )
    file = encode(small, quality, interval)
    sos = file.index(b"\xff\xda")
    file = bytearray(file[: sos + 2 + int.from_bytes(file[sos + 2 : sos + 4], "big")])
    sof = file.index(b"\xff\xc0")
    file[sof + 5 : sof + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(file)


def jobs():
    n = 0
    for chroma_format in ChromaFormat:
        for width, height in SIZES:
            interval = [0, 1, 0, 65535, 0x1234][n % 5]
            yield chroma_format, width, height, 1 + (n * 37) % 100, interval
            n += 1


async def check(bench, job, stall_q=0.0, stall_out=0.0):
    chroma_format, width, height, quality, interval = job
    fields = {"chroma_format": chroma_format.value, "width": width, "height": height, "restart_interval": interval}
    picture = cocotb.start_soon(bench.send("i", [fields]))
    tables = [table.reshape(64)[list(ZIGZAG_TO_NATURAL)].tolist() for table in quantizers(quality)]
    entries = cocotb.start_soon(bench.send("i_q", tables[0] + tables[1], stall_q))
    chunks = await bench.within(5000, bench.receive("o", None, stall_out, until=lambda chunk: chunk.last))
    await bench.within(1000, picture)
    await bench.within(1000, entries)
    assert all(1 <= chunk.count <= 8 for chunk in chunks), f"{job}: a chunk has 1 to 8 bytes"
    found = b"".join(bytes(chunk.data[n] for n in range(chunk.count)) for chunk in chunks)
    expected = expected_headers(*job)
    if found != expected:
        place = next((n for n, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
        raise AssertionError(
            f"{job}: byte {place} of {len(expected)}: {expected[place : place + 8].hex()} expected, "
            f"{found[place : place + 8].hex()} found"
        )


@cocotb.test()
@cocotb.parametrize(stall_q=[0.0, 0.5], stall_out=[0.0, 0.5])
async def equals_golden(dut, stall_q, stall_out):
    bench = Bench(dut, DUTS)
    await bench.reset()
    for job in jobs():
        await check(bench, job, stall_q, stall_out)


@cocotb.test()
async def restart_intervals(dut):
    """Each bit of an interval alone tells that there are restarts."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    for n in range(16):
        await check(bench, (ChromaFormat.Gray, 64, 64, 50, 1 << n))


@cocotb.test()
async def waits_for_nobody(dut):
    """Nothing is offered without a picture; with one, the first bytes are there though nobody asks for them."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    job = ChromaFormat.C420, 64, 64, 50, 0
    for _ in range(2):
        bench.port("o.ready").value = 1
        for _ in range(20):
            await bench.cycles(1)
            assert not bench.port("o.valid").value, "bytes without a picture"
        bench.port("o.ready").value = 0
        await check(bench, job)
    picture = {"chroma_format": job[0].value, "width": 1, "height": 1, "restart_interval": 0}
    cocotb.start_soon(bench.send("i", [picture]))
    await bench.cycles(20)
    assert bench.port("o.valid").value, "bytes are not offered before they are asked for"


@cocotb.test()
async def a_reset_of_one_cycle(dut):
    """Whatever was written before, after a single cycle of reset the first bytes are those of SOI."""
    bench = Bench(dut, DUTS)
    for steps in (1, 3, 40, 90):
        await bench.reset()
        picture = {"chroma_format": ChromaFormat.Gray.value, "width": 1, "height": 1, "restart_interval": 0}
        senders = [cocotb.start_soon(bench.send("i", [picture])), cocotb.start_soon(bench.send("i_q", [1] * 128))]
        await bench.within(200, bench.receive("o", steps))
        for sender in senders:
            sender.cancel()
        dut.rst.value = 1
        await bench.cycles(1)
        dut.rst.value = 0
        await check(bench, (ChromaFormat.C444, 300, 20, 50, 0))


@cocotb.test()
async def cycles(dut):
    """The figures of the docstring."""
    bench = Bench(dut, DUTS)
    for chroma_format in ChromaFormat:
        await bench.reset()
        start = bench.now()
        fields = {"chroma_format": chroma_format.value, "width": 100, "height": 100, "restart_interval": 5}
        cocotb.start_soon(bench.send("i", [fields]))
        cocotb.start_soon(bench.send("i_q", [1] * 128))
        await bench.within(1000, bench.receive("o", None, until=lambda chunk: chunk.last))
        assert bench.now() - start - 1 == (200 if chroma_format == ChromaFormat.Gray else 202), bench.now() - start - 1
