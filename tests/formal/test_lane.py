"""A lane's lock moves by the rules of docs/link.md and no others: these are written here a second time, counting up."""

import pytest
from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from tessera.hw.link import lane
from tessera.hw.link.block import Marker
from tessera.sim import formal

SETTLE = 3
DENSE, SPARSE, SEARCH, MISSES = 16, 1024, 18, 4
"""Of docs/link.md, "Lanes"."""
HEARD = (0, 16, 80, 96, 182, 199, 215)
"""Cycles with a right marker: locked, three that are not right, one that is; then four, so lost; after a slip one that
is not confirmed; two more, of which the last is ``dense`` no more."""
STORY = 218
"""Cycles of this."""


class LockRules(wiring.Component):
    """A :class:`BlockLock` as it is in silicon, its blocks whatever they like, and a ghost that keeps the rules.

    Of a block nothing else reaches the lock than whether it is a right marker and what it tells; both are free.
    If it is a `story`, right markers are those of :data:`HEARD`, all of lane 0: all that may happen does, once.
    """

    right: In(1)
    fields: In(Marker)

    def __init__(self, lane, story=False):
        self.lock, self.story = lane.BlockLock(SETTLE), story
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.lock = lock = self.lock
        right, fields = self.right, self.fields
        m.d.comb += [lock.right.eq(right), lock.fields.eq(fields)]

        # A marker counts: `since` says how many blocks behind it this one is, `told` what it told.
        counts, sure, since, told = Signal(), Signal(), Signal(range(SPARSE + 1)), Signal(Marker)
        misses, unlike, settling, slip = (
            Signal(range(MISSES)),
            Signal(range(SEARCH)),
            Signal(range(SETTLE + 1)),
            Signal(),
        )
        due = counts & (since == Mux(told.dense, DENSE, SPARSE))
        good = right & (fields.lane == told.lane)
        searching = ~counts & (settling == 0)
        fourth = misses == MISSES - 1
        m.d.sync += [since.eq(since + 1), slip.eq(0)]
        with m.If(due):
            m.d.sync += since.eq(1)
            with m.If(good):
                m.d.sync += [sure.eq(1), told.eq(fields), misses.eq(0)]
            with m.Else():
                m.d.sync += [told.number.eq(told.number + 1), misses.eq(misses + 1)]
                with m.If(~sure | fourth):
                    m.d.sync += [counts.eq(0), sure.eq(0), unlike.eq(0), misses.eq(0)]
        with m.Elif(searching & right):
            m.d.sync += [counts.eq(1), since.eq(1), told.eq(fields)]
        with m.Elif(searching & (unlike == SEARCH - 1)):
            m.d.sync += [slip.eq(1), settling.eq(SETTLE), unlike.eq(0)]
        with m.Elif(searching):
            m.d.sync += unlike.eq(unlike + 1)
        with m.Elif(settling != 0):
            m.d.sync += settling.eq(settling - 1)

        # What was, as it is seen from outside.
        rights, was_locked, was_bad = Signal(SEARCH), Signal(), Signal()
        was_second, was_fourth, was_counting = Signal(), Signal(), Signal()
        m.d.sync += [
            rights.eq(Cat(right, rights)),
            was_locked.eq(lock.locked),
            was_second.eq(due & good & ~sure),
            was_fourth.eq(due & ~good & sure & fourth),
            was_bad.eq(due & ~good),
            was_counting.eq(counts),
        ]
        m.d.comb += [
            Assert(~(lock.locked & ~was_locked) | was_second, "locked by a second marker of the lane where it is due"),
            Assert(~was_second | lock.locked, "and always by one"),
            Assert(~(was_locked & ~lock.locked) | was_fourth, "lost by the fourth in a row that is not right"),
            Assert(~was_fourth | ~lock.locked, "and always by one"),
            Assert(~lock.slip | ~rights.any(), "a slip behind 18 blocks none of which was a right marker"),
            Assert(lock.slip == slip, "and always behind these"),
            Assert(~lock.slip | ~(lock.locked | was_locked | was_counting), "no slip while locked or confirming"),
            Assert(~(lock.locked | lock.confirming) | (lock.due == due), "taken for a marker where one is due"),
            Assert(~due | (lock.found == good)),
            Assert(lock.looking == searching, "while a slip settles, no marker is looked for"),
            Assert(
                ~counts | (lock.marker == told), "fields stay behind a marker that is not right, but for its number"
            ),
        ]

        # The ghost's state and the lock's.
        distance = Mux(told.dense, DENSE, SPARSE)
        m.d.comb += [
            Assert(lock.locked == sure),
            Assert(lock.confirming == (counts & ~sure)),
            Assert(~counts | (since != 0) & (since <= distance) & (lock.left == distance - since) & (settling == 0)),
            Assert(~searching | (lock.left == SEARCH - 1 - unlike) & (unlike < SEARCH)),
            Assert((settling == 0) | (lock.left == settling - 1) & (settling <= SETTLE) & (unlike == 0)),
            Assert(Mux(sure, lock.bad == misses, misses == 0) & (~sure | counts)),
            Assert(~searching | ((rights & ((1 << unlike) - 1)[:SEARCH]) == 0)),
            Assert(~(slip | (settling == SETTLE)) | (settling == SETTLE) & slip & (rights == 0) & ~was_counting),
        ]
        if self.story:
            cycle = Signal(range(STORY))
            m.d.sync += cycle.eq(cycle + 1)
            m.d.comb += [
                Assume(right == Cat(cycle == n for n in HEARD).any()),
                Assume(fields.as_value() == Mux(cycle == max(HEARD), 0, Marker.const({"dense": 1}).as_value())),
            ]
        survived = Signal()
        with m.If(due & good):
            m.d.sync += survived.eq(sure & fourth)
        m.d.comb += [
            Cover(lock.locked & ~was_locked, "locked"),
            Cover(was_locked & ~lock.locked, "lost"),
            Cover(lock.locked & survived, "three in a row survived"),
            Cover(lock.slip, "a slip"),
            Cover(lock.looking & (rights != 0) & was_bad, "not confirmed"),
            Cover(lock.locked & ~told.dense & (since == 1), "the next one is due in 1024 blocks"),
        ]
        return m


BROKEN = {
    "one marker alone locks": (
        'm.next = "Look"\n                    with m.If(found):',
        'm.next = "Look"\n                    with m.If(1):',
    ),
    "a marker one block late locks": ("told.dense), DENSE - 1, SPARSE - 1)", "told.dense), DENSE, SPARSE - 1)"),
    "a marker one block late locks, of those far apart": ("DENSE - 1, SPARSE - 1))", "DENSE - 1, SPARSE - 2))"),
    "another lane's marker is right": ("found.eq(right & (looking | (fields.lane == told.lane)))", "found.eq(right)"),
    "the third in a row loses the lane": ("(bad == BAD_MARKERS - 1)", "(bad == BAD_MARKERS - 2)"),
    "four not in a row lose the lane": ("bad.eq(Mux(found, 0, bad + 1))", "bad.eq(bad + 1)"),
    "a right one loses the lane": (
        "with m.If(~found & (bad == BAD_MARKERS - 1)):",
        "with m.If(bad == BAD_MARKERS - 1):",
    ),
    "no number of them loses the lane": ("with m.If(~found & (bad == BAD_MARKERS - 1)):", "with m.If(0):"),
    "a slip comes a block early": ("SEARCH_BLOCKS = DENSE + 2", "SEARCH_BLOCKS = DENSE + 1"),
    "a slip comes although the last block is right": ("with m.Elif(due):", "with m.If(due):"),
    "a slip comes when none is confirmed": ("self.slip.eq(0)]", "self.slip.eq(self.confirming & due & ~found)]"),
    "a slip comes while locked": ("self.slip.eq(0)]", "self.slip.eq(self.locked & due & ~found)]"),
    "a slip has a block less to settle": ("left.eq(self.settle - 1)", "left.eq(self.settle - 2)"),
    "another lane's fields are taken": ("with m.If(found & (due | looking)):", "with m.If(right & (due | looking)):"),
    "the number stands still": ("told.number.eq(told.number + 1)", "told.number.eq(told.number)"),
}
"""What is wrong, and the change that makes it so."""


def test_the_lock_is_proven():
    verdict = formal.proven(LockRules(lane))
    assert verdict.holds, f"these fail: {verdict.failed}"


def test_what_is_proven_happens():
    verdict = formal.covered(LockRules(lane, story=True), STORY)
    assert verdict.holds, f"these never happen: {verdict.failed}"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_is_not_proven(name):
    verdict = formal.proven(LockRules(formal.broken(lane, *BROKEN[name])))
    assert not verdict.holds and verdict.failed, f"proven although {name}"
