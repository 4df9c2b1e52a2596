"""Job files: TOML, checked word for word. A bad one gets one line with the file, the key and what was expected."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tessera.golden import transcoder
from tessera.golden.frames import ChromaFormat
from tessera.golden.ops import MAX_RATIO
from tessera.golden.transcoder import Placement, frames_shown
from tessera.hw import config as presets
from tessera.hw.config import ChipConfig, DdrConfig
from tessera.sim.clips import BUILT_IN, CONTAINERS, ClipError, ClipInfo, find_clip, probe
from tessera.sim.job_file import (
    CompositionTable,
    JobFile,
    LayerTable,
    OutputTable,
    SlotsTable,
    StreamTable,
    key_of,
    meant,
    words_of,
)

__all__ = ["DDR_PRESETS", "Composition", "Job", "JobError", "Output", "Stream", "find_job", "jobs_folder", "load_job"]

DDR_PRESETS = {name: make for name, make in vars(presets).items() if name.startswith("ddr4_")}
"""Memories that a job may name."""

_SUBSAMPLINGS = {"4:0:0": ChromaFormat.Gray, "4:2:0": ChromaFormat.C420, "4:2:2": ChromaFormat.C422}
_SUBSAMPLINGS["4:4:4"] = ChromaFormat.C444
_SUFFIXES = (*CONTAINERS, ".mjpeg", ".jpg")


class JobError(ValueError):
    """A job that cannot be done; one line that names file, key and what was expected."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """A stream, with all that was left open in its table decided.

    `untouched` tells that the clip is Motion JPEG already and its files go in as they are; `width` and `height` are
    then the clip's.
    """

    name: str
    clip: ClipInfo
    first_frame: int
    frames: int
    width: int
    height: int
    quality: int
    subsampling: ChromaFormat
    restart_interval: int
    untouched: bool

    @property
    def rate(self) -> Fraction:
        """Frames per second."""
        return self.clip.rate


@dataclasses.dataclass(frozen=True)
class Composition(transcoder.Composition):
    """A composition with its name. The lowest layer is the first one."""

    name: str


@dataclasses.dataclass(frozen=True)
class Output:
    """An output: the index of its source among :attr:`Job.sources`, and what shall become of that."""

    source: int
    width: int
    height: int
    quality: int
    restart_interval: int
    file: str


@dataclasses.dataclass(frozen=True)
class Job:
    """A job that can be done, as far as can be told before doing it."""

    path: Path
    name: str
    seed: int
    time_limit_cycles: int | None
    streams: tuple[Stream, ...]
    compositions: tuple[Composition, ...]
    outputs: tuple[Output, ...]
    slots: SlotsTable
    chip: ChipConfig
    ddr_name: str
    host_bytes: int
    knobs: Mapping[str, int]

    @property
    def sources(self) -> tuple[Stream | Composition, ...]:
        """What outputs are made of: streams, and behind them compositions."""
        return (*self.streams, *self.compositions)


def jobs_folder() -> Path:
    """Where the jobs lie that come with the package."""
    return Path(__file__).parent / "jobs"


def find_job(name: str) -> Path:
    """The file of a job given as a path or by the name of one that comes with the package."""
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        return path
    return jobs_folder() / f"{name}.toml"


def load_job(path: Path) -> Job:
    """Read a job file and look at the clips that it names.

    Raises
    ------
    JobError
    """
    shown = str(path)
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(job.stem for job in jobs_folder().glob("*.toml")))
        raise JobError(f"{shown}: no such file; a .toml file, or one of the jobs {known}, expected") from None
    except OSError as error:
        raise JobError(f"{shown}: {error.strerror}; a .toml file expected") from None
    except UnicodeDecodeError as error:
        raise JobError(f"{shown}: byte {error.start}: text in UTF-8 expected") from None
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"{shown}: no TOML: {error}") from None
    try:
        file = JobFile.model_validate(table)
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise JobError(f"{shown}: {words_of(first)}") from None

    def fail(location: Sequence[str | int], message: str) -> JobError:
        return JobError(f"{shown}: {key_of(location)}: {message}")

    streams = tuple(_stream(n, table, path, fail) for n, table in enumerate(file.stream))
    names = [stream.name for stream in streams]
    for n, name in enumerate(names):
        if name in names[:n]:
            raise fail(("stream", n, "name"), f"another name than {name} expected, stream[{names.index(name)}] has it")
    compositions = tuple(_composition(n, table, streams, fail) for n, table in enumerate(file.composition))
    for n, composition in enumerate(compositions):
        if composition.name in names:
            taken = names.index(composition.name)
            holder = f"stream[{taken}]" if taken < len(streams) else f"composition[{taken - len(streams)}]"
            raise fail(
                ("composition", n, "name"), f"another name than {composition.name} expected, {holder} has it"
            )
        names.append(composition.name)
    outputs = tuple(_output(n, table, streams, compositions, fail) for n, table in enumerate(file.output))
    files = [output.file for output in outputs]
    for n, name in enumerate(files):
        if name in files[:n]:
            raise fail(("output", n, "file"), f"another file than {name} expected, output[{files.index(name)}] has it")
    made_of = {output.source for output in outputs}
    laid = {layer.stream for composition in compositions for layer in composition.layers}
    for n, name in enumerate(names):
        if n not in made_of | laid:
            key, number = ("stream", n) if n < len(streams) else ("composition", n - len(streams))
            raise fail((key, number), f"an [[output]] with {key} = '{name}' expected")
    streams = tuple(
        stream if n in made_of else _as_far_as_shown(n, stream, compositions) for n, stream in enumerate(streams)
    )
    if file.host.memory_bytes & (file.host.memory_bytes - 1):
        raise fail(("host", "memory_bytes"), f"a power of two expected, {file.host.memory_bytes} found")
    ddr_name, chip = _chip(file.chip, file.ddr, fail)
    _check_chip(chip, file, streams, fail)
    return Job(
        path=path,
        name=file.job.name,
        seed=file.job.seed,
        time_limit_cycles=file.job.time_limit_cycles,
        streams=streams,
        compositions=compositions,
        outputs=outputs,
        slots=file.slots,
        chip=chip,
        ddr_name=ddr_name,
        host_bytes=file.host.memory_bytes,
        knobs={"latency": file.host.read_latency_cycles, "stall": file.host.stall_sixteenths},
    )


def _stream(n: int, table: StreamTable, path: Path, fail: Any) -> Stream:
    def bad(key: str, message: str) -> JobError:
        return fail(("stream", n, key), message)

    try:
        clip = probe(find_clip(table.clip, path.parent))
    except ClipError as error:
        message = str(error)
        if table.clip not in BUILT_IN:
            message = f"a file, or one of {', '.join(BUILT_IN)}, expected: {message}"
        raise bad("clip", message) from None
    if table.first_frame >= clip.frames:
        raise bad(
            "first_frame",
            f"0 to {clip.frames - 1} expected, {table.first_frame} found: {clip.path.name} has {clip.frames} frames",
        )
    left = clip.frames - table.first_frame
    if table.frames is not None and table.frames > left:
        raise bad("frames", f"1 to {left} expected, {table.frames} found: {clip.path.name} has {clip.frames} frames")
    frames = table.frames or left
    made = ("width_pixels", "height_pixels", "quality", "subsampling", "restart_interval_mcus")
    untouched = clip.is_jpeg and all(getattr(table, key) is None for key in made)
    if not clip.width and not untouched:
        key = next(key for key in made if getattr(table, key) is not None)
        raise bad(key, f"none expected for {clip.path.name}, which cannot be decoded")
    width, height = table.width_pixels, table.height_pixels
    if (width is None) != (height is None):
        there, missing = ("width_pixels", "height_pixels") if height is None else ("height_pixels", "width_pixels")
        raise bad(missing, f"expected with {there}")
    return Stream(
        name=table.name or Path(table.clip).stem,
        clip=clip,
        first_frame=table.first_frame,
        frames=frames,
        width=width or clip.width,
        height=height or clip.height,
        quality=table.quality or 85,
        subsampling=_SUBSAMPLINGS[table.subsampling or "4:2:0"],
        restart_interval=table.restart_interval_mcus or 0,
        untouched=untouched,
    )


def _as_far_as_shown(n: int, stream: Stream, compositions: Sequence[Composition]) -> Stream:
    """A stream that only compositions show, up to the last frame that they do."""
    last = max(
        frames_shown(stream.rate, stream.frames, composition.rate, composition.frames)[-1]
        for composition in compositions
        for layer in composition.layers
        if layer.stream == n
    )
    return dataclasses.replace(stream, frames=last + 1)


def _named(location: Sequence[str | int], name: str | None, names: Sequence[str], many: str, fail: Any) -> int:
    """The index in `names` of the stream or composition that the key at `location` names, or of the only one."""
    if name is None:
        if len(names) != 1:
            raise fail(location, f"one of {', '.join(names)} expected, since there are several {many}")
        return 0
    if name not in names:
        raise fail(location, f"no such {location[-1]}: {name}, {meant(name, names)}")
    return names.index(name)


def _check_ratio(
    location: Sequence[str | int], name: str, source: tuple[int, int], table: OutputTable | LayerTable, fail: Any
) -> None:
    """The size that `table` asks for is one to which the source's can be scaled."""
    for key, size in zip(("width_pixels", "height_pixels"), source):
        target = getattr(table, key)
        low, high = -(-size // MAX_RATIO), min(size * MAX_RATIO, 16384)
        if size and not low <= target <= high:
            ratio = f"1/{MAX_RATIO} to {MAX_RATIO} times the {size} of {name}"
            raise fail((*location, key), f"{low} to {high} expected ({ratio}), {target} found")


def _composition(n: int, table: CompositionTable, streams: Sequence[Stream], fail: Any) -> Composition:
    names = [stream.name for stream in streams]
    order = sorted(range(len(table.layer)), key=lambda k: table.layer[k].order)
    layers: list[Placement] = []
    for k in order:
        layer, location = table.layer[k], ("composition", n, "layer", k)
        index = _named((*location, "stream"), layer.stream, names, "streams", fail)
        stream = streams[index]
        _check_ratio(location, f"stream {stream.name}", (stream.width, stream.height), layer, fail)
        layers.append(
            Placement(index, layer.x_pixels, layer.y_pixels, layer.width_pixels, layer.height_pixels, layer.alpha)
        )
    first = layers[order.index(0)]
    rate = table.frames_per_second or streams[first.stream].rate
    # Until the last frame of each layer has been shown.
    longest = max(math.ceil(streams[layer.stream].frames * rate / streams[layer.stream].rate) for layer in layers)
    return Composition(
        name=table.name,
        width=table.width_pixels,
        height=table.height_pixels,
        background=_ycbcr(table.background),
        rate=rate,
        frames=table.frames or longest,
        layers=tuple(layers),
    )


def _ycbcr(colour: str) -> tuple[int, int, int]:
    """Y, Cb and Cr of a colour, by JFIF's equations, rounded to the nearest; in thousandths, so that all is exact."""
    red, green, blue = (int(colour[n : n + 2], 16) for n in (1, 3, 5))
    luma = Fraction(299 * red + 587 * green + 114 * blue, 1000)
    cb, cr = (blue - luma) / Fraction(1772, 1000) + 128, (red - luma) / Fraction(1402, 1000) + 128
    y, u, v = (min(255, math.floor(value + Fraction(1, 2))) for value in (luma, cb, cr))
    return y, u, v


def _output(
    n: int, table: OutputTable, streams: Sequence[Stream], compositions: Sequence[Composition], fail: Any
) -> Output:
    location = ("output", n)
    called = [composition.name for composition in compositions]
    if table.stream in called:
        raise fail((*location, "stream"), f"no such stream: {table.stream}, did you mean composition?")
    if table.stream is not None and table.composition is not None:
        raise fail((*location, "composition"), "none expected beside stream")
    if table.stream is None and compositions:
        if table.composition is None:
            known = ", ".join(stream.name for stream in streams)
            raise fail(location, f"composition, one of {', '.join(called)}, or stream, one of {known}, expected")
        index = _named((*location, "composition"), table.composition, called, "compositions", fail)
        source, name = compositions[index], f"composition {table.composition}"
        index += len(streams)
    elif table.composition is not None:
        raise fail((*location, "composition"), "none expected, since there is no [[composition]]")
    else:
        index = _named((*location, "stream"), table.stream, [stream.name for stream in streams], "streams", fail)
        source, name = streams[index], f"stream {streams[index].name}"
    _check_ratio(location, name, (source.width, source.height), table, fail)
    file = Path(table.file)
    if file.name != table.file or file.suffix.lower() not in _SUFFIXES:
        expected = f"a file's name that ends in {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} expected"
        raise fail(("output", n, "file"), f"{expected}, '{table.file}' found")
    if table.file in ("report.json", "report.html", "input"):
        raise fail(("output", n, "file"), f"another name expected, the report is {table.file}")
    if file.suffix.lower() == ".jpg" and source.frames != 1:
        raise fail(("output", n, "file"), f"{', '.join(_SUFFIXES[:-1])} expected for {source.frames} frames")
    return Output(
        index, table.width_pixels, table.height_pixels, table.quality, table.restart_interval_mcus, table.file
    )


def _check_chip(chip: ChipConfig, file: JobFile, streams: Sequence[Stream], fail: Any) -> None:
    """No width and no number of layers is beyond what the chip has been made for."""
    widths: list[tuple[Sequence[str | int], int]] = []
    widths += [(("output", n), output.width_pixels) for n, output in enumerate(file.output)]
    widths += [(("stream", n), stream.width) for n, stream in enumerate(streams)]
    for n, composition in enumerate(file.composition):
        widths.append((("composition", n), composition.width_pixels))
        widths += [(("composition", n, "layer", k), layer.width_pixels) for k, layer in enumerate(composition.layer)]
        if len(composition.layer) > chip.layers:
            expected = f"at most the chip's {chip.layers} layers expected"
            raise fail(("composition", n, "layer"), f"{expected}, {len(composition.layer)} found")
    for location, width in widths:
        if width > chip.max_width:
            expected = f"at most the chip's max_width {chip.max_width} expected"
            raise fail((*location, "width_pixels"), f"{expected}, {width} found")


def _changes(table: dict[str, Any], name: str, made: type, fail: Any) -> dict[str, Any]:
    """The fields of a configuration that the table `name` changes."""
    fields = [field.name for field in dataclasses.fields(made) if field.name != "ddr"]
    for key, value in table.items():
        if key not in fields:
            known = [*(["preset"] if name == "ddr" else []), *fields]
            raise fail((name, key), f"no such key, {meant(key, known)}")
        if type(value) is not int:
            raise fail((name, key), f"a whole number expected, {value!r} found")
    return table


def _configured(make: Callable[..., Any], table: dict[str, Any], name: str, fail: Any) -> Any:
    try:
        return make(**table)
    except ValueError as error:
        key = next((key for key in table if str(error).startswith(f"{key} ")), next(iter(table), "preset"))
        raise fail((name, key), str(error)) from None


def _chip(chip: dict[str, Any], ddr: dict[str, Any], fail: Any) -> tuple[str, ChipConfig]:
    """(name of the memory, the chip)."""
    timing = dict(ddr)
    name = timing.pop("preset", "ddr4_3200aa")
    if not isinstance(name, str) or name not in DDR_PRESETS:
        raise fail(("ddr", "preset"), f"one of {', '.join(DDR_PRESETS)} expected, {name!r} found")
    memory = _configured(DDR_PRESETS[name], _changes(timing, "ddr", DdrConfig, fail), "ddr", fail)
    changes = _changes(dict(chip), "chip", ChipConfig, fail)
    return name, _configured(lambda **changes: ChipConfig(ddr=memory, **changes), changes, "chip", fail)
