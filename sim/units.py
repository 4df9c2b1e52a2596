"""One decode or encode unit in one chip: what `tessera decode` and `tessera encode` do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tessera.golden.frames import Frame, FrameError, write_y4m
from tessera.golden.jpeg.decoder import JpegError, decode
from tessera.golden.jpeg.encoder import encode
from tessera.golden.jpeg.status import JpegStatus
from tessera.golden.transcoder import Transcoded, decode_frame
from tessera.hw.config import SystemConfig
from tessera.hw.memory.layout import SurfaceLayout
from tessera.hw.memory.port import LINE_BYTES
from tessera.sim.claims import claimed_layout
from tessera.sim.clips import CONTAINERS, jpeg_files, mux, native_frames, probe, same_as_libjpeg
from tessera.sim.compare import compare_outcome, first_difference
from tessera.sim.planner import Chain, bitstream_lines, plan_chains, plan_encode
from tessera.sim.run import Result, Where
from tessera.sim.simulation import Outcome, Progress, build_system, simulate

__all__ = ["InputError", "decode_file", "encode_file"]

_LARGEST_BATCH = 4096
T = TypeVar("T")


class InputError(ValueError):
    """An input or an option that cannot be; one line."""


def _batches(items: Sequence[T], lines: Sequence[int], room: int) -> Iterator[list[T]]:
    """Runs of items that fit a memory of `room` lines, when each has as many lines as the largest of its run."""
    batch: list[T] = []
    largest = 0
    for item, count in zip(items, lines):
        largest = max(largest, count)
        if batch and (largest * (len(batch) + 1) > room or len(batch) == _LARGEST_BATCH):
            yield batch
            batch, largest = [], count
        batch.append(item)
    if batch:
        yield batch


def decode_file(path: Path, out: Path, *, on: Where, progress: Progress, config: SystemConfig | None = None) -> Result:
    """Decode a JPEG file or a Motion JPEG clip into a .y4m with its native planes.

    On the chip everything is compared with the golden and with libjpeg-turbo. Nothing is written when a frame fails.

    Raises
    ------
    ClipError, InputError
        The input cannot be, or the output cannot be written.
    """
    if out.suffix.lower() != ".y4m":
        raise InputError(f"{out}: a file that ends in .y4m expected")
    info = probe(path)
    if not info.is_jpeg:
        raise InputError(f"{path}: a .jpg or a clip of Motion JPEG expected, {info.codec} found")
    files = jpeg_files(path)
    if not files:
        raise InputError(f"{path}: no frame in it")
    golden = [decode_frame(data) for data in files]
    result = Result()
    for n, (data, made) in enumerate(zip(files, golden)):
        if made.decoded is not None and (difference := same_as_libjpeg(data, made.decoded)):
            result.mismatches.append(f"frame {n}, as libjpeg-turbo decodes it: {difference}")
    frames = [made.decoded for made in golden]
    if on == "rtl":
        frames = _decode_on_chip(path, files, golden, result, config or SystemConfig(), progress)
    else:
        result.failed = [f"frame {n}: {made.message}" for n, made in enumerate(golden) if made.decoded is None]
    there = [frame for frame in frames if frame is not None]
    if len(there) == len(files):
        try:
            write_y4m(out, there, info.rate)
        except FrameError as error:
            raise InputError(str(error)) from None
        except OSError as error:
            raise InputError(f"{out}: {error.strerror}") from None
        result.files.append(out)
    return result


def _decode_on_chip(
    path: Path,
    files: Sequence[bytes],
    golden: Sequence[Transcoded],
    result: Result,
    config: SystemConfig,
    progress: Progress,
) -> list[Frame | None]:
    memory = config.chip.memory_lines
    layouts = [claimed_layout(data) for data in files]
    asked = [0 if layout is None else layout.lines for layout in layouts]
    # What a damaged header claims may be more than there is: such a task finds its slot too small.
    sensible = [lines for lines, made in zip(asked, golden) if made.status == JpegStatus.Ok]
    most = max([*sensible, 512])
    share = memory // 2
    if most > share:
        raise InputError(f"{path}: a surface of {most * LINE_BYTES} bytes, {share * LINE_BYTES} at most expected")
    numbers = list(range(len(files)))
    program = build_system(config, progress=progress)
    frames: list[Frame | None] = []
    for batch in _batches(numbers, [min(lines, most) for lines in asked], share):
        some = tuple(files[n] for n in batch)
        room = max(min(asked[n], most) for n in batch)
        chain = Chain(some, max(room, 1), surfaces=len(some))
        plan = plan_chains([chain], dram_lines=memory, host_bytes=config.host_bytes, names=[path.name])
        outcome = simulate(plan, program, progress=progress)
        expected = [[golden[n] for n in batch]]
        more, failed = compare_outcome(outcome, expected, [[asked[n] for n in batch]], [max(room, 1)], [0])
        result.mismatches += more
        result.failed += failed
        frames += [outcome.surface(0, k) for k in range(len(some))]
        result.told.append(_cycles(outcome, "JpegDecode", "decoded"))
    return frames


def _cycles(outcome: Outcome, engine: str, what: str) -> str:
    tasks = [outcome.records[task.tag] for task in outcome.plan.tasks if task.engine.name == engine]
    total = sum(record.cycles for record in tasks)
    samples = sum(record.width * record.height for record in tasks)
    per = f", {total / samples:.3f} cycles per pixel" if samples else ""
    return f"{len(tasks)} frames {what} in {total:,} cycles{per}"


def encode_file(
    path: Path,
    out: Path,
    *,
    quality: int,
    restart_interval: int = 0,
    on: Where,
    progress: Progress,
    config: SystemConfig | None = None,
) -> Result:
    """Encode a .y4m, or any clip that PyAV opens, as JPEG: one frame as .jpg, any number as .avi, .mov, .mkv, .mjpeg.

    Frames keep their size and chroma format. On the chip every file is compared with the golden's.

    Raises
    ------
    ClipError, InputError
        The input cannot be, or the output cannot be written.
    """
    suffixes = (".jpg", ".jpeg", ".mjpeg", *CONTAINERS)
    if out.suffix.lower() not in suffixes:
        raise InputError(f"{out}: a file that ends in {', '.join(suffixes[:-1])} or {suffixes[-1]} expected")
    if not 1 <= quality <= 100:
        raise InputError(f"--quality {quality}: 1 to 100 expected")
    info = probe(path)
    frames = list(native_frames(path))
    if not frames:
        raise InputError(f"{path}: no frame in it")
    if len(frames) != 1 and out.suffix.lower() in (".jpg", ".jpeg"):
        raise InputError(f"{out}: one of {', '.join(suffixes[2:])} expected for {len(frames)} frames")
    golden = [encode(frame, quality, restart_interval) for frame in frames]
    result = Result()
    for n, data in enumerate(golden):
        try:
            difference = same_as_libjpeg(data, decode(data).frame)
        except JpegError as error:
            difference = str(error)
        if difference:
            result.mismatches.append(f"frame {n}, as decoded again: {difference}")
    files: list[bytes | None] = [*golden]
    if on == "rtl":
        files = _encode_on_chip(path, frames, golden, quality, restart_interval, result, config, progress)
    if all(data is not None for data in files):
        try:
            mux(out, files, info.rate, frames[0].width, frames[0].height)
        except OSError as error:
            raise InputError(f"{out}: {error.strerror}") from None
        result.files.append(out)
    return result


def _encode_on_chip(
    path: Path,
    frames: Sequence[Frame],
    golden: Sequence[bytes],
    quality: int,
    restart_interval: int,
    result: Result,
    config: SystemConfig | None,
    progress: Progress,
) -> list[bytes | None]:
    config = config or SystemConfig()
    memory = config.chip.memory_lines
    lines = [SurfaceLayout(frame.format, frame.width, frame.height).lines for frame in frames]
    # Its files lie in the host's memory as well, one for each frame.
    rooms = [bitstream_lines(frame.format, frame.width, frame.height, quality) for frame in frames]
    share = min(memory // 2, config.host_bytes // LINE_BYTES // 2)
    most = max(max(lines), max(rooms))
    if most > share or 4 * max(rooms) > memory // 2:
        raise InputError(f"{path}: a frame of {frames[0].width}x{frames[0].height} is too large for the chip's memory")
    program = build_system(config, progress=progress)
    files: list[bytes | None] = []
    needs = [max(a, b) for a, b in zip(lines, rooms)]
    for batch in _batches(list(range(len(frames))), needs, share):
        plan = plan_encode(
            [frames[n] for n in batch],
            quality=quality,
            restart_interval=restart_interval,
            dram_lines=memory,
            host_bytes=config.host_bytes,
            names=[path.name],
        )
        outcome = simulate(plan, program, progress=progress)
        for task in plan.tasks:
            record, n = outcome.records[task.tag], batch[task.frame]
            if record.status != "Ok":
                result.failed.append(f"{plan.name(task.tag)}: {record.status} at {record.where}")
                result.mismatches.append(f"{plan.name(task.tag)}: Ok expected, {record.status} found")
        for tag in plan.results:
            n, data = batch[plan.tasks[tag].frame], outcome.results.get(tag)
            files.append(data)
            if data is not None and (difference := first_difference(golden[n], data)):
                result.mismatches.append(f"{path.name} frame {n}: {difference}")
        if outcome.violations:
            result.mismatches.append(f"DRAM timing rules broken: 0 expected, {outcome.violations} found")
        result.told.append(_cycles(outcome, "JpegEncode", "encoded"))
    return files
