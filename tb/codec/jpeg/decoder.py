"""Testbench of hw/codec/jpeg/decoder.py: whole files, good, damaged and hostile, against the golden decoder."""

import io
import json
from pathlib import Path

import cocotb
import numpy as np
from PIL import Image

from tessera.golden.frames import ChromaFormat
from tessera.golden.jpeg.decoder import JpegError, decode
from tessera.golden.jpeg.encoder import encode
from tessera.hw.codec.jpeg.decoder import JpegDecoder, JpegDecoderParameters
from tessera.hw.engine import Status
from tessera.hw.memory.layout import SurfaceLayout
from tessera.hw.models.memory import EngineHarness
from tessera.tb.bench import Dut
from tessera.tb.codec.jpeg.corpus import exotic, hostile, mutations, picture, pillow_files
from tessera.tb.engine import EngineBench, Slot

DUTS = {
    "decoder": Dut(lambda: EngineHarness(JpegDecoder()), tests="^(?!limits)"),
    "limited": Dut(
        lambda: EngineHarness(JpegDecoder(JpegDecoderParameters(max_width=40, max_height=24, short_bits=5, lines=2))),
        stalls=True,
        tests="limits|files_of_all_kinds",
    ),
}
SOURCE, TARGET = Slot(1), Slot(2)


async def decode_one(bench, name, data, tag=1, target=TARGET, limits=(65535, 65535), timeout=400_000):
    """One file through the silicon, compared with the golden; its done message."""
    try:
        golden, error = decode(data, *limits), None
    except JpegError as e:
        golden, error = None, e
    await bench.write_bitstream(SOURCE, data, timestamp=tag * 1000)
    task = {"tag": tag, "source": SOURCE.fields(), "target": target.fields()}
    done = await bench.run(task, timeout=timeout)
    assert done.tag == tag and done.last, name
    if error is None:
        lines = SurfaceLayout(golden.frame.format, golden.frame.width, golden.frame.height).lines
        if lines > target.lines:
            expected = Status.TargetTooSmall, lines
        else:
            expected = Status.Ok, 0
    else:
        expected = Status(int(error.status)), error.where
    found = Status(done.status), done.where
    assert found == expected, f"{name}: {expected} expected ({error}), {found} found"
    if expected[0] is Status.Ok:
        frame = golden.frame
        geometry = int(frame.format), frame.width, frame.height, golden.size
        said = done.chroma_format.value, done.width, done.height, done.bytes
        assert said == geometry, f"{name}: format, width, height, size {geometry} expected, {said} found"
        layout = SurfaceLayout(frame.format, frame.width, frame.height)
        difference = frame.first_difference(await bench.read_surface(target, layout))
        assert difference is None, f"{name}: {difference}"
    else:
        assert (done.width, done.height, done.bytes) == (0, 0, 0), name
    return done


def coded(frame, quality, **options):
    """A file by Pillow, of a frame's luma, or of its planes at full size."""
    mode = [Image.fromarray(frame.planes[0])] if len(frame.planes) == 1 else [Image.fromarray(np.dstack(frame.planes), "YCbCr")]
    file = io.BytesIO()
    mode[0].save(file, "JPEG", quality=quality, **options)
    return file.getvalue()


@cocotb.test()
async def ordinary_files(dut):
    bench = EngineBench(dut, DUTS)
    await bench.reset()
    for name, data in pillow_files(1, 6, 48):
        done = await decode_one(bench, name, data)
        dut._log.info(f"{name}: {done.cycles} cycles")
