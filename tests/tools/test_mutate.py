"""The mutants: the healthy one is healthy, a broken one is noticed, and explanations are in order."""

import re

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


def test_explanations_are_complete():
    for key, entry in mutate.explanations().items():
        assert re.fullmatch("[0-9a-f]{12}", key), key
        assert set(entry) == {"block", "where", "why"} and all(entry.values()), key
        assert entry["block"] in mutate.blocks(), f"{key}: no block {entry['block']}"


def test_quick_tests_come_first():
    first, rest = mutate.quick_first({"slow": 30.0, "a": 0.2, "b": 0.3, "middle": 5.0})
    assert (first, rest) == (["a", "b"], ["middle", "slow"])
    assert mutate.quick_first({"only": 9.0}) == (["only"], [])
