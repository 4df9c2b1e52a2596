"""Testbench of hw/codec/jpeg/parser.py."""

import cocotb
import numpy as np
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.golden.frames import ChromaFormat
from tessera.golden.jpeg.decoder import JpegError, decode
from tessera.golden.jpeg.encoder import encode
from tessera.golden.jpeg.headers import HeaderReader
from tessera.golden.jpeg.tables import ZIGZAG_TO_NATURAL, Marker
from tessera.hw.codec.jpeg.bits import ByteFeed, Ending
from tessera.hw.codec.jpeg.coefficients import QuantizerLoad
from tessera.hw.codec.jpeg.huffman import HuffmanTables
from tessera.hw.codec.jpeg.mcu import Scan
from tessera.hw.codec.jpeg.parser import FrameHeader, Parser, Verdict
from tessera.hw.engine import Status
from tessera.hw.lib.streams import connect
from tessera.hw.memory.bitstream_reader import ByteGroup
from tessera.tb.bench import Bench, Dut, unpack
from tessera.tb.codec.jpeg.bits import groups
from tessera.tb.codec.jpeg.corpus import exotic, hostile, picture, pillow_files


class Headers(wiring.Component):
    """A parser between a feed and Huffman tables."""

    i: In(stream.Signature(ByteGroup))
    start: In(1)
    room: In(24)
    quantizers: Out(stream.Signature(QuantizerLoad))
    scan: Out(stream.Signature(Scan))
    resume: In(stream.Signature(Ending))
    frame: Out(FrameHeader)
    verdict: Out(stream.Signature(Verdict))

    def elaborate(self, platform):
        m = Module()
        m.submodules.feed = feed = ByteFeed()
        m.submodules.parser = parser = Parser()
        m.submodules.tables = tables = HuffmanTables()
        for source, sink in (
            (self.i, feed.i),
            (parser.huffman, tables.load),
            (parser.quantizers, self.quantizers),
            (parser.scan, self.scan),
            (self.resume, parser.resume),
            (parser.verdict, self.verdict),
        ):
            connect(m, source, sink)
        m.d.comb += [
            parser.start.eq(self.start),
            parser.room.eq(self.room),
            parser.file.eq(feed.o),
            parser.offset.eq(feed.offset),
            feed.take.eq(parser.take),
            parser.huffman_bad.eq(tables.bad),
            parser.huffman_codes.eq(tables.codes),
            self.frame.eq(parser.frame),
        ]
        return m


DUTS = {"headers": Dut(Headers, stalls=True)}


async def begin(bench, data, stall=0.0):
    """Reset, and start on a file; the task that feeds it."""
    bench.dut.start.value = 0
    bench.dut.room.value = 2**24 - 1
    await bench.reset()
    feeding = cocotb.start_soon(bench.send("i", groups(data), stall))
    await bench.cycles(3)
    bench.dut.start.value = 1
    await bench.cycles(1)
    bench.dut.start.value = 0
    return feeding


async def until_scan(bench, stall):
    """Everything up to the first scan or the verdict: quantizer loads, scan or None, verdict or None."""
    loads = []

    async def quantizers():
        await bench.receive("quantizers", None, stall, until=lambda item: loads.append(item))

    taking = cocotb.start_soon(quantizers())
    scan, verdict = bench.port("scan.valid"), bench.port("verdict.valid")
    for _ in range(40_000):
        await bench.cycles(1)
        if scan.value or verdict.value:
            break
    found = [(item.tq, item.k, item.value) for item in loads]
    taking.cancel()
    bench.port("quantizers.ready").value = 0
    if scan.value:
        return found, (await bench.receive("scan", 1))[0], None
    assert verdict.value, "neither a scan nor a verdict came"
    return found, None, (await bench.receive("verdict", 1))[0]


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def parses_to_the_first_scan(dut, stall):
    bench = Bench(dut, DUTS)
    files = [*pillow_files(31, 8, 80), *exotic(32, 8, 60)]
    for name, data in files:
        golden = decode(data)
        reader = HeaderReader(data, 65535, 65535)
        reader.soi()
        selected = reader.scan()
        feeding = await begin(bench, data, stall)
        loads, scan, verdict = await until_scan(bench, stall)
        assert verdict is None, f"{name}: {verdict}"
        final = {(tq, k): value for tq, k, value in loads}
        for tq, table in reader.quantizers.items():
            flat = table.reshape(64)
            for k, natural in enumerate(ZIGZAG_TO_NATURAL):
                assert final[tq, k] == flat[natural], f"{name}: table {tq}, entry {k}"
        first = golden.scans[0]
        assert (scan.count, scan.interval) == (len(first.components), first.restart_interval), name
        for n, (index, chosen) in enumerate(zip(first.components, selected)):
            component, item = golden.components[index], scan.components[n]
            found = item.plane, item.h, item.v, item.td, item.ta, item.tq
            expected = index, component.h, component.v, chosen.td, chosen.ta, component.tq
            assert found == expected, f"{name}: component {n}: {expected} expected, {found} found"
        y, last = golden.components[0], golden.components[-1]
        assert (scan.h_max, scan.v_max) == (y.h, y.v)
        assert list(scan.tiles_x) == [-(-c.width // 8) for c in (y, last)], name
        assert list(scan.tiles_y) == [-(-c.height // 8) for c in (y, last)], name
        frame = unpack(FrameHeader, dut.frame.value.to_unsigned())
        assert (frame.width, frame.height) == (golden.frame.width, golden.frame.height)
        feeding.cancel()


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def refuses_what_golden_refuses(dut, stall):
    """All errors before the first scan, and those right after it."""
    bench = Bench(dut, DUTS)
    seen = set()
    for name, data in hostile():
        reader = HeaderReader(data, 65535, 65535)
        try:
            reader.soi()
            expected = (Status.Ok, 0) if reader.scan() is None else None
        except JpegError as error:
            expected = Status(int(error.status)), error.where
        if name == "65535x65535":
            dut._log.info("needs more lines than room can say")
            expected = Status.TargetTooSmall, 100663296
        feeding = await begin(bench, data, stall)
        _, _, verdict = await until_scan(bench, stall)
        found = None if verdict is None else (Status(verdict.status), verdict.where)
        assert found == expected, f"{name}: {expected} expected, {found} found"
        if expected:
            seen.add(expected[0])
        feeding.cancel()
    assert len(seen) >= 15


@cocotb.test()
async def goes_on_after_a_scan(dut):
    bench = Bench(dut, DUTS)
    _, data = next(iter(pillow_files(33, 1, 20)))
    scan = decode(data).scans[0]
    header = data[: scan.offset + 2 + int.from_bytes(data[scan.offset + 2 : scan.offset + 4], "big")]
    for code, where, at_end, tail, expected in (
        (Marker.EOI, 1000, 0, b"", (Status.Ok, 0)),
        (0, 0, 1, b"", (Status.JpegTruncated, len(header))),
        (Marker.SOI, 1234, 0, b"", (Status.JpegBadMarker, 1234)),
        (Marker.COM, 1234, 0, b"\0\x03x\xff\xd9", (Status.Ok, 0)),
        (Marker.COM, 1234, 0, b"\0\x03x\xff\x02", (Status.JpegBadMarker, len(header) + 3)),
    ):
        feeding = await begin(bench, header + tail)
        _, found, _ = await until_scan(bench, 0.0)
        assert found is not None
        await bench.cycles(20)
        await bench.send("resume", [{"found": 1, "file": at_end, "code": code, "where": where}])
        (verdict,) = await bench.within(500, bench.receive("verdict", 1))
        assert (Status(verdict.status), verdict.where) == expected, f"marker {code:#x}, then {tail}"
        feeding.cancel()


@cocotb.test()
async def targets_too_small(dut):
    bench = Bench(dut, DUTS)
    _, data = next(iter(pillow_files(34, 1, 20)))
    for room, small in ((511, True), (512, False)):
        feeding = await begin(bench, data)
        dut.room.value = room
        _, scan, verdict = await until_scan(bench, 0.0)
        assert (scan is None) == small
        assert not small or (Status(verdict.status), verdict.where) == (Status.TargetTooSmall, 512)
        feeding.cancel()


@cocotb.test()
async def headers_take_so_many_cycles(dut):
    bench = Bench(dut, DUTS)
    if bench.stalled:
        return
    data = encode(picture(np.random.default_rng(1), 16, 16, ChromaFormat.C420), 75)
    header = decode(data).scans[0].offset + 14
    assert header == 623
    feeding = await begin(bench, data)
    began = bench.now()
    bench.port("quantizers.ready").value = 1
    while not bench.port("scan.valid").value:
        await bench.cycles(1)
    taken = bench.now() - began
    assert taken == 1033
    feeding.cancel()
