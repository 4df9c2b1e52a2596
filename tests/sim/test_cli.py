"""The program `tessera`: what it prints, what it leaves behind, and its exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tessera.golden.frames import ChromaFormat, read_y4m, write_y4m
from tessera.golden.jpeg.decoder import decode
from tessera.golden.jpeg.encoder import encode
from tessera.sim.clips import count_frames
from tessera.tb.codec.jpeg.corpus import picture

TESSERA = Path(sys.executable).with_name("tessera")


def tessera(*words, cwd):
    return subprocess.run([TESSERA, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture
def jpeg(tmp_path):
    file = tmp_path / "in.jpg"
    file.write_bytes(encode(picture(np.random.default_rng(3), 37, 22, ChromaFormat.C420), 80))
    return file


def test_version(tmp_path):
    done = tessera("--version", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("tessera 0.")


def test_golden_job(tmp_path):
    (tmp_path / "job.toml").write_text(
        '[job]\nname = "ladder"\n[[stream]]\nclip = "bikes"\nframes = 3\nwidth_pixels = 64\nheight_pixels = 28\n'
        '[[output]]\nwidth_pixels = 90\nheight_pixels = 40\nfile = "up.mkv"\n'
        '[[output]]\nwidth_pixels = 32\nheight_pixels = 14\nfile = "down.mov"\n'
    )
    for _ in range(2):
        done = tessera("run", "job.toml", "--on", "golden", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "0 mismatches"
    folder = tmp_path / "out" / "ladder"
    assert {file.name for file in folder.iterdir()} == {
        *("up.mkv", "down.mov", "bikes.input.avi", "report.json", "report.html")
    }
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["ladder"]
    assert count_frames(folder / "up.mkv") == count_frames(folder / "down.mov") == 3
    report = json.loads((folder / "report.json").read_text())
    assert report["mismatch_count"] == 0 and [o["frames"] for o in report["outputs"]] == [3, 3]
    assert all(25 < value < 60 for output in report["outputs"] for value in output["psnr"])
    assert 'src="data:image/jpeg;base64' in (folder / "report.html").read_text()


def test_golden_decode(tmp_path, jpeg):
    done = tessera("decode", jpeg, "-o", "out.y4m", "--on", "golden", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(read_y4m(tmp_path / "out.y4m")) == [decode(jpeg.read_bytes()).frame]


def test_golden_encode(tmp_path):
    frame = picture(np.random.default_rng(4), 30, 50, ChromaFormat.C444)
    write_y4m(tmp_path / "in.y4m", [frame])
    done = tessera(
        *("encode", "in.y4m", "-o", "out.jpg", "--codec", "jpeg", "--quality", "35", "--on", "golden"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.jpg").read_bytes() == encode(frame, 35)


def test_golden_encode_of_a_clip(tmp_path):
    words = ("encode", "carphone", "-o", "out.mov", "--quality", "50", "--on", "golden")
    done = tessera(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert count_frames(tmp_path / "out.mov") == 120


def test_damaged_file_is_a_failed_task(tmp_path, jpeg):
    jpeg.write_bytes(jpeg.read_bytes()[:-20])
    done = tessera("decode", jpeg, "-o", "out.y4m", "--on", "golden", cwd=tmp_path)
    assert done.returncode == 1
    assert "Truncated" in done.stdout and done.stdout.splitlines()[-1] == "0 mismatches, 1 failed tasks"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jpg"]


BAD = {
    "no job": (["run", "absent"], "absent.toml: no such file"),
    "bad job": (["run", "bad.toml"], "bad.toml: job.name: expected, but not there"),
    "group": (["run", "transcode", "--waves", "decoed"], "did you mean decode?"),
    "waves of the golden": (["run", "transcode", "--waves", "decode", "--on", "golden"], "--on rtl"),
    "no file": (["decode", "absent.jpg", "-o", "x.y4m"], "absent.jpg: no such file"),
    "suffix": (["decode", "in.jpg", "-o", "x.png", "--on", "golden"], "x.png: a file that ends in .y4m expected"),
    "no JPEG": (["decode", "carphone", "-o", "x.y4m"], "Motion JPEG expected, h264 found"),
    "y4m": (["encode", "bad.y4m", "-o", "x.jpg", "--on", "golden"], "bad.y4m: byte 0: YUV4MPEG2 expected"),
    "no clip": (["encode", "bad.toml", "-o", "x.jpg", "--on", "golden"], "bad.toml:"),
    "output": (["encode", "in.jpg", "-o", "x.gif", "--on", "golden"], ".mjpeg, .avi, .mov or .mkv expected"),
    "many as one": (["encode", "carphone", "-o", "x.jpg", "--on", "golden"], "expected for 120 frames"),
    "no folder": (["decode", "in.jpg", "-o", "in.jpg/x.y4m", "--on", "golden"], "Not a directory"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_gets_one_line(tmp_path, jpeg, what):
    (tmp_path / "bad.toml").write_text("[job]\n")
    (tmp_path / "bad.y4m").write_text("RIFF")
    words, expected = BAD[what]
    done = tessera(*words, cwd=tmp_path)
    assert done.returncode == 2, (done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("tessera: ")]
    assert len(lines) == 1 and expected in lines[0], done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad.toml", "bad.y4m", "in.jpg"]


@pytest.mark.parametrize(
    "words", [["frobnicate"], ["run"], ["run", "transcode", "--on", "x"], ["run", "--seed", "0", "x"]]
)
def test_bad_usage(tmp_path, words):
    done = tessera(*words, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
