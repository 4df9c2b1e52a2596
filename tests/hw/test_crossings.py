"""Clocks are crossed in hw/lib/cdc.py and nowhere else; who uses it stands here."""

import re
from pathlib import Path

HW = Path(__file__).resolve().parents[2] / "hw"
CROSSING = re.compile(r"\bClockDomain\(|\bAsyncFIFO|\bamaranth\.lib\.cdc\b|\bamaranth\.lib import [^\n]*\bcdc\b")
USERS = {"link/lanes.py"}


def modules(pattern):
    return {str(file.relative_to(HW)) for file in HW.rglob("*.py") if pattern.search(file.read_text())}


def test_clocks_are_crossed_in_one_place():
    assert modules(CROSSING) == {"lib/cdc.py"}


def test_the_crossings_are_those_listed():
    assert modules(re.compile(r"\btessera\.hw\.lib\.cdc\b")) == USERS
