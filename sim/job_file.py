"""The tables of a job file, as pydantic checks them, and its errors in our words: key, what was expected, and found."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "CompositionTable",
    "JobFile",
    "LayerTable",
    "OutputTable",
    "SlotsTable",
    "StreamTable",
    "key_of",
    "meant",
    "words_of",
]

_Side = Annotated[int, Field(ge=1, le=16384)]
_Quality = Annotated[int, Field(ge=1, le=100)]
_Interval = Annotated[int, Field(ge=0, le=65535)]
_Slots = Annotated[int, Field(ge=2, le=64)]
_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_Place = Annotated[int, Field(ge=-(1 << 16), le=(1 << 16) - 1)]
_COLOUR = "#000000"


def _rate(value: Any) -> Fraction:
    """Frames per second, of a number or of a text of two."""
    words = re.fullmatch(r"(\d{1,9})/(\d{1,9})", value) if isinstance(value, str) else None
    if words and int(words[2]):
        rate = Fraction(int(words[1]), int(words[2]))
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        rate = Fraction(str(value))
    else:
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise ValueError("a number above 0 and up to 1000, or a text such as '30000/1001',")
    return rate


def _colour(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"#[0-9A-Fa-f]{6}", value):
        raise ValueError(f"a text such as '{_COLOUR}', red, green and blue of two hexadecimal digits each,")
    return value


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


class LayerTable(_Table):
    """``[[composition.layer]]``: a stream, and where it lies."""

    stream: str | None = None
    x_pixels: _Place = 0
    y_pixels: _Place = 0
    width_pixels: _Side
    height_pixels: _Side
    alpha: Annotated[int, Field(ge=0, le=255)] = 255
    order: Annotated[int, Field(ge=-1000, le=1000)] = 0


class CompositionTable(_Table):
    """``[[composition]]``: a picture of several streams."""

    name: _Word
    width_pixels: _Side
    height_pixels: _Side
    background: Annotated[str, BeforeValidator(_colour)] = _COLOUR
    frames: Annotated[int, Field(ge=1, le=10_000)] | None = None
    frames_per_second: Annotated[Any, BeforeValidator(_rate)] = None
    layer: Annotated[list[LayerTable], Field(min_length=1)]


class OutputTable(_Table):
    """``[[output]]``: what shall be made of a stream or of a composition."""

    stream: str | None = None
    composition: str | None = None
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
    composed: _Slots = 4
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
    composition: list[CompositionTable] = []
    output: Annotated[list[OutputTable], Field(min_length=1)]
    slots: SlotsTable = SlotsTable()
    host: HostTable = HostTable()
    chip: dict[str, Any] = {}
    ddr: dict[str, Any] = {}


_TABLES: dict[str, type[BaseModel]] = {
    "job": JobTable,
    "stream": StreamTable,
    "composition": CompositionTable,
    "composition.layer": LayerTable,
    "output": OutputTable,
    "slots": SlotsTable,
    "host": HostTable,
}


def _table_at(location: Sequence[str | int]) -> type[BaseModel] | None:
    """The model of the table at `location`."""
    names = [part for part in location if isinstance(part, str)]
    return _TABLES.get(".".join(names)) if names else JobFile


def _known(location: Sequence[str | int]) -> list[str]:
    """The keys that the table at `location` may have."""
    table = _table_at(location)
    return list(table.model_fields) if table else []


def meant(word: str, known: Sequence[str]) -> str:
    """What someone who wrote `word` may have meant."""
    close = difflib.get_close_matches(word, known, 1, 0.5)
    return f"did you mean {close[0]}?" if close else f"one of {', '.join(known)} expected"


def key_of(location: Sequence[str | int]) -> str:
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


def words_of(error: Any) -> str:
    """One of pydantic's errors in our words: key, what was expected, what was found."""
    kind, location, context = error["type"], error["loc"], error.get("ctx", {})
    key = key_of(location)
    if kind == "extra_forbidden":
        return f"{key}: no such key, {meant(str(location[-1]), _known(location[:-1]))}"
    if kind == "missing":
        double = ".".join(part for part in location if isinstance(part, str))
        listed = double in ("stream", "output", "composition.layer")
        return f"{key}: expected, but not there" + (f": a table [[{double}]]" if listed else "")
    found = error["input"]
    shown = repr(found) if isinstance(found, str | int | float | bool) else f"a {type(found).__name__}"
    if "ge" in context or "le" in context:
        bounds = _bounds(location)
        words = f"{bounds[0]} to {bounds[1]}" if bounds else f"{'at least' if 'ge' in context else 'at most'}"
        if bounds and bounds[1] is None:
            words = f"{bounds[0]} or more"
        return f"{key}: {words} expected, {shown} found"
    if kind == "value_error":
        return f"{key}: {context['error']} expected, {shown} found"
    if kind == "literal_error":
        return f"{key}: {context['expected']} expected, {shown} found"
    return f"{key}: {_KINDS.get(kind, error['msg'])} expected, {shown} found"


def _bounds(location: Sequence[str | int]) -> tuple[int, int | None] | None:
    """Lowest and highest value of the number at `location`."""
    table, key = _table_at(location[:-1]), str(location[-1])
    if table is None or len(location) < 2:
        return None
    schema = table.model_json_schema()["properties"][key]
    for choice in schema.get("anyOf", [schema]):
        if "minimum" in choice:
            return choice["minimum"], choice.get("maximum")
    return None
