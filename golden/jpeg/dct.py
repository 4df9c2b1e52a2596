"""The 8x8 transforms of libjpeg's ISLOW method, inverse and forward, exact to the bit.

Both are two passes of the one-dimensional algorithm of Loeffler, Ligtenberg and Moschytz (ICASSP 1989) in fixed point,
with constants of CONST_BITS = 13 fraction bits and PASS1_BITS = 2 guard bits between the passes.

`descale(x, n)` is (x + 2**(n-1)) >> n, arithmetic: round half up.

Widths of the inverse transform (they matter only for streams that no encoder writes; they are those of libjpeg-turbo's
SIMD code on x86):

- a quantized coefficient is 16 bits, its product with the quantizer wraps to signed 16 bits;
- in both passes the sums of two inputs in0+in4, in0-in4, in3+in7 and in1+in5 wrap to signed 16 bits; all products and
  what is summed from them fit signed 32 bits for any input, nothing else wraps;
- pass 1, over columns, descales by 11 and saturates to signed 16 bits;
- pass 2, over rows, descales by 18, saturates to -128..127 and adds 128.

libjpeg-turbo differs from this in one case, which no valid stream reaches: blocks whose coefficients outside the first
row are all zero and where one of the first row is beyond -8192..8191 after dequantization.

The forward transform of 8-bit samples never leaves signed 16 bits between its passes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import tables as t

__all__ = ["dequantize", "forward", "inverse", "quantize"]

Blocks = npt.NDArray[np.int16]
_Ints = npt.NDArray[np.int32]


def _wrap(x: _Ints) -> _Ints:
    return x.astype(np.int16).astype(np.int32)


def _descale(x: _Ints, n: int) -> _Ints:
    return (x + (1 << (n - 1))) >> n


def dequantize(coefficients: Blocks, quantizers: npt.NDArray[np.uint16]) -> Blocks:
    """Products of coefficients and quantizers, wrapped to signed 16 bits; arrays (..., 8, 8) and (8, 8)."""
    return (coefficients.astype(np.int32) * quantizers.astype(np.int32)).astype(np.int16)


def _inverse_pass(i: list[_Ints], shift: int) -> list[_Ints]:
    """One pass over lists of the eight inputs; the eight outputs, descaled by `shift`, not yet saturated."""
    even0 = _wrap(i[0] + i[4]) << t.CONST_BITS
    even1 = _wrap(i[0] - i[4]) << t.CONST_BITS
    rotated = (i[2] + i[6]) * t.FIX_0_541196100
    even2 = rotated - i[6] * t.FIX_1_847759065
    even3 = rotated + i[2] * t.FIX_0_765366865
    even = [even0 + even3, even1 + even2, even1 - even2, even0 - even3]

    z3, z4 = _wrap(i[7] + i[3]), _wrap(i[5] + i[1])
    z5 = (z3 + z4) * t.FIX_1_175875602
    z1, z2 = (i[7] + i[1]) * t.FIX_0_899976223, (i[5] + i[3]) * t.FIX_2_562915447
    z3, z4 = z5 - z3 * t.FIX_1_961570560, z5 - z4 * t.FIX_0_390180644
    odd = [
        i[1] * t.FIX_1_501321110 - z1 + z4,
        i[3] * t.FIX_3_072711026 - z2 + z3,
        i[5] * t.FIX_2_053119869 - z2 + z4,
        i[7] * t.FIX_0_298631336 - z1 + z3,
    ]

    sums = [_descale(e + o, shift) for e, o in zip(even, odd)]
    differences = [_descale(e - o, shift) for e, o in zip(even, odd)]
    return sums + differences[::-1]


def inverse(coefficients: Blocks) -> npt.NDArray[np.uint8]:
    """Samples of blocks of dequantized coefficients.

    Parameters
    ----------
    coefficients
        int16 (..., 8, 8), natural order: row is vertical frequency.

    Returns
    -------
    uint8 (..., 8, 8)
    """
    # The eight lines of a pass are the leading axis, so that each operand is contiguous.
    x = np.moveaxis(coefficients.astype(np.int32), -2, 0)
    x = np.stack(_inverse_pass(list(x), t.CONST_BITS - t.PASS1_BITS))
    x = np.moveaxis(np.clip(x, -(2**15), 2**15 - 1), -1, 0)
    x = np.stack(_inverse_pass(list(np.ascontiguousarray(x)), t.CONST_BITS + t.PASS1_BITS + 3))
    samples = (np.clip(x, -128, 127) + 128).astype(np.uint8)
    return np.moveaxis(samples, (0, 1), (-1, -2))


def _forward_pass(i: list[_Ints], shift: int, first: bool) -> list[_Ints]:
    """One pass over lists of the eight inputs; outputs 0 and 4 are scaled by 4 in the first pass, descaled by 2 bits in
    the second; the others are descaled by `shift`."""
    s = [a + b for a, b in zip(i[:4], i[:3:-1])]
    d = [a - b for a, b in zip(i[:4], i[:3:-1])]
    e10, e13, e11, e12 = s[0] + s[3], s[0] - s[3], s[1] + s[2], s[1] - s[2]
    even = [e10 + e11, e10 - e11]
    out0, out4 = ([x << t.PASS1_BITS for x in even]) if first else [_descale(x, t.PASS1_BITS) for x in even]
    rotated = (e12 + e13) * t.FIX_0_541196100
    out2, out6 = rotated + e13 * t.FIX_0_765366865, rotated - e12 * t.FIX_1_847759065

    z1, z2 = (d[3] + d[0]) * t.FIX_0_899976223, (d[2] + d[1]) * t.FIX_2_562915447
    z3, z4 = d[3] + d[1], d[2] + d[0]
    z5 = (z3 + z4) * t.FIX_1_175875602
    z3, z4 = z5 - z3 * t.FIX_1_961570560, z5 - z4 * t.FIX_0_390180644
    out7 = d[3] * t.FIX_0_298631336 - z1 + z3
    out5 = d[2] * t.FIX_2_053119869 - z2 + z4
    out3 = d[1] * t.FIX_3_072711026 - z2 + z3
    out1 = d[0] * t.FIX_1_501321110 - z1 + z4
    o1, o2, o3, o5, o6, o7 = (_descale(x, shift) for x in (out1, out2, out3, out5, out6, out7))
    return [out0, o1, o2, o3, out4, o5, o6, o7]


def forward(samples: npt.NDArray[np.uint8]) -> Blocks:
    """Coefficients, scaled by 8, of blocks of samples.

    Parameters
    ----------
    samples
        uint8 (..., 8, 8).

    Returns
    -------
    int16 (..., 8, 8), natural order, eight times the coefficients of T.81 A.3.3.
    """
    x = np.moveaxis(samples.astype(np.int32) - 128, -1, 0)
    x = np.stack(_forward_pass(list(x), t.CONST_BITS - t.PASS1_BITS, True))
    x = np.moveaxis(x, -1, 0)
    x = np.stack(_forward_pass(list(np.ascontiguousarray(x)), t.CONST_BITS + t.PASS1_BITS, False))
    return np.moveaxis(x, (0, 1), (-2, -1)).astype(np.int16)


def quantize(coefficients: Blocks, quantizers: npt.NDArray[np.uint16]) -> Blocks:
    """Quotients of the forward transform's coefficients and eight times the quantizers, rounded half away from zero."""
    magnitude = np.abs(coefficients.astype(np.int32))
    divisor = quantizers.astype(np.int32) * 8
    quotient = (magnitude + (divisor >> 1)) // divisor
    return np.where(coefficients < 0, -quotient, quotient).astype(np.int16)
