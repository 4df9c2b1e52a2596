"""How the tests are chosen and in which order they run: the longest first, so that two workers end together."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine fails no test, and a run today is the run of tomorrow; fresh seeds are for the soak.
settings.register_profile("tessera", deadline=None, derandomize=True)
settings.load_profile("tessera")

ROOT = Path(__file__).resolve().parent.parent
TIMES = Path(__file__).with_name("durations.json")
UNKNOWN = 5.0
"""Seconds that a test counts for until it was timed, ..."""
UNKNOWN_BENCH = 30.0
"""... and one that builds a simulation."""


def _times():
    """Seconds that each test took when it was last timed, on this machine if it ran here."""
    here = _kept_here()
    return {**json.loads(TIMES.read_text()), **(json.loads(here.read_text()) if here.exists() else {})}


def _seconds(times, item):
    return times.get(item.nodeid, UNKNOWN_BENCH if item.name.startswith("test_bench[") else UNKNOWN)


def _kept_here():
    return Path(os.environ.get("TESSERA_BUILD", ROOT / "build")) / "durations.json"


def pytest_addoption(parser):
    group = parser.getgroup("tessera")
    group.addoption("--within", type=float, metavar="SECONDS", help="only the quickest tests, as many as fit this time")
    group.addoption("--soak", action="store_true", help="only the long tests, which are left out otherwise")
    group.addoption("--seed", type=int, help="seed of the long tests; printed, and a new one each time unless given")
    group.addoption("--keep-durations", action="store_true", help="write the tests' times to tests/durations.json")


def pytest_configure(config):
    config.addinivalue_line("markers", "soak: long; runs in `make soak` only")
    if config.getoption("--soak") and "TESSERA_SEED" not in os.environ:
        # Workers inherit it, and so do the simulations.
        seed = config.getoption("--seed")
        os.environ["TESSERA_SEED"] = str(int.from_bytes(os.urandom(3), "little") if seed is None else seed)


def pytest_report_header(config):
    return f"seed {os.environ['TESSERA_SEED']}" if config.getoption("--soak") else None


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--soak"):
        terminalreporter.write_line(f"again: make soak SEED={os.environ['TESSERA_SEED']}")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    soak = config.getoption("--soak")
    chosen = [item for item in items if (item.get_closest_marker("soak") is not None) == soak]
    times = _times()
    chosen.sort(key=lambda item: -_seconds(times, item))
    within = config.getoption("--within")
    if within is not None:
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        spent, quick = 0.0, set()
        for item in reversed(chosen):
            spent += _seconds(times, item) / workers
            if spent > within:
                break
            quick.add(item)
        chosen = [item for item in chosen if item in quick]
    left_out = set(items) - set(chosen)
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = chosen


_taken = {}


def pytest_runtest_logreport(report):
    _taken[report.nodeid] = _taken.get(report.nodeid, 0.0) + report.duration


def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput") or not _taken:
        return
    here = _kept_here()
    earlier = json.loads(here.read_text()) if here.exists() else {}
    # A test whose builds are kept is quick: what counts is how long it takes when they are not.
    kept = {name: max(seconds, earlier.get(name, 0.0)) for name, seconds in _taken.items()}
    here.parent.mkdir(parents=True, exist_ok=True)
    here.write_text(json.dumps({**earlier, **kept}))
    if session.config.getoption("--keep-durations"):
        shown = {name: round(seconds, 1) for name, seconds in sorted(kept.items()) if seconds >= 0.5}
        TIMES.write_text(json.dumps(shown, indent=1) + "\n")


@pytest.fixture
def seed():
    """Seed of a long test: a new one in each `make soak`, or the one asked for."""
    return int(os.environ.get("TESSERA_SEED", "1"))
