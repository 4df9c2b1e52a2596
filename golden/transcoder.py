"""The golden transcoder: JPEG files in, scaled JPEG files out, each frame on its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .frames import Frame
from .jpeg.decoder import JpegError, decode
from .jpeg.encoder import encode
from .jpeg.status import JpegStatus
from .ops import OpsError, scale

__all__ = ["Target", "Transcoded", "decode_frame", "transcode"]


@dataclass(frozen=True)
class Target:
    """What one output shall be: its size in luma samples, and the encoder's `quality` and `restart_interval` (MCUs)."""

    width: int
    height: int
    quality: int
    restart_interval: int = 0


@dataclass(frozen=True)
class Transcoded:
    """What became of one frame.

    Parameters
    ----------
    status, where
        How its decode ended; `JpegStatus` says what `where` means. Anything but ``Ok`` leaves nothing else.
    message
        The error in words; empty when there is none.
    decoded
        The frame as the file has it.
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


def _scaled(frame: Frame, target: Target) -> Frame | None:
    try:
        return scale(frame, target.width, target.height)
    except OpsError:
        return None


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
        scaled = tuple(_scaled(result.decoded, target) for target in targets)
        bitstreams = tuple(
            None if frame is None else encode(frame, target.quality, target.restart_interval)
            for frame, target in zip(scaled, targets)
        )
        yield Transcoded(result.status, result.where, decoded=result.decoded, scaled=scaled, bitstreams=bitstreams)
