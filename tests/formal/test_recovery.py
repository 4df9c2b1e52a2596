"""After the wires broke what they like, for a while and a few times, all that was put is passed on, once, soon."""

import importlib.util
from pathlib import Path

import pytest
from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from tessera.hw.link import retry
from tessera.sim import formal

_SPEC = importlib.util.spec_from_file_location("retry_pair", Path(__file__).with_name("test_retry.py"))
_PAIR = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_PAIR)
# What it asserts is proven there, of whatever happens; here it would cost time, at each step.
_PAIR.Assert = _PAIR.Cover = lambda *_: []

FREE = 6
"""Cycles in which all inputs are free, unless it is told otherwise; from then on, both sides send and take in each
cycle, and tell of all."""
WITHIN = 40
"""Cycles from the last one that may be broken: by then, all is passed on. A timeout is 8 to 16 of them."""


class Recovery(wiring.Component):
    """A ``RetryPair`` of ``tests/formal/test_retry.py`` that is to carry three packets.

    If it is `plain`, they are of one cell and colour. Up to `breaks` times, in the first `last` cycles, what is on the
    wires in a cycle is broken, forth or back. Unless `tells`, no loss is ever told, as if all that tell of one were
    broken too: timeouts must do.
    """

    put: In(1)
    cells: In(2)
    colour: In(1)
    take: In(1)
    status: In(1)
    told: In(3)
    take_out: In(1)
    pass_: In(1)
    break_forth: In(1)
    break_back: In(1)

    def __init__(self, retry, breaks=1, last=8, tells=True, plain=False, free=FREE):
        self.pair = _PAIR.RetryPair(retry)
        self.breaks, self.last, self.tells, self.plain, self.free = breaks, last, tells, plain, free
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        pair = self.pair
        opened = formal.Opened(pair)
        m.submodules.pair = opened.fragment
        inside = opened.of(pair)
        sender, receiver = inside.sender, inside.receiver

        cycle, begun, broken = Signal(range(self.last + WITHIN + 2)), Signal(2), Signal(range(self.breaks + 2))
        fair = cycle >= self.free
        breaks = self.break_forth + self.break_back
        with m.If(cycle != self.last + WITHIN + 1):
            m.d.sync += cycle.eq(cycle + 1)
        m.d.sync += broken.eq(broken + breaks)
        with m.If(inside.put & ~inside.following):
            m.d.sync += begun.eq(begun + 1)
        m.d.comb += [
            pair.put.eq((self.put | fair) & (inside.following | (begun != 3))),
            pair.cells.eq(1 if self.plain else self.cells),
            pair.colour.eq(0 if self.plain else self.colour),
            *(getattr(pair, name).eq(getattr(self, name) | fair) for name in ("take", "status", "take_out", "pass_")),
            *(getattr(pair.tell, name).eq(self.told[n] | fair) for n, name in enumerate(("classes", "frames"))),
            pair.tell.losses.eq((self.told[2] | fair) & self.tells),
            pair.break_forth.eq(self.break_forth),
            pair.break_back.eq(self.break_back),
            Assume((breaks == 0) | (cycle < self.last)),
            Assume(broken + breaks <= self.breaks),
        ]
        over, passed_on = cycle >= self.last + WITHIN, receiver.counts[0] == sender.next[0]
        m.d.comb += [
            Assert(~over | passed_on & (begun == 3) & ~inside.following, "all is passed on"),
            Cover(over & (broken == self.breaks), "as often as may be, something is broken"),
        ]
        return m


BROKEN = {
    "nothing is sent again": (True, "looks.valid.eq(self.timed_out | lost.any() | walks)", "looks.valid.eq(0)"),
    "what is told again is looked up again": (True, "lost.eq(told_lost & ~known)", "lost.eq(told_lost)"),
    "there is no timeout": (False, "m.d.sync += stale[n].eq(1)", "m.d.sync += stale[n].eq(0)"),
}
"""Whether losses are told; what is wrong, and the change that makes it so."""


def recovers(component):
    """Whether all is passed on by the end of the story, whatever its beginning; not by induction."""
    return formal.bounded(component, component.last + WITHIN + 2)


@pytest.mark.parametrize("tells", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_one_break_amid_traffic_is_recovered_from(tells):
    verdict = recovers(Recovery(retry, tells=tells, plain=True, free=0))
    assert verdict.holds, f"these fail: {verdict.failed}"


def test_a_break_happens():
    verdict = formal.covered(Recovery(retry, plain=True, free=0), 8 + WITHIN + 2)
    assert verdict.holds, f"these never happen: {verdict.failed}"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_does_not_recover(name):
    tells, *change = BROKEN[name]
    component = Recovery(formal.broken(retry, *change), tells=tells, plain=True, free=0)
    assert not recovers(component).holds, f"recovers although {name}"


@pytest.mark.soak
@pytest.mark.parametrize("tells", [True, False])
def test_one_break_is_recovered_from(tells):
    verdict = recovers(Recovery(retry, tells=tells, plain=True))
    assert verdict.holds, f"these fail: {verdict.failed}"


@pytest.mark.soak
def test_three_breaks_are_recovered_from():
    verdict = recovers(Recovery(retry, breaks=3, last=12, plain=True))
    assert verdict.holds, f"these fail: {verdict.failed}"
