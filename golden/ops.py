"""Operations on whole frames: what the compute engine must produce, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .frames import ChromaFormat, Frame
from .ops_tables import (
    CUBIC,
    CUBIC_BITS,
    PHASE_BITS,
    POSITION_BITS,
    PRODUCT_SHIFT,
    RECIPROCAL_BITS,
    SAMPLE_BITS,
    SUM_GUARD,
)

__all__ = ["MAX_RATIO", "Axis", "Layer", "OpsError", "axis_of", "compose", "resample", "scale"]

MAX_RATIO = 8
"""Largest ratio of sizes in :func:`scale`, either way."""

_Samples = npt.NDArray[np.int64]


class OpsError(ValueError):
    """An operation that cannot be done: says what was given and what was expected."""


class Axis(NamedTuple):
    """How one plane is scaled along one axis.

    The axis has a *fine* and a *coarse* grid: growing, the output is the fine one; shrinking, the input is. Fine
    sample ``n`` lies at ``(n + 1/2) * step - 1/2`` of the coarse grid.
    """

    grow: bool
    """The output is the fine grid; so too when the sizes are equal."""
    fine: int
    """Samples of the plane on the fine grid."""
    coarse: int
    """Samples of the plane on the coarse grid."""
    step: int
    """Distance of fine samples on the coarse grid, 1/16 to 1, rounded down to 24 fractional bits."""

    @property
    def shift(self) -> int:
        """The least t such that a step is at least 2**-t."""
        return POSITION_BITS + 1 - self.step.bit_length()

    def positions(self) -> tuple[list[int], list[int]]:
        """(base, phase) of each fine sample: it lies at base + phase/32, rounded to that, of the coarse grid."""
        half = 1 << (POSITION_BITS - 1)
        down = POSITION_BITS - PHASE_BITS
        start = (self.step >> 1) - half + (1 << (down - 1))
        at = [(start + n * self.step) >> down for n in range(self.fine)]
        return [q >> PHASE_BITS for q in at], [q & ((1 << PHASE_BITS) - 1) for q in at]


def axis_of(source: int, target: int, *, plane: int = 0, shift: int = 0) -> Axis:
    """The :class:`Axis` of a plane when pictures of ``source`` luma samples become pictures of ``target``.

    Parameters
    ----------
    source, target
        Luma size along the axis.
    plane
        0 for luma; else chroma, whose target is halved.
    shift
        1 if the source's chroma is halved along the axis, else 0. Of no meaning for luma.
    """
    if plane == 0:
        here, there = source, target
    else:
        here, there = (source + 1) >> 1 if shift else source, (target + 1) >> 1
        source = source if shift else 2 * source
    if source <= target:
        return Axis(True, there, here, (source << POSITION_BITS) // target)
    return Axis(False, here, there, (target << POSITION_BITS) // source)


def _grow(samples: _Samples, axis: Axis) -> _Samples:
    total = np.zeros((axis.fine, samples.shape[1]), np.int64)
    base, phase = (np.array(values) for values in axis.positions())
    weights = np.array(CUBIC, np.int64)[phase]
    taps = np.clip(base[:, None] + np.arange(-1, 3), 0, axis.coarse - 1)
    # Where an edge stands for several taps, their weights are added before they multiply it.
    for tap in range(1, 4):
        again = taps[:, tap] == taps[:, tap - 1]
        weights[again, tap] += weights[again, tap - 1]
        weights[again, tap - 1] = 0
    for tap in range(4):
        total += (weights[:, tap, None] * samples[taps[:, tap]]) >> PRODUCT_SHIFT
    left = CUBIC_BITS - PRODUCT_SHIFT
    return (total + (1 << (left - 1))) >> left


def _shrink(samples: _Samples, axis: Axis) -> _Samples:
    # Three coarse samples of margin at either end take what falls outside, and are dropped.
    total = np.zeros((axis.coarse + 6, samples.shape[1]), np.int64)
    gain = np.zeros(axis.coarse + 6, np.int64)
    cubic = np.array(CUBIC, np.int64)
    for n, (base, phase) in enumerate(zip(*axis.positions())):
        total[base + 2 : base + 6] += (cubic[phase][:, None] * samples[n]) >> PRODUCT_SHIFT
        gain[base + 2 : base + 6] += cubic[phase]
    total, gain = total[3:-3], gain[3:-3]
    reciprocal = (1 << (CUBIC_BITS + RECIPROCAL_BITS)) // (gain >> axis.shift)
    # Before it is normalized, a sum keeps SUM_GUARD bits below a sample's last.
    total >>= axis.shift + CUBIC_BITS - PRODUCT_SHIFT - SUM_GUARD
    left = RECIPROCAL_BITS + SUM_GUARD
    return (total * reciprocal[:, None] + (1 << (left - 1))) >> left


def resample(samples: _Samples, axis: Axis) -> _Samples:
    """One pass of :func:`scale`: rows of samples with 4 fractional bits along `axis`, to such rows, not clipped."""
    return _grow(samples, axis) if axis.grow else _shrink(samples, axis)


def scale(frame: Frame, width: int, height: int) -> Frame:
    """Scale to ``width`` x ``height``; colour comes out as 4:2:0, 4:0:0 stays.

    Both axes use the cubic convolution kernel with a = -1/2 at 32 phases, from the same table of exact values.

    - *Growing*, an output sample is the sum of the four input samples about it (two each side). Past an edge stands
      the edge's sample again.
    - *Shrinking* is growing transposed: the kernel is as wide as four output samples (8 taps at 1/2, 32 at 1/8), so
      that nothing aliases whatever the ratio. The phase is that of the input sample between output samples. The
      weights of an output sample are divided by their sum; at an edge the kernel is cut there.

    Below 1/2 the kernel goes on growing; no prefilter stands before it. (A cascade of 2:1 prefilters and an 8-tap
    kernel came within 36 to 39 dB of the antialiased bicubic just below 1/2 and 1/4; this one stays above 50 dB.)

    Siting: luma samples are the centres of equal squares that tile the picture. Chroma lies mid-way between the luma
    samples that it belongs to, on both axes, in every format in and out, as in JPEG. An odd luma size has a chroma
    sample whose far half lies outside of the picture.

    Positions advance by a step of 24 fractional bits: over 2048 samples they drift by less than 2**-13 of a sample.
    The horizontal pass goes first if it shrinks, else the vertical one: what lies between is never larger than both
    the source and the target.
    Between the two passes samples have 4 fractional bits, and keep what overshoots; after the second they are rounded
    and clipped to 0 .. 255. The same size in 4:2:0 or 4:0:0 is an exact copy.

    Raises
    ------
    OpsError
        A size below 1, or a ratio of sizes outside of 1/8 to 8.
    """
    for name, source, target in (("width", frame.width, width), ("height", frame.height, height)):
        if source < 1 or target < 1:
            raise OpsError(f"{name} {source} to {target}: 1 or more expected")
        if target * MAX_RATIO < source or target > source * MAX_RATIO:
            raise OpsError(f"{name} {source} to {target}: a ratio of 1/{MAX_RATIO} to {MAX_RATIO} expected")
    shifts = frame.format.shifts
    planes = []
    for n, plane in enumerate(frame.planes):
        across = axis_of(frame.width, width, plane=n, shift=shifts[0])
        down = axis_of(frame.height, height, plane=n, shift=shifts[1])
        samples = plane.astype(np.int64) << SAMPLE_BITS
        if across.grow:
            samples = resample(resample(samples, down).T, across).T
        else:
            samples = resample(resample(samples.T, across).T, down)
        planes.append(np.clip((samples + (1 << (SAMPLE_BITS - 1))) >> SAMPLE_BITS, 0, 255).astype(np.uint8))
    return Frame(ChromaFormat.Gray if len(planes) == 1 else ChromaFormat.C420, tuple(planes))


class Layer(NamedTuple):
    """A picture and its place in another one, for :func:`compose`."""

    frame: Frame
    """4:2:0, or 4:0:0, whose chroma counts as 128."""
    x: int
    """Column of the canvas on which the layer's first one lies; it may lie outside, and so may all of the layer."""
    y: int
    """Row, likewise."""
    alpha: int = 255
    """Weight of the layer against what lies below, 0 (not seen) to 255 (opaque)."""


def _blend(below: npt.NDArray[np.uint8], above: npt.NDArray[np.uint8], alpha: int) -> npt.NDArray[np.uint8]:
    """The mean of both, weighted by `alpha` of 255; rounded as Pillow's `paste` does it."""
    total = alpha * above.astype(np.int64) + (255 - alpha) * below.astype(np.int64) + 128
    return ((total + (total >> 8)) >> 8).astype(np.uint8)


def compose(layers: Iterable[Layer], width: int, height: int, background: tuple[int, int, int]) -> Frame:
    """Draw `layers`, the first one lowest, over a canvas of ``width`` x ``height`` luma samples; 4:2:0 comes out.

    In each plane, a layer's sample s over what lies below, d, gives ``t = alpha * s + (255 - alpha) * d + 128``, and of
    that ``(t + (t >> 8)) >> 8``: the quotient by 255, rounded to the nearest. A layer's chroma planes lie at
    ``(x >> 1, y >> 1)``, rounded down, of the canvas's. What lies outside of the canvas is not drawn.

    Parameters
    ----------
    background
        Y, Cb and Cr of the canvas before anything is drawn, 0 to 255 each.

    Raises
    ------
    OpsError
        A size below 1, a layer of another format than 4:2:0 and 4:0:0, or an alpha or a background outside of 0 to 255.
    """
    for name, size in (("width", width), ("height", height)):
        if size < 1:
            raise OpsError(f"{name} {size}: 1 or more expected")
    if len(background) != 3 or not all(0 <= value <= 255 for value in background):
        raise OpsError(f"background {background}: Y, Cb and Cr of 0 to 255 expected")
    shapes = [ChromaFormat.C420.plane_size(n, width, height)[::-1] for n in range(3)]
    planes = [np.full(shape, value, np.uint8) for shape, value in zip(shapes, background)]
    for number, (frame, x, y, alpha) in enumerate(layers):
        if frame.format not in (ChromaFormat.C420, ChromaFormat.Gray):
            raise OpsError(f"layer {number} is {frame.format}: 4:2:0 or 4:0:0 expected")
        if not 0 <= alpha <= 255:
            raise OpsError(f"layer {number} has alpha {alpha}: 0 to 255 expected")
        if frame.width < 1 or frame.height < 1:
            raise OpsError(f"layer {number} is {frame.width}x{frame.height}: 1x1 or more expected")
        for n, plane in enumerate(planes):
            if n < len(frame.planes):
                source = frame.planes[n]
            else:
                source = np.full(ChromaFormat.C420.plane_size(n, frame.width, frame.height)[::-1], 128, np.uint8)
            left, top = (x, y) if n == 0 else (x >> 1, y >> 1)
            rows = slice(max(top, 0), max(min(top + source.shape[0], plane.shape[0]), 0))
            columns = slice(max(left, 0), max(min(left + source.shape[1], plane.shape[1]), 0))
            if rows.start < rows.stop and columns.start < columns.stop:
                shown = source[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
                plane[rows, columns] = _blend(plane[rows, columns], shown, alpha)
    return Frame(ChromaFormat.C420, tuple(planes))
