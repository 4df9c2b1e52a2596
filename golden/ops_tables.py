"""Tables of the frame operations, which the golden and the silicon share."""

from __future__ import annotations

__all__ = [
    "CUBIC",
    "CUBIC_BITS",
    "PHASE_BITS",
    "POSITION_BITS",
    "PRODUCT_SHIFT",
    "RECIPROCAL_BITS",
    "SAMPLE_BITS",
    "SUM_GUARD",
]

PHASE_BITS = 5
"""Binary logarithm of the number of phases of the scaler."""
CUBIC_BITS = 16
"""Fractional bits of :data:`CUBIC`."""
POSITION_BITS = 24
"""Fractional bits of a scaler's step from sample to sample."""
PRODUCT_SHIFT = 8
"""Low bits that a product of a weight and a sample loses before it is added."""
SUM_GUARD = 4
"""Bits below a sample's last that a sum of a shrinking scaler keeps when it is normalized."""
RECIPROCAL_BITS = 14
"""Fractional bits of the reciprocal by which a sum of a shrinking scaler is normalized."""
SAMPLE_BITS = 4
"""Fractional bits of the samples between the two passes of the scaler."""


def _cubic(phase: int) -> tuple[int, int, int, int]:
    # Cubic convolution with a = -1/2 (R. Keys, 1981), at x = phase/32 + 1, x, 1 - x, 2 - x. In units of 2**-16 all of
    # it is whole: x**3 has 15 fractional bits, and a one more.
    def near(x: int) -> int:
        return 3 * x**3 - 5 * x**2 * 32 + 2 * 32**3

    def far(x: int) -> int:
        return -(x**3) + 5 * x**2 * 32 - 8 * x * 32**2 + 4 * 32**3

    return far(phase + 32), near(phase), near(32 - phase), far(64 - phase)


CUBIC = tuple(_cubic(phase) for phase in range(1 << PHASE_BITS))
"""Weights of the samples at -1, 0, 1 and 2 for a point at ``phase``/32 behind 0; each row adds up to 65536 exactly."""
