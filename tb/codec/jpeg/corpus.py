"""JPEG files for tests: by Pillow, others that are valid, damaged, and hostile. All are deterministic."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from tessera.golden.frames import ChromaFormat, Frame
from tessera.golden.jpeg.encoder import coefficients, encode, quantizers
from tessera.golden.jpeg.tables import Marker
from tessera.sim.clips import find_clip, pictures
from tessera.tb.codec.jpeg.multiplex import ANNEX_K, Part, Pass, Table, multiplex, random_table, segment

__all__ = [
    "clip_frame",
    "exotic",
    "hostile",
    "mutations",
    "picture",
    "pillow_files",
    "segments",
]


def clip_frame(name: str, width: int, height: int) -> Frame:
    """The first picture of a built-in clip, resampled to an even size, 4:2:0."""
    (first,) = pictures(find_clip(name), 0, 1)
    planar = first.reformat(width, height, "yuv420p").to_ndarray()
    chroma = planar[height:].reshape(2, height // 2, width // 2)
    return Frame(ChromaFormat.C420, (planar[:height].copy(), chroma[0].copy(), chroma[1].copy()))


def picture(rng: np.random.Generator, width: int, height: int, kind: ChromaFormat = ChromaFormat.C444) -> Frame:
    """A frame of smooth areas with noise, its contrast at random."""
    planes: list[npt.NDArray[np.uint8]] = []
    noise = int(rng.choice([0, 2, 8, 64]))
    for n in range(kind.planes):
        w, h = kind.plane_size(n, width, height)
        coarse = rng.integers(0, 256, (h // 9 + 2, w // 9 + 2), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC)).astype(int)
        planes.append(np.clip(smooth + rng.integers(-noise, noise + 1, (h, w)), 0, 255).astype(np.uint8))
    return Frame(kind, tuple(planes))


def pillow_files(seed: int, count: int, largest: int = 64) -> Iterator[tuple[str, bytes]]:
    """`count` files by Pillow: all samplings, qualities, restart intervals, optimized tables, sizes 1 to `largest`."""
    rng = np.random.default_rng(seed)
    for n in range(count):
        kind = ChromaFormat(n % 4)
        width, height = (int(x) for x in rng.integers(1, largest + 1, 2))
        options: dict[str, object] = {"quality": int(rng.integers(1, 101)), "optimize": bool(rng.integers(2))}
        if restart := int(rng.choice([0, 0, 1, 2, 3, 7])):
            options["restart_marker_blocks" if rng.integers(2) else "restart_marker_rows"] = restart
        planes = picture(rng, width, height, ChromaFormat.Gray if kind == 0 else ChromaFormat.C444).planes
        if kind == ChromaFormat.Gray:
            image = Image.fromarray(planes[0])
        else:
            image = Image.fromarray(np.dstack(planes), "YCbCr")
            options["subsampling"] = str(kind)
        file = io.BytesIO()
        image.save(file, "JPEG", **options)
        words = " ".join(f"{k}={v}" for k, v in options.items())
        yield f"pillow {seed}.{n}: {kind} {width}x{height} {words}", file.getvalue()


_SPELLINGS: dict[ChromaFormat, list[tuple[tuple[int, int], ...]]] = {
    ChromaFormat.Gray: [((1, 1),), ((2, 2),), ((4, 3),), ((1, 2),)],
    ChromaFormat.C444: [((1, 1),) * 3, ((2, 1),) * 3, ((1, 3),) * 3],
    ChromaFormat.C422: [((2, 1), (1, 1), (1, 1)), ((2, 2), (1, 2), (1, 2)), ((4, 1), (2, 1), (2, 1))],
    ChromaFormat.C420: [((2, 2), (1, 1), (1, 1)), ((4, 2), (2, 1), (2, 1)), ((2, 4), (1, 2), (1, 2))],
}
"""Sampling factors that amount to the same; all but the first of each of three components only fit separate scans where
their MCU exceeds ten blocks."""

_ORDERS: list[tuple[tuple[int, ...], ...]] = [
    ((0, 1, 2),),
    ((0,), (1,), (2,)),
    ((2,), (1,), (0,)),
    ((0,), (1, 2)),
    ((0, 1), (2,)),
    ((1,), (0, 2)),
]


def exotic(seed: int, count: int, largest: int = 48) -> Iterator[tuple[str, bytes]]:
    """`count` valid files that Pillow would not write: separate and mixed scans, other spellings of the sampling
    factors, random Huffman tables redefined between scans, restart intervals that change, fill bytes, stray bytes after
    segments, SOF1, 16-bit quantizers, table numbers up to 3, segments to skip."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        kind = ChromaFormat(number % 4)
        width, height = (int(x) for x in rng.integers(1, largest + 1, 2))
        quality = int(rng.integers(1, 101))
        frame = picture(rng, width, height, kind)
        factors = _SPELLINGS[kind][int(rng.integers(len(_SPELLINGS[kind])))]
        sof = int(rng.integers(2))
        ids = [int(x) for x in rng.permutation(256)[:3]]
        parts = []
        tq = [int(x) for x in rng.permutation(4)[:2]]
        for n, (coded, (h, v)) in enumerate(zip(coefficients(frame, quality), factors)):
            w, high = kind.plane_size(n, width, height)
            real = coded[: -(-high // 8), : -(-w // 8)]
            parts.append(Part(real, quantizers(quality)[n > 0], ids[n], h, v, tq[n > 0]))
        blocks = [h * v for h, v in factors]
        fitting = [o for o in _ORDERS if all(len(s) == 1 or sum(blocks[n] for n in s) <= 10 for s in o)] if kind else []
        order = fitting[int(rng.integers(len(fitting)))] if kind else ((0,),)
        passes = []
        for scan in order:
            tables: dict[tuple[int, int], Table] = {}
            selectors = []
            for component in scan:
                td, ta = (int(x) for x in rng.integers(0, 4 if sof else 2, 2))
                selectors.append((td, ta))
                if rng.integers(2):
                    tables[0, td], tables[1, ta] = random_table(rng, False), random_table(rng, True)
                else:
                    tables[0, td], tables[1, ta] = ANNEX_K[0, component > 0], ANNEX_K[1, component > 0]
            restart = int(rng.choice([0, 1, 2, 5]))
            stray = (b"", b"", b"\0", b"\x12\xff\0\x34")[int(rng.integers(4))]
            fill = b"\xff" * int(rng.choice([0, 0, 1, 3]))
            passes.append(Pass(scan, tuple(selectors), restart, tables, int(rng.integers(2)), stray, fill))
        data = multiplex(width, height, parts, passes, Marker.SOF0 + sof, bool(sof and rng.integers(2)))
        if rng.integers(2):
            skipped = segment(Marker.COM, b"\xff\xd9 not the end") + segment(Marker.APP0 + 13, rng.bytes(40))
            data = data[:2] + skipped + data[2:]
        name = f"exotic {seed}.{number}: {kind} {width}x{height} SOF{sof} factors {factors} scans {order}"
        yield name, data + rng.bytes(int(rng.integers(4)))


# Damage.


def segments(data: bytes) -> list[tuple[int, int, int]]:
    """(marker, start, end) of the segments of a valid file up to its first SOS, that included; SOI is not."""
    result: list[tuple[int, int, int]] = []
    position = 2
    while not result or result[-1][0] != Marker.SOS:
        start = position
        while data[position + 1] == 0xFF:
            position += 1
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        result.append((data[position + 1], start, end))
        position = end
    return result


def mutations(data: bytes, rng: np.random.Generator, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged copies of a valid file: truncated; bytes flipped, inserted, removed, replaced; lengths, tables,
    markers and restarts damaged; segments removed and repeated; splices."""
    parts = segments(data)
    scan = parts[-1][2]

    def at(low: int = 0, high: int = len(data)) -> int:
        return int(rng.integers(low, max(high, low + 1)))

    for _ in range(count):
        kind = int(rng.integers(14))
        _, start, end = parts[at(0, len(parts))]
        out = bytearray(data)
        if kind == 0:
            name, out = "truncated", out[: at()]
        elif kind == 1:
            name = "bits flipped"
            for _ in range(at(1, 6)):
                out[at()] ^= 1 << at(0, 8)
        elif kind == 2:
            name = "bit of the scan flipped"
            out[at(scan)] ^= 1 << at(0, 8)
        elif kind == 3:
            name = "byte inserted"
            out.insert(at(), at(0, 256))
        elif kind == 4:
            name = "bytes removed"
            place = at()
            del out[place : place + at(1, 4)]
        elif kind == 5:
            name = "length changed"
            out[start + 2 : start + 4] = int(rng.choice([0, 1, 2, 3, at(0, 300), 65535])).to_bytes(2, "big")
        elif kind == 6:
            name = "byte of a segment replaced"
            out[at(start + 4, end)] = int(rng.choice([0, 1, 255, at(0, 256)]))
        elif kind == 7:
            name = "Huffman table damaged"
            tables = [p for p in parts if p[0] == Marker.DHT]
            _, start, end = tables[at(0, len(tables))]
            out[at(start + 4, min(end, start + 21))] = at(0, 256) if rng.integers(2) else at(0, 8)
        elif kind == 8:
            name = "marker into the scan"
            place = at(scan)
            out[place:place] = bytes((0xFF, at(0, 256)))
        elif kind == 9:
            name = "marker code changed"
            out[start + 1] = at(0xC0, 0x100)
        elif kind == 10:
            name = "segment removed"
            del out[start:end]
        elif kind == 11:
            name = "segment repeated"
            place = parts[at(0, len(parts))][1]
            out[place:place] = data[start:end]
        elif kind == 12:
            name = "splice"
            place, other, size = at(scan), at(scan), at(1, 40)
            out[place : place + size] = data[other : other + at(1, 40)]
        else:
            name = "restart damaged"
            places = [n for n in range(scan, len(data) - 1) if data[n] == 0xFF and 0xD0 <= data[n + 1] <= 0xD9]
            place = places[at(0, len(places))]
            if rng.integers(2):
                del out[place : place + 2]
            else:
                out[place + 1] = at(0xD0, 0xDA)
        yield name, bytes(out)


def hostile() -> Iterator[tuple[str, bytes]]:
    """Files that go against one rule each, by name."""
    rng = np.random.default_rng(5)
    good = encode(picture(rng, 33, 20, ChromaFormat.C420), 60, 2)
    gray = encode(picture(rng, 17, 9, ChromaFormat.Gray), 60)
    where = {marker: start for marker, start, _ in reversed(segments(good))}
    scan = segments(good)[-1][2]
    sof, sos, dqt, dht, dri = (where[m] for m in (Marker.SOF0, Marker.SOS, Marker.DQT, Marker.DHT, Marker.DRI))

    def put(place: int, new: bytes, data: bytes = good) -> bytes:
        return data[:place] + new + data[place + len(new) :]

    def insert(place: int, new: bytes, data: bytes = good) -> bytes:
        return data[:place] + new + data[place:]

    yield "empty", b""
    yield "one byte of SOI", b"\xff"
    yield "not a JPEG", b"\x89PNG\r\n\x1a\n" + bytes(64)
    yield "one byte, not a JPEG", b"\x00"
    yield "SOI alone", b"\xff\xd8"
    yield "SOI, EOI", b"\xff\xd8\xff\xd9"
    yield "fill bytes before SOI", b"\xff" + good
    yield "second SOI", insert(2, b"\xff\xd8")
    yield "EOI missing", good[:-2]
    yield "half of EOI", good[:-1]
    yield "ends within DHT", good[: dht + 40]
    yield "ends within a length", good[: dqt + 3]
    yield "ends after SOS", good[:scan]
    yield "ends within the scan", good[: scan + 20]
    yield "ends after FF of the scan", good[: scan + 20] + b"\xff"
    for number in (2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 55):
        yield f"SOF{number}", put(sof + 1, bytes((0xF7 if number == 55 else 0xC0 + number,)))
    yield "DAC", insert(dht, segment(Marker.DAC, b"\0\x10"))
    yield "DHP", insert(sof, good[sof : sof + 1] + bytes((Marker.DHP,)) + good[sof + 2 : sof + 19])
    yield "EXP", insert(sof, segment(Marker.EXP, b"\x11"))
    yield "12 bits", put(sof + 4, b"\x0c", put(sof + 1, b"\xc1"))
    yield "0 bits", put(sof + 4, b"\0")
    yield "height 0", put(sof + 5, b"\0\0")
    yield "width 0", put(sof + 7, b"\0\0")
    yield "65535x65535", put(sof + 5, b"\xff" * 4)
    for count in (0, 2, 4, 255):
        header = good[sof + 4 : sof + 9] + bytes((count,)) + bytes((9, 0x11, 0)) * count
        if count == 4:
            header = header[:6] + b"".join(bytes((n, 0x11, 0)) for n in range(4))
        yield f"{count} components", good[:sof] + segment(Marker.SOF0, header) + good[sof + 19 :]
    for name, factors in {
        "4:1:1": b"\x41\x11\x11",
        "4:4:0": b"\x12\x11\x11",
        "4:1:0": b"\x42\x11\x11",
        "chroma larger than luma": b"\x11\x22\x22",
        "Cb unlike Cr": b"\x22\x11\x21",
        "3x1": b"\x31\x21\x21",
    }.items():
        yield name, put(sof + 17, factors[2:], put(sof + 14, factors[1:2], put(sof + 11, factors[:1])))
    yield "4:4:4 of 2x2, interleaved", put(sof + 17, b"\x22", put(sof + 14, b"\x22"))
    yield "factor 0", put(sof + 11, b"\x02")
    yield "factor 5", put(sof + 14, b"\x15")
    yield "component twice in the frame", put(sof + 13, b"\x01")
    yield "quantization table 4 in the frame", put(sof + 12, b"\x04")
    yield "second frame header", insert(sof, good[sof : sof + 19])
    yield "SOF of length 7", put(sof + 2, b"\0\x07")
    yield "SOF of length 7 and 12 bits", put(sof + 2, b"\0\x07\x0c")
    yield "SOF of length 18", put(sof + 2, b"\0\x12")
    yield "garbage between segments", insert(dht, b"\x12\x34")
    yield "marker 00", insert(dht, b"\xff\x00")
    yield "reserved marker 02", insert(dht, b"\xff\x02\0\x02")
    yield "reserved marker JPG", insert(dht, segment(Marker.JPG, b""))
    yield "length 0", put(dht + 2, b"\0\0")
    yield "length 1 of APP0", put(4, b"\0\x01")
    yield "length 65535 of APP0", put(4, b"\xff\xff")
    yield "DRI of length 5", put(dri + 2, b"\0\x05")
    yield "DQT too short", put(dqt + 2, b"\0\x40")
    yield "DQT for 16 bits too short", put(dqt + 4, b"\x10")
    yield "DQT number 4", put(dqt + 4, b"\x04")
    yield "DQT precision 2", put(dqt + 4, b"\x20")
    yield "quantizer 0", put(dqt + 30, b"\0")
    yield "DHT class 2", put(dht + 4, b"\x20")
    yield "DHT number 4", put(dht + 4, b"\x04")
    yield "DHT ends within BITS", put(dht + 2, b"\0\x12")
    yield "DHT ends within HUFFVAL", put(dht + 2, b"\0\x1e")
    yield "DHT over-subscribed", put(dht + 5, b"\x02")
    yield "DHT with an all-ones code", insert(dht, segment(Marker.DHT, bytes((3, 1, 2)) + bytes(14) + bytes(3)))
    yield "DHT of 257 codes", insert(dht, segment(Marker.DHT, bytes((3, *[0] * 9, 255, 2, *[0] * 5)) + bytes(257)))
    yield "no DHT", good[:dht] + good[dri:]
    yield "no DQT", good[:dqt] + good[sof:]
    yield "DQT of chroma missing", good[: dqt + 69] + good[sof:]
    yield "SOS before SOF", good[:sof] + good[sof + 19 :]
    yield "SOS of no component", put(sos + 4, b"\0")
    yield "SOS of 4 components", put(sos + 4, b"\x04")
    yield "SOS of length 5", put(sos + 2, b"\0\x05")
    yield "SOS of length 5 and no component", put(sos + 2, b"\0\x05\0")
    yield "SOS of length 13", put(sos + 2, b"\0\x0d")
    yield "SOS of an unknown component", put(sos + 7, b"\x07")
    yield "SOS of a component twice", put(sos + 7, b"\x01")
    yield "SOS out of order", put(sos + 7, b"\x03\x11\x02")
    yield "SOS with DC table 4", put(sos + 6, b"\x40")
    yield "SOS with AC table 4", put(sos + 6, b"\x04")
    yield "SOS with an undefined table", put(sos + 6, b"\x22")
    yield "Ss 1", put(sos + 11, b"\x01")
    yield "Se 0", put(sos + 12, b"\0")
    yield "Ah 1", put(sos + 13, b"\x10")
    yield "scanned twice", insert(len(gray) - 2, gray[segments(gray)[-1][1] : -2], gray)
    yield "chroma not scanned", _luma_only(good)
    yield "EOI in place of the scan", good[:scan] + b"\xff\xd9"
    yield "EOI instead of RST", _replace_restart(good, scan, 0, b"\xff\xd9")
    for bit in range(7):
        code = Marker.RST0 ^ 1 << bit
        yield f"{code:02X} instead of RST0", _replace_restart(good, scan, 0, bytes((0xFF, code)))
    yield "RST missing", _replace_restart(good, scan, 1, b"")
    yield "ends at a restart", good[: good.index(b"\xff\xd0", scan)]
    yield "marker inside the scan", insert(scan + 3, b"\xff\xe0\0\x04ab")
    yield "DNL inside the scan", insert(scan + 3, b"\xff\xdc\0\x04\0\x14")
    yield "RST inside the scan", insert(scan + 3, b"\xff\xd0")
    yield (
        "stray bytes before RST and EOI",
        _replace_restart(good, scan, 0, b"\0\x11\xff\0\xff\xd0")[:-2] + b"ab\xff\xd9",
    )
    yield "RST after the scan", insert(len(good) - 2, b"\xff\xd3")
    yield "TEM and fill bytes", insert(dht, b"\xff\xff\xff\x01\xff")
    yield "fill bytes before a stuffed byte", good[:scan] + good[scan:].replace(b"\xff\0", b"\xff\xff\xff\0")
    yield "garbage after EOI", good + b"\0\xff\xd8\xff"
    yield "ones in place of a code", good[:scan] + b"\xff\0" * 40 + b"\xff\xd9"
    yield "ones, then the end", good[:scan] + b"\xff\0" + b"\xff\xd9"
    for name, symbol, dc in (
        ("DC category 12", 0x0C, True),
        ("DC symbol with a run", 0x11, True),
        ("AC category 11", 0x0B, False),
        ("AC category 0 with run 5", 0x50, False),
    ):
        yield name, _one_symbol(gray, symbol, dc)
    one, two, three = (1,), (1, 1), (1, 1, 1)
    yield "8 ones are no code, then EOI", _scan_of(gray, one, b"\0", b"\xff\0")
    yield "15 bits of no code, then EOI", _scan_of(gray, one, b"\0", b"\x7f\xff\0")
    yield "16 bits of no code, then EOI", _scan_of(gray, one, b"\0", b"\xff\0\xff\0")
    yield "fill bytes are no data", _scan_of(gray, one, b"\0", b"\xff\xff\xff\xff")
    yield "AC category 11 in the last bits", _scan_of(gray, three, b"\x00\xf0\x0b", b"\x06")
    yield "AC category 11 of which a bit is lacking", _scan_of(gray, two, b"\x00\x0b", b"\x01")
    yield "AC category 11 of which no magnitude is there", _scan_of(gray, two, b"\x00\x0b", b"\x04")
    yield "run past 63 of which no magnitude is there", _scan_of(gray, two, b"\xf1\xf0", b"\x54")
    yield "magnitude of which a bit is lacking", _scan_of(gray, two, b"\0\x02", b"\x05")
    yield "run past 63", _one_symbol(gray, 0xF1, False)
    yield "ZRL past 63", _runs(gray, [15, 15, 15, 2, 15])
    yield "ZRL to 64", _runs(gray, [15, 15, 15, 15])
    yield "ZRL to 63 exactly", _runs(gray, [15, 15, 2, 2, 2, 2, 2, 15])


def _replace_restart(data: bytes, scan: int, number: int, new: bytes) -> bytes:
    place = data.index(bytes((0xFF, Marker.RST0 + number)), scan)
    return data[:place] + new + data[place + 2 :]


def _luma_only(data: bytes) -> bytes:
    """The file with a scan of component 1 alone, from its own tables, and none of the others."""
    scan = segments(data)[-1]
    flat = b"\0" * 40
    one = segment(Marker.DHT, bytes((0, 1)) + bytes(15) + b"\0") + segment(
        Marker.DHT, bytes((16, 1)) + bytes(15) + b"\0"
    )
    restart_off = segment(Marker.DRI, b"\0\0")
    sos = segment(Marker.SOS, bytes((1, 1, 0, 0, 63, 0)))
    return data[: scan[1]] + one + restart_off + sos + flat + b"\xff\xd9"


def _one_symbol(data: bytes, symbol: int, dc: bool) -> bytes:
    """A gray file whose one DC or AC code, a bit 0, stands for `symbol`; the other class's for 0. The scan is zeros."""
    parts = segments(data)
    head = b"".join(data[start:end] for marker, start, end in parts if marker != Marker.DHT and marker != Marker.SOS)
    tables = segment(Marker.DHT, bytes((0, 1)) + bytes(15) + bytes((symbol if dc else 0,)))
    tables += segment(Marker.DHT, bytes((16, 1)) + bytes(15) + bytes((0 if dc else symbol,)))
    return b"\xff\xd8" + head + tables + data[parts[-1][1] : parts[-1][2]] + bytes(60) + b"\xff\xd9"


def _scan_of(data: bytes, counts: Sequence[int], symbols: bytes, scan: bytes) -> bytes:
    """A gray file with this scan, whose one DC code, a bit 0, is category 0, and with an AC table of these symbols, as
    many of each length as `counts` says."""
    parts = segments(data)
    head = b"".join(data[start:end] for marker, start, end in parts if marker != Marker.DHT and marker != Marker.SOS)
    tables = segment(Marker.DHT, bytes((0, 1)) + bytes(15) + b"\0")
    tables += segment(Marker.DHT, bytes((16, *counts)) + bytes(16 - len(counts)) + symbols)
    return b"\xff\xd8" + head + tables + data[parts[-1][1] : parts[-1][2]] + scan + b"\xff\xd9"


def _runs(data: bytes, runs: Sequence[int]) -> bytes:
    """A gray file whose first block has these AC runs: 15 is ZRL, 2 is ended by a 1. The rest is flat."""
    bits = "0" + "".join("10" if run == 15 else "1101" for run in runs)
    if sum(run + 1 for run in runs) < 63:
        bits += "0"
    bits += "00" * 40
    bits += "0" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return _scan_of(data, (1, 1, 1), bytes((0x00, 0xF0, 0x21)), scan)
