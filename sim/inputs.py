"""A job's streams made ready: the JPEG files that go in, and the pictures that they were made of."""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation
from PIL import Image

from tessera.golden.jpeg.decoder import JpegError, decode
from tessera.sim.clips import jpeg_files, luma, make_jpeg, pictures
from tessera.sim.job import Stream

__all__ = ["Source", "ideal_psnr", "prepare"]

_Luma = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """A stream's JPEG `files` and, for each, the luma of the picture that it stands for; None where there is none."""

    files: tuple[bytes, ...]
    pictures: tuple[_Luma | None, ...]


def prepare(stream: Stream) -> Source:
    """Cut a stream's clip, and make JPEG files of it unless it consists of these.

    Raises
    ------
    ClipError
    """
    if stream.untouched:
        files = jpeg_files(stream.clip.path, stream.first_frame, stream.frames)
        return Source(tuple(files), tuple(_decoded_luma(data) for data in files))
    files, lumas = [], []
    for picture in pictures(stream.clip.path, stream.first_frame, stream.frames):
        image = _image(picture, stream.width, stream.height)
        files.append(
            make_jpeg(
                image,
                quality=stream.quality,
                subsampling=stream.subsampling,
                restart_interval=stream.restart_interval,
            )
        )
        lumas.append(luma(image))
    return Source(tuple(files), tuple(lumas))


def _image(picture: av.VideoFrame, width: int, height: int) -> Image.Image:
    made = picture.reformat(width=width, height=height, format="rgb24", interpolation=Interpolation.BICUBIC)
    return Image.fromarray(made.to_ndarray())


def _decoded_luma(data: bytes) -> _Luma | None:
    try:
        return decode(data).frame.planes[0]
    except JpegError:
        return None


def ideal_psnr(source: _Luma, found: _Luma) -> float:
    """PSNR in dB of `found` against the `source` scaled to its size by Pillow's antialiased bicubic in floats."""
    height, width = found.shape
    image = Image.fromarray(source.astype(np.float32))
    ideal = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 255)
    error = float(np.mean((ideal - found.astype(np.float64)) ** 2))
    return 99.0 if error == 0 else min(99.0, 10 * float(np.log10(255**2 / error)))
