"""Job files: TOML, checked word for word. A bad one gets one line with the file, the key and what was expected."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tessera.golden.frames import ChromaFormat
from tessera.golden.ops import MAX_RATIO
from tessera.hw import config as presets
from tessera.hw.config import ChipConfig, DdrConfig
from tessera.sim.clips import BUILT_IN, CONTAINERS, ClipError, ClipInfo, find_clip, probe

__all__ = ["DDR_PRESETS", "Job", "JobError", "Output", "Stream", "find_job", "jobs_folder", "load_job"]

DDR_PRESETS = {name: make for name, make in vars(presets).items() if name.startswith("ddr4_")}
"""Memories that a job may name."""

_SUBSAMPLINGS = {"4:0:0": ChromaFormat.Gray, "4:2:0": ChromaFormat.C420, "4:2:2": ChromaFormat.C422}
_SUBSAMPLINGS["4:4:4"] = ChromaFormat.C444
_SUFFIXES = (*CONTAINERS, ".mjpeg", ".jpg")

_Side = Annotated[int, Field(ge=1, le=16384)]
_Quality = Annotated[int, Field(ge=1, le=100)]
_Interval = Annotated[int, Field(ge=0, le=65535)]
_Slots = Annotated[int, Field(ge=2, le=64)]
_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class JobError(ValueError):
    """A job that cannot be done; one line that names file, key and what was expected."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class JobTable(_Table):
    """``[job]``: the name, of which the folder of the results is made; and what holds for all of it."""

    name: _Word
    seed: Annotated[int, Field(ge=1, le=2**31 - 1)] = 1
    time_limit_cycles: Annotated[int, Field(ge=1000, le=10**12)] | None = None


class StreamTable(_Table):
    """``[[stream]]``: Motion JPEG that goes in, made of a clip or taken as it is."""

    name: _Word | None = None
    clip: Annotated[str, Field(min_length=1)]
    first_frame: Annotated[int, Field(ge=0)] = 0
    frames: Annotated[int, Field(ge=1, le=10_000)] | None = None
    width_pixels: _Side | None = None
    height_pixels: _Side | None = None
    quality: _Quality | None = None
    subsampling: Literal["4:0:0", "4:2:0", "4:2:2", "4:4:4"] | None = None
    restart_interval_mcus: _Interval | None = None


class OutputTable(_Table):
    """``[[output]]``: what shall be made of a stream."""

    stream: str | None = None
    codec: Literal["jpeg"] = "jpeg"
    width_pixels: _Side
    height_pixels: _Side
    quality: _Quality = 75
    restart_interval_mcus: _Interval = 0
    file: Annotated[str, Field(min_length=1)]


class SlotsTable(_Table):
    """``[slots]``: how many of each kind lie in the chip's memory."""

    bitstream_in: _Slots = 4
    decoded: _Slots = 4
    scaled: _Slots = 4
    bitstream_out: _Slots = 4


class HostTable(_Table):
    """``[host]``: the machine that the chip is in."""

    memory_bytes: Annotated[int, Field(ge=1 << 16, le=1 << 31)] = 1 << 26
    read_latency_cycles: Annotated[int, Field(ge=0, le=4000)] = 100
    stall_sixteenths: Annotated[int, Field(ge=0, le=12)] = 0


class JobFile(_Table):
    """A whole file.

    ``[ddr]`` is a preset's name and any fields of :class:`DdrConfig` to change, ``[chip]`` any fields of
    :class:`ChipConfig` but ``ddr``.
    """

    job: JobTable
    stream: Annotated[list[StreamTable], Field(min_length=1)]
    output: Annotated[list[OutputTable], Field(min_length=1)]
    slots: SlotsTable = SlotsTable()
    host: HostTable = HostTable()
    chip: dict[str, Any] = {}
    ddr: dict[str, Any] = {}


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
class Output:
    """An output: the index of its `stream`, and what shall become of it."""

    stream: int
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
    outputs: tuple[Output, ...]
    slots: SlotsTable
    chip: ChipConfig
    ddr_name: str
    host_bytes: int
    knobs: Mapping[str, int]


def jobs_folder() -> Path:
    """Where the jobs lie that come with the package."""
    return Path(__file__).parent / "jobs"


def find_job(name: str) -> Path:
    """The file of a job given as a path or by the name of one that comes with the package."""
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        return path
    return jobs_folder() / f"{name}.toml"


def _known(model: type[BaseModel] | Any, location: Sequence[str | int]) -> list[str]:
    """The keys that the table at `location` may have."""
    tables: dict[str, type[BaseModel]] = {
        "job": JobTable,
        "stream": StreamTable,
        "output": OutputTable,
        "slots": SlotsTable,
        "host": HostTable,
    }
    table = tables.get(str(location[0])) if location else JobFile
    return list(table.model_fields) if table else []


def _meant(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, 1, 0.5)
    return f"did you mean {close[0]}?" if close else f"one of {', '.join(known)} expected"


def _key(location: Sequence[str | int]) -> str:
    """A place in a job file in words: ``output[1].quality``, counted from 0."""
    words = ""
    for part in location:
        words += f"[{part}]" if isinstance(part, int) else f".{part}" if words else str(part)
    return words


_KINDS = {
    "int_type": "a whole number",
    "string_type": "a text in quotes",
    "list_type": "a table in double brackets",
    "model_type": "a table",
    "dict_type": "a table",
    "string_pattern_mismatch": "letters, digits, '.', '_' and '-', at most 64",
    "string_too_short": "a text that is not empty",
    "too_short": "at least one such table",
}


def _words(error: Any) -> str:
    """One of pydantic's errors in our words: key, what was expected, what was found."""
    kind, location, context = error["type"], error["loc"], error.get("ctx", {})
    key = _key(location)
    if kind == "extra_forbidden":
        return f"{key}: no such key, {_meant(str(location[-1]), _known(JobFile, location[:-1]))}"
    if kind == "missing":
        table = str(location[-1])
        double = len(location) == 1 and table in ("stream", "output")
        return f"{key}: expected, but not there" + (f": a table [[{table}]]" if double else "")
    found = error["input"]
    shown = repr(found) if isinstance(found, str | int | float | bool) else f"a {type(found).__name__}"
    if "ge" in context or "le" in context:
        bounds = _bounds(location)
        words = f"{bounds[0]} to {bounds[1]}" if bounds else f"{'at least' if 'ge' in context else 'at most'}"
        if bounds and bounds[1] is None:
            words = f"{bounds[0]} or more"
        return f"{key}: {words} expected, {shown} found"
    if kind == "literal_error":
        return f"{key}: {context['expected']} expected, {shown} found"
    return f"{key}: {_KINDS.get(kind, error['msg'])} expected, {shown} found"


def _bounds(location: Sequence[str | int]) -> tuple[int, int | None] | None:
    """Lowest and highest value of the number at `location`."""
    names = [part for part in location if isinstance(part, str)]
    tables = {"job": JobTable, "stream": StreamTable, "output": OutputTable, "slots": SlotsTable}
    tables["host"] = HostTable
    table = tables.get(names[0])
    if table is None or len(names) < 2:
        return None
    schema = table.model_json_schema()["properties"][names[1]]
    for choice in schema.get("anyOf", [schema]):
        if "minimum" in choice:
            return choice["minimum"], choice.get("maximum")
    return None


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
        raise JobError(f"{shown}: {_words(first)}") from None

    def fail(location: Sequence[str | int], message: str) -> JobError:
        return JobError(f"{shown}: {_key(location)}: {message}")

    streams = tuple(_stream(n, table, path, fail) for n, table in enumerate(file.stream))
    names = [stream.name for stream in streams]
    for n, name in enumerate(names):
        if name in names[:n]:
            raise fail(("stream", n, "name"), f"another name than {name} expected, stream[{names.index(name)}] has it")
    outputs = tuple(_output(n, table, streams, fail) for n, table in enumerate(file.output))
    files = [output.file for output in outputs]
    for n, name in enumerate(files):
        if name in files[:n]:
            raise fail(("output", n, "file"), f"another file than {name} expected, output[{files.index(name)}] has it")
    for n, stream in enumerate(streams):
        if all(output.stream != n for output in outputs):
            raise fail(("stream", n), f"an [[output]] with stream = '{stream.name}' expected")
    if file.host.memory_bytes & (file.host.memory_bytes - 1):
        raise fail(("host", "memory_bytes"), f"a power of two expected, {file.host.memory_bytes} found")
    ddr_name, chip = _chip(file.chip, file.ddr, fail)
    for n, output in enumerate(outputs):
        if output.width > chip.max_width:
            raise fail(
                ("output", n, "width_pixels"),
                f"at most the chip's max_width {chip.max_width} expected, {output.width} found",
            )
        if streams[output.stream].width > chip.max_width:
            found = streams[output.stream].width
            raise fail(
                ("stream", output.stream, "width_pixels"),
                f"at most the chip's max_width {chip.max_width} expected, {found} found",
            )
    return Job(
        path=path,
        name=file.job.name,
        seed=file.job.seed,
        time_limit_cycles=file.job.time_limit_cycles,
        streams=streams,
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


def _output(n: int, table: OutputTable, streams: Sequence[Stream], fail: Any) -> Output:
    names = [stream.name for stream in streams]
    if table.stream is None:
        if len(streams) != 1:
            raise fail(("output", n, "stream"), f"one of {', '.join(names)} expected, since there are several streams")
        index = 0
    elif table.stream in names:
        index = names.index(table.stream)
    else:
        raise fail(("output", n, "stream"), f"no such stream: {table.stream}, {_meant(table.stream, names)}")
    stream = streams[index]
    for key, source, target in (
        ("width_pixels", stream.width, table.width_pixels),
        ("height_pixels", stream.height, table.height_pixels),
    ):
        low, high = -(-source // MAX_RATIO), min(source * MAX_RATIO, 16384)
        if source and not low <= target <= high:
            ratio = f"1/{MAX_RATIO} to {MAX_RATIO} times the {source} of stream {stream.name}"
            raise fail(("output", n, key), f"{low} to {high} expected ({ratio}), {target} found")
    file = Path(table.file)
    if file.name != table.file or file.suffix.lower() not in _SUFFIXES:
        expected = f"a file's name that ends in {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} expected"
        raise fail(("output", n, "file"), f"{expected}, '{table.file}' found")
    if table.file in ("report.json", "report.html", "input"):
        raise fail(("output", n, "file"), f"another name expected, the report is {table.file}")
    if file.suffix.lower() == ".jpg" and stream.frames != 1:
        raise fail(("output", n, "file"), f"{', '.join(_SUFFIXES[:-1])} expected for {stream.frames} frames")
    return Output(
        index, table.width_pixels, table.height_pixels, table.quality, table.restart_interval_mcus, table.file
    )


def _changes(table: dict[str, Any], name: str, made: type, fail: Any) -> dict[str, Any]:
    """The fields of a configuration that the table `name` changes."""
    fields = [field.name for field in dataclasses.fields(made) if field.name != "ddr"]
    for key, value in table.items():
        if key not in fields:
            known = [*(["preset"] if name == "ddr" else []), *fields]
            raise fail((name, key), f"no such key, {_meant(key, known)}")
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
