"""The job that `make sim` runs: no mismatch, and the figures of the baseline."""

import json
import subprocess
import sys
from pathlib import Path

import av

from tessera.sim import measure

JOB = "transcode"


def test_the_default_job(tmp_path):
    command = [Path(sys.executable).parent / "tessera", "run", JOB, "--out", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr

    folder = next(tmp_path.rglob("report.json")).parent
    clips = [file for file in folder.iterdir() if file.suffix in (".avi", ".mp4", ".mov", ".mkv")]
    assert clips
    for clip in clips:
        with av.open(clip) as container:
            assert sum(1 for _ in container.decode(video=0)) >= 60

    figures = measure.figures_of_run(json.loads((folder / "report.json").read_text()), JOB)
    lines = measure.differences(figures) + measure.missed(figures)
    assert not lines, "\n".join(lines)
