"""What makes the link lose nothing: which packet is sent, when a cell may be used again, what was lost.

The two components have no datapath: they number cells and frames, and whoever moves heads and lines obeys. The proofs
in ``tests/formal`` are of these same classes, with fewer cells and shorter numbers.
"""

from dataclasses import dataclass
from functools import cached_property

from amaranth.hdl import *
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.turns import one_of

__all__ = ["RetryParameters", "RetryReceiver", "RetrySender"]

_LOOKED_FOR = 4
"""Cycles for which a packet is looked for that may have to be sent again."""


@dataclass(frozen=True)
class RetryParameters:
    """Sizes of :class:`RetrySender` and :class:`RetryReceiver`, the same at both ends of a link.

    Parameters
    ----------
    cells : tuple of int
        Cells of each class: a power of two, twice ``longest`` or more, and at most half as many as there are numbers.
    longest : int
        Cells of the longest packet.
    cell_bits, frame_bits : int
        Widths of the numbers of cells and frames.
    history : int
        Frames of which a ``Status`` tells; at most a quarter of the frames' numbers.
    again : int
        Frames after which a loss is told a second time; less than ``history``.
    timeout_bits : int
        A class that does not move for ``2 ** timeout_bits`` to twice as many cycles has its oldest packet sent again;
        these are more than it takes to look for one of each class.
    """

    cells: tuple[int, ...]
    longest: int = 8
    cell_bits: int = 8
    frame_bits: int = 8
    history: int = 16
    again: int = 8
    timeout_bits: int = 12

    def __post_init__(self):
        if not 1 <= len(self.cells) <= 6:
            raise ValueError(f"cells are {self.cells}; 1 to 6 classes expected")
        low, high = 2 * self.longest, 1 << (self.cell_bits - 1)
        if any(size & (size - 1) or not low <= size <= high for size in self.cells):
            raise ValueError(f"cells are {self.cells}; powers of two from {low} to {high} expected")
        if not 2 <= self.history <= 1 << (self.frame_bits - 2):
            raise ValueError(f"history is {self.history}; 2 to {1 << (self.frame_bits - 2)} expected")
        if not 1 <= self.again < self.history:
            raise ValueError(f"again is {self.again}; 1 to {self.history - 1} expected")
        # Nothing is begun while one is looked for.
        shortest = (len(self.cells) + _LOOKED_FOR).bit_length()
        if self.timeout_bits < shortest:
            raise ValueError(f"timeout_bits is {self.timeout_bits}; {shortest} or more expected")

    @property
    def window(self):
        """Frames that may be under way: what a ``Status`` may still name has not been used again."""
        return (1 << self.frame_bits) - 2 * self.history

    @property
    def places(self):
        """Size of a memory for the cells of all classes."""
        return 1 << (sum(self.cells) - 1).bit_length()

    def base(self, kind):
        """Where the cells of class `kind` begin in such a memory: larger classes first, each aligned to its size."""
        order = sorted(range(len(self.cells)), key=lambda n: (-self.cells[n], n))
        return sum(self.cells[n] for n in order[: order.index(kind)])

    def place(self, kind, cell):
        """Where `cell` of class `kind` lies in such a memory; both values."""
        return Array(self.base(n) | cell & (size - 1) for n, size in enumerate(self.cells))[kind]

    @property
    def cell(self):
        """Layout that names a cell."""
        return data.StructLayout({"kind": range(len(self.cells)), "cell": self.cell_bits})

    @property
    def packet(self):
        """Layout of a packet's first cell and how many it has."""
        cells = range(self.longest + 1)
        return data.StructLayout({"kind": range(len(self.cells)), "cell": self.cell_bits, "cells": cells})

    @property
    def counts(self):
        """Layout of a number of cells for each class."""
        return data.ArrayLayout(self.cell_bits, len(self.cells))

    @property
    def sending(self):
        """Layout of what is sent: a packet, its first cell's place, its frame, whether it is not new."""
        place = range(self.places)
        return data.StructLayout({**self.packet.members, "place": place, "frame": self.frame_bits, "again": 1})

    @property
    def report(self):
        """Layout of what a head or a ``Status`` tells of the other side's receiver.

        ``classes`` says of which classes ``passed`` is told, ``frames`` that ``last`` is, ``losses`` that ``lost`` is:
        bit n of it, that the frame n before ``last`` was lost.
        """
        return data.StructLayout(
            {
                "classes": len(self.cells),
                "passed": self.counts,
                "frames": 1,
                "last": self.frame_bits,
                "losses": 1,
                "lost": self.history,
            }
        )


class RetrySender(wiring.Component):
    """Chooses what is sent, and keeps what may have to be sent again.

    A packet may be put into a class's cells, one by one, when the class has ``room``; with its last cell it is whole,
    and is offered on ``send`` two cycles later at the soonest, in the order of its class. Classes take turns, but
    packets whose last frame was lost come before all others, in the order in which they were found lost. At most one is
    offered each cycle.

    A cell is free again when the other side has passed on what was in it.

    Parameters
    ----------
    parameters : :class:`RetryParameters`

    Members
    -------
    room : :py:`Out(classes)`
        Of each class: there are cells for a longest packet.
    next : :py:`Out(counts)`
        Number of the cell that is put next, of each class.
    put, last : :py:`In(classes)`, cells : :py:`In(data.ArrayLayout(range(longest + 1), classes))`
        A cell of a class is put: the first one of a packet of ``cells``, or with ``cells`` 0 a later one.
    send : :py:`Out(stream.Signature(sending))`
        A packet that is to be sent again is withdrawn when it has been passed on meanwhile; its frame's number is
        lost.
    report : :py:`In(report)`
        What the other side tells. Losses are looked at one a cycle; told meanwhile, newer ones take their place. When
        the older half of ``history`` is new and lost, so are taken to be those before, back to the last one told of.
    timed_out : :py:`Out(1)`
        Pulses when a class had not moved for too long.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "room": Out(len(p.cells), init=(1 << len(p.cells)) - 1),
                "next": Out(p.counts),
                "put": In(len(p.cells)),
                "cells": In(data.ArrayLayout(range(p.longest + 1), len(p.cells))),
                "last": In(len(p.cells)),
                "send": Out(stream.Signature(p.sending)),
                "report": In(p.report),
                "timed_out": Out(1),
            }
        )
        # Cells below `tail` have been passed on; those from `tail` are kept, those from `fresh` have never been sent.
        self.tail, self.fresh, self.head = (
            Array(Signal(p.cell_bits, name=f"{name}{n}") for n in range(len(p.cells)))
            for name in ("tail", "fresh", "head")
        )
        # What is offered, if it is not passed on meanwhile; and a packet that is to be offered again.
        self.offered, self.repeats, self.repeat = Signal(), Signal(), Signal(p.sending)

    @cached_property
    def lengths(self):
        """For each class, by cell: how many cells the packet has that begins there, or 0."""
        p = self.parameters
        return [memory.Memory(shape=range(p.longest + 1), depth=size, init=[]) for size in p.cells]

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        classes = range(len(p.cells))
        tail, fresh, head = self.tail, self.fresh, self.head
        report = self.report
        waiting = Signal(len(p.cells))
        looked_up = Signal(range(p.places))
        lengths, lengths_there = [], []
        for n, size in enumerate(p.cells):
            m.submodules[f"lengths{n}"] = length = self.lengths[n]
            write = length.write_port()
            read, look = length.read_port(domain="comb"), length.read_port(domain="comb")
            lengths.append(read.data)
            lengths_there.append(look.data)
            mine, after = self.put[n], Signal(p.cell_bits, name=f"after{n}")
            next_tail = Mux(report.classes[n], report.passed[n], tail[n])
            m.d.comb += [
                after.eq(self.next[n] + 1),
                waiting[n].eq(head[n] != fresh[n]),
                write.en.eq(mine),
                write.addr.eq(self.next[n]),
                write.data.eq(self.cells[n]),
                read.addr.eq(fresh[n]),
                look.addr.eq(looked_up),
            ]
            m.d.sync += [
                tail[n].eq(next_tail),
                self.room[n].eq((head[n] - next_tail)[: p.cell_bits] <= size - p.longest),
            ]
            with m.If(mine):
                m.d.sync += self.next[n].eq(after)
                with m.If(self.last[n]):
                    m.d.sync += head[n].eq(after)
                    m.d.sync += self.room[n].eq((after - next_tail)[: p.cell_bits] <= size - p.longest)

        # A class that does not move: its oldest packet. One class is looked at in a cycle.
        timer = Signal(p.timeout_bits)
        stale = Signal(len(p.cells))
        expired = Signal(range(p.places))
        m.d.sync += timer.eq(timer + 1)
        for n in classes:
            with m.If((tail[n] == fresh[n]) | report.classes[n] & (report.passed[n] != tail[n])):
                m.d.sync += stale[n].eq(0)
            with m.Elif(timer == n):
                m.d.sync += stale[n].eq(1)
                m.d.comb += [self.timed_out.eq(stale[n]), expired.eq(p.place(n, tail[n]))]

        # What is offered, and what that is written down of it in the next cycle.
        offered, offer, begun = self.offered, Signal(p.sending), Signal()
        gone = Signal()
        heard, heard_before = Signal(p.frame_bits, init=-1), Signal(p.frame_bits, init=-1)
        with m.If(report.frames):
            m.d.sync += heard.eq(report.last)
            with m.If(report.last != heard):
                m.d.sync += heard_before.eq(heard)
        looking, finding, queued = self._find_lost(m, begun, offer, expired, heard, heard_before)
        pending = finding | self._fetch_repeat(m, queued, looked_up, lengths_there)

        next_frame = Signal(p.frame_bits)
        load, new, chosen = Signal(), Signal(p.sending), Signal()
        m.d.comb += [
            self.send.valid.eq(offered & ~gone),
            self.send.payload.eq(offer),
            load.eq(
                (~offered | gone | self.send.ready) & ((next_frame - heard)[: p.frame_bits] <= p.window) & ~looking
            ),
        ]

        turn = Signal(range(len(p.cells)))
        m.d.comb += new.kind.eq(turn)
        with m.Switch(turn):
            for n in classes:
                with m.Case(n):
                    for k in reversed(classes):
                        candidate = (n + 1 + k) % len(p.cells)
                        with m.If(waiting[candidate]):
                            m.d.comb += new.kind.eq(candidate)
        m.d.comb += [
            new.cell.eq(fresh[new.kind]),
            new.cells.eq(Array(lengths)[new.kind]),
            new.place.eq(p.place(new.kind, new.cell)),
            chosen.eq(load & (self.repeats | ~pending & waiting.any())),
        ]
        m.d.sync += begun.eq(chosen)
        with m.If(load):
            m.d.sync += [offered.eq(chosen), offer.eq(Mux(self.repeats, self.repeat.as_value(), new.as_value()))]
            m.d.sync += offer.frame.eq(next_frame)
        with m.Elif(gone | self.send.ready):
            m.d.sync += offered.eq(0)
        with m.If(chosen):
            m.d.sync += next_frame.eq(next_frame + 1)
            with m.If(self.repeats):
                m.d.sync += self.repeats.eq(0)
            with m.Else():
                m.d.sync += turn.eq(new.kind)
                for n in classes:
                    with m.If(new.kind == n):
                        m.d.sync += fresh[n].eq(fresh[n] + lengths[n])

        # Cells that were passed on in this cycle may be written in it: from the next one on the packet is not sent.
        # What may still be wanted is less than half of the numbers ahead, and what is not, is as little behind.
        def passed_on(one):
            return (one.cell - tail[one.kind])[p.cell_bits - 1]

        m.d.sync += gone.eq(Mux(load, self.repeats & passed_on(self.repeat), passed_on(offer)))
        return m

    def _find_lost(self, m, begun, offer, expired, heard, heard_before):
        """Places of packets whose last frame was lost: whether they are looked for, or just found, and a queue of them.

        A frame that is lost is looked up with what it carried, that with the frame that carried it last. What is queued
        is marked there, until it is sent again: it is queued once, and no new packet is begun before it has left the
        queue.

        When the older half of the frames of which is told are all lost, so may be those before them, back to the last
        one that was heard of: they are looked up as well. Those of them that had come are sent for nothing.
        """
        p = self.parameters
        report = self.report
        place, number = range(p.places), p.frame_bits
        of_place = data.StructLayout({"frame": number, "there": 1})
        # What is read where it is written at that moment is not looked at: nothing is begun while one is looked up, and
        # what was found a cycle or two ago is known.
        unchecked = {"no_rw_check": 1}
        m.submodules.carried = carried = memory.Memory(shape=place, depth=1 << p.frame_bits, init=[], attrs=unchecked)
        m.submodules.frames = frames = memory.Memory(shape=of_place, depth=p.places, init=[], attrs=unchecked)
        carrier, carrying = Signal(place, reset_less=True), Signal(of_place, reset_less=True)
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(width=Shape.cast(place).width, depth=p.places)

        # What was told a cycle ago, and how much further than what was told before.
        told, told_lost, told_last = Signal(), Signal(p.history), Signal(number, init=-1)
        moved, told_since = Signal(number), Signal(number)
        # Frames before `last` that are to be looked up, and that have been: told again, these are not.
        lost, done, last = Signal(p.history), Signal(p.history), Signal(number, init=-1)
        oldest_first = lost[::-1]
        oldest = (oldest_first & (~oldest_first + 1)[: p.history])[::-1]
        ages = range(p.history)
        age = Cat(Cat(oldest[n] for n in ages if n >> bit & 1).any() for bit in range((p.history - 1).bit_length()))
        looked, known = Signal(p.history), Signal(p.history)
        m.d.comb += [looked.eq(done | Mux(self.timed_out, 0, oldest)), known.eq(looked)]
        m.d.sync += [told.eq(report.losses), told_lost.eq(report.lost)]
        with m.If(report.losses):
            m.d.sync += [told_last.eq(report.last), moved.eq(report.last - told_last)]
        with m.If(told):
            m.d.comb += known.eq(Mux(moved < p.history, looked << moved[: (p.history - 1).bit_length()], 0))
            m.d.sync += [lost.eq(told_lost & ~known), last.eq(told_last)]
        with m.Else():
            m.d.sync += lost.eq(lost & ~known)
        m.d.sync += done.eq(known)
        # Frames before these, from `walk` on to the last one of which nothing is told.
        recent, gap, walks = Signal(), Signal(), Signal()
        since, far, walk, untold = (Signal(number, name=name) for name in ("since", "far", "walk", "untold"))
        # The end of a gap may have been told in a head.
        m.d.comb += [recent.eq((report.last - heard)[: p.frame_bits] < p.history), far.eq(last - since)]
        m.d.sync += [
            told_since.eq(Mux(recent, heard_before, heard)),
            gap.eq(told & (moved >= p.history) & told_lost[p.history // 2 :].all()),
            since.eq(told_since),
        ]
        with m.If(gap):
            m.d.sync += [walks.eq(far > p.history), walk.eq(since + 1), untold.eq(last - p.history)]
        with m.Elif(walks & ~self.timed_out & ~lost.any()):
            m.d.sync += [walk.eq(walk + 1), walks.eq(walk != untold)]

        # A place that timed out goes the same way, whichever frame it was in.
        stage = data.StructLayout({"valid": 1, "expired": 1, "frame": number, "place": place})
        looks, finds, seeks, found = (Signal(stage, name=name) for name in ("looks", "finds", "seeks", "found"))
        carried_write, carried_read = carried.write_port(), carried.read_port(domain="comb")
        frames_write, frames_read = frames.write_port(), frames.read_port(domain="comb")
        m.d.sync += [carrier.eq(carried_read.data), carrying.eq(frames_read.data)]
        queues = Signal()
        # What was found a cycle ago, and is queued and marked now, and what was two cycles ago: for one that is looked
        # up with it, it is there already.
        newest, newest_valid, marked, marked_valid = Signal(place), Signal(), Signal(place), Signal()
        m.d.sync += [newest.eq(found.place), newest_valid.eq(queues), marked.eq(newest), marked_valid.eq(newest_valid)]
        m.d.sync += [
            looks.valid.eq(self.timed_out | lost.any() | walks),
            looks.expired.eq(self.timed_out),
            looks.frame.eq(Mux(lost.any(), last - age, walk)),
            looks.place.eq(expired),
            finds.eq(looks),
            seeks.eq(finds),
            seeks.place.eq(Mux(finds.expired, finds.place, carrier)),
            found.eq(seeks),
        ]
        m.d.comb += [
            carried_read.addr.eq(looks.frame),
            frames_read.addr.eq(seeks.place),
            queues.eq(
                found.valid
                & carrying.there
                & (found.expired | (carrying.frame == found.frame))
                & ~(newest_valid & (newest == found.place))
                & ~(marked_valid & (marked == found.place))
            ),
            queue.w_en.eq(newest_valid),
            queue.w_data.eq(newest),
            # Nothing is begun while one is looked up, so that these do not meet.
            carried_write.en.eq(begun),
            carried_write.addr.eq(offer.frame),
            carried_write.data.eq(offer.place),
            frames_write.en.eq(begun | newest_valid),
            frames_write.addr.eq(Mux(begun, offer.place, newest)),
            frames_write.data.frame.eq(offer.frame),
            frames_write.data.there.eq(begun),
        ]
        return looks.valid | finds.valid | seeks.valid | found.valid, found.valid | newest_valid, queue

    def _fetch_repeat(self, m, queue, looked_up, lengths):
        """The next of the queue, if it is still to be sent, in ``repeat``; whether there are any."""
        p = self.parameters
        fetched, kept = Signal(), Signal()
        old = Signal(p.sending)
        for n, size in enumerate(p.cells):
            base, index = p.base(n), looked_up & (size - 1)
            # The cell at this place that may still be wanted, if a packet begins there now.
            behind = (index - self.tail[n]) & (size - 1)
            with m.If((looked_up >= base) & (looked_up < base + size)):
                m.d.comb += [
                    old.kind.eq(n),
                    old.cell.eq(self.tail[n] + behind),
                    old.cells.eq(lengths[n]),
                    kept.eq(lengths[n].any() & (behind < (self.fresh[n] - self.tail[n])[: p.cell_bits])),
                ]
        m.d.comb += [old.place.eq(looked_up), old.again.eq(1), queue.r_en.eq(~fetched)]
        with m.If(~fetched):
            m.d.sync += [fetched.eq(queue.r_rdy), looked_up.eq(queue.r_data)]
        with m.Elif(~self.repeats):
            m.d.sync += [fetched.eq(0), self.repeats.eq(kept), self.repeat.eq(old)]
        return fetched | self.repeats | (queue.level != 0)


class RetryReceiver(wiring.Component):
    """Says which packets are new, which class's next packet is there, and which frames were lost.

    A packet whose CRC is right is ``asked`` about: ``accept`` says in the same cycle whether it may be put into its
    cells, which are never those of a packet that is being read. To be quick with that, it has to know a cycle before
    which one is ``coming``, if one is. It is ``stored`` when all of it is there; no other packet may be asked about in
    between. ``ready`` tells of each class, from the next cycle on, that its next packet is stored. It is taken, and
    passed on when its cells have been read.

    Parameters
    ----------
    parameters : :class:`RetryParameters`

    Members
    -------
    coming : :py:`In(cell)`
        The first cell of the packet that is asked about in the next cycle. If none is, it means nothing.
    asked : :py:`In(packet)`, accept : :py:`Out(1)`, store : :py:`In(1)`
        A packet; it is new, or the same is in its cells already, and not ``ready``; all of it is there.
    ready : :py:`Out(classes)`, next : :py:`Out(data.ArrayLayout(packet, classes))`, take : :py:`In(classes)`
        The next packet of a class is there; which one; it is taken.
    pass_ : :py:`In(1)`, passed : :py:`In(packet)`
        A packet that was taken is passed on, so that its cells are free. Its ``cell`` is not looked at.
    double : :py:`Out(1)`
        What was to be stored in the cycle before had come before.
    framed : :py:`In(1)`, frame : :py:`In(frame_bits)`
        A packet came whose frame had this number.
    behind : :py:`In(1)`
        Or a ``Status``, before which its sender's last frame had it.
    counts : :py:`Out(counts)`, last : :py:`Out(frame_bits)`, lost : :py:`Out(history)`
        What is told to the other side.
    tell : :py:`Out(1)`, told : :py:`In(1)`
        A loss wants to be told in a ``Status``; one takes ``lost`` with it in this cycle.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "coming": In(p.cell),
                "asked": In(p.packet),
                "accept": Out(1),
                "store": In(1),
                "double": Out(1),
                "ready": Out(len(p.cells)),
                "next": Out(data.ArrayLayout(p.packet, len(p.cells))),
                "take": In(len(p.cells)),
                "pass_": In(1),
                "passed": In(p.packet),
                "framed": In(1),
                "frame": In(p.frame_bits),
                "behind": In(1),
                "counts": Out(p.counts),
                "last": Out(p.frame_bits, init=(1 << p.frame_bits) - 1),
                "lost": Out(p.history),
                "tell": Out(1),
                "told": In(1),
            }
        )
        # Packets that wait to be taken, by their first cells; and those that were taken in the cycle before.
        self.stored = [Signal(size, name=f"stored{n}") for n, size in enumerate(p.cells)]
        self.gone = [Signal(data.StructLayout({"valid": 1, "cell": range(size)}), name="gone") for size in p.cells]
        self.recent, self.stores = Signal(p.packet), Signal()
        # Of what is asked about: it is one that may come, and the next one, each of its class.
        self.is_ahead, self.is_next = Signal(len(p.cells)), Signal(len(p.cells))

    @cached_property
    def lengths(self):
        """For each class, by cell: how many cells the packet has that is stored there."""
        p = self.parameters
        return [memory.Memory(shape=range(p.longest + 1), depth=size, init=[]) for size in p.cells]

    def _is_ahead(self, n, cell, next_cell):
        # What is behind is at least a class's size away, modulo all numbers.
        p = self.parameters
        return (cell - next_cell)[: p.cell_bits] < p.cells[n]

    def elaborate(self, platform):
        m = Module()
        # What was stored is written down a cycle later.
        m.d.sync += [self.recent.eq(self.asked), self.stores.eq(self.store)]
        # What is ready may be read at this moment, and is there.
        m.d.comb += self.accept.eq((self.is_ahead & ~(self.is_next & self.ready)).any())
        for n in range(len(self.parameters.cells)):
            self._order(m, n)
        self._see_losses(m)
        return m

    def _order(self, m, n):
        """Of a class: what is new, and what is next."""
        p = self.parameters
        size, stored, asked, recent = p.cells[n], self.stored[n], self.asked, self.recent
        m.submodules[f"lengths{n}"] = lengths = self.lengths[n]
        write, read = lengths.write_port(), lengths.read_port(domain="comb")
        # 0 cells if it is not ready.
        next_, count = self.next[n], self.counts[n]
        stores, comes, came = (Signal(name=f"{name}{n}") for name in ("stores", "comes", "came"))

        following, there, gone = Signal(p.cell_bits, name=f"following{n}"), Signal(name=f"there{n}"), self.gone[n]
        at = following & (size - 1)
        m.d.comb += [
            next_.kind.eq(n),
            stores.eq(self.stores & (recent.kind == n) & self._is_ahead(n, recent.cell, next_.cell)),
            write.en.eq(stores),
            write.addr.eq(recent.cell),
            write.data.eq(recent.cells),
            # The next one, or when it is taken the one behind it. If it comes at this moment, it is new, or it is there
            # as well and has the same length.
            following.eq(next_.cell + next_.cells),
            read.addr.eq(following),
            comes.eq(self.store & (asked.kind == n) & (asked.cell == following)),
            came.eq(stores & (recent.cell == following)),
            there.eq(stored.bit_select(at, 1) & ~(gone.valid & (gone.cell == at))),
        ]
        with m.If(recent.kind == n):
            known = stored.bit_select(recent.cell & (size - 1), 1)
            m.d.comb += self.double.eq(self.stores & ~(stores & ~known))
        with m.If(self.take[n] | ~self.ready[n]):
            found = (comes, asked.cells), (came, recent.cells), (there, read.data)
            m.d.sync += [
                self.ready[n].eq(comes | came | there),
                next_.cell.eq(following),
                next_.cells.eq(one_of(*zip(*found, strict=True))),
            ]
        # If none is ready, `following` is the next one itself.
        coming, takes = self.coming, self.take[n]
        is_ahead = [self._is_ahead(n, coming.cell, cell) for cell in (following, next_.cell)]
        m.d.sync += [
            self.is_ahead[n].eq((coming.kind == n) & Mux(takes, *is_ahead)),
            self.is_next[n].eq(Mux(takes, coming.cell == following, coming.cell == next_.cell)),
        ]

        # What is taken has a bit for another cycle.
        put = Mux(stores, 1 << (recent.cell & (size - 1)), 0)
        m.d.sync += [
            gone.valid.eq(self.take[n]),
            gone.cell.eq(next_.cell),
            stored.eq(stored & ~Mux(gone.valid, 1 << gone.cell, 0) | put),
        ]
        with m.If(self.pass_ & (self.passed.kind == n)):
            m.d.sync += count.eq(count + self.passed.cells)

    def _see_losses(self, m):
        """Frames from the last one to this one that did not come are lost."""
        p = self.parameters
        ahead = Signal(p.frame_bits)
        forward = Signal()
        m.d.comb += [ahead.eq(self.frame - self.last), forward.eq(self.framed & (ahead != 0))]
        older = Mux(ahead < p.history, self.lost << ahead[: (p.history - 1).bit_length()], 0)
        # All that are new are lost, but the one that came.
        new = Cat(ahead > age for age in range(p.history)) ^ ~self.behind
        with m.If(forward):
            m.d.sync += [self.last.eq(self.last + ahead), self.lost.eq(older | new)]

        # Told at once, and again when `again` frames have come since: `since` is one more than these.
        unsaid = Signal()
        since = Signal(range(p.again + 2))
        with m.If(forward & (self.behind | (ahead != 1))):
            m.d.sync += [self.tell.eq(1), unsaid.eq(1), since.eq(0)]
        with m.Elif(self.told):
            m.d.sync += [self.tell.eq(0), unsaid.eq(0), since.eq(unsaid)]
        with m.Elif(forward & (since != 0) & (since != p.again + 1)):
            m.d.sync += [self.tell.eq(unsaid | (since == p.again)), since.eq(since + 1)]
