"""The program `tessera`."""

from __future__ import annotations

import enum
import importlib.metadata
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

__all__ = ["main"]

app = typer.Typer(
    name="tessera",
    help="A video transcoder made of GPUs, simulated cycle by cycle and checked bit for bit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_LINES_SHOWN = 20
_SECONDS_BETWEEN_LINES = 5.0


class On(enum.StrEnum):
    """Where the work is done."""

    rtl = "rtl"
    golden = "golden"


class Codec(enum.StrEnum):
    """What an encode makes."""

    jpeg = "jpeg"


_On = Annotated[On, typer.Option(help="The simulated chip, compared with the golden; or the golden alone.")]


def _fail(message: str, code: int = 2) -> NoReturn:
    """End with one line on the error stream."""
    print(f"tessera: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(code)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal; elsewhere a line when something else begins, and now and then."""
    if not sys.stderr.isatty():
        last: list[object] = ["", 0.0]

        def line(what: str, done: int, total: int) -> None:
            kind, now = what.split(",")[0], time.monotonic()
            if kind != last[0] or now - float(str(last[1])) >= _SECONDS_BETWEEN_LINES:
                last[:] = [kind, now]
                print(f"{what} ({done}/{total} tasks)" if total else what, file=sys.stderr, flush=True)

        yield line
        return
    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}")]
    with Bar(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("", total=None, count="")

        def update(what: str, done: int, total: int) -> None:
            count = f"{done} of {total} tasks" if total else ""
            bar.update(shown, description=what, completed=done, total=total or None, count=count)

        yield update


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What is wrong with the input, or keeps the tools from working, ends the program with one line."""
    from tessera.sim.build import BuildError
    from tessera.sim.clips import ClipError
    from tessera.sim.job import JobError
    from tessera.sim.memory import PlanError
    from tessera.sim.simulation import SimulationError
    from tessera.sim.units import InputError
    from tessera.sim.waves import WavesError

    try:
        yield
    except (ClipError, JobError, PlanError, InputError, WavesError) as error:
        _fail(str(error))
    except (SimulationError, BuildError) as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"{error.filename or ''}: {error.strerror}".removeprefix(": "))
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _finish(result: object) -> NoReturn:
    """Tell what came of it, and end."""
    from tessera.sim.run import Result

    assert isinstance(result, Result)
    for kind, lines in (("mismatch", result.mismatches), ("failed", result.failed)):
        for line in lines[:_LINES_SHOWN]:
            print(f"{kind}: {line}")
        if len(lines) > _LINES_SHOWN:
            print(f"{kind}: and {len(lines) - _LINES_SHOWN} more")
    for line in result.told:
        print(line)
    for file in result.files:
        print(file)
    count = len(result.mismatches)
    failed = f", {len(result.failed)} failed tasks" if result.failed else ""
    print(f"{count} mismatch{'' if count == 1 else 'es'}{failed}")
    raise typer.Exit(result.exit_code)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is, and end.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print(f"tessera {importlib.metadata.version('tessera')}")
        raise typer.Exit(0)


@app.command()
def run(
    job: Annotated[str, typer.Argument(help="A job file (.toml), or the name of one that comes along: transcode.")],
    out: Annotated[Path, typer.Option(help="Where the folder with the results goes.")] = Path("out"),
    on: _On = On.rtl,
    waves: Annotated[str, typer.Option(help="Groups of signals to trace, with commas between; or 'all'.")] = "",
    waves_frames: Annotated[
        int, typer.Option(help="With --waves: how many frames of each stream are done; 0 for all.", min=0)
    ] = 3,
    seed: Annotated[int | None, typer.Option(help="Instead of the job's.", min=1, max=2**31 - 1)] = None,
) -> None:
    """Do a whole job on the whole chip: files, report.json and report.html."""
    with _one_line_errors(), _progress() as progress:
        from tessera.sim.job import find_job, load_job
        from tessera.sim.run import run_job
        from tessera.sim.waves import Waves

        groups = [word.strip() for word in waves.split(",") if word.strip()]
        Waves(groups)
        if groups and on is On.golden:
            _fail("--waves: only with --on rtl")
        result = run_job(
            load_job(find_job(job)),
            out,
            on=on.value,
            waves=groups,
            waves_frames=waves_frames,
            seed=seed,
            progress=progress,
        )
    _finish(result)


@app.command()
def decode(
    file: Annotated[Path, typer.Argument(help="A .jpg, or a clip of Motion JPEG.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .y4m to write.")],
    on: _On = On.rtl,
) -> None:
    """Decode with one decode unit of one chip; native planes come out."""
    with _one_line_errors(), _progress() as progress:
        from tessera.sim.clips import find_clip
        from tessera.sim.units import decode_file

        result = decode_file(find_clip(str(file)), output, on=on.value, progress=progress)
    _finish(result)


@app.command()
def encode(
    file: Annotated[Path, typer.Argument(help="A .y4m, or any clip that PyAV opens.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="One frame: .jpg. Any: .avi, .mov, .mkv, .mjpeg.")],
    codec: Annotated[Codec, typer.Option(help="What it shall become.")] = Codec.jpeg,
    quality: Annotated[int, typer.Option(help="1 to 100.", min=1, max=100)] = 75,
    restart_interval_mcus: Annotated[int, typer.Option(help="0 for none.", min=0, max=65535)] = 0,
    on: _On = On.rtl,
) -> None:
    """Encode with one encode unit of one chip; each frame keeps its size and chroma format."""
    with _one_line_errors(), _progress() as progress:
        from tessera.sim.clips import find_clip
        from tessera.sim.units import encode_file

        assert codec is Codec.jpeg
        result = encode_file(
            find_clip(str(file)),
            output,
            quality=quality,
            restart_interval=restart_interval_mcus,
            on=on.value,
            progress=progress,
        )
    _finish(result)


def main() -> None:
    """Entry point of the program `tessera`."""
    app()


if __name__ == "__main__":
    main()
