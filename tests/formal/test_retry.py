"""The link's retry and credits are proven: both ends, small, with wires of one cycle that an oracle breaks."""

from itertools import pairwise

import pytest
from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from tessera.hw.link import retry
from tessera.sim import formal

SMALL = {"longest": 2, "cell_bits": 3, "frame_bits": 4, "history": 4, "again": 2, "timeout_bits": 3}


class RetryPair(wiring.Component):
    """A sender and a receiver of one class, with memories of one bit a cell, its colour, and a ghost that knows all.

    All inputs are free: when packets of which length and colour come, when the sender's datapath takes, when the
    receiver's consumer takes, what heads tell, and what the wires break. If `steady`, all goes on in every cycle, and
    the wires break ``nothing``, anything ``forth``, or all that goes ``back``.
    """

    def __init__(self, retry, steady=None):
        self.retry, self.steady = retry, steady
        self.p = p = retry.RetryParameters((4,), **SMALL)
        super().__init__(
            {
                "put": In(1),
                "colour": In(1),
                "cells": In(range(p.longest + 1)),
                "take": In(1),
                "status": In(1),
                "break_forth": In(1),
                "break_back": In(1),
                "tell": In(p.report),
                "take_out": In(1),
                "pass_": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.p
        size, bits = p.cells[0], p.cell_bits
        m.submodules.sender = sender = self.retry.RetrySender(p)
        m.submodules.receiver = receiver = self.retry.RetryReceiver(p)

        def colours(name):
            return Array(Signal(name=f"{name}{n}") for n in range(size))

        def lengths(name):
            return Array(Signal(range(p.longest + 1), name=f"{name}{n}") for n in range(size))

        # The sender's memory, and what the ghost remembers of each cell, by its whole number.
        kept, kept_length = colours("kept"), lengths("kept_length")
        true = Array(Signal(name=f"true{n}") for n in range(1 << bits))
        true_length = Array(Signal(range(p.longest + 1), name=f"true_length{n}") for n in range(1 << bits))
        left = Signal(range(p.longest))
        following = left != 0
        next_ = sender.next[0]
        low = next_ & (size - 1)
        put = Signal()
        length = Mux(following, 0, self.cells)
        m.d.comb += [
            Assume((self.cells != 0) & (self.cells <= p.longest)),
            put.eq(self.put & (following | sender.room[0])),
            sender.put.eq(put),
            sender.cells[0].eq(length),
            sender.last.eq(Mux(following, left == 1, self.cells == 1)),
        ]
        with m.If(put & ~following):
            m.d.sync += kept_length[low].eq(length)
        with m.If(put):
            m.d.sync += [
                kept[low].eq(self.colour),
                true[next_].eq(self.colour),
                true_length[next_].eq(length),
                left.eq(Mux(following, left, self.cells) - 1),
            ]

        # There: a packet or a Status; the oracle breaks it.
        wire = Signal(
            data.StructLayout(
                {"valid": 1, "behind": 1, "frame": p.frame_bits, "cell": bits, "cells": range(p.longest + 1)}
            )
        )
        wire_colours = Signal(p.longest)
        send = sender.send
        sent = send.valid & self.take
        m.d.comb += send.ready.eq(self.take)
        place = send.payload.place
        following_frame = Signal(p.frame_bits)
        with m.If(sent):
            m.d.sync += following_frame.eq(send.payload.frame + 1)
        m.d.sync += [
            wire.valid.eq((sent | self.status) & ~self.break_forth),
            wire.behind.eq(~sent),
            wire.frame.eq(Mux(sent, send.payload.frame, following_frame)),
            wire.cell.eq(send.payload.cell),
            wire.cells.eq(send.payload.cells),
            wire_colours.eq(Cat(kept[(place + k) & (size - 1)] for k in range(p.longest))),
        ]
        packet = wire.valid & ~wire.behind
        got, got_length = colours("got"), lengths("got_length")
        m.d.comb += [
            receiver.coming.cell.eq(send.payload.cell),
            receiver.asked.cell.eq(wire.cell),
            receiver.asked.cells.eq(wire.cells),
            receiver.store.eq(packet),
            receiver.framed.eq(wire.valid),
            receiver.frame.eq(wire.frame - wire.behind),
            receiver.behind.eq(wire.behind),
        ]
        with m.If(packet & receiver.accept):
            m.d.sync += got_length[wire.cell & (size - 1)].eq(wire.cells)
            for k in range(p.longest):
                with m.If(k < wire.cells):
                    m.d.sync += got[(wire.cell + k) & (size - 1)].eq(wire_colours[k])

        # Back: any part of what the receiver knows.
        back = Signal(p.report)
        told = self.tell.losses & ~self.break_back
        m.d.sync += [
            back.classes.eq(self.tell.classes & ~self.break_back),
            back.passed.eq(receiver.counts),
            back.frames.eq(self.tell.frames & ~self.break_back),
            back.last.eq(receiver.last),
            back.losses.eq(told),
            back.lost.eq(receiver.lost),
        ]
        m.d.comb += [sender.report.eq(back), receiver.told.eq(self.tell.losses)]

        # Out, in order: taken, read, and passed on when that is done.
        count, out = receiver.counts[0], receiver.next[0]
        reading, passes = Signal(), Signal()
        go = self.take_out & receiver.ready[0] & (~reading | self.pass_)
        m.d.comb += [
            passes.eq(reading & self.pass_),
            receiver.take.eq(go),
            receiver.pass_.eq(passes),
            receiver.passed.cells.eq(true_length[count]),
        ]
        m.d.sync += reading.eq(go | reading & ~passes)
        read_length = true_length[count]

        def ahead(x, of):
            return (x - of)[:bits]

        with m.If(go):
            m.d.comb += Assert(out.cells == true_length[out.cell], "the packet passed on is the next one")
        with m.If(reading):
            for k in range(p.longest):
                with m.If(k < read_length):
                    m.d.comb += Assert(got[(count + k) & (size - 1)] == true[(count + k)[:bits]], "with its colours")

        # A memory that is read where it is written at that moment may give anything.
        going = go & (ahead(wire.cell, out.cell) < out.cells)
        amid = reading & (ahead(wire.cell, count) < read_length)
        m.d.comb += Assert(~(packet & receiver.accept & (going | amid)), "what is read is not written")

        if self.steady:
            all_ = [self.tell.classes, self.tell.frames, self.tell.losses]
            m.d.comb += [Assume(input_) for input_ in (self.put, self.take, self.status, self.pass_, *all_)]
            m.d.comb += [
                Assume(self.take_out),
                Assume(self.break_back == (self.steady == "back")),
                Assume(~self.break_forth | (self.steady == "forth")),
            ]
            m.d.comb += [Assume(self.cells == 1), Assume(~self.colour)]
        if self.steady == "nothing":
            m.d.comb += Cover(go & (count == 2 * size - 1), "a number is used again")
        if self.steady == "forth":
            m.d.comb += Cover(sender.send.valid & sender.send.payload.again & self.take, "sent again")
        if self.steady == "back":
            m.d.comb += [
                Cover(receiver.double, "comes twice"),
                Cover(sender.timed_out, "nothing was told for too long"),
            ]

        # What holds in every state, with numbers compared from `tail` on:
        # tail <= count <= next out <= reached <= limit <= fresh <= head.
        tail, fresh, head = sender.tail[0], sender.fresh[0], sender.head[0]
        reached, limit = Signal(bits), Signal(bits)
        m.d.sync += limit.eq(fresh)
        with m.If(packet):
            m.d.sync += reached.eq(limit)

        def ordered(*numbers):
            distances = [ahead(number, tail) for number in numbers]
            return Cat(a <= b for a, b in pairwise(distances)).all()

        def begins(x):
            return (x == head) | (true_length[x] != 0)

        def all_of(memory):
            ports = [memory.read_port(domain="comb") for _ in range(size)]
            m.d.comb += [port.addr.eq(k) for k, port in enumerate(ports)]
            return Array(port.data for port in ports)

        gone = receiver.gone[0]
        lengths_now, stored_lengths = all_of(sender.lengths[0]), all_of(receiver.lengths[0])
        m.d.comb += [
            Assert(~put | (ahead(next_, count) < size), "no cell is used again before it has been passed on"),
            Assert(ahead(fresh, tail) <= size, "credits are never negative"),
            Assert(
                ordered(tail, count, out.cell, reached, limit, fresh, head, next_),
                "passed on after told, sent before passed on",
            ),
            Assert(out.cell == Mux(reading, (count + read_length)[:bits], count)),
            Assert(~reading | (read_length != 0) & (read_length <= p.longest)),
            Assert((out.cells != 0) == receiver.ready[0]),
            Assert(~packet | (receiver.is_ahead[0] == (ahead(wire.cell, out.cell) < size))),
            Assert(~packet | (receiver.is_next[0] == (wire.cell == out.cell))),
            Assert(~gone.valid | reading & (gone.cell == (count & (size - 1)))),
            Assert(
                ~receiver.ready[0]
                | receiver.stored[0].bit_select(out.cell & (size - 1), 1)
                | receiver.stores & (receiver.recent.cell == out.cell)
            ),
            Assert(~receiver.ready[0] | (out.cells == true_length[out.cell])),
            Assert(ahead(next_, tail) <= size),
            Assert(begins(tail) & begins(count) & begins(reached) & begins(limit) & begins(fresh)),
            Assert(begins(out.cell)),
            Assert(following == (next_ != head)),
            Assert(sender.room[0] == (ahead(head, tail) <= size - p.longest)),
            Assert(~following | sender.room[0]),
            Assert(~following | (ahead(next_, head) + left == true_length[head]) & (true_length[head] <= p.longest)),
            Assert(~back.classes | (ahead(back.passed[0], tail) <= ahead(count, tail)) & begins(back.passed[0])),
            # What is sent is kept, and is named rightly, unless it was passed on meanwhile.
            Assert(~send.valid | (send.payload.cells == kept_length[place])),
            *(
                assertion
                for valid, one in ((sender.offered, send.payload), (sender.repeats, sender.repeat))
                for assertion in (
                    Assert(~valid | (ahead(fresh, one.cell + 1) < size) & (one.place == (one.cell & (size - 1)))),
                    Assert(~valid | (one.cells != 0) & (one.cells <= p.longest)),
                    Assert(
                        ~(valid & (ahead(one.cell, tail) < ahead(fresh, tail)))
                        | (true_length[one.cell] == one.cells) & (one.cells <= ahead(fresh, one.cell))
                    ),
                )
            ),
            Assert(~receiver.stores | (ahead(reached, receiver.recent.cell + 1) < size)),
            Assert(~packet | (ahead(limit, wire.cell + 1) < size) & (wire.cells != 0) & (wire.cells <= p.longest)),
        ]
        is_new = packet & (ahead(wire.cell, count) < ahead(limit, count))
        m.d.comb += Assert(~is_new | (wire.cells == true_length[wire.cell]) & (wire.cells <= ahead(limit, wire.cell)))
        for k in range(p.longest):
            m.d.comb += Assert(~(is_new & (k < wire.cells)) | (wire_colours[k] == true[(wire.cell + k)[:bits]]))
        for d in range(size):
            x = Signal(bits, name=f"x{d}")
            y = Signal(bits, name=f"y{d}")
            m.d.comb += [x.eq(tail + d), y.eq(count + d)]
            at_x, at_y = x & (size - 1), y & (size - 1)
            length_x = true_length[x]
            m.d.comb += [
                Assert(
                    ~(d < ahead(next_, tail))
                    | (kept[at_x] == true[x])
                    & (lengths_now[at_x] == length_x)
                    & ((length_x == 0) | (kept_length[at_x] == length_x))
                ),
                Assert(
                    ~((d < ahead(head, tail)) & (length_x != 0))
                    | (length_x <= p.longest)
                    & (d + length_x <= ahead(head, tail))
                    & begins((x + length_x)[:bits])
                    & ((length_x == 1) | (true_length[(x + 1)[:bits]] == 0))
                ),
            ]
            recent = receiver.stores & (receiver.recent.cell == y) & (ahead(y, out.cell) < size)
            kept_there = receiver.stored[0].bit_select(at_y, 1)
            stored = kept_there | recent
            length_y = true_length[y]
            m.d.comb += [
                Assert(
                    ~stored
                    | (d < ahead(reached, count))
                    & (length_y != 0)
                    & (got_length[at_y] == length_y)
                    & (d + length_y <= ahead(reached, count))
                ),
                # Bits are of what is not taken yet, but for a cycle.
                Assert(~kept_there | (d >= ahead(out.cell, count)) | gone.valid & (d == 0)),
                Assert(~kept_there | (stored_lengths[at_y] == length_y)),
                Assert(~recent | (receiver.recent.cells == length_y)),
            ]
            for k in range(p.longest):
                m.d.comb += Assert(~(stored & (k < length_y)) | (got[(y + k) & (size - 1)] == true[(y + k)[:bits]]))
        return m


BROKEN = {
    "a cell is used too soon": (
        "(after - next_tail)[: p.cell_bits] <= size - p.longest",
        "(after - next_tail)[: p.cell_bits] <= size - p.longest + 1",
    ),
    "a count is taken for one more": ("report.passed[n], tail[n])", "report.passed[n] + 1, tail[n])"),
    "a place where no packet begins is sent again": ("kept.eq(lengths[n].any() & (", "kept.eq(("),
    "what is behind the count is sent again": (
        "old.cell.eq(self.tail[n] + behind)",
        "old.cell.eq(self.tail[n] + index)",
    ),
    "what was passed on is sent as long as it was": ("valid.eq(offered & ~gone)", "valid.eq(offered)"),
    "a packet is sent before it is whole": ("with m.If(self.last[n]):", "with m.If(1):"),
    "a packet that came before is taken again": (
        "(cell - next_cell)[: p.cell_bits] < p.cells[n]",
        "(cell - next_cell)[: p.cell_bits] <= p.cells[n]",
    ),
    "what is ready is written again": (" & ~(self.is_next & self.ready)", ""),
    "what is taken is forgotten by the next": (
        "Mux(takes, coming.cell == following, coming.cell == next_.cell)",
        "coming.cell == next_.cell",
    ),
    "what may come is counted from what was the next": ("Mux(takes, *is_ahead)", "is_ahead[1]"),
    "any packet that comes is the next one": ("(asked.kind == n) & (asked.cell == following)", "(asked.kind == n)"),
    "a cell is passed on twice": ("stored & ~Mux(gone.valid, 1 << gone.cell, 0) | put", "stored | put"),
    "a count runs ahead": ("count.eq(count + self.passed.cells)", "count.eq(count + self.passed.cells + 1)"),
}
"""What is wrong, and the change that makes it so."""


def test_the_retry_is_proven():
    verdict = formal.proven(RetryPair(retry))
    assert verdict.holds, f"these fail: {verdict.failed}"


def test_a_timeout_is_longer_than_a_search_for_one_of_each_class():
    """Nothing is begun while one is looked for: with timeouts as often as that, nothing would ever be."""
    for classes, shortest in ((1, 3), (6, 4)):
        cells = (4,) * classes
        retry.RetryParameters(cells, **SMALL | {"timeout_bits": shortest})
        with pytest.raises(ValueError, match=f"timeout_bits is {shortest - 1}; {shortest} or more expected"):
            retry.RetryParameters(cells, **SMALL | {"timeout_bits": shortest - 1})


@pytest.mark.parametrize("steady", ["nothing", "forth", "back"])
def test_what_is_proven_happens(steady):
    verdict = formal.covered(RetryPair(retry, steady), 40)
    assert verdict.holds, f"these never happen: {verdict.failed}"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_is_not_proven(name):
    verdict = formal.proven(RetryPair(formal.broken(retry, *BROKEN[name])))
    assert not verdict.holds and verdict.failed, f"proven although {name}"
