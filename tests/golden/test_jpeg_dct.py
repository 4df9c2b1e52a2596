"""The golden transforms against float64, and their widths."""

import numpy as np
import pytest

from tessera.golden.jpeg import dct

_N = np.arange(8)
_BASIS = np.cos((2 * _N + 1) * _N[:, None] * np.pi / 16) / 2 * np.where(_N[:, None], 1, np.sqrt(0.5))


def forward_exact(samples):
    return _BASIS @ (samples.astype(float) - 128) @ _BASIS.T


def inverse_exact(coefficients):
    return np.clip(np.rint(_BASIS.T @ coefficients.astype(float) @ _BASIS + 128), 0, 255)


@pytest.mark.parametrize("low, high", [(-256, 255), (-5, 5), (-300, 300)])
def test_inverse_keeps_the_accuracy_of_ieee_1180(low, high):
    """Ref: IEEE 1180-1990 3.2, all its limits, on 10,000 blocks of samples for each range and sign."""
    for sign in (1, -1):
        samples = np.random.default_rng(1).integers(low, high + 1, (10000, 8, 8)) * sign
        coefficients = np.clip(np.rint(_BASIS @ samples @ _BASIS.T), -2048, 2047).astype(np.int16)
        error = dct.inverse(coefficients).astype(int) - inverse_exact(coefficients)
        assert np.abs(error).max() <= 1
        assert (error**2).mean(0).max() <= 0.06 and (error**2).mean() <= 0.02
        assert np.abs(error.mean(0)).max() <= 0.015 and abs(error.mean()) <= 0.0015


def test_forward_is_accurate():
    samples = np.random.default_rng(2).integers(0, 256, (20000, 8, 8), dtype=np.uint8)
    error = dct.forward(samples) / 8 - forward_exact(samples)
    assert np.abs(error).max() < 0.3 and abs(error.mean()) < 0.01


def test_forward_of_flat_blocks():
    for level in range(256):
        coefficients = dct.forward(np.full((8, 8), level, np.uint8))
        assert coefficients[0, 0] == 64 * (level - 128) and np.count_nonzero(coefficients) == (level != 128)


def test_there_and_back():
    """Quantizers of 1 lose at most one level in smooth blocks, two in noise."""
    samples = np.random.default_rng(3).integers(0, 256, (5000, 8, 8), dtype=np.uint8)
    ones = np.ones((8, 8), np.uint16)
    again = dct.inverse(dct.dequantize(dct.quantize(dct.forward(samples), ones), ones))
    assert np.abs(again.astype(int) - samples).max() <= 2


def test_quantize_rounds_half_away_from_zero():
    values = np.arange(-(2**14), 2**14).astype(np.int16).reshape(-1, 8, 8)
    for q in range(1, 256):
        expected = np.trunc(values / (8 * q) + np.copysign(0.5, values))
        np.testing.assert_array_equal(dct.quantize(values, np.full((8, 8), q, np.uint16)), expected)


def test_dequantize_wraps():
    coefficients = np.full((8, 8), 1023, np.int16)
    assert (dct.dequantize(coefficients, np.full((8, 8), 65535, np.uint16)) == -1023).all()
    assert (dct.dequantize(coefficients, np.full((8, 8), 64, np.uint16)) == -64).all()


def _inverse_pass_wide(i, shift):
    """One pass in the matrix form of its fixed-point algorithm, in unlimited integers, inputs' sums wrapped."""

    def wrap(x):
        return (x + 2**15) % 2**16 - 2**15

    even = [
        wrap(i[0] + i[4]) * 8192 + i[2] * 10703 + i[6] * 4433,
        wrap(i[0] - i[4]) * 8192 + i[2] * 4433 - i[6] * 10704,
        wrap(i[0] - i[4]) * 8192 - i[2] * 4433 + i[6] * 10704,
        wrap(i[0] + i[4]) * 8192 - i[2] * 10703 - i[6] * 4433,
    ]
    a, b = wrap(i[3] + i[7]), wrap(i[1] + i[5])
    odd = [
        i[1] * 4926 - i[7] * 7373 + a * 9633 + b * 6437,
        i[3] * 4177 - i[5] * 20995 - a * 6436 + b * 9633,
        -i[5] * 4176 - i[3] * 20995 + a * 9633 + b * 6437,
        -i[7] * 4927 - i[1] * 7373 - a * 6436 + b * 9633,
    ]
    sums = [e + o for e, o in zip(even, odd)] + [e - o for e, o in zip(even, odd)][::-1]
    half = 1 << (shift - 1)
    assert max(np.abs(s).max() for s in sums) + half < 2**31
    return [(s + half) >> shift for s in sums]


def test_inverse_fits_32_bits_for_any_input():
    """Equal to unlimited integers on random and extreme coefficients; 32 bits suffice."""
    rng = np.random.default_rng(4)
    extreme = rng.choice(np.array([-32768, 32767, -16384, 16384], np.int16), (4000, 8, 8))
    anything = rng.integers(-32768, 32768, (4000, 8, 8)).astype(np.int16)
    small = rng.integers(-300, 300, (2000, 8, 8)).astype(np.int16)
    blocks = np.concatenate([extreme, anything, small])
    x = np.stack(_inverse_pass_wide([blocks[:, k].astype(np.int64) for k in range(8)], 11), 1)
    x = np.clip(x, -32768, 32767)
    x = np.stack(_inverse_pass_wide([x[:, :, k] for k in range(8)], 18), 2)
    np.testing.assert_array_equal(dct.inverse(blocks), np.clip(x, -128, 127) + 128)
    worst = 2**15 * (8192 + 10703 + 4433) + 2**15 * (4177 + 20995 + 6436 + 9633) + 2**17
    assert worst < 2**31
