"""Clocks are crossed in hw/lib/cdc.py and nowhere else; who uses it stands here."""

import re
from pathlib import Path

HW = Path(__file__).resolve().parents[2] / "hw"
CROSSING = re.compile(r"\bClockDomain\(|\bAsyncFIFO|\bamaranth\.lib\.cdc\b|\bamaranth\.lib import [^\n]*\bcdc\b")
USERS = {"link/lanes.py"}
ONE_CLOCK = {"link/link.py"}
"""Where a domain has another one's clock, and a reset of its own: nothing is crossed."""


def modules(pattern):
    return {str(file.relative_to(HW)) for file in HW.rglob("*.py") if pattern.search(file.read_text())}


def test_clocks_are_crossed_in_one_place():
    assert modules(CROSSING) == {"lib/cdc.py"} | ONE_CLOCK
    for module in ONE_CLOCK:
        made = re.findall(r"(\w+) = ClockDomain\(", (HW / module).read_text())
        assert made and all(f"{name}.clk.eq(ClockSignal())" in (HW / module).read_text() for name in made), module


def test_the_crossings_are_those_listed():
    assert modules(re.compile(r"\btessera\.hw\.lib\.cdc\b")) == USERS
