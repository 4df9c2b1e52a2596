"""Compositions on the whole chip, bit for bit against the golden: what is composed, and what is encoded of it."""

import json
from fractions import Fraction

import numpy as np
import pytest

from tessera.golden.frames import ChromaFormat
from tessera.golden.jpeg.decoder import decode
from tessera.golden.jpeg.encoder import encode
from tessera.golden.ops import Layer, compose, scale
from tessera.golden.transcoder import Target, transcode
from tessera.hw.config import SystemConfig
from tessera.hw.engine import Status
from tessera.sim.clips import jpeg_files, mux
from tessera.sim.job import load_job
from tessera.sim.run import run_job
from tessera.sim.simulation import build_system
from tessera.tb.codec.jpeg.corpus import picture

JOB = """
[job]
name = "wall"
[slots]
bitstream_in = 2
decoded = 2
scaled = 2
composed = 4
bitstream_out = 2
[[stream]]
clip = "plain.avi"
[[stream]]
clip = "quick.avi"
[[stream]]
clip = "slow.avi"

# Its surfaces all stay where they are, and are compared.
[[composition]]
name = "wall"
width_pixels = 64
height_pixels = 44
background = "#203040"
frames = 4
[[composition.layer]]
stream = "plain"
width_pixels = 40
height_pixels = 30
[[composition.layer]]
stream = "quick"
x_pixels = 21
y_pixels = 13
width_pixels = 33
height_pixels = 21
alpha = 90
[[composition.layer]]
stream = "slow"
x_pixels = -7
y_pixels = 25
width_pixels = 24
height_pixels = 40

# Of this one slots are used again.
[[composition]]
name = "long"
width_pixels = 37
height_pixels = 25
frames_per_second = 50
frames = 7
[[composition.layer]]
stream = "quick"
x_pixels = 30
y_pixels = -3
width_pixels = 20
height_pixels = 20
order = 1
[[composition.layer]]
stream = "slow"
width_pixels = 37
height_pixels = 25

[[output]]
composition = "wall"
width_pixels = 64
height_pixels = 44
file = "wall.avi"
[[output]]
composition = "wall"
width_pixels = 25
height_pixels = 30
quality = 90
file = "scaled.avi"
[[output]]
composition = "long"
width_pixels = 37
height_pixels = 25
file = "long.mkv"
[[output]]
stream = "plain"
width_pixels = 20
height_pixels = 40
file = "plain.mov"
"""

SIZES = ((40, 30), (33, 21), (24, 40))
"""Of the layers of the first composition."""
SHOWN = {
    "wall": ((0, 0, 0), (1, 2, 0), (2, 4, 0), (2, 4, 1)),
    "long": ((0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 4), (1, 4)),
}
"""Of each frame of a composition and each layer, the lowest one first, the stream's frame. Streams have 25, 50 and 10 a
second, and 3, 5 and 2 frames."""


@pytest.fixture(scope="module", autouse=True)
def program():
    return build_system(SystemConfig())


def streams(folder, spoil=lambda quick: None):
    """Write the clips; the files of each stream."""
    rng = np.random.default_rng(3)
    made = {}
    for name, size, kind, frames, rate in (
        ("plain", (48, 40), ChromaFormat.C422, 3, 25),
        ("quick", (33, 21), ChromaFormat.C420, 5, 50),
        ("slow", (40, 20), ChromaFormat.Gray, 2, 10),
    ):
        files = [encode(picture(rng, *size, kind), 75) for _ in range(frames)]
        if name == "quick":
            spoil(files)
        mux(folder / f"{name}.avi", files, Fraction(rate), *size)
        made[name] = files
    return made


def run(folder):
    """(result, report) of the job in `folder`."""
    (folder / "job.toml").write_text(JOB)
    result = run_job(load_job(folder / "job.toml"), folder / "out")
    return result, json.loads((folder / "out" / "wall" / "report.json").read_text())


def test_a_small_wall(tmp_path):
    files = streams(tmp_path)
    result, report = run(tmp_path)
    assert (result.mismatches, result.failed) == ([], [])
    assert report["errors"]["REFUSED"] == 0

    # What came out, from its parts.
    frames = [[decode(data).frame for data in some] for some in files.values()]
    plain, quick, slow = ([scale(frame, *size) for frame in some] for some, size in zip(frames, SIZES))
    wall = [
        compose([Layer(plain[a], 0, 0), Layer(quick[b], 21, 13, 90), Layer(slow[c], -7, 25)], 64, 44, (45, 139, 119))
        for a, b, c in SHOWN["wall"]
    ]
    out = tmp_path / "out" / "wall"
    assert jpeg_files(out / "wall.avi") == [encode(frame, 75) for frame in wall]
    assert jpeg_files(out / "scaled.avi") == [encode(scale(frame, 25, 30), 90) for frame in wall]
    quick, slow = [scale(f, 20, 20) for f in frames[1]], [scale(f, 37, 25) for f in frames[2]]
    long = [
        compose([Layer(slow[a], 0, 0), Layer(quick[b], 30, -3)], 37, 25, (0, 128, 128)) for a, b in SHOWN["long"]
    ]
    assert jpeg_files(out / "long.mkv") == [encode(frame, 75) for frame in long]

    # The report: a task that lists a layer is none of those that make something.
    engines = {engine["name"]: engine for engine in report["engines"]}
    listed = [task for task in report["tasks"] if task["engine"] == "Compose" and task["layer"] is not None]
    assert engines["Compose"]["tasks"] == 4 + 7 and len(listed) == 4 * 3 + 7 * 2
    assert engines["Compose"]["per_task_min"] > 100 and engines["Compose"]["bytes_moved"] > 0
    assert [c["frames_per_second"] for c in report["compositions"]] == ["25", "50"]
    assert all(output["psnr_mean"] > 20 for output in report["outputs"] if output["stream"] == "plain")
    page = (out / "report.html").read_text()
    assert "Layers of wall, the lowest one first" in page and "Compose, long, frame 6, layer 1" in page


def test_a_broken_stream_is_left_out(tmp_path):
    """One frame ends early, one claims to be larger than all memory, and one is not of the size that it was said to be:
    too small for its layer. The others and the stream's other frames are drawn."""

    def spoil(quick):
        quick[2] = quick[2][:-30]
        header = quick[3].index(b"\xff\xc0")
        quick[3] = quick[3][: header + 5] + b"\x3f\xff\x3f\xff" + quick[3][header + 9 :]
        quick[4] = encode(picture(np.random.default_rng(1), 4, 2, ChromaFormat.C420), 75)

    files = streams(tmp_path, spoil)
    result, report = run(tmp_path)
    assert result.mismatches == [] and result.exit_code == 1
    ends = {
        (task["engine"], task["name"], task["frame"]): (task["status"], task["where"])
        for task in report["tasks"]
        if task["engine"] in ("JpegDecode", "Compose") or task["name"] == "quick"
    }
    assert [ends["Compose", "wall", n] for n in range(4)] == [("Ok", w) for w in (0, 0b010, 0b010, 0b010)]
    assert [ends["Compose", "long", n] for n in range(7)] == [("Ok", w) for w in (0, 0, 2, 2, 2, 2, 2)]
    assert ends["JpegDecode", "quick", 2][0] == "JpegTruncated"
    assert ends["JpegDecode", "quick", 3][0] == "TargetTooSmall"
    assert ends["Compute", "quick", 3] == ("SourceFailed", Status.TargetTooSmall.value)
    assert ends["JpegDecode", "quick", 4] == ("Ok", 0) and ends["Compute", "quick", 4][0] == "BadTask"
    assert [layer["left_out"] for layer in report["compositions"][0]["layers"]] == [0, 3, 0]
    # Frame 2 is scaled for both walls, 3 for the long one alone; 4 for both.
    assert len(result.failed) == 2 + 2 + 1 + 2

    out = tmp_path / "out" / "wall"
    assert jpeg_files(out / "plain.mov") == [
        made.bitstreams[0] for made in transcode(files["plain"], [Target(20, 40, 75)])
    ]
    below, above = scale(decode(files["plain"][2]).frame, *SIZES[0]), scale(decode(files["slow"][0]).frame, *SIZES[2])
    third = compose([Layer(below, 0, 0), Layer(above, -7, 25)], 64, 44, (45, 139, 119))
    assert jpeg_files(out / "wall.avi")[2] == encode(third, 75)
