"""The baseline meets the design's targets, and a figure that differs from it, either way, is told."""

import json

import pytest

from tessera.sim import measure


@pytest.fixture
def kept(tmp_path, monkeypatch):
    file = tmp_path / "baseline.json"
    file.write_text(json.dumps({"figures": {"a/cycles": 100, "a/overlap": 1.05}, "synth": {}}))
    monkeypatch.setattr(measure, "BASELINE", file)


def test_the_baseline_meets_the_targets():
    missed = measure.missed(measure.baseline()["figures"])
    assert not missed, "; ".join(missed)


def test_every_target_has_a_figure_in_the_baseline():
    figures = measure.baseline()["figures"]
    idle = [target.pattern for target in measure.TARGETS if not any(measure.target(name) is target for name in figures)]
    assert not idle, f"nothing in the baseline is held to {idle}"


def test_equal_is_silent(kept):
    assert measure.differences({"a/cycles": 100}) == []
    measure.check("a/cycles", 100)


@pytest.mark.parametrize("value", [99, 101])
def test_better_and_worse_are_told(kept, value):
    with pytest.raises(AssertionError, match=r"a/cycles is .*, not 100 as in .*make bench ACCEPT=1"):
        measure.check("a/cycles", value)


def test_an_unknown_figure_is_told(kept):
    assert "not in" in measure.differences({"b": 1})[0]


def test_a_missed_target_is_told(kept):
    assert measure.missed({"a/overlap": 1.2}) == ["a/overlap is 1.2; <= 1.1 wanted"]
    assert not measure.missed({"a/overlap": 1.1})


def test_the_speed_of_the_simulation_decides_nothing(kept):
    assert measure.differences({"run/simulation, cycles per second": 12345.0}) == []


def test_figures_may_be_grouped(tmp_path):
    (tmp_path / "figures.json").write_text('{"a": 1, "rates": {"x": 2.5, "y": 3}}')
    assert measure.read_figures(tmp_path, "b-c") == {"b-c/a": 1, "b-c/rates, x": 2.5, "b-c/rates, y": 3}


def test_what_is_no_number_is_refused(tmp_path):
    (tmp_path / "figures.json").write_text('{"a": "fast"}')
    with pytest.raises(ValueError, match="figure a is 'fast'; a number expected"):
        measure.read_figures(tmp_path, "b")
