"""The golden transcoder: JPEG files in, scaled JPEG files out, each frame on its own or several in one picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from .frames import Frame
from .jpeg.decoder import JpegError, decode
from .jpeg.encoder import encode
from .jpeg.status import JpegStatus
from .ops import Layer, OpsError, compose, scale

__all__ = [
    "Composition",
    "Placement",
    "Target",
    "Transcoded",
    "compose_streams",
    "decode_frame",
    "frames_shown",
    "transcode",
]


@dataclass(frozen=True)
class Target:
    """What one output shall be: its size in luma samples, and the encoder's `quality` and `restart_interval` (MCUs)."""

    width: int
    height: int
    quality: int
    restart_interval: int = 0


@dataclass(frozen=True)
class Transcoded:
    """What became of one frame of a stream or a composition.

    Parameters
    ----------
    status, where
        How its decode ended; `JpegStatus` says what `where` means. Anything but ``Ok`` leaves nothing else. A
        composition's frame is always ``Ok``, and bit n of `where` says that layer n was left out; 0 is the lowest one.
    message
        The error in words; empty when there is none.
    decoded
        The frame as the file has it, or as it was composed.
    scaled, bitstreams
        For each target, what was scaled from it and the file that it became; None where the ratio of sizes is beyond
        1/8 to 8.
    """

    status: JpegStatus
    where: int = 0
    message: str = ""
    decoded: Frame | None = None
    scaled: tuple[Frame | None, ...] = ()
    bitstreams: tuple[bytes | None, ...] = ()


def decode_frame(data: bytes, max_width: int = 65535, max_height: int = 65535) -> Transcoded:
    """Decode one file; an error is a value. Larger images are ``BadSize``."""
    try:
        return Transcoded(JpegStatus.Ok, decoded=decode(data, max_width, max_height).frame)
    except JpegError as error:
        return Transcoded(error.status, error.where, str(error))


@dataclass(frozen=True)
class Placement:
    """A layer of a composition: a stream scaled to a size in luma samples, at a place of the canvas.

    `stream` is the stream's number; `x`, `y` and `alpha` are as in :class:`Layer`.
    """

    stream: int
    x: int
    y: int
    width: int
    height: int
    alpha: int = 255


@dataclass(frozen=True)
class Composition:
    """A picture of several streams, frame by frame.

    Parameters
    ----------
    width, height
        Of the canvas, in luma samples.
    background
        Y, Cb and Cr of it.
    rate
        Frames per second.
    frames
        How many.
    layers
        The first one is the lowest one.
    """

    width: int
    height: int
    background: tuple[int, int, int]
    rate: Fraction
    frames: int
    layers: tuple[Placement, ...]


def frames_shown(stream_rate: Fraction, stream_frames: int, rate: Fraction, frames: int) -> list[int]:
    """For each frame of a composition of `rate`, the number of the stream's frame that it shows.

    Both begin at the same time. Frame n shows the stream's frame of that time, floor(n * stream_rate / rate): of a
    quicker stream some frames are never shown, of a slower one some are shown again. A stream that has ended goes on
    with its last frame.
    """
    return [min(n * stream_rate // rate, stream_frames - 1) for n in range(frames)]


def _scaled(frame: Frame, size: Target | Placement) -> Frame | None:
    try:
        return scale(frame, size.width, size.height)
    except OpsError:
        return None


def _outputs(frame: Frame, targets: Sequence[Target]) -> tuple[tuple[Frame | None, ...], tuple[bytes | None, ...]]:
    """(for each target what is scaled, and the file that it becomes)."""
    scaled = tuple(_scaled(frame, target) for target in targets)
    return scaled, tuple(
        None if made is None else encode(made, target.quality, target.restart_interval)
        for made, target in zip(scaled, targets)
    )


def transcode(
    files: Iterable[bytes], targets: Iterable[Target], max_width: int = 65535, max_height: int = 65535
) -> Iterator[Transcoded]:
    """Decode each file once, and scale and encode it for each target.

    Raises
    ------
    ValueError
        A quality or a restart interval out of range.
    """
    targets = tuple(targets)
    for data in files:
        result = decode_frame(data, max_width, max_height)
        if result.decoded is None:
            yield result
            continue
        scaled, bitstreams = _outputs(result.decoded, targets)
        yield Transcoded(result.status, result.where, decoded=result.decoded, scaled=scaled, bitstreams=bitstreams)


def compose_streams(
    composition: Composition,
    streams: Sequence[Sequence[Transcoded]],
    rates: Sequence[Fraction],
    targets: Iterable[Target],
) -> Iterator[Transcoded]:
    """Compose each frame of what became of `streams`, whose frames per second are `rates`, and scale and encode it.

    :func:`frames_shown` says which frames are shown. A layer whose frame could not be decoded, or not be scaled to its
    size, is left out, and the others are drawn.

    Raises
    ------
    OpsError
        A composition that cannot be.
    ValueError
        A quality or a restart interval out of range.
    """
    targets = tuple(targets)
    shown = [
        frames_shown(rates[place.stream], len(streams[place.stream]), composition.rate, composition.frames)
        for place in composition.layers
    ]
    last: dict[int, tuple[int, Frame | None]] = {}
    for n in range(composition.frames):
        layers: list[Layer] = []
        left_out = 0
        for number, place in enumerate(composition.layers):
            frame = shown[number][n]
            if number not in last or last[number][0] != frame:
                source = streams[place.stream][frame].decoded
                last[number] = frame, None if source is None else _scaled(source, place)
            picture = last[number][1]
            if picture is None:
                left_out |= 1 << number
            else:
                layers.append(Layer(picture, place.x, place.y, place.alpha))
        canvas = compose(layers, composition.width, composition.height, composition.background)
        scaled, bitstreams = _outputs(canvas, targets)
        yield Transcoded(JpegStatus.Ok, left_out, decoded=canvas, scaled=scaled, bitstreams=bitstreams)
