"""What the chip did against what the golden says, bit for bit and status for status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tessera.golden.jpeg.decoder import JpegError, decode
from tessera.golden.jpeg.status import JpegStatus
from tessera.golden.transcoder import Transcoded
from tessera.hw.engine import EngineKind, Status
from tessera.sim.clips import same_as_libjpeg
from tessera.sim.plan import PlannedTask, Record
from tessera.sim.simulation import Outcome

__all__ = ["Expected", "check_golden", "compare_outcome", "first_difference"]


@dataclass(frozen=True)
class Expected:
    """How a task has to end: its status and, unless None, its `where`."""

    status: str
    where: int | None = None

    def __str__(self) -> str:
        return self.status if self.where is None else f"{self.status} at {self.where}"


def first_difference(expected: bytes, found: bytes) -> str | None:
    """The first byte in which `found` differs, in words; None if there is none."""
    if expected == found:
        return None
    for n, (a, b) in enumerate(zip(expected, found)):
        if a != b:
            return f"byte {n} of {len(expected)}: {a:02X} expected, {b:02X} found"
    return f"{len(expected)} bytes expected, {len(found)} found, alike as far as they go"


def _decode_end(result: Transcoded, claimed_lines: int, room: int) -> Expected:
    """How the decode of a frame has to end when its surface slot has `room` lines."""
    if claimed_lines > room:
        return Expected(Status.TargetTooSmall.name)
    if result.status == JpegStatus.Ok:
        return Expected(Status.Ok.name, 0)
    return Expected(f"Jpeg{result.status.name}", result.where)


def _end_of(
    task: PlannedTask, result: Transcoded, source: Expected | None, shown: Transcoded | None, leg: int
) -> Expected:
    """How a task that is no decode has to end.

    Parameters
    ----------
    result
        What the golden made of its frame.
    source
        How the task that filled its source has ended.
    shown
        Of what is scaled for a layer, a frame of the composition that shows it.
    leg
        Its output among those of the same stream.
    """
    if task.engine is EngineKind.Compose:
        return Expected(Status.Ok.name, 0 if task.lists else result.where)
    if source is not None and source.status != Status.Ok.name:
        return Expected(Status.SourceFailed.name, Status[source.status].value)
    if task.engine is EngineKind.Compute:
        if shown is not None:
            assert task.layer is not None
            scaled = not shown.where >> task.layer[1] & 1
        else:
            scaled = result.scaled[leg] is not None
        if not scaled:
            return Expected(Status.BadTask.name)
    return Expected(Status.Ok.name, 0)


def compare_outcome(
    outcome: Outcome,
    golden: Sequence[Sequence[Transcoded]],
    claims: Sequence[Sequence[int]],
    rooms: Sequence[int],
    first_output: Sequence[int],
) -> tuple[list[str], list[str]]:
    """(mismatches, failed tasks), a line each.

    Parameters
    ----------
    golden
        For each stream, and then for each composition, what the golden made of each frame.
    claims, rooms
        For each stream, lines that each frame's header asks for, and that its surface slots have.
    first_output
        For each stream, and then for each composition, the number of the output that is its first leg.
    """
    plan = outcome.plan
    mismatches, failed = [], []
    ends: dict[int, Expected] = {}
    shown = {task.source: golden[task.stream][task.frame] for task in plan.tasks if task.lists}
    for task in plan.tasks:
        result = golden[task.stream][task.frame]
        source = None if task.source is None else ends[task.source]
        leg = 0 if task.output is None else task.output - first_output[task.stream]
        expected = _end_of(task, result, source, shown.get(task.tag), leg)
        if task.engine is EngineKind.JpegDecode and expected.status == Status.Ok.name:
            expected = _decode_end(result, claims[task.stream][task.frame], rooms[task.stream])
        ends[task.tag] = expected
        record = outcome.records[task.tag]
        name = plan.name(task.tag)
        if record.status != Status.Ok.name:
            failed.append(f"{name}: {record.status} at {record.where}")
        if record.status != expected.status or expected.where not in (None, record.where):
            mismatches.append(f"{name}: {expected} expected, {record.status} at {record.where} found")
        elif record.status == Status.Ok.name:
            difference = _difference(task, record, outcome, result, leg)
            if difference is not None:
                mismatches.append(f"{name}: {difference}")
    for register, count in outcome.errors.items():
        if register in _COUNTS and count:
            mismatches.append(f"{register}: 0 expected, {count} found")
    if outcome.violations:
        mismatches.append(f"DRAM timing rules broken: 0 expected, {outcome.violations} found")
    return mismatches, failed


_COUNTS = ("REFUSED", "BUS_UNSUPPORTED", "BUS_UNEXPECTED", "BUS_FAILED", "RING_REFUSED")


def _difference(task: PlannedTask, record: Record, outcome: Outcome, result: Transcoded, leg: int) -> str | None:
    """Where what a task made differs, in words."""
    if task.engine in (EngineKind.JpegDecode, EngineKind.Compose) and not task.lists:
        assert result.decoded is not None
        frame = result.decoded
        expected = (int(frame.format), frame.width, frame.height)
        found = (record.chroma_format, record.width, record.height)
        if expected != found:
            return "chroma format {}, {}x{} expected, {}, {}x{} found".format(*expected, *found)
        if task.stream in outcome.plan.surfaces:
            surface = outcome.surface(task.stream, task.frame)
            assert surface is not None
            return frame.first_difference(surface)
    if task.engine is EngineKind.Egress:
        data = result.bitstreams[leg]
        assert data is not None
        return first_difference(data, outcome.results[task.tag])
    return None


def check_golden(
    files: Sequence[Sequence[bytes | None]], golden: Sequence[Sequence[Transcoded]], names: Sequence[str]
) -> list[str]:
    """Where libjpeg-turbo reads another picture than the golden, from the files that go in and those that come out.

    A file that goes in is None where there is none: of a composition.
    """
    mismatches: list[str] = []
    for stream, (data, results) in enumerate(zip(files, golden)):
        for n, (file, result) in enumerate(zip(data, results)):
            if file is not None and result.decoded is not None:
                difference = same_as_libjpeg(file, result.decoded)
                if difference:
                    mismatches.append(f"{names[stream]} frame {n}, as libjpeg-turbo decodes it: {difference}")
            for output, made in enumerate(result.bitstreams):
                if made is not None and (difference := _reread(made)):
                    mismatches.append(f"{names[stream]} frame {n}, output {output}, as decoded again: {difference}")
    return mismatches


def _reread(data: bytes) -> str | None:
    try:
        return same_as_libjpeg(data, decode(data).frame)
    except JpegError as error:
        return str(error)
