"""The tables that golden and silicon share, against their defining formulas and against what Pillow writes."""

import ast
import io
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessera.golden.jpeg import status, tables
from tessera.golden.jpeg.huffman import codes
from tessera.golden.jpeg.status import JpegStatus
from tessera.tb.codec.jpeg.corpus import segments


@pytest.fixture(scope="module")
def by_pillow():
    """Payloads of the segments of a file of quality 50, of one marker."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "JPEG", quality=50)
    data = file.getvalue()
    return lambda wanted: [data[start + 4 : end] for marker, start, end in segments(data) if marker == wanted]


def test_huffman_tables_are_annex_k(by_pillow):
    ours = {
        0x00: tables.HUFF_DC_LUMA,
        0x10: tables.HUFF_AC_LUMA,
        0x01: tables.HUFF_DC_CHROMA,
        0x11: tables.HUFF_AC_CHROMA,
    }
    theirs = {p[0]: (tuple(p[1:17]), tuple(p[17:])) for p in by_pillow(tables.Marker.DHT)}
    assert theirs == ours


def test_quantization_tables_are_annex_k(by_pillow):
    for payload, table in zip(by_pillow(tables.Marker.DQT), (tables.LUMA_QUANT, tables.CHROMA_QUANT), strict=True):
        assert [table[n] for n in tables.ZIGZAG_TO_NATURAL] == list(payload[1:])


def test_zigzag():
    """Diagonals upwards and downwards in turn."""
    diagonals = sorted(range(64), key=lambda n: (n // 8 + n % 8, n // 8 if (n // 8 + n % 8) % 2 else n % 8))
    assert list(tables.ZIGZAG_TO_NATURAL) == diagonals
    assert all(tables.NATURAL_TO_ZIGZAG[n] == k for k, n in enumerate(tables.ZIGZAG_TO_NATURAL))


def test_transform_constants():
    names = [n for n in tables.__all__ if n.startswith("FIX_")]
    assert len(names) == 12
    for name in names:
        assert getattr(tables, name) == round(float(name[4:].replace("_", ".", 1)) * 2**tables.CONST_BITS)
    c = [math.sqrt(2) * math.cos(k * math.pi / 16) for k in range(8)]
    exact = {
        "FIX_0_541196100": c[6], "FIX_0_765366865": c[2] - c[6], "FIX_1_847759065": c[2] + c[6],
        "FIX_0_298631336": -c[1] + c[3] + c[5] - c[7], "FIX_2_053119869": c[1] + c[3] - c[5] + c[7],
        "FIX_3_072711026": c[1] + c[3] + c[5] - c[7], "FIX_1_501321110": c[1] + c[3] - c[5] - c[7],
        "FIX_0_899976223": c[3] - c[7], "FIX_2_562915447": c[1] + c[3], "FIX_1_961570560": c[3] + c[5],
        "FIX_0_390180644": c[3] - c[5], "FIX_1_175875602": c[3],
    }  # fmt: skip
    assert {n: round(v * 8192) for n, v in exact.items()} == {n: getattr(tables, n) for n in names}


def test_status_is_stable():
    """Silicon and software of another version agree on the numbers: append, never renumber."""
    assert [s.value for s in JpegStatus] == list(range(22))
    assert JpegStatus.Ok == 0 and JpegStatus.Truncated == 1 and JpegStatus.MissingFrame == 21


def test_tables_are_pure_data():
    for module in (tables, status):
        tree = ast.parse(Path(module.__file__).read_text())
        imported = {
            n.module if isinstance(n, ast.ImportFrom) else n.names[0].name
            for n in ast.walk(tree)
            if isinstance(n, ast.Import | ast.ImportFrom)
        }
        assert imported <= {*sys.stdlib_module_names, "numpy"}


def test_codes_are_prefix_free_and_refuse_all_ones():
    for bits, values in (tables.HUFF_AC_LUMA, tables.HUFF_AC_CHROMA, tables.HUFF_DC_LUMA, tables.HUFF_DC_CHROMA):
        words = [format(code, f"0{length}b") for code, length in codes(bits, values).values()]
        assert len(words) == len(values) == len(set(values))
        assert not any(a != b and b.startswith(a) for a in words for b in words)
        assert not any(set(w) == {"1"} for w in words)
    for bits in ([2], [1, 2], [0, 4], [1, 1, 1, 2], [0] * 7 + [256]):
        with pytest.raises(ValueError, match="codes of"):
            codes(bits, range(256))
