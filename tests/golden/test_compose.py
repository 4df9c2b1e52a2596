"""Composing against Pillow's `paste` with a mask, plane by plane, of frames and of streams; and what is refused."""

import dataclasses
import io
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tessera.golden.frames import ChromaFormat, Frame
from tessera.golden.jpeg.decoder import decode
from tessera.golden.jpeg.encoder import encode
from tessera.golden.ops import Layer, OpsError, compose, scale
from tessera.golden.transcoder import Composition, Placement, Target, compose_streams, frames_shown, transcode

FORMATS = (ChromaFormat.Gray, ChromaFormat.C420)


def noise(format, width, height, seed=0):
    """A frame of random samples."""
    rng = np.random.default_rng([seed, width, height])
    sizes = (format.plane_size(n, width, height) for n in range(format.planes))
    return Frame(format, tuple(rng.integers(0, 256, (h, w), dtype=np.uint8) for w, h in sizes))


def pillow(layers, width, height, background):
    """The same by Pillow: each plane is an image of its own, each layer is pasted with a constant mask."""
    planes = []
    for n in range(3):
        canvas = Image.new("L", ChromaFormat.C420.plane_size(n, width, height), background[n])
        for frame, x, y, alpha in layers:
            size = ChromaFormat.C420.plane_size(n, frame.width, frame.height)
            gray = Image.new("L", size, 128)
            above = Image.fromarray(frame.planes[n]) if n < len(frame.planes) else gray
            place = (x, y) if n == 0 else (x // 2, y // 2)
            canvas.paste(above, place, Image.new("L", size, alpha))
        planes.append(np.asarray(canvas))
    return Frame(ChromaFormat.C420, tuple(planes))


def assert_same(layers, width, height, background):
    difference = pillow(layers, width, height, background).first_difference(compose(layers, width, height, background))
    places = [f"{frame.format} {frame.width}x{frame.height} at {x}, {y} alpha {a}" for frame, x, y, a in layers]
    assert difference is None, f"{width}x{height} of {places}: {difference}"


sizes = st.integers(1, 40)
samples = st.integers(0, 255)
places = st.integers(-50, 50)
frames = st.builds(noise, st.sampled_from(FORMATS), sizes, sizes, st.integers(0, 3))
drawn = st.lists(st.builds(Layer, frames, places, places, st.sampled_from([0, 1, 127, 128, 254, 255]) | samples))


@given(drawn, sizes, sizes, st.tuples(samples, samples, samples))
def test_pillow(layers, width, height, background):
    assert_same(layers, width, height, background)


def test_every_sum():
    """Each sample over each other one with each alpha."""
    above, below = (plane.astype(np.uint8) for plane in np.mgrid[0:256, 0:256])
    for alpha in range(256):
        lower, upper = (Layer(Frame(ChromaFormat.Gray, (p,)), 0, 0, a) for p, a in ((below, 255), (above, alpha)))
        assert_same([lower, upper], 256, 256, (0, 0, 0))
        exact = (alpha * above.astype(float) + (255 - alpha) * below.astype(float)) / 255
        assert np.abs(compose([lower, upper], 256, 256, (0, 0, 0)).planes[0] - exact).max() <= 0.5


def test_every_place():
    """A small layer at each place about a small canvas, odd sizes and even ones."""
    for width, height, w, h in product((1, 4, 5), (1, 3, 4), (1, 2, 3), (1, 2, 3)):
        for x, y in product(range(-w - 1, width + 2), range(-h - 1, height + 2)):
            assert_same([Layer(noise(ChromaFormat.C420, w, h), x, y, 200)], width, height, (16, 90, 240))


def test_places_far_away():
    far = (-(1 << 16), -70, 70, (1 << 16) - 1)
    for x, y in product(far, far):
        assert_same([Layer(noise(ChromaFormat.C420, 64, 64), x, y)], 64, 64, (1, 2, 3))


def test_no_layer_is_the_background():
    for value, plane in zip((7, 8, 9), compose([], 5, 3, (7, 8, 9)).planes):
        assert (plane == value).all()


def test_opaque_is_a_copy_and_0_is_nothing():
    frame = noise(ChromaFormat.C420, 21, 13)
    assert compose([Layer(frame, 0, 0)], 21, 13, (0, 0, 0)).first_difference(frame) is None
    other = Layer(noise(ChromaFormat.C420, 21, 13, seed=1), 0, 0, 0)
    assert compose([Layer(frame, 0, 0), other], 21, 13, (0, 0, 0)).first_difference(frame) is None


def test_the_last_one_is_on_top():
    first, second = (noise(ChromaFormat.C420, 16, 16, seed) for seed in (1, 2))
    assert compose([Layer(first, 0, 0), Layer(second, 0, 0)], 16, 16, (0, 0, 0)) == second


def test_layers_are_left_as_they_were():
    frame = noise(ChromaFormat.C420, 16, 16)
    kept = [plane.copy() for plane in frame.planes]
    compose([Layer(frame, 0, 0), Layer(frame, 3, 3, 99)], 16, 16, (0, 0, 0))
    assert all(np.array_equal(a, b) for a, b in zip(kept, frame.planes))


@pytest.mark.parametrize(
    "layers, size, background, message",
    [
        ([], (0, 8), (0, 0, 0), "width 0: 1 or more"),
        ([], (8, -1), (0, 0, 0), "height -1: 1 or more"),
        ([], (8, 8), (0, 256, 0), r"background \(0, 256, 0\): Y, Cb and Cr of 0 to 255"),
        ([], (8, 8), (-1, 0, 0), "background"),
        ([], (8, 8), (0, 0), "background"),
        ([(ChromaFormat.C422, 255)], (8, 8), (0, 0, 0), "layer 0 is 4:2:2: 4:2:0 or 4:0:0"),
        ([(ChromaFormat.Gray, 255), (ChromaFormat.C444, 255)], (8, 8), (0, 0, 0), "layer 1 is 4:4:4"),
        ([(ChromaFormat.C420, 256)], (8, 8), (0, 0, 0), "layer 0 has alpha 256: 0 to 255"),
        ([(ChromaFormat.C420, 3), (ChromaFormat.C420, -1)], (8, 8), (0, 0, 0), "layer 1 has alpha -1"),
    ],
)
def test_refused(layers, size, background, message):
    with pytest.raises(OpsError, match=message):
        compose([Layer(noise(format, 4, 4), 0, 0, alpha) for format, alpha in layers], *size, background)


def test_a_layer_without_samples_is_refused():
    empty = Frame(ChromaFormat.Gray, (np.zeros((0, 4), np.uint8),))
    with pytest.raises(OpsError, match="layer 0 is 4x0: 1x1 or more"):
        compose([Layer(empty, 0, 0)], 8, 8, (0, 0, 0))


@pytest.mark.parametrize(
    "stream_rate, stream_frames, rate, shown",
    [
        (25, 9, 25, [0, 1, 2, 3, 4, 5]),
        (50, 9, 25, [0, 2, 4, 6, 8, 8]),
        (25, 3, 50, [0, 0, 1, 1, 2, 2, 2, 2]),
        (10, 9, 25, [0, 0, 0, 1, 1, 2, 2, 2, 3]),
        (Fraction(30000, 1001), 99, 30, [0, 0, 1, 2, 3]),
        (30, 99, Fraction(30000, 1001), [0, 1, 2, 3, 4]),
        (25, 1, 25, [0, 0, 0]),
    ],
)
def test_frames_shown(stream_rate, stream_frames, rate, shown):
    assert frames_shown(Fraction(stream_rate), stream_frames, Fraction(rate), len(shown)) == shown


@given(*[st.fractions(Fraction(1, 9), 99, max_denominator=1001)] * 2, st.integers(1, 30))
def test_a_frame_is_shown_at_its_time(stream_rate, rate, stream_frames):
    """Frame m of a stream lasts from m / rate to (m + 1) / rate, the last one for ever."""
    for n, m in enumerate(frames_shown(stream_rate, stream_frames, rate, 40)):
        assert 0 <= m < stream_frames and m / stream_rate <= n / rate
        assert n / rate < (m + 1) / stream_rate or m == stream_frames - 1


def streams(formats):
    """(streams of small JPEG files of different sizes and lengths, frames per second of each)."""
    sizes, lengths = ((40, 30), (33, 21), (16, 50)), (3, 5, 2)
    files = [
        [encode(noise(format, *size, seed=n), 90) for n in range(length)]
        for format, size, length in zip(formats, sizes, lengths)
    ]
    return files, [Fraction(25), Fraction(50), Fraction(10)]


LAYERS = (Placement(0, 0, 0, 40, 30), Placement(1, 21, 13, 33, 21, 90), Placement(2, -7, -9, 16, 50, 200))


def test_streams_by_pillow_alone():
    """Gray streams at their own size: Pillow reads the files and pastes."""
    files, rates = streams([ChromaFormat.Gray] * 3)
    wall = Composition(49, 41, (200, 90, 30), Fraction(25), 5, LAYERS)
    made = list(compose_streams(wall, [list(transcode(some, [])) for some in files], rates, [Target(49, 41, 95)]))
    shown = [(0, 0, 0), (1, 2, 0), (2, 4, 0), (2, 4, 1), (2, 4, 1)]
    for result, numbers in zip(made, shown, strict=True):
        canvas = Image.new("L", (49, 41), 200)
        for (place, some), n in zip(zip(LAYERS, files), numbers):
            picture = Image.open(io.BytesIO(some[n]))
            canvas.paste(picture, (place.x, place.y), Image.new("L", picture.size, place.alpha))
        assert np.array_equal(result.decoded.planes[0], np.asarray(canvas)) and result.where == 0
        assert Image.open(io.BytesIO(result.bitstreams[0])).size == (49, 41)
        assert result.bitstreams[0] == encode(result.decoded, 95)


@pytest.mark.parametrize("size", [(0, 0), (5, -3)], ids=["native", "scaled"])
def test_streams_against_pillow(size):
    files, rates = streams([ChromaFormat.C420, ChromaFormat.Gray, ChromaFormat.C420])
    layers = tuple(dataclasses.replace(p, width=p.width + size[0], height=p.height + size[1]) for p in LAYERS)
    wall = Composition(50, 40, (16, 90, 240), Fraction(50), 7, layers)
    results = [list(transcode(some, [])) for some in files]
    targets = [Target(50, 40, 80), Target(25, 60, 50, 2)]
    shown = [(0, 0, 0), (0, 1, 0), (1, 2, 0), (1, 3, 0), (2, 4, 0), (2, 4, 1), (2, 4, 1)]
    for made, numbers in zip(compose_streams(wall, results, rates, targets), shown, strict=True):
        frames = [scale(results[p.stream][n].decoded, p.width, p.height) for p, n in zip(layers, numbers)]
        placed = [Layer(frame, p.x, p.y, p.alpha) for frame, p in zip(frames, layers)]
        assert pillow(placed, 50, 40, wall.background).first_difference(made.decoded) is None
        assert made.scaled[0] == made.decoded and made.scaled[1] == scale(made.decoded, 25, 60)
        assert made.bitstreams == (encode(made.decoded, 80), encode(made.scaled[1], 50, 2))
        assert decode(made.bitstreams[1]).frame.width == 25


def test_what_cannot_be_shown_is_left_out():
    files, rates = streams([ChromaFormat.C420] * 3)
    files[0][1] = files[0][1][:-40]
    layers = (*LAYERS[:2], Placement(2, 0, 0, 129, 50), Placement(0, 3, 3, 40, 30, 128))
    wall = Composition(50, 40, (16, 90, 240), Fraction(25), 3, layers)
    results = [list(transcode(some, [])) for some in files]
    made = list(compose_streams(wall, results, rates, []))
    assert [result.where for result in made] == [0b0100, 0b1101, 0b0100]
    assert made[1].decoded == compose([Layer(results[1][2].decoded, 21, 13, 90)], 50, 40, wall.background)
