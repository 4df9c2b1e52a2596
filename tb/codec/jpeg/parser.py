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
from tessera.hw.codec.jpeg.parser import FrameHeader, Parser, ParserParameters, Verdict
from tessera.hw.engine import Status
from tessera.hw.lib.streams import connect
from tessera.hw.memory.bitstream_reader import ByteGroup
from tessera.tb.bench import Bench, Dut, unpack
from tessera.tb.codec.jpeg.bits import groups
from tessera.tb.codec.jpeg.corpus import exotic, hostile, picture, pillow_files
from tessera.tb.codec.jpeg.multiplex import segment

LIMITS = 65533, 65534
"""Largest width and height."""


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
        m.submodules.parser = parser = Parser(ParserParameters(*LIMITS))
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


async def begin(bench, data, stall=0.0, gaps=None):
    """Reset, and start on a file; the task that feeds it."""
    bench.dut.start.value = 0
    bench.dut.room.value = 2**24 - 1
    await bench.reset()
    feeding = cocotb.start_soon(bench.send("i", groups(data), stall, gaps))
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
    for _ in range(20_000):
        await bench.cycles(8)
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
        reader = HeaderReader(data, *LIMITS)
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
        reader = HeaderReader(data, *LIMITS)
        try:
            reader.soi()
            expected = (Status.Ok, 0) if reader.scan() is None else None
        except JpegError as error:
            expected = Status(int(error.status)), error.where
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
        resume = {"found": 1, "file": at_end, "code": code, "where": where}
        await bench.within(100, bench.send("resume", [resume]), "what follows a scan")
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
async def limits(dut):
    """Sizes up to the limits; the largest picture needs more lines than a slot can have."""
    bench = Bench(dut, DUTS)
    width, height = LIMITS
    seen = []
    for size in ((width, 1), (width + 1, 1), (65535, 1), (1, height), (1, height + 1), (0, 1), (1, 0)):
        seen.append(await agrees_with_golden(bench, f"{size}", small_header(size=size)))
    assert seen == [Status.Ok, *[Status.JpegBadSize] * 2, Status.Ok, *[Status.JpegBadSize] * 3]
    feeding = await begin(bench, small_header(size=LIMITS, components=three()))
    _, _, verdict = await until_scan(bench, 0.0)
    assert (Status(verdict.status), verdict.where) == (Status.TargetTooSmall, 3 * 256 * 512 * 512)
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
        assert bench.now() - began < 2000, "no scan within 2000 cycles"
        await bench.cycles(1)
    taken = bench.now() - began
    assert taken == 1033
    feeding.cancel()


def small_header(
    *, size=(8, 8), components=((1, 1, 1, 0),), dqt=b"\0" + bytes([1]) * 64, dht=None, extra=b"", scan=None, tail=None
):
    """A file up to its scan; components are (id, h, v, tq), and the scan of (id, td, ta), all unless told."""
    factors = b"".join(bytes((number, h << 4 | v, tq)) for number, h, v, tq in components)
    sof = bytes((8, *size[1].to_bytes(2, "big"), *size[0].to_bytes(2, "big"), len(components))) + factors
    data = b"\xff\xd8" + extra + segment(Marker.DQT, dqt) + segment(Marker.SOF0, sof)
    data += segment(Marker.DHT, one_code(0, 0) + one_code(1, 0)) if dht is None else dht
    return data + scan_header(scan or [(number, 0, 0) for number, *_ in components], tail or b"\0\x3f\0")


def one_code(tc, th):
    """A Huffman table of one code."""
    return bytes((tc << 4 | th, 1)) + bytes(15) + b"\0"


def scan_header(scan, tail=b"\0\x3f\0"):
    selectors = b"".join(bytes((number, td << 4 | ta)) for number, td, ta in scan)
    return segment(Marker.SOS, bytes((len(scan),)) + selectors + tail)


async def agrees_with_golden(bench, name, data, gaps=None):
    """Parse up to the first scan or the verdict, and compare all that comes of it; the golden's status."""
    reader = HeaderReader(data, *LIMITS)
    expected, selected = None, None
    try:
        reader.soi()
        selected = reader.scan()
    except JpegError as error:
        expected = Status(int(error.status)), error.where
    feeding = await begin(bench, data, gaps=gaps)
    loads, scan, verdict = await until_scan(bench, 0.0)
    feeding.cancel()
    found = None if verdict is None else (Status(verdict.status), verdict.where)
    assert found == expected, f"{name}: {expected} expected, {found} found"
    if expected is not None:
        return expected[0]
    final = {(tq, k): value for tq, k, value in loads}
    tables = {tq: table.reshape(64)[list(ZIGZAG_TO_NATURAL)].tolist() for tq, table in reader.quantizers.items()}
    assert final == {(tq, k): value for tq, table in tables.items() for k, value in enumerate(table)}, name
    assert (scan.count, scan.interval) == (len(selected), reader.restart_interval), name
    for n, chosen in enumerate(selected):
        component, item = reader.components[chosen.index], scan.components[n]
        found = item.plane, item.h, item.v, item.td, item.ta, item.tq
        right = chosen.index, component.h, component.v, chosen.td, chosen.ta, component.tq
        assert found == right, f"{name}: component {n}: {right} expected, {found} found"
    frame = unpack(FrameHeader, bench.dut.frame.value.to_unsigned())
    assert (frame.width, frame.height) == (reader.width, reader.height), name
    assert list(scan.tiles_x) == [-(-c.width // 8) for c in (reader.components[0], reader.components[-1])], name
    assert list(scan.tiles_y) == [-(-c.height // 8) for c in (reader.components[0], reader.components[-1])], name
    return Status.Ok


def three(*factors, ids=(1, 2, 3), tqs=(0, 0, 0)):
    """Three components; each of two factors."""
    factors = factors or ((1, 1),) * 3
    return [(number, h, v, tq) for number, (h, v), tq in zip(ids, factors, tqs)]


@cocotb.test()
async def numbers_of_all_bits(dut):
    """Sizes, intervals, quantizers and ids with each bit set and not."""
    bench = Bench(dut, DUTS)
    seen = set()
    for n in range(16):
        sizes = [(1 << n, 1), (1, 1 << n), ((0x9E37 << n | 1) & 0xFFFF, 1 + n)]
        for number, size in enumerate(sizes):
            extra = segment(Marker.DRI, ((1 << n) ^ (0xFFFF, 0, 0x5A5A)[number]).to_bytes(2, "big"))
            seen.add(await agrees_with_golden(bench, f"{size}", small_header(size=size, extra=extra)))
    for shift in range(4):
        values = [(0x8001 << (k + shift) % 16 | 1 << 3 * k % 16 | (k % 5 == 0)) & 0xFFFF for k in range(64)]
        table = bytes((0x10 | shift,)) + b"".join(value.to_bytes(2, "big") for value in values)
        components = [(1, 1, 1, shift)]
        seen.add(await agrees_with_golden(bench, f"16 bits, {shift}", small_header(dqt=table, components=components)))
    for n in range(8):
        for skipped in range(2):
            ids = 0, 1 << n, 0xFF ^ 1 << (n + skipped) % 8
            extra = segment(Marker.COM, bytes(skipped))
            data = small_header(components=three(ids=ids), extra=extra)
            seen.add(await agrees_with_golden(bench, f"ids {ids}", data))
            for other in (ids[1] ^ 1 << (n + 1) % 8, ids[2] ^ 1 << (n + 3) % 8):
                data = small_header(components=three(ids=ids), scan=[(other, 0, 0)])
                seen.add(await agrees_with_golden(bench, f"ids {ids}, {other} in the scan", data))
    assert seen == {Status.Ok, Status.JpegBadScan}


@cocotb.test()
async def each_bit_of_what_must_be(dut):
    """A bit wrong in SOI and in lengths; Huffman tables of too many codes; ids that differ in a bit, or do not."""
    bench = Bench(dut, DUTS)
    good = small_header(components=three(), extra=segment(Marker.DRI, b"\0\3"))
    seen = set()
    for bit in range(8):
        data = good[:1] + bytes((good[1] ^ 1 << bit,)) + good[2:]
        seen.add(await agrees_with_golden(bench, f"bit {bit} of SOI", data))
    for marker in (Marker.DRI, Marker.SOF0, Marker.SOS):
        at = good.index(bytes((0xFF, marker))) + 2
        for bit in range(16):
            length = int.from_bytes(good[at : at + 2], "big") ^ 1 << bit
            data = good[:at] + length.to_bytes(2, "big") + good[at + 2 :]
            seen.add(await agrees_with_golden(bench, f"length {length} of {marker.name}", data))
    for bit in range(9):
        counts = bytes(10) + bytes((255, min(255, 1 + (1 << bit)), max(0, (1 << bit) - 254))) + bytes(3)
        assert sum(counts) == 256 + (1 << bit)
        data = small_header(dht=segment(Marker.DHT, b"\0" + counts + bytes(600)))
        seen.add(await agrees_with_golden(bench, f"DHT of {sum(counts)} codes", data))
    for bit in range(8):
        for one, other in ((0, 1), (0, 2), (1, 2)):
            for flipped in (0, 1 << bit):
                ids = [0xAA, 0xAA, 0xAA]
                ids[one], ids[other] = 0x55, 0x55 ^ flipped
                seen.add(await agrees_with_golden(bench, f"ids {ids}", small_header(components=three(ids=ids))))
    wanted = {Status.Ok, Status.JpegNotJpeg, Status.JpegBadLength, Status.JpegBadTable, Status.JpegBadFrame}
    assert seen == wanted, f"{seen}"


@cocotb.test()
async def files_that_come_slowly(dut):
    """Eight bytes at a time, with longer pauses than these take: each byte is waited for once."""
    bench = Bench(dut, DUTS)
    seen = set()
    for shift in range(16):
        data = small_header(components=three(), extra=segment(Marker.COM, bytes(shift)))
        name = f"{shift} bytes of comment"
        seen.add(await agrees_with_golden(bench, name, data, gaps=lambda: bench.random.randrange(20, 36)))
    assert seen == {Status.Ok}


@cocotb.test()
async def each_bit_that_must_not_be(dut):
    """A bit too many in the heads of tables, in a scan's header, in the precision and in a component's table."""
    bench = Bench(dut, DUTS)
    good = small_header()
    sof, sos = good.index(b"\xff\xc0"), good.index(b"\xff\xda")
    places = {"DQT head": 6, "precision": sof + 4, "tq": sof + 12, "DHT head": good.index(b"\xff\xc4") + 4,
              "tables": sos + 6, "Ss": sos + 7, "Se": sos + 8, "Ah, Al": sos + 9}  # fmt: skip
    seen = set()
    for name, place in places.items():
        for n in range(8):
            data = good[:place] + bytes((good[place] ^ 1 << n,)) + good[place + 1 :]
            seen.add(await agrees_with_golden(bench, f"{name}, bit {n}", data))
    assert seen >= {Status.JpegBadTable, Status.JpegUnsupportedPrecision, Status.JpegBadFrame, Status.JpegBadScan}


@cocotb.test()
async def tables_that_are_not_there(dut):
    """Each of the tables alone is missing, while all the others are there."""
    bench = Bench(dut, DUTS)
    seen = []
    for number in range(4):
        for missing in (None, "DQT", 0, 1):
            dqt = b"".join(bytes((n,)) + bytes([n + 1]) * 64 for n in range(4) if (missing, n) != ("DQT", number))
            codes = [(tc, th) for tc in range(2) for th in range(4) if (missing, number) != (tc, th)]
            dht = segment(Marker.DHT, b"".join(one_code(*code) for code in codes))
            components = [(1, 1, 1, number)]
            data = small_header(dqt=dqt, dht=dht, components=components, scan=[(1, number, number)])
            seen.append(await agrees_with_golden(bench, f"{missing} {number} missing", data))
    assert seen == [Status.Ok, *[Status.JpegMissingTable] * 3] * 4


@cocotb.test()
async def blocks_of_an_mcu(dut):
    """Ten are allowed, and no more; factors up to 4 each."""
    bench = Bench(dut, DUTS)
    seen = []
    for factors in (((4, 1),) * 3, ((4, 2), (2, 1), (2, 1)), ((2, 4), (1, 2), (1, 2)), ((1, 4),) * 3, ((3, 1),) * 3,
                    ((3, 3),) * 3, ((4, 4),) * 3, ((4, 4), (2, 2), (2, 2))):  # fmt: skip
        for planes in ((0, 1, 2), (0, 1), (1, 2), (2,)):
            components = three(*factors)
            data = small_header(components=components, scan=[(n + 1, 0, 0) for n in planes])
            seen.append(await agrees_with_golden(bench, f"factors {factors}, planes {planes}", data))
    assert set(seen) == {Status.Ok, Status.JpegBadScan}


@cocotb.test()
async def factors_of_each_value(dut):
    """Each component's factors are 1 to 4."""
    bench = Bench(dut, DUTS)
    seen = set()
    for n in range(16):
        for number in range(3):
            for factor in ((n, 1), (1, n)):
                factors = [factor if k == number else (1, 1) for k in range(3)]
                data = small_header(components=three(*factors))
                seen.add(await agrees_with_golden(bench, f"factors {factors}", data))
    assert seen == {Status.Ok, Status.JpegBadFrame, Status.JpegUnsupportedSampling}


@cocotb.test()
async def lengths_to_the_byte(dut):
    """Segments that are long, and those that end as early as they may, or a byte earlier."""
    bench = Bench(dut, DUTS)
    seen = set()
    good = small_header()
    sos = good.index(b"\xff\xda")
    for name, header in {"no component": b"\xff\xda\0\x06\0\0\x3f\0", "5": b"\xff\xda\0\x05\0\0\x3f\0",
                         "7": b"\xff\xda\0\x07\1\0\x3f\0", "0": b"\xff\xda\0\0"}.items():  # fmt: skip
        seen.add(await agrees_with_golden(bench, f"SOS of length {name}", good[:sos] + header + bytes(9)))
    # A full table, and more tables behind it, of so many bytes.
    full = bytes((0x10, *[0] * 8, 255, 1, *[0] * 6)) + bytes(range(256))
    for short in (0, 1):
        dht = segment(Marker.DHT, one_code(0, 0) + full[: len(full) - short])
        name = f"DHT with a full table, {short} bytes too few"
        seen.add(await agrees_with_golden(bench, name, small_header(dht=dht)))
    for n in range(5, 13):
        rest = 1 << n
        tables = b""
        while len(tables) < rest:
            count = min(rest - len(tables) - 17, 256)
            count -= 17 if 0 < rest - len(tables) - 17 - count < 17 else 0
            tables += bytes((0x10, *[0] * 8, min(count, 255), count - min(count, 255), *[0] * 6)) + bytes(count)
        assert len(tables) == rest
        for short in (0, 1):
            dht = segment(Marker.DHT, one_code(0, 0) + full + tables)
            dht = dht[:2] + (len(dht) - 2 - short).to_bytes(2, "big") + dht[4:]
            name = f"DHT with {rest} bytes behind a full table, {short} too few"
            seen.add(await agrees_with_golden(bench, name, small_header(dht=dht)))
    extra = segment(Marker.COM, bytes(60_000)) + b"\xff\x02"
    seen.add(await agrees_with_golden(bench, "a bad marker behind 60000 bytes", small_header(extra=extra)))
    assert seen == {Status.Ok, Status.JpegBadScan, Status.JpegBadLength, Status.JpegBadMarker}


@cocotb.test()
async def lengths_of_each_bit(dut):
    """Segments, and rests of segments, of 2**n bytes. What then stands there is wrong, so that it shows it was read."""
    bench = Bench(dut, DUTS)
    seen = set()
    good = small_header()
    sos = good.index(b"\xff\xda")
    quantizers = b"\0" + bytes([1]) * 64
    for n in range(16):
        size = 1 << n
        cases = {marker: first + bytes(max(0, size - 3)) for marker, first in (
            (Marker.DQT, b"\x20"), (Marker.DHT, b"\x20"), (Marker.SOF0, b"\7"), (Marker.DRI, b"\0"))}  # fmt: skip
        files = {f"{marker.name} of length {size}": (good[:2], marker, size, body) for marker, body in cases.items()}
        files[f"SOS of length {size}"] = good[:sos], Marker.SOS, size, bytes(size)
        files[f"DRI of length {size | 4}"] = good[:2], Marker.DRI, size | 4, bytes(size | 4)
        for name, marker, body in (
            ("behind a quantization table", Marker.DQT, quantizers + b"\x20" + bytes(size - 1)),
            ("behind the head of one", Marker.DQT, b"\0" + bytes(size)),
            ("behind the head of one of 16 bits", Marker.DQT, b"\x10" + bytes(size)),
            ("behind a Huffman table", Marker.DHT, one_code(0, 0) + b"\x20" + bytes(size - 1)),
            ("behind the head of one", Marker.DHT, b"\0" + b"\3" * size),
        ):
            files[f"{marker.name}: {size} bytes {name}"] = good[:2], marker, len(body) + 2, body
        if n < 13:
            comment = bytes(max(0, size - 2)) + b"\xff\x02"
            files[f"a bad marker behind COM of length {size}"] = good[:2], Marker.COM, size, comment
        for name, (before, marker, length, body) in files.items():
            data = before + bytes((0xFF, marker)) + length.to_bytes(2, "big") + body
            seen.add(await agrees_with_golden(bench, name, data + b"\xff\x02"))
    assert seen == {Status.JpegBadLength, Status.JpegBadTable, Status.JpegBadScan, Status.JpegBadMarker,
                    Status.JpegUnsupportedPrecision}, seen  # fmt: skip


@cocotb.test()
async def tables_of_each_component(dut):
    """Each component uses each of the tables of each kind."""
    bench = Bench(dut, DUTS)
    dqt = b"".join(bytes((n,)) + bytes([n + 1]) * 64 for n in range(4))
    dht = segment(Marker.DHT, b"".join(one_code(tc, th) for tc in range(2) for th in range(4)))
    for n in range(4):
        scan = [(number + 1, (n + number) % 4, (3 * n + 1 + number) % 4) for number in range(3)]
        components = three(tqs=[(n + 2 * number) % 4 for number in range(3)])
        data = small_header(dqt=dqt, dht=dht, components=components, scan=scan)
        assert await agrees_with_golden(bench, f"components {components}, scan {scan}", data) is Status.Ok


@cocotb.test()
async def scans_of_some_components(dut):
    """The file may end when all components were scanned, in whatever order; none may be scanned twice."""
    bench = Bench(dut, DUTS)
    where = 0xA5C3_5A3C
    for scans in (((1,), (2,), (0,)), ((0, 2), (1,)), ((2,), (0, 1)), ((0,),), ((1,), (2,)), ((0,), (1,)), ((0, 2),),
                  ((1,), (0, 1)), ((0, 1, 2), (2,))):  # fmt: skip
        headers = [scan_header([(n + 1, 0, 0) for n in scan]) for scan in scans]
        data = small_header(components=three(), scan=[(n + 1, 0, 0) for n in scans[0]])
        # The marker that ends a scan's data is not the parser's to take.
        feeding = await begin(bench, data + b"".join(header[2:] for header in headers[1:]))
        done, status = set(), None
        for number, scan in enumerate(scans):
            if done & set(scan):
                status = Status.JpegBadScan
                break
            _, found, _ = await until_scan(bench, 0.0)
            assert [found.components[n].plane for n in range(found.count)] == list(scan), f"{scans}, scan {number}"
            done |= set(scan)
            code = Marker.SOS if number + 1 < len(scans) else Marker.EOI
            resume = {"found": 1, "file": 0, "code": code, "where": where ^ number}
            await bench.within(100, bench.send("resume", [resume]), f"what follows scan {number}")
        expected = status or (Status.Ok if len(done) == 3 else Status.JpegMissingComponent)
        (verdict,) = await bench.within(500, bench.receive("verdict", 1))
        place = 0 if expected == Status.Ok else where ^ (number - (status is not None))
        assert (Status(verdict.status), verdict.where) == (expected, place), f"{scans}: {expected} expected, {verdict}"
        feeding.cancel()
