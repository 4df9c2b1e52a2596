"""Damaged, hostile and unsupported JPEG files: each decode ends, with the status of the first error, at its place."""

import collections
import io
import re
import warnings

import numpy as np
import pytest
from PIL import Image

from tessera.golden.frames import ChromaFormat
from tessera.golden.jpeg.dct import dequantize
from tessera.golden.jpeg.decoder import JpegError, decode
from tessera.golden.jpeg.encoder import encode
from tessera.golden.jpeg.status import JpegStatus as S
from tessera.tb.codec.jpeg.corpus import exotic, hostile, mutations, picture, pillow_files, segments

EXPECTED = {
    "empty": (S.Truncated, 0),
    "one byte of SOI": (S.Truncated, 1),
    "not a JPEG": (S.NotJpeg, 0),
    "one byte, not a JPEG": (S.NotJpeg, 0),
    "SOI alone": (S.Truncated, 2),
    "SOI, EOI": (S.MissingFrame, 2),
    "fill bytes before SOI": (S.NotJpeg, 0),
    "second SOI": (S.BadMarker, 2),
    "EOI missing": (S.Truncated, "end"),
    "half of EOI": (S.Truncated, "end"),
    "ends within DHT": (S.Truncated, "end"),
    "ends within a length": (S.Truncated, "end"),
    "ends after SOS": (S.Truncated, "mcu 0"),
    "ends within the scan": (S.Truncated, "mcu"),
    "ends after FF of the scan": (S.Truncated, "mcu"),
    "SOF2": (S.UnsupportedProgressive, "sof"),
    "SOF3": (S.UnsupportedLossless, "sof"),
    "SOF5": (S.UnsupportedLossless, "sof"),
    "SOF6": (S.UnsupportedLossless, "sof"),
    "SOF7": (S.UnsupportedLossless, "sof"),
    "SOF9": (S.UnsupportedArithmetic, "sof"),
    "SOF10": (S.UnsupportedArithmetic, "sof"),
    "SOF11": (S.UnsupportedArithmetic, "sof"),
    "SOF13": (S.UnsupportedArithmetic, "sof"),
    "SOF14": (S.UnsupportedArithmetic, "sof"),
    "SOF15": (S.UnsupportedArithmetic, "sof"),
    "SOF55": (S.UnsupportedLossless, "sof"),
    "DAC": (S.UnsupportedArithmetic, "dht"),
    "DHP": (S.UnsupportedLossless, "sof"),
    "EXP": (S.UnsupportedLossless, "sof"),
    "12 bits": (S.UnsupportedPrecision, "sof"),
    "0 bits": (S.UnsupportedPrecision, "sof"),
    "height 0": (S.BadSize, "sof"),
    "width 0": (S.BadSize, "sof"),
    "65535x65535": (S.BadRestart, "mcu 6"),
    "0 components": (S.UnsupportedComponents, "sof"),
    "2 components": (S.UnsupportedComponents, "sof"),
    "4 components": (S.UnsupportedComponents, "sof"),
    "255 components": (S.UnsupportedComponents, "sof"),
    "4:1:1": (S.UnsupportedSampling, "sof"),
    "4:4:0": (S.UnsupportedSampling, "sof"),
    "4:1:0": (S.UnsupportedSampling, "sof"),
    "chroma larger than luma": (S.UnsupportedSampling, "sof"),
    "Cb unlike Cr": (S.UnsupportedSampling, "sof"),
    "3x1": (S.UnsupportedSampling, "sof"),
    "4:4:4 of 2x2, interleaved": (S.BadScan, "sos"),
    "factor 0": (S.BadFrame, "sof"),
    "factor 5": (S.BadFrame, "sof"),
    "component twice in the frame": (S.BadFrame, "sof"),
    "quantization table 4 in the frame": (S.BadFrame, "sof"),
    "second frame header": (S.BadFrame, "dht"),
    "SOF of length 7": (S.BadLength, "sof"),
    "SOF of length 7 and 12 bits": (S.BadLength, "sof"),
    "SOF of length 18": (S.BadLength, "sof"),
    "garbage between segments": (S.BadMarker, "dht"),
    "marker 00": (S.BadMarker, "dht"),
    "reserved marker 02": (S.BadMarker, "dht"),
    "reserved marker JPG": (S.BadMarker, "dht"),
    "length 0": (S.BadLength, "dht"),
    "length 1 of APP0": (S.BadLength, 2),
    "length 65535 of APP0": (S.Truncated, "end"),
    "DRI of length 5": (S.BadLength, "dri"),
    "DQT too short": (S.BadLength, "dqt"),
    "DQT for 16 bits too short": (S.BadLength, "dqt"),
    "DQT number 4": (S.BadTable, "dqt"),
    "DQT precision 2": (S.BadTable, "dqt"),
    "quantizer 0": (S.BadTable, "dqt"),
    "DHT class 2": (S.BadTable, "dht"),
    "DHT number 4": (S.BadTable, "dht"),
    "DHT ends within BITS": (S.BadLength, "dht"),
    "DHT ends within HUFFVAL": (S.BadLength, "dht"),
    "DHT over-subscribed": (S.BadTable, "dht"),
    "DHT with an all-ones code": (S.BadTable, "dht"),
    "DHT of 257 codes": (S.BadTable, "dht"),
    "no DHT": (S.MissingTable, "sos"),
    "no DQT": (S.MissingTable, "sos"),
    "DQT of chroma missing": (S.MissingTable, "sos"),
    "SOS before SOF": (S.MissingFrame, "sos"),
    "SOS of no component": (S.BadScan, "sos"),
    "SOS of 4 components": (S.BadScan, "sos"),
    "SOS of length 5": (S.BadLength, "sos"),
    "SOS of length 5 and no component": (S.BadLength, "sos"),
    "SOS of length 13": (S.BadLength, "sos"),
    "SOS of an unknown component": (S.BadScan, "sos"),
    "SOS of a component twice": (S.BadScan, "sos"),
    "SOS out of order": (S.BadScan, "sos"),
    "SOS with DC table 4": (S.BadScan, "sos"),
    "SOS with AC table 4": (S.BadScan, "sos"),
    "SOS with an undefined table": (S.MissingTable, "sos"),
    "Ss 1": (S.BadScan, "sos"),
    "Se 0": (S.BadScan, "sos"),
    "Ah 1": (S.BadScan, "sos"),
    "scanned twice": (S.BadScan, "last sos"),
    "chroma not scanned": (S.MissingComponent, "eoi"),
    "EOI in place of the scan": (S.MarkerInScan, "mcu 0"),
    "EOI instead of RST": (S.BadRestart, "mcu 2"),
    **{f"{0xD0 ^ 1 << bit:02X} instead of RST0": (S.BadRestart, "mcu 2") for bit in range(7)},
    "RST missing": (S.BadRestart, "mcu 4"),
    "ends at a restart": (S.Truncated, "mcu 2"),
    "marker inside the scan": (S.MarkerInScan, "mcu 0"),
    "DNL inside the scan": (S.MarkerInScan, "mcu 0"),
    "RST inside the scan": (S.MarkerInScan, "mcu 0"),
    "stray bytes before RST and EOI": None,
    "RST after the scan": None,
    "TEM and fill bytes": None,
    "fill bytes before a stuffed byte": None,
    "garbage after EOI": None,
    "ones in place of a code": (S.BadCode, "mcu 0"),
    "ones, then the end": (S.MarkerInScan, "mcu 0"),
    "DC category 12": (S.BadCoefficient, "mcu 0"),
    "DC symbol with a run": (S.BadCoefficient, "mcu 0"),
    "AC category 11": (S.BadCoefficient, "mcu 0"),
    "AC category 0 with run 5": (S.BadCoefficient, "mcu 0"),
    "8 ones are no code, then EOI": (S.MarkerInScan, "mcu 0"),
    "15 bits of no code, then EOI": (S.MarkerInScan, "mcu 0"),
    "16 bits of no code, then EOI": (S.BadCode, "mcu 0"),
    "fill bytes are no data": (S.MarkerInScan, "mcu 0"),
    "AC category 11 in the last bits": (S.BadCoefficient, "mcu 2"),
    "AC category 11 of which a bit is lacking": (S.MarkerInScan, "mcu 3"),
    "AC category 11 of which no magnitude is there": (S.BadCoefficient, "mcu 2"),
    "run past 63 of which no magnitude is there": (S.BadCoefficient, "mcu 0"),
    "magnitude of which a bit is lacking": (S.MarkerInScan, "mcu 2"),
    "run past 63": (S.BadCoefficient, "mcu 0"),
    "ZRL past 63": (S.BadCoefficient, "mcu 0"),
    "ZRL to 64": (S.BadCoefficient, "mcu 0"),
    "ZRL to 63 exactly": None,
}
"""Status and place of each hostile file; a place in words is that of the marker, or the MCU."""


def outcome(data, **limits):
    """(status, where, in_scan); Ok has (Ok, offset after EOI, False)."""
    try:
        return S.Ok, decode(data, **limits).size, False
    except JpegError as error:
        return error.status, error.where, error.in_scan


def test_hostile_files():
    files = dict(hostile())
    assert sorted(files) == sorted(EXPECTED)
    undamaged = {marker: start for marker, start, _ in reversed(segments(files["garbage after EOI"]))}
    good = decode(files["garbage after EOI"]).frame
    assert b"\xff\xff\xff\0" in files["fill bytes before a stuffed byte"]
    places = {"sof": 0xC0, "dht": 0xC4, "dqt": 0xDB, "dri": 0xDD}
    for name, data in files.items():
        found = outcome(data)
        if EXPECTED[name] is None:
            assert found == (S.Ok, data.rindex(b"\xff\xd9") + 2, False), name
            if name != "ZRL to 63 exactly":
                assert decode(data).frame.first_difference(good) is None, name
            continue
        status, place = EXPECTED[name]
        if isinstance(place, int):
            expected = status, place, False
        elif place in places:
            expected = status, undamaged[places[place]], False
        elif place.startswith("mcu"):
            expected = status, int(place[4:] or found[1]), True
        else:
            where = {"end": len(data), "sos": data.find(b"\xff\xda"), "last sos": data.rfind(b"\xff\xda")}
            expected = status, where.get(place, data.rfind(b"\xff\xd9")), False
        assert found == expected, f"{name}: {expected} expected, {found} found"


def test_unsupported_files_by_pillow():
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for picture_, options, status in (
        (image, {"progressive": True}, S.UnsupportedProgressive),
        (image.convert("L"), {"progressive": True}, S.UnsupportedProgressive),
        (image.convert("CMYK"), {}, S.UnsupportedComponents),
        (image, {}, None),
    ):
        file = io.BytesIO()
        picture_.save(file, "JPEG", **options)
        data = file.getvalue()
        place = data.find(b"\xff\xc2") if "progressive" in options else data.find(b"\xff\xc0")
        assert outcome(data) == ((status, place, False) if status else (S.Ok, len(data), False))


def test_limits_of_size():
    data = encode(picture(np.random.default_rng(1), 40, 30, ChromaFormat.C420), 50)
    sof = data.index(b"\xff\xc0")
    assert outcome(data, max_width=40, max_height=30)[0] == S.Ok
    assert outcome(data, max_width=39, max_height=30) == (S.BadSize, sof, False)
    assert outcome(data, max_width=40, max_height=29) == (S.BadSize, sof, False)


def test_every_truncation():
    """A file cut anywhere is Truncated: at its end, or in the MCU whose bits are lacking, never earlier ones."""
    for kind in ChromaFormat:
        data = encode(picture(np.random.default_rng(kind), 30, 21, kind), 40, 2)
        scan = segments(data)[-1][2]
        last = 0
        for length in range(len(data)):
            status, where, in_scan = outcome(data[:length])
            assert status == S.Truncated
            if in_scan:
                assert length >= scan and where >= last
                last = where
            else:
                assert where == length and (length < scan or length >= len(data) - 2), length


def _dc_symbol_above_15(data):
    """Whether some DC table has such a symbol: libjpeg refuses the table, the golden the symbol, if it occurs."""
    for match in re.finditer(b"\xff\xc4", data):
        place, end = match.end() + 2, match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
        while place < end:
            values = data[place + 17 : place + 17 + sum(data[place + 1 : place + 17])]
            if data[place] < 16 and max(values, default=0) > 15:
                return True
            place += 17 + len(values)
    return False


def _beyond_first_pass(component):
    """Whether some block is of the case in which golden.jpeg.dct differs from libjpeg-turbo on x86."""
    first = dequantize(component.coefficients, component.quantizers)[:, :, 0].astype(int)
    alone = (component.coefficients[:, :, 1:] == 0).all((2, 3))
    return bool((alone & ((first < -8192) | (first > 8191)).any(-1)).any())


def test_mutated_files(capsys):
    """10,000 damaged files: each ends, with a status; what still decodes is what libjpeg-turbo makes of it.

    libjpeg-turbo conceals what the golden refuses, so that the comparison goes one way.
    """
    rng = np.random.default_rng(11)
    statuses = collections.Counter()
    kinds = collections.Counter()
    for name, data in [*pillow_files(12, 64, 32), *exotic(13, 36, 24)]:
        for kind, mutated in mutations(data, rng, 101):
            kinds[kind] += 1
            try:
                result = decode(mutated, 256, 256)
            except JpegError as error:
                statuses[error.status.name] += 1
                assert 0 <= error.where <= (256 * 256 if error.in_scan else len(mutated)), f"{name}, {kind}"
                continue
            statuses["Ok"] += 1
            if result.frame.format in (ChromaFormat.C420, ChromaFormat.C422) or mutated == data:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = Image.open(io.BytesIO(mutated))
                if image.mode != "L":
                    image.draft("YCbCr", None)
                if image.mode not in ("L", "YCbCr"):
                    statuses["(RGB)"] += 1
                    continue
                try:
                    theirs = np.asarray(image).reshape(result.frame.height, result.frame.width, -1)
                except OSError:
                    assert _dc_symbol_above_15(mutated), f"{name}, {kind}"
                    statuses["(refused by libjpeg-turbo)"] += 1
                    continue
            if any(_beyond_first_pass(c) for c in result.components):
                statuses["(out of range)"] += 1
                continue
            np.testing.assert_array_equal(np.dstack(result.frame.planes), theirs, f"{name}, {kind}")
            statuses["(compared)"] += 1
    with capsys.disabled():
        print("", *(f"{s} {n}" for s, n in statuses.most_common()), sep="  ")
    assert sum(kinds.values()) >= 10000 and len(kinds) == 14
    assert statuses["(compared)"] > 900 and statuses["(RGB)"] < 20 and statuses["(out of range)"] < 20
    assert statuses["(refused by libjpeg-turbo)"] < 40


def test_every_status_is_reached():
    """Of the enumeration, nothing is dead: the hostile files reach each status."""
    reached = {outcome(data)[0] for _, data in hostile()}
    assert reached == set(S), f"not reached: {set(S) - reached}"


@pytest.mark.parametrize("length", [0, 1, 2, 50, 3000])
def test_noise_is_refused(length):
    rng = np.random.default_rng(length)
    for _ in range(200):
        assert outcome(b"\xff\xd8" + rng.bytes(length))[0] != S.Ok
        assert outcome(rng.bytes(length))[0] in (S.NotJpeg, S.Truncated)


def test_no_file_takes_long():
    """Large sizes cost nothing before their data is there; long runs of FF are not scanned twice."""
    gray = encode(picture(np.random.default_rng(1), 8, 8, ChromaFormat.Gray), 50)
    sof, scan = gray.index(b"\xff\xc0"), segments(gray)[-1][2]
    big = gray[: sof + 5] + b"\xff\xff\xff\xff" + gray[sof + 9 :]
    assert outcome(big) == (S.MarkerInScan, 1, True)
    for filler in (b"\xff" * 300000, b"\xff\xff\x00" * 100000, b"\x00" * 300000):
        assert outcome(gray[:scan] + filler)[0] in (S.Truncated, S.BadCode, S.BadCoefficient)
        assert outcome(gray[:-2] + filler + b"\xff\xd9")[0] == S.Ok
