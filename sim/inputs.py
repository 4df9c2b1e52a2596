"""A job's streams made ready: the JPEG files that go in, and the pictures that they were made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation
from PIL import Image

from tessera.golden.jpeg.decoder import JpegError, decode
from tessera.golden.transcoder import Composition, frames_shown
from tessera.sim.clips import jpeg_files, luma, make_jpeg, pictures
from tessera.sim.job import Stream

__all__ = ["Source", "ideal_composition", "ideal_psnr", "prepare"]

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


def _ideally_scaled(source: _Luma, width: int, height: int) -> npt.NDArray[np.float32]:
    image = Image.fromarray(source.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 255)


def ideal_composition(
    composition: Composition,
    rates: Sequence[Fraction],
    pictures: Sequence[Sequence[_Luma | None]],
    left_out: Sequence[int],
) -> Iterator[_Luma]:
    """Luma of each frame of a composition of streams' `pictures`, which are scaled by Pillow and mixed in floats.

    `rates` are the streams' frames per second; `left_out` has of each frame a bit for each layer that is not drawn.
    """
    width, height = composition.width, composition.height
    shown = [
        frames_shown(rates[place.stream], len(pictures[place.stream]), composition.rate, composition.frames)
        for place in composition.layers
    ]
    for n in range(composition.frames):
        canvas = np.full((height, width), composition.background[0], np.float32)
        for number, place in enumerate(composition.layers):
            picture = pictures[place.stream][shown[number][n]]
            if picture is None or left_out[n] >> number & 1:
                continue
            rows = slice(max(place.y, 0), max(min(place.y + place.height, height), 0))
            columns = slice(max(place.x, 0), max(min(place.x + place.width, width), 0))
            if rows.start < rows.stop and columns.start < columns.stop:
                above = _ideally_scaled(picture, place.width, place.height)[
                    rows.start - place.y : rows.stop - place.y, columns.start - place.x : columns.stop - place.x
                ]
                canvas[rows, columns] += (above - canvas[rows, columns]) * (place.alpha / 255)
        yield np.rint(canvas).astype(np.uint8)


def ideal_psnr(source: _Luma, found: _Luma) -> float:
    """PSNR in dB of `found` against the `source` scaled to its size by Pillow's antialiased bicubic in floats."""
    height, width = found.shape
    ideal = _ideally_scaled(source, width, height)
    error = float(np.mean((ideal - found.astype(np.float64)) ** 2))
    return 99.0 if error == 0 else min(99.0, 10 * float(np.log10(255**2 / error)))
