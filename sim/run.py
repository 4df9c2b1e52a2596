"""A job from its file to its results: what `tessera run`, `tessera decode` and `tessera encode` do."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from tessera.golden.frames import ChromaFormat, Frame, FrameError, write_y4m
from tessera.golden.jpeg.decoder import JpegError, decode
from tessera.golden.jpeg.encoder import encode
from tessera.golden.transcoder import Target, Transcoded, decode_frame, transcode
from tessera.hw.config import SystemConfig
from tessera.hw.engine import EngineKind, Status
from tessera.hw.memory.layout import SurfaceLayout
from tessera.sim.claims import claimed_layout
from tessera.sim.clips import (
    ClipError,
    find_clip,
    jpeg_files,
    luma,
    make_jpeg,
    mux,
    native_frames,
    partial_file,
    pictures,
    probe,
    reader_rate,
    same_as_libjpeg,
)
from tessera.sim.job import Job, JobError, Stream
from tessera.sim.memory import PlanError
from tessera.sim.plan import Chain, Leg, Plan, plan_chains, plan_encode
from tessera.sim.report import OutputReport, Report, StreamReport, write_report
from tessera.sim.simulation import Outcome, Progress, build_system, simulate
from tessera.sim.waves import Waves

__all__ = ["InputError", "Result", "Where", "decode_file", "encode_file", "run_job"]

Where = Literal["rtl", "golden"]
_SURFACE_SHARE = 4
"""Of the chip's memory a 1/_SURFACE_SHARE may be given to one stream's decoded surfaces for what headers claim."""


class InputError(ValueError):
    """An input or an option that cannot be; one line."""


@dataclass
class Result:
    """What came of it.

    Parameters
    ----------
    mismatches
        Each place where two that have to be equal are not, a line each.
    failed
        Each task that ended with anything but Ok, a line each.
    files
        What was written.
    """

    mismatches: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 equal, 1 a mismatch or a failed task."""
        return int(bool(self.mismatches or self.failed))
