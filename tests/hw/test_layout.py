"""How surfaces lie in memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.golden.frames import ChromaFormat, Frame
from tessera.hw.memory.layout import BLOCK_LINES, SurfaceLayout

geometries = st.tuples(st.sampled_from(ChromaFormat), st.integers(1, 400), st.integers(1, 300))


@given(geometries, st.integers(0, 2**32 - 1))
def test_unpack_undoes_pack(geometry, seed):
    chroma, width, height = geometry
    random = np.random.default_rng(seed)
    planes = []
    for plane in range(chroma.planes):
        w, h = chroma.plane_size(plane, width, height)
        planes.append(random.integers(0, 256, (h, w), dtype=np.uint8))
    frame, layout = Frame(chroma, tuple(planes)), SurfaceLayout(chroma, width, height)
    memory = layout.pack(frame, fill=0x5A)
    assert memory.shape == (layout.lines, 64)
    assert layout.unpack(memory) == frame


@given(geometries)
def test_every_tile_has_its_own_line(geometry):
    layout = SurfaceLayout(*geometry)
    lines = []
    for plane in range(layout.format.planes):
        across, down = layout.tiles(plane)
        y, x = np.mgrid[0:down, 0:across]
        lines.append(layout.line(plane, x, y).reshape(-1))
    lines = np.concatenate(lines)
    assert len(np.unique(lines)) == len(lines)
    assert lines.min() >= 0 and lines.max() < layout.lines


def test_neighbours_lie_in_four_bank_groups_and_a_block_in_one_set_of_pages():
    layout = SurfaceLayout(ChromaFormat.C420, 1920, 1088)
    for y in range(0, 40):
        for x in range(0, 100):
            square = [int(layout.line(0, x + dx, y + dy)) & 3 for dy in (0, 1) for dx in (0, 1)]
            assert sorted(square) == [0, 1, 2, 3]
    y, x = np.mgrid[16:32, 32:64]
    assert len(np.unique(layout.line(0, x, y) // BLOCK_LINES)) == 1


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (65536, 5)])
def test_impossible_sizes_are_named(size):
    with pytest.raises(ValueError, match="1 to 65535 expected"):
        SurfaceLayout(ChromaFormat.C420, *size)
