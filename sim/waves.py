"""Waveforms of chosen groups of signals, and the file with which GTKWave shows them in order.

A group is a part of the chip. Only what is asked for is traced, since tracing everything makes the simulation many
times slower. Enums and the states of state machines are shown by their names.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from amaranth.hdl import Fragment
from vcd.gtkw import GTKWSave

from tessera.hw.config import SystemConfig
from tessera.hw.system import System
from tessera.sim.build import NO_GROUPS, build_folder, elaborate, source_hash
from tessera.sim.simulation import system_verilog

__all__ = [
    "ALL",
    "GROUPS",
    "Waves",
    "WavesError",
    "for_tracing",
    "state_names",
    "states_of",
    "trace_format",
    "traced_names",
]

GROUPS = {
    "events": (),
    "host": ("top.root0", "top.chip0.host"),
    "dispatch": ("top.chip0.dispatch",),
    "ingest": ("top.chip0.ingest",),
    "decode": ("top.chip0.jpegdecode",),
    "compute": ("top.chip0.compute",),
    "encode": ("top.chip0.jpegencode",),
    "egress": ("top.chip0.egress",),
    "compose": ("top.chip0.compose",),
    "fabric": ("top.chip0.fabric",),
    "ddr": ("top.chip0.ddr",),
    "dram": ("top.devices0",),
}
"""Groups in the order of the data: instances that each consists of. Events are ports of the top, always there."""
ALL = "all"
_DEPTH = 2
"""Levels of instances below a group's own that the save file lists; all levels are traced."""


class WavesError(ValueError):
    """A group that there is not; one line."""


@cache
def trace_format() -> str:
    """ "fst" if the headers that Verilator's FST writer needs are there (lz4, zlib), else "vcd"."""
    source = "#include <lz4.h>\n#include <zlib.h>\n"
    try:
        found = subprocess.run(["c++", "-E", "-x", "c++", "-"], input=source.encode(), capture_output=True)
    except FileNotFoundError:
        return "vcd"
    return "fst" if found.returncode == 0 else "vcd"


class Waves:
    """What is traced.

    Parameters
    ----------
    groups
        Names of :data:`GROUPS`, or "all" for every one.

    Raises
    ------
    WavesError
    """

    def __init__(self, groups: Sequence[str]) -> None:
        for group in groups:
            if group not in (*GROUPS, ALL):
                close = difflib.get_close_matches(group, GROUPS, 1, 0.5)
                hint = f"did you mean {close[0]}?" if close else f"{', '.join(GROUPS)} or {ALL} expected"
                raise WavesError(f"--waves {group}: no such group, {hint}")
        self.groups = tuple(group for group in GROUPS if group in groups or ALL in groups)
        self.instances = tuple(instance for group in self.groups for instance in GROUPS[group])
        self.format = trace_format() if self.instances else "vcd"

    def verilog(self, config: SystemConfig) -> str:
        """The system with the names of its enums' members, made for tracing; for events alone, as always."""
        if not self.instances:
            return system_verilog(config)
        return for_tracing(elaborate(f"system {config!r}", lambda: System(config), src=True))

    @property
    def control(self) -> str:
        """Lines for Verilator's control file. The top's ports are always traced."""
        on = [f'tracing_on -scope "{instance}"' for instance in self.instances]
        return "\n".join([NO_GROUPS, *on])

    def write_save_file(self, file: Path, traced: Path, verilog: str, states: Mapping[str, Mapping[str, str]]) -> None:
        """Write the .gtkw for the waveform `traced`, and its enums' names into a folder beside it.

        Parameters
        ----------
        verilog
            As of :meth:`verilog`.
        states
            As of :func:`state_names`.
        """
        modules = _modules(verilog)
        there = traced_names(traced) if traced.suffix == ".vcd" else None
        filters = _Filters(file.with_name("waves.enums"))
        with file.open("w") as out:
            save = GTKWSave(out)
            save.dumpfile(traced.name, abspath=False)
            save.treeopen("top.chip0.")
            save.sst_expanded(False)
            with save.group("clock and events"):
                for name, width in _ports(modules.get("top", {})):
                    _trace(save, f"$rootio.{name}", width, there, None)
            for group in filter(GROUPS.get, self.groups):
                with save.group(group):
                    for instance in GROUPS[group]:
                        self._instance(save, modules, instance, there, states, filters, 0)

    def _instance(
        self,
        save: GTKWSave,
        modules: Mapping[str, dict[str, _Signal]],
        path: str,
        there: set[str] | None,
        states: Mapping[str, Mapping[str, str]],
        filters: _Filters,
        depth: int,
    ) -> None:
        """The streams and states of an instance, then those of the instances in it."""
        signals = modules.get(path, {})
        for name in _shown(signals):
            full, signal = f"{path}.{name}", signals[name]
            names = states.get(full) or signal.enum
            _trace(save, full, signal.width, there, filters.of(names, signal.width) if names else None)
        if depth == _DEPTH:
            return
        for inner in modules:
            if inner.startswith(f"{path}.") and "." not in inner[len(path) + 1 :] and _shown(modules[inner]):
                with save.group(inner.rpartition(".")[2], closed=depth > 0):
                    self._instance(save, modules, inner, there, states, filters, depth + 1)


class _Signal:
    """A signal of a Verilog module: its width, and its values' names, if it is an enum, by bits."""

    def __init__(self, width: int, enum: Mapping[str, str]) -> None:
        self.width, self.enum = width, enum


_MODULE = re.compile(r"^module (\\\S+|\w+) ?\(")
_DECLARED = re.compile(
    r"^(?:/\*verilator tracing_off\*/)?\s*(?:input|output|wire|reg)\s+(?:\[(\d+):0\]\s+)?(\\\S+|\w+)\s*"
    r"(?:=.*)?;(?:/\*verilator tracing_on\*/)?$"
)
_ENUM = re.compile(r'^\s*\(\* enum_value_([01]+) = "(.*)" \*\)')


def _modules(verilog: str) -> dict[str, dict[str, _Signal]]:
    """Signals of each module by name; modules are named by their instances' paths."""
    modules: dict[str, dict[str, _Signal]] = {}
    signals: dict[str, _Signal] = {}
    enum: dict[str, str] = {}
    for line in verilog.splitlines():
        if found := _MODULE.match(line):
            signals = modules.setdefault(found[1].lstrip("\\"), {})
        elif found := _ENUM.match(line):
            enum[found[1]] = found[2]
        elif found := _DECLARED.match(line):
            name = found[2].lstrip("\\")
            if name not in signals or enum:
                signals[name] = _Signal(int(found[1] or 0) + 1, enum)
            enum = {}
    return modules


def for_tracing(verilog: str) -> str:
    """Verilog in which signals without a name of their own, and payloads whose fields are signals, are not traced.

    They are more than half of a waveform.
    """
    structs = {name.rpartition(".")[0] for signals in _modules(verilog).values() for name in signals if "." in name}
    lines = verilog.splitlines()
    for n, line in enumerate(lines):
        if found := _DECLARED.match(line):
            name = found[2].lstrip("\\")
            if "$" in name or (name in structs and "__payload" in name):
                lines[n] = f"/*verilator tracing_off*/{line}/*verilator tracing_on*/"
    return "\n".join(lines) + "\n"


def _ports(signals: Mapping[str, _Signal]) -> Iterator[tuple[str, int]]:
    """Signals of the top that are no submodule's."""
    first = [name for name in ("clk", "rst") if name in signals]
    rest = [name for name in signals if "$" not in name and "." not in name and "[" not in name]
    for name in [*first, *(name for name in rest if name not in first)]:
        if name in ("clk", "rst") or name.startswith(("mmio_", "msi_", "began", "ended", "violations")):
            yield name, signals[name].width


def _shown(signals: Mapping[str, _Signal]) -> list[str]:
    """Names of an instance's own streams, each with valid, ready, payload and its fields; then states and enums."""
    own = [name for name in signals if "$" not in name]
    streams = sorted({name.removesuffix("__valid") for name in own if name.endswith("__valid")})
    shown: list[str] = []
    for stream in streams:
        parts = [f"{stream}__valid", f"{stream}__ready"]
        fields = [name for name in own if name.startswith((f"{stream}__payload.",)) and "[" not in name]
        shown += [part for part in parts if part in signals] + (fields or [n for n in own if n == f"{stream}__payload"])
    states = [name for name in own if name.endswith("_state") and name not in shown]
    enums = [name for name in own if signals[name].enum and name not in shown and name not in states]
    return shown + states + [name for name in enums if "." not in name]


def _trace(save: GTKWSave, name: str, width: int, there: set[str] | None, filter_file: Path | None) -> None:
    if there is not None and name not in there:
        return
    full = f"{name}[{width - 1}:0]" if width > 1 else name
    file = None if filter_file is None else f"{filter_file.parent.name}/{filter_file.name}"
    save.trace(
        full,
        alias=name.rpartition(".")[2] if "payload." not in name else name.rpartition("__")[2],
        datafmt="hex",
        translate_filter_file=file,
    )


class _Filters:
    """GTKWave's files of values and names, one for each enum."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Path] = {}

    def of(self, names: Mapping[str, str], width: int) -> Path:
        """The file for an enum, its values given in bits."""
        digits = -(-width // 4)
        content = "".join(f"{int(bits, 2):0{digits}x} {name}\n" for bits, name in sorted(names.items()))
        if content not in self._files:
            self.folder.mkdir(exist_ok=True)
            file = self.folder / f"{len(self._files)}.txt"
            file.write_text(content)
            self._files[content] = file
        return self._files[content]


def traced_names(file: Path) -> set[str]:
    """Full names of the signals in a VCD file."""
    scope: list[str] = []
    names: set[str] = set()
    with file.open(errors="replace") as lines:
        for line in lines:
            words = line.split()
            if not words:
                continue
            if words[0] == "$scope":
                scope.append(words[2])
            elif words[0] == "$upscope":
                scope.pop()
            elif words[0] == "$var":
                names.add(".".join([*scope, words[4]]))
            elif words[0] == "$enddefinitions":
                break
    return names


def state_names(config: SystemConfig) -> dict[str, dict[str, str]]:
    """The states' names of each state machine of the system, by its signal's full name and the value's bits."""
    key = hashlib.sha256(f"{source_hash()} {config!r}".encode()).hexdigest()[:20]
    kept = build_folder() / "verilog" / f"{key}.states.json"
    if kept.exists():
        return json.loads(kept.read_text())
    found = states_of(System(config))
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".part")
    partial.write_text(json.dumps(found))
    partial.replace(kept)
    return found


def states_of(component: Any) -> dict[str, dict[str, str]]:
    """As :func:`state_names`, of any component that is simulated as the top."""
    return dict(_states(Fragment.get(component, None), "top"))


def _states(fragment: Any, path: str) -> Iterator[tuple[str, dict[str, str]]]:
    signals: set[tuple[int, str]] = set()
    for statements in getattr(fragment, "statements", {}).values():
        for signal in statements._lhs_signals():
            if (
                signal.name.endswith("_state")
                and signal.decoder is not None
                and (id(signal), signal.name) not in signals
            ):
                signals.add((id(signal), signal.name))
                names = {}
                for value in range(1 << len(signal)):
                    try:
                        names[f"{value:0{len(signal)}b}"] = str(signal.decoder(value)).rpartition("/")[0]
                    except KeyError:
                        break
                yield f"{path}.{signal.name}", names
    subfragments: Any = getattr(fragment, "subfragments", ())
    for number, (inner, name, *_) in enumerate(subfragments):
        yield from _states(inner, f"{path}.{name or f'U${number}'}")
