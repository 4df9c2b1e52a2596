"""How a surface lies in memory: planes of blocks of tiles.

A tile is 8x8 samples, one line: sample (row r, column c) is byte 8r+c. A block is 32x16 tiles, 512 lines: one open row
in each of the four bank groups. A plane is a whole number of blocks, left to right, then down; luma, Cb, Cr follow
each other.
"""

from dataclasses import dataclass

import numpy as np

from tessera.golden.frames import ChromaFormat, Frame

__all__ = ["BLOCK_LINES", "BLOCK_TILES", "SurfaceLayout"]

BLOCK_TILES = (32, 16)
"""Width and height of a block in tiles."""
BLOCK_LINES = 512


def line_in_block(x, y):
    """Line of tile (x, y) within its block; bits from the lowest: x0 y0 x1 x2 x3 x4 y1 y2 y3."""
    return (x & 1) | (y & 1) << 1 | (x >> 1 & 15) << 2 | (y >> 1 & 7) << 6


@dataclass(frozen=True)
class SurfaceLayout:
    """Where the tiles of a picture are.

    Parameters
    ----------
    format : ChromaFormat
    width, height : int
        Luma samples, 1 to 65535.
    """

    format: ChromaFormat
    width: int
    height: int

    def __post_init__(self):
        for name in ("width", "height"):
            if not 1 <= getattr(self, name) <= 65535:
                raise ValueError(f"{name} is {getattr(self, name)}; 1 to 65535 expected")

    def tiles(self, plane):
        """(across, down): tiles of a plane that hold samples of the picture."""
        width, height = self.format.plane_size(plane, self.width, self.height)
        return -(-width // 8), -(-height // 8)

    def blocks(self, plane):
        """(across, down): blocks of a plane."""
        across, down = self.tiles(plane)
        return -(-across // BLOCK_TILES[0]), -(-down // BLOCK_TILES[1])

    def base(self, plane):
        """First line of a plane, from the surface's first."""
        sizes = [np.prod(self.blocks(p)) for p in range(plane)]
        return BLOCK_LINES * int(sum(sizes))

    @property
    def lines(self):
        """Lines of the whole surface."""
        return self.base(self.format.planes)

    def line(self, plane, x, y):
        """Line of tile (x, y) of a plane; x and y may be arrays."""
        across, _ = self.blocks(plane)
        block = (y >> 4) * across + (x >> 5)
        return self.base(plane) + BLOCK_LINES * block + line_in_block(x, y)

    def _lines_of(self, plane):
        across, down = self.tiles(plane)
        y, x = np.mgrid[0:down, 0:across]
        return self.line(plane, x, y).reshape(-1)

    def pack(self, frame, fill=0):
        """The surface's bytes: uint8 of shape (lines, 64); samples past the picture's edge are `fill`."""
        memory = np.full((self.lines, 64), fill, np.uint8)
        for plane, samples in enumerate(frame.planes):
            across, down = self.tiles(plane)
            padded = np.full((down * 8, across * 8), fill, np.uint8)
            padded[: samples.shape[0], : samples.shape[1]] = samples
            tiles = padded.reshape(down, 8, across, 8).transpose(0, 2, 1, 3)
            memory[self._lines_of(plane)] = tiles.reshape(-1, 64)
        return memory

    def unpack(self, memory):
        """The picture in the surface's bytes (bytes, or uint8 of shape (lines, 64) or more lines)."""
        memory = np.frombuffer(memory, np.uint8) if isinstance(memory, bytes) else memory
        memory = memory.reshape(-1, 64)
        planes = []
        for plane in range(self.format.planes):
            across, down = self.tiles(plane)
            width, height = self.format.plane_size(plane, self.width, self.height)
            tiles = memory[self._lines_of(plane)].reshape(down, across, 8, 8)
            planes.append(tiles.transpose(0, 2, 1, 3).reshape(down * 8, across * 8)[:height, :width].copy())
        return Frame(self.format, tuple(planes))
