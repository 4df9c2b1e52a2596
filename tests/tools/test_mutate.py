"""The mutants: the healthy one is healthy, a broken one is noticed, and explanations are in order."""

from pathlib import Path

import pytest

from tessera.sim import mutate

BLOCK, DUT = "lib.arbiter", "2"


@pytest.fixture(scope="module")
def arbiter():
    return mutate.mutated(BLOCK, DUT, count=12, seed=3)


def test_each_mutant_has_a_number_and_a_line_of_the_block(arbiter):
    assert [mutant.number for mutant in arbiter.mutants] == list(range(1, 13))
    assert all(mutant.where.startswith("hw/lib/arbiter.py:") for mutant in arbiter.mutants)


def test_none_active_passes_and_some_active_fail(arbiter):
    healthy, *broken = mutate.run(arbiter, range(5))
    assert healthy.failed is None and len(healthy.seconds) > 1
    assert any(verdict.failed for verdict in broken), "no mutant of the first four was noticed"


def test_what_never_ends_is_noticed(arbiter):
    assert "too long" in mutate.run(arbiter, [0], limit=0)[0].failed


def test_explanations_are_of_lines_that_are_there():
    for file in mutate.EXPLAINED.iterdir():
        block = file.stem
        assert file.suffix == ".json" and block in mutate.blocks(), f"no block {file.name}"
        source = Path(mutate.ROOT, "hw", *block.split(".")).with_suffix(".py")
        lines = [line.strip() for line in source.read_text().splitlines()]
        for entry in mutate.explanations(block):
            assert set(entry) == {"line", "change", "why"} and all(entry.values()), entry
            assert entry["line"] in lines, entry


def test_explanations_match_by_pattern(monkeypatch):
    entry = {"line": "x.eq(y)", "change": "const? at *[0] of 9", "why": "no reason"}
    monkeypatch.setattr(mutate, "explanations", {"a.b": [entry], "a.c": []}.get)
    survivor = {"line": "x.eq(y)", "change": "const1 at B[0] of 9"}
    assert mutate.explained("a.b", survivor) and not mutate.explained("a.c", survivor)
    assert not mutate.explained("a.b", {**survivor, "change": "const1 at B[1] of 9"})


def test_quick_tests_come_first():
    first, rest = mutate.quick_first({"slow": 30.0, "a": 0.2, "b": 0.3, "middle": 5.0})
    assert (first, rest) == (["a", "b"], ["middle", "slow"])
    assert mutate.quick_first({"only": 9.0}) == (["only"], [])
