"""What the header of a JPEG file claims, read before anyone decodes it."""

from __future__ import annotations

from tessera.golden.frames import ChromaFormat
from tessera.golden.jpeg.headers import HeaderReader, JpegError
from tessera.hw.memory.layout import SurfaceLayout

__all__ = ["claimed_layout"]


def claimed_layout(data: bytes) -> SurfaceLayout | None:
    """The surface that a file needs by its frame header; None if the first error comes before that."""
    reader = HeaderReader(data, 65535, 65535)
    try:
        reader.soi()
        reader.scan()
    except JpegError:
        pass
    if not reader.components:
        return None
    return SurfaceLayout(ChromaFormat(reader.format), reader.width, reader.height)
