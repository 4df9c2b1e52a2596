"""The queues of lanes that wait for each other: no block is lost for want of room."""

from functools import reduce
from itertools import pairwise
from operator import xor

import pytest
from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib import cdc
from tessera.hw.link import deskew, lanes
from tessera.hw.link.block import BLOCK_BITS
from tessera.hw.link.lane import Received
from tessera.sim import formal

WINDOW = 6
"""Edges of a lane's clock, at the most, from an edge of ``sync`` on through three periods of that and two of its own:
five, if they are 600 ppm apart, and one for what they tremble."""
HEAD_START = 5
"""Edges, at the most, that a lane's side of a queue is ahead of the other one when this is no longer being emptied."""
FRESH = 3
"""Edges of ``sync`` since then, till what the reader knows of a lane is all of that time."""


class Lane(wiring.Component):
    """Instead of a :class:`LaneReceiver`: what it gives is free."""

    def __init__(self, settle):
        super().__init__({"i": In(BLOCK_BITS), "slip": Out(1), "locked": Out(1), "valid": Out(1), "o": Out(Received)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.valid.eq(self.i[0]), self.o.eq(Cat(self.i, self.i)[: len(Value.cast(self.o))])]
        return m


class Waiting(wiring.Component):
    """A :class:`LanesReceiver` of 2 lanes, its queues, and clocks of which each ticks when it likes, if they are alike.

    What lanes give is free, in each cycle, and so is when stripes are taken. That clocks are alike is assumed of what
    :data:`WINDOW` and :data:`HEAD_START` say, and of nothing else.

    If it is a `story`, all have one clock, all lanes have blocks for stripes, and these are never taken.
    """

    def __init__(self, lanes, story=False):
        self.queues, self.crowd, self.story, self.CLOCKS = [], lanes.CROWD, story, not story

        def noted(*arguments):
            self.queues.append(cdc.AsyncQueue(*arguments))
            return self.queues[-1]

        lanes.AsyncQueue, lanes.LaneReceiver = noted, Lane
        self.receiver = lanes.LanesReceiver(2)
        members = self.receiver.signature.members
        super().__init__({"clk": In(1), "lane_clk": In(2), "i": members["i"], "taken": In(1)})

    def elaborate(self, platform):
        m = Module()
        receiver = self.receiver
        clock, *lane_clocks = [ClockSignal("sync")] * 3 if self.story else (self.clk, *self.lane_clk)
        for name, ticks in (("reader", clock), ("receive0", lane_clocks[0]), ("receive1", lane_clocks[1])):
            domain = ClockDomain(name, reset_less=True)
            m.domains += domain
            m.d.comb += domain.clk.eq(ticks)
        opened = formal.Opened(DomainRenamer("reader")(receiver))
        m.submodules.receiver = opened.fragment
        if self.story:
            for n in range(2):
                first = Received.const({"first": 1, "right": 1, "marker": {"used": 3, "lane": n}})
                m.d.comb += receiver.i[n].eq(first.as_value()[BLOCK_BITS:])
        else:
            m.d.comb += [receiver.i.eq(self.i), receiver.o.ready.eq(self.taken)]
        for n, queue in enumerate(self.queues):
            self._queue(m, n, (clock, lane_clocks[n]), queue, opened)
        return m

    def _queue(self, m, n, clocks, queue, opened):
        parts = opened.of(queue).m.submodules
        on_way, taken_on_way = opened.of(parts.written).flops[0], opened.of(parts.taken).flops[0]
        (write_leaves, write_reset), (read_leaves, read_reset) = (
            opened.of(part).flops for part in (parts.reset_write, parts.reset_read)
        )
        for side, clock, reset in zip(("read", "write"), clocks, (read_reset, write_reset)):
            domain = ClockDomain(f"{side}{n}", async_reset=True)
            m.domains += domain
            m.d.comb += [domain.clk.eq(clock), domain.rst.eq(reset)]
        size = len(queue.written)

        def number(gray):
            return Cat(reduce(xor, gray[k:]) for k in range(size))

        def ahead(a, b):
            return (a - b)[:size]

        # Edges of the lane's clock: till now, till the last three edges of `sync`; and till the third of these, as of
        # when the reader was where the lane now believes it is, and of an edge later.
        ticks, last, second, third, later, believed = edges = [Signal(size, name=f"edges{n}_{k}") for k in range(6)]
        lane = m.d[f"receive{n}"]
        lane += [ticks.eq(ticks + 1), later.eq(third), believed.eq(later)]
        m.d.reader += [last.eq(ticks), second.eq(last), third.eq(second)]
        # Edges of each side since the queue was emptied last; and whether `third` was of an older time then.
        count = {}
        for side in ("write", "read"):
            count[side] = Signal(4, name=f"{side}_edges{n}")
            with m.If(count[side] != 15):
                m.d[f"{side}{n}"] += count[side].eq(count[side] + 1)
        fresh_later, fresh_believed = (Signal(init=1, name=f"{name}{n}") for name in ("fresh_later", "fresh_believed"))
        m.d[f"write{n}"] += [fresh_later.eq(count["read"] < FRESH), fresh_believed.eq(fresh_later)]
        m.d.comb += [
            Assume(ahead(ticks, believed) <= WINDOW),
            Assume((count["read"] >= FRESH) | (count["write"] <= count["read"] + HEAD_START)),
        ]

        # The oldest first: what each side has moved, and what the other one knows of it.
        written, taken, seen = queue.written, queue.taken, number(queue.written_seen)
        moved = [number(queue.taken_seen), number(taken_on_way), taken, seen, number(on_way), written]
        so_far = [ahead(one, moved[0]) for one in moved]
        level, most = ahead(seen, taken), self.crowd - 1
        m.d.comb += [
            Assert(~queue.i.valid | queue.i.ready | write_reset, "a block that comes has room"),
            Assert(queue.written_gray == (written ^ (written >> 1))),
            Assert(queue.taken_gray == (taken ^ (taken >> 1))),
            Assert(~(write_leaves & ~write_reset) & ~(read_leaves & ~read_reset)),
            Assert(~write_reset | (Cat(*moved, count["write"]) == 0) & fresh_later & fresh_believed),
            Assert(~read_reset | (Cat(*moved[:-1], count["read"]) == 0)),
            *(Assert(a <= b) for a, b in pairwise(so_far)),
            Assert(so_far[-1] <= queue.depth),
            *(Assert(ahead(ticks, new) <= ahead(ticks, old)) for new, old in pairwise(edges)),
            # Soon after it was emptied, there is little in it.
            Assert((count["write"] == 15) | (moved[0] <= written) & (written <= count["write"])),
            Assert(~fresh_later | (count["write"] <= FRESH + HEAD_START)),
            Assert(~fresh_believed | (count["write"] <= FRESH + HEAD_START + 1)),
            Assert(~fresh_believed | fresh_later | (count["write"] != 0)),
            # Later, what one side knows is as old as the edges that have been since.
            Assert((count["read"] < 1) | (ahead(written, number(on_way)) <= ahead(ticks, last))),
            Assert((count["read"] < 2) | (ahead(number(on_way), seen) <= ahead(last, second))),
            Assert((count["read"] < 3) | (level <= most + ahead(second, third))),
            Assert(fresh_later | (ahead(written, number(taken_on_way)) <= most + ahead(ticks, later))),
            Assert(fresh_believed | (ahead(written, number(queue.taken_seen)) <= most + ahead(ticks, believed))),
            Cover((level == self.crowd) & (so_far[-1] == self.crowd + 2), "as much waits as may"),
            Cover(write_reset & (ticks >= 16), "it is emptied"),
        ]


PROOF = (lanes, deskew)


def copied(module=None, line=None, instead=None):
    """Copies of :mod:`lanes` and :mod:`deskew`, one of which may have one line changed."""
    copies = {one: formal.broken(one, *((line, instead) if one is module else ("__all__ = ",) * 2)) for one in PROOF}
    copies[lanes].Deskew = copies[deskew].Deskew
    return copies[lanes]


def test_no_block_is_lost_for_want_of_room():
    verdict = formal.proven(Waiting(copied()), 1)
    assert verdict.holds, f"these fail: {verdict.failed}"


def test_a_queue_is_nearly_full():
    verdict = formal.covered(Waiting(copied(), story=True), 60)
    assert verdict.holds, f"these never happen: {verdict.failed}"


BROKEN = {
    "lanes wait without end": (deskew, "self.crowded.any() | ", ""),
    "a lane may wait longer": (lanes, "CROWD = 10", "CROWD = 11"),
    "queues are shorter": (lanes, "QUEUE_BLOCKS = 16", "QUEUE_BLOCKS = 8"),
    "one lane is not looked at": (lanes, "deskew.crowded[n]", "deskew.crowded[0]"),
    "queues are not emptied": (lanes, "queue.clear.eq(deskew.clear)", "queue.clear.eq(0)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_is_not_proven(name):
    verdict = formal.proven(Waiting(copied(*BROKEN[name])), 1)
    assert not verdict.holds and verdict.failed, f"proven although {name}"
