"""Compositions on the chip: what is composed and what is encoded of it, bit for bit; what is broken is left out."""

import json
from fractions import Fraction

import numpy as np

from tessera.golden.frames import ChromaFormat
from tessera.golden.jpeg.decoder import decode
from tessera.golden.jpeg.encoder import encode
from tessera.golden.ops import Layer, compose, scale
from tessera.hw.engine import Status
from tessera.sim.clips import jpeg_files, mux
from tessera.sim.job import load_job
from tessera.sim.run import run_job
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

SHOWN = {
    "wall": ((0, 0, 0), (1, 2, 0), (2, 4, 0), (2, 6, 1)),
    "long": ((0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 5), (1, 6)),
}
"""Of each frame of a composition and each layer, the lowest one first, the stream's frame."""
BROKEN = {2, 3, 4}
"""Frames of the quick stream."""


def streams(folder):
    """Write the clips: 25, 50 and 10 frames a second, 3, 7 and 2 of them. The files of each stream.

    Three files of the quick one are broken: one ends early, one claims to be larger than all memory, and one is not as
    large as the first one, and too small for its layers.
    """
    rng = np.random.default_rng(3)
    made = {}
    for name, size, kind, frames, rate in (
        ("plain", (48, 40), ChromaFormat.C444, 3, 25),
        ("quick", (33, 21), ChromaFormat.C420, 7, 50),
        ("slow", (40, 20), ChromaFormat.Gray, 2, 10),
    ):
        files = [encode(picture(rng, *size, kind), 75) for _ in range(frames)]
        if name == "quick":
            files[2] = files[2][:-30]
            header = files[3].index(b"\xff\xc0")
            files[3] = files[3][: header + 5] + b"\x3f\xff\x3f\xff" + files[3][header + 9 :]
            files[4] = encode(picture(rng, 4, 2, ChromaFormat.C420), 75)
        mux(folder / f"{name}.avi", files, Fraction(rate), *size)
        made[name] = files
    return made


def test_small_walls(tmp_path):
    """Two of the same streams: another rate, another order, and layers that overlap and lie partly outside."""
    files = streams(tmp_path)
    (tmp_path / "job.toml").write_text(JOB)
    result = run_job(load_job(tmp_path / "job.toml"), tmp_path / "out")
    out = tmp_path / "out" / "wall"
    report = json.loads((out / "report.json").read_text())
    assert result.mismatches == [] and result.exit_code == 1
    assert report["errors"]["REFUSED"] == 0

    # What came out, from its parts.
    plain, quick, slow = (
        [None if name == "quick" and n in BROKEN else decode(data).frame for n, data in enumerate(some)]
        for name, some in files.items()
    )
    for n, (a, b, c) in enumerate(SHOWN["wall"]):
        layers = [Layer(scale(plain[a], 40, 30), 0, 0), Layer(scale(slow[c], 24, 40), -7, 25)]
        if quick[b]:
            layers.insert(1, Layer(scale(quick[b], 33, 21), 21, 13, 90))
        frame = compose(layers, 64, 44, (45, 139, 119))
        assert jpeg_files(out / "wall.avi")[n] == encode(frame, 75), n
        assert jpeg_files(out / "scaled.avi")[n] == encode(scale(frame, 25, 30), 90), n
    for n, (a, b) in enumerate(SHOWN["long"]):
        layers = [Layer(scale(slow[a], 37, 25), 0, 0)] + [Layer(scale(q, 20, 20), 30, -3) for q in (quick[b],) if q]
        assert jpeg_files(out / "long.mkv")[n] == encode(compose(layers, 37, 25, (0, 128, 128)), 75), n
    assert jpeg_files(out / "plain.mov") == [encode(scale(frame, 20, 40), 75) for frame in plain]

    # Who says what of the broken frames.
    ends = {
        (task["engine"], task["name"], task["frame"]): (task["status"], task["where"])
        for task in report["tasks"]
        if task["engine"] in ("JpegDecode", "Compose") or task["name"] == "quick"
    }
    assert [ends["Compose", "wall", n] for n in range(4)] == [("Ok", w) for w in (0, 0b010, 0b010, 0)]
    assert [ends["Compose", "long", n] for n in range(7)] == [("Ok", w) for w in (0, 0, 0b10, 0b10, 0b10, 0, 0)]
    assert ends["JpegDecode", "quick", 2][0] == "JpegTruncated"
    assert ends["JpegDecode", "quick", 3][0] == "TargetTooSmall"
    assert ends["Compute", "quick", 3] == ("SourceFailed", Status.TargetTooSmall.value)
    assert ends["JpegDecode", "quick", 4] == ("Ok", 0) and ends["Compute", "quick", 4][0] == "BadTask"
    # Frames 2 and 4 are scaled for both walls, 3 for one.
    assert len(result.failed) == (1 + 2) + (1 + 1) + 2

    # The report: a task that lists a layer is none of those that make something.
    engines = {engine["name"]: engine for engine in report["engines"]}
    listed = [task for task in report["tasks"] if task["engine"] == "Compose" and task["layer"] is not None]
    assert engines["Compose"]["tasks"] == 4 + 7 and len(listed) == 4 * 3 + 7 * 2
    assert engines["Compose"]["per_task_min"] > 100 and engines["Compose"]["bytes_moved"] > 0
    assert [c["frames_per_second"] for c in report["compositions"]] == ["25", "50"]
    assert [layer["left_out"] for c in report["compositions"] for layer in c["layers"]] == [0, 2, 0, 0, 3]
    assert all(output["psnr_mean"] > 20 for output in report["outputs"] if output["stream"] == "wall")
    page = (out / "report.html").read_text()
    assert "Layers of wall, the lowest one first" in page and "Compose, long, frame 6, layer 1" in page
