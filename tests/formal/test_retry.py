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
    receiver's consumer takes, what heads tell, and what the wires break. If `steady`, only the last: all else goes
    on in every cycle.
    """

    def __init__(self, retry, steady=False):
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
            sender.cells.eq(length),
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
        m.d.sync += [
            wire.valid.eq((sent | self.status) & ~self.break_forth),
            wire.behind.eq(~sent),
            wire.frame.eq(Mux(sent, send.payload.frame, sender.frame)),
            wire.cell.eq(send.payload.cell),
            wire.cells.eq(kept_length[place]),
            wire_colours.eq(Cat(kept[(place + k) & (size - 1)] for k in range(p.longest))),
        ]
        packet = wire.valid & ~wire.behind
        got, got_length = colours("got"), lengths("got_length")
        m.d.comb += [
            receiver.asked.cell.eq(wire.cell),
            receiver.asked.cells.eq(wire.cells),
            receiver.store.eq(packet & receiver.accept),
            receiver.framed.eq(wire.valid),
            receiver.frame.eq(wire.frame),
            receiver.behind.eq(wire.behind),
        ]
        with m.If(receiver.store):
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

        # Out, in order.
        count = receiver.counts[0]
        at = count & (size - 1)
        go = self.pass_ & receiver.ready[0]
        m.d.comb += [receiver.pass_.eq(go), receiver.passed.cells.eq(got_length[at])]
        with m.If(go):
            m.d.comb += Assert(got_length[at] == true_length[count], "the packet passed on is the next one")
            for k in range(p.longest):
                with m.If(k < got_length[at]):
                    m.d.comb += Assert(got[(count + k) & (size - 1)] == true[(count + k)[:bits]], "with its colours")

        if self.steady:
            all_ = [self.tell.classes, self.tell.frames, self.tell.losses]
            m.d.comb += [Assume(input_) for input_ in (self.put, self.take, self.status, self.pass_, *all_)]
            m.d.comb += [Assume(self.cells == 1), Assume(~self.colour)]
        m.d.comb += [
            Cover(go & (count == 2 * size - 1), "a number is used again"),
            Cover(sender.send.valid & sender.send.payload.again & self.take & (count == size), "sent again"),
            Cover(packet & ~receiver.accept, "comes twice"),
            Cover(sender.timed_out, "nothing was told for too long"),
        ]

        # What holds in every state, with numbers compared from `tail` on:
        # tail <= count <= reached <= limit <= fresh <= head.
        tail, fresh, head = sender.tail[0], sender.fresh[0], sender.head[0]
        reached, limit = Signal(bits), Signal(bits)
        m.d.sync += limit.eq(fresh)
        with m.If(packet):
            m.d.sync += reached.eq(limit)

        def ahead(x, of):
            return (x - of)[:bits]

        def ordered(*numbers):
            distances = [ahead(number, tail) for number in numbers]
            return Cat(a <= b for a, b in pairwise(distances)).all()

        def begins(x):
            return (x == head) | (true_length[x] != 0)

        offered = send.payload.cell
        lengths_now = []
        for k in range(size):
            port = sender.lengths[0].read_port(domain="comb")
            m.d.comb += port.addr.eq(k)
            lengths_now.append(port.data)
        lengths_now = Array(lengths_now)
        m.d.comb += [
            Assert(~put | (ahead(next_, count) < size), "no cell is used again before it has been passed on"),
            Assert(ahead(fresh, tail) <= size, "credits are never negative"),
            Assert(
                ordered(tail, count, reached, limit, fresh, head, next_), "passed on after told, sent before passed on"
            ),
            Assert(ahead(next_, tail) <= size),
            Assert(begins(tail) & begins(count) & begins(reached) & begins(limit) & begins(fresh)),
            Assert(following == (next_ != head)),
            Assert(~following | (ahead(head, tail) <= size - p.longest)),
            Assert(~following | (ahead(next_, head) + left == true_length[head]) & (true_length[head] <= p.longest)),
            Assert(~back.classes | (ahead(back.passed[0], tail) <= ahead(count, tail)) & begins(back.passed[0])),
            Assert(~send.valid | (ahead(fresh, offered + 1) < size) & (place == (offered & (size - 1)))),
            Assert(~send.valid | (kept_length[place] != 0) & (kept_length[place] <= p.longest)),
            Assert(
                ~(send.valid & (ahead(offered, tail) < ahead(fresh, tail)))
                | (true_length[offered] != 0) & (true_length[offered] <= ahead(fresh, offered))
            ),
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
            stored = receiver.stored[0].bit_select(at_y, 1)
            length_y = true_length[y]
            m.d.comb += Assert(
                ~stored
                | (d < ahead(reached, count))
                & (length_y != 0)
                & (got_length[at_y] == length_y)
                & (d + length_y <= ahead(reached, count))
            )
            for k in range(p.longest):
                m.d.comb += Assert(~(stored & (k < length_y)) | (got[(y + k) & (size - 1)] == true[(y + k)[:bits]]))
        return m


BROKEN = {
    "a cell is used too soon": ("<= size - p.longest)", "<= size - p.longest + 1)"),
    "a count is taken for one more": ("tail[n].eq(report.passed[n])", "tail[n].eq(report.passed[n] + 1)"),
    "a place where no packet begins is sent again": ("kept.eq(begins[n] & (", "kept.eq(("),
    "what is behind the count is sent again": ("old.cell.eq(tail[n] + behind)", "old.cell.eq(tail[n] + index)"),
    "a packet is sent before it is whole": ("with m.If(self.last):", "with m.If(1):"),
    "a packet that came before is taken again": ("+ asked.cells <= size", "<= size"),
    "a cell is passed on twice": ("stored & ~Mux(going, 1 << low, 0)", "stored"),
    "a count runs ahead": ("count.eq(count + passed.cells)", "count.eq(count + passed.cells + 1)"),
}
"""What is wrong, and the change that makes it so."""


def test_the_retry_is_proven():
    verdict = formal.proven(RetryPair(retry))
    assert verdict.holds, f"these fail: {verdict.failed}"


def test_what_is_proven_happens():
    verdict = formal.covered(RetryPair(retry, steady=True), 28)
    assert verdict.holds, f"these never happen: {verdict.failed}"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_is_not_proven(name):
    verdict = formal.proven(RetryPair(formal.broken(retry, *BROKEN[name])))
    assert not verdict.holds and verdict.failed, f"proven although {name}"
