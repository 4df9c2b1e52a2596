"""Frames: planes of 8-bit samples with a chroma format, and their .y4m files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["ChromaFormat", "Frame", "FrameError", "read_y4m", "write_y4m"]

Plane = npt.NDArray[np.uint8]


class FrameError(ValueError):
    """A frame or a frame file that cannot be: says where, and what was expected."""


class ChromaFormat(IntEnum):
    """Chroma format; the values are H.264's `chroma_format_idc` (ITU-T H.264 (08/2021) 7.4.2.1.1)."""

    Gray = 0
    """4:0:0, luma only."""
    C420 = 1
    """4:2:0, chroma halved both ways."""
    C422 = 2
    """4:2:2, chroma halved horizontally."""
    C444 = 3
    """4:4:4, chroma as large as luma."""

    @property
    def shifts(self) -> tuple[int, int]:
        """(horizontal, vertical) binary logarithm of luma's size over chroma's."""
        return (int(self in (self.C420, self.C422)), int(self == self.C420))

    @property
    def planes(self) -> int:
        """Number of planes, 1 or 3."""
        return 1 if self == self.Gray else 3

    def plane_size(self, plane: int, width: int, height: int) -> tuple[int, int]:
        """(width, height) of `plane` (0 luma, 1 Cb, 2 Cr) of a picture; halves round up."""
        if plane == 0:
            return width, height
        h, v = self.shifts
        return (width + h) >> h, (height + v) >> v

    def __str__(self) -> str:
        return ("4:0:0", "4:2:0", "4:2:2", "4:4:4")[self]


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture.

    Parameters
    ----------
    format
        Chroma format.
    planes
        (Y,) or (Y, Cb, Cr): uint8 arrays of shape (height, width), chroma in its native size (halves rounded up).
    """

    format: ChromaFormat
    planes: tuple[Plane, ...]

    def __post_init__(self) -> None:
        if len(self.planes) != self.format.planes:
            raise FrameError(f"{len(self.planes)} planes; {self.format} has {self.format.planes}")
        for n, plane in enumerate(self.planes):
            width, height = self.format.plane_size(n, self.width, self.height)
            if plane.dtype != np.uint8 or plane.shape != (height, width):
                raise FrameError(
                    f"plane {n} is {plane.dtype} {plane.shape}; {self.format} of {self.width}x{self.height} "
                    f"expects uint8 {(height, width)}"
                )

    @property
    def width(self) -> int:
        """Luma width in samples."""
        return self.planes[0].shape[1]

    @property
    def height(self) -> int:
        """Luma height in samples."""
        return self.planes[0].shape[0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frame):
            return NotImplemented
        return self.first_difference(other) is None

    def first_difference(self, other: Frame) -> str | None:
        """The first place where `other` differs, in words, with self as what was expected; None when equal."""
        mine, theirs = (self.format, self.width, self.height), (other.format, other.width, other.height)
        if mine != theirs:
            return "{!s} {}x{} expected, {} {}x{} found".format(*mine, *theirs)
        for name, a, b in zip(("Y", "Cb", "Cr"), self.planes, other.planes):
            if not np.array_equal(a, b):
                row, column = np.argwhere(a != b)[0]
                return (
                    f"plane {name}, row {row}, column {column}: {a[row, column]} expected, {b[row, column]} found "
                    f"({np.count_nonzero(a != b)} samples of the plane differ)"
                )
        return None

    def psnr(self, other: Frame) -> float:
        """PSNR of luma in dB; infinite when equal."""
        a, b = (f.planes[0].astype(np.float64) for f in (self, other))
        error = float(np.mean((a - b) ** 2))
        return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


_Y4M_TAGS = {
    ChromaFormat.Gray: "mono",
    ChromaFormat.C420: "420jpeg",
    ChromaFormat.C422: "422",
    ChromaFormat.C444: "444",
}


def write_y4m(path: Path, frames: Iterable[Frame], rate: Fraction = Fraction(25)) -> None:
    """Write frames of one size and format as YUV4MPEG2. 4:2:0 is written as `420jpeg` (chroma sited mid-way)."""
    first: Frame | None = None
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            for n, frame in enumerate(frames):
                if first is None:
                    first = frame
                    tag = _Y4M_TAGS[frame.format]
                    size, frequency = f"W{frame.width} H{frame.height}", f"F{rate.numerator}:{rate.denominator}"
                    file.write(f"YUV4MPEG2 {size} {frequency} Ip A1:1 C{tag}\n".encode())
                elif (frame.format, frame.width, frame.height) != (first.format, first.width, first.height):
                    raise FrameError(f"{path}: frame {n}: a frame as the first expected")
                file.write(b"FRAME\n")
                for plane in frame.planes:
                    file.write(np.ascontiguousarray(plane).tobytes())
        if first is None:
            raise FrameError(f"{path}: no frame to write")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_y4m(path: Path) -> Iterator[Frame]:
    """Frames of a YUV4MPEG2 file of 8 bits a sample; FrameError names file, place and what was expected."""
    with path.open("rb") as file:
        header = file.readline(4096).decode("ascii", "replace").split()
        if not header or header[0] != "YUV4MPEG2":
            raise FrameError(f"{path}: byte 0: YUV4MPEG2 expected")
        fields = {word[0]: word[1:] for word in header[1:]}
        try:
            width, height = int(fields["W"]), int(fields["H"])
        except (KeyError, ValueError):
            raise FrameError(f"{path}: header: W and H expected as whole numbers") from None
        if width < 1 or height < 1:
            raise FrameError(f"{path}: header: W and H of 1 or more expected, {width}x{height} found")
        tag = fields.get("C", "420jpeg")
        tags = {"mono": ChromaFormat.Gray, "422": ChromaFormat.C422, "444": ChromaFormat.C444}
        tags |= dict.fromkeys(("420", "420jpeg", "420mpeg2", "420paldv"), ChromaFormat.C420)
        if tag not in tags:
            raise FrameError(f"{path}: header: C{tag}: one of C{', C'.join(tags)} expected")
        chroma = tags[tag]
        number = 0
        while line := file.readline(4096):
            if not line.startswith(b"FRAME"):
                raise FrameError(f"{path}: frame {number}: FRAME expected at byte {file.tell() - len(line)}")
            planes = []
            for plane in range(chroma.planes):
                w, h = chroma.plane_size(plane, width, height)
                samples = file.read(w * h)
                if len(samples) != w * h:
                    found = f"{w * h} bytes expected, {len(samples)} found"
                    raise FrameError(f"{path}: frame {number}: plane {plane}: {found}")
                planes.append(np.frombuffer(samples, np.uint8).reshape(h, w))
            yield Frame(chroma, tuple(planes))
            number += 1
