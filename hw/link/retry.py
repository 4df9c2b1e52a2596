"""What makes the link lose nothing: which packet is sent, when a cell may be used again, what was lost.

The two components have no datapath: they number cells and frames, and whoever moves heads and lines obeys. The proofs
in ``tests/formal`` are of these same classes, with fewer cells and shorter numbers.
"""

from dataclasses import dataclass
from functools import cached_property

from amaranth.hdl import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import observe

__all__ = ["RetryParameters", "RetryReceiver", "RetrySender"]


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
        A class that does not move for ``2 ** timeout_bits`` to twice as many cycles has its oldest packet sent again.
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
        """Layout of what is sent: a packet by its first cell and that one's place, its frame, whether it is not new."""
        place = range(self.places)
        return data.StructLayout({**self.cell.members, "place": place, "frame": self.frame_bits, "again": 1})

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
    packets whose last frame was lost come before all others. At most one is offered each cycle.

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
    put : :py:`In(1)`, kind : :py:`In(kind)`, cells : :py:`In(range(longest + 1))`, last : :py:`In(1)`
        A cell is in the sender's memory: the first of a packet of ``cells``, or with ``cells`` 0 a later one.
    send : :py:`Out(stream.Signature(sending))`
    frame : :py:`Out(frame_bits)`
        Number of the next frame that is taken from ``send``.
    report : :py:`In(report)`
        What the other side tells. Losses are looked at one a cycle; told meanwhile, newer ones take their place.
    timed_out : :py:`Out(1)`
        Pulses when a class had not moved for too long.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "room": Out(len(p.cells)),
                "next": Out(p.counts),
                "put": In(1),
                "kind": In(range(len(p.cells))),
                "cells": In(range(p.longest + 1)),
                "last": In(1),
                "send": Out(stream.Signature(p.sending)),
                "frame": Out(p.frame_bits),
                "report": In(p.report),
                "timed_out": Out(1),
            }
        )
        # Cells below `tail` have been passed on; those from `tail` are kept, those from `fresh` have never been sent.
        self.tail, self.fresh, self.head = (
            Array(Signal(p.cell_bits, name=f"{name}{n}") for n in range(len(p.cells)))
            for name in ("tail", "fresh", "head")
        )

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
        found, found_place = Signal(), Signal(range(p.places))
        lengths, begins = [], []
        for n, size in enumerate(p.cells):
            m.submodules[f"lengths{n}"] = length = self.lengths[n]
            write = length.write_port()
            read, look = length.read_port(domain="comb"), length.read_port(domain="comb")
            lengths.append(read.data)
            begins.append(look.data.any())
            mine = self.put & (self.kind == n)
            after = Signal(p.cell_bits, name=f"after{n}")
            m.d.comb += [
                after.eq(self.next[n] + 1),
                self.room[n].eq((head[n] - tail[n])[: p.cell_bits] <= size - p.longest),
                waiting[n].eq(head[n] != fresh[n]),
                write.en.eq(mine),
                write.addr.eq(self.next[n]),
                write.data.eq(self.cells),
                read.addr.eq(fresh[n]),
                look.addr.eq(found_place),
            ]
            with m.If(mine):
                m.d.sync += self.next[n].eq(after)
                with m.If(self.last):
                    m.d.sync += head[n].eq(after)
            with m.If(report.classes[n]):
                m.d.sync += tail[n].eq(report.passed[n])

        # What each frame carried, and the frame that carried each cell last.
        m.submodules.carried = carried = memory.Memory(shape=range(p.places), depth=1 << p.frame_bits, init=[])
        m.submodules.frames = frames = memory.Memory(shape=p.frame_bits, depth=p.places, init=[])
        carried_write, carried_read = carried.write_port(), carried.read_port()
        frames_write, frames_read = frames.write_port(), frames.read_port()

        # A frame is lost: what it carried is sent again, unless it has been since.
        lost, last = Signal(p.history), Signal(p.frame_bits)
        number = Signal(p.frame_bits)
        rest = lost & (lost - 1)[: p.history]
        with m.If(report.losses):
            m.d.sync += [lost.eq(report.lost), last.eq(report.last)]
        with m.Else():
            m.d.sync += lost.eq(rest)
        for n in reversed(range(p.history)):
            with m.If(lost[n]):
                m.d.comb += number.eq(last - n)
        looked_at, matched = Signal(2), Signal(p.frame_bits)
        numbers = [Signal(p.frame_bits, name=f"number{n}") for n in range(2)]
        place = Signal(range(p.places))
        m.d.sync += [
            looked_at.eq(Cat(lost.any(), looked_at)),
            numbers[0].eq(number),
            numbers[1].eq(numbers[0]),
            place.eq(carried_read.data),
        ]
        m.d.comb += [
            carried_read.addr.eq(number),
            carried_read.en.eq(1),
            frames_read.addr.eq(carried_read.data),
            frames_read.en.eq(1),
            matched.eq(frames_read.data),
        ]
        repeat = Signal()
        m.d.comb += repeat.eq(looked_at[1] & (matched == numbers[1]))

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

        # The first of those to be sent again.
        wanted = Signal(p.places)
        take_found = Signal()
        with m.If(~found | take_found):
            m.d.sync += found.eq(wanted.any())
            for n in reversed(range(p.places)):
                with m.If(wanted[n]):
                    m.d.sync += found_place.eq(n)
        first = wanted & (~wanted + 1)[: p.places]
        m.d.sync += wanted.eq(
            wanted & ~Mux(~found | take_found, first, 0)
            | Mux(repeat, 1 << place, 0)
            | Mux(self.timed_out, 1 << expired, 0)
        )

        # What is offered.
        offered, offer = Signal(), Signal(p.sending)
        next_frame = Signal(p.frame_bits)
        heard = Signal(p.frame_bits, init=-1)
        with m.If(report.frames):
            m.d.sync += heard.eq(report.last)
        open_ = Signal()
        m.d.comb += open_.eq((next_frame - heard)[: p.frame_bits] <= p.window)
        m.d.comb += [self.send.valid.eq(offered), self.send.payload.eq(offer)]
        observe(m, self.send)
        load, old, new = Signal(), Signal(p.sending), Signal(p.sending)
        chosen = Signal()
        m.d.comb += load.eq(~offered | self.send.ready)

        kept = Signal()
        for n, size in enumerate(p.cells):
            base, index = p.base(n), found_place & (size - 1)
            # The cell at this place that may still be wanted, if a packet begins there now.
            behind = (index - tail[n]) & (size - 1)
            with m.If((found_place >= base) & (found_place < base + size)):
                m.d.comb += [
                    old.kind.eq(n),
                    old.cell.eq(tail[n] + behind),
                    kept.eq(begins[n] & (behind < (fresh[n] - tail[n])[: p.cell_bits])),
                ]
        m.d.comb += [old.place.eq(found_place), old.again.eq(1)]

        turn = Signal(range(len(p.cells)))
        m.d.comb += new.kind.eq(turn)
        with m.Switch(turn):
            for n in classes:
                with m.Case(n):
                    for k in reversed(classes):
                        candidate = (n + 1 + k) % len(p.cells)
                        with m.If(waiting[candidate]):
                            m.d.comb += new.kind.eq(candidate)
        m.d.comb += [new.cell.eq(fresh[new.kind]), new.place.eq(p.place(new.kind, new.cell))]

        m.d.comb += take_found.eq(load & open_)
        with m.If(load):
            m.d.sync += offered.eq(chosen)
            with m.If(open_ & found):
                m.d.comb += chosen.eq(kept)
                m.d.sync += offer.eq(old)
            with m.Elif(open_ & waiting.any()):
                m.d.comb += chosen.eq(1)
                m.d.sync += [offer.eq(new), turn.eq(new.kind)]
                for n in classes:
                    with m.If(new.kind == n):
                        m.d.sync += fresh[n].eq(fresh[n] + lengths[n])
            m.d.sync += offer.frame.eq(next_frame)
        with m.If(chosen):
            m.d.sync += next_frame.eq(next_frame + 1)
        m.d.comb += [
            carried_write.en.eq(chosen),
            carried_write.addr.eq(next_frame),
            carried_write.data.eq(Mux(found, old.place, new.place)),
            frames_write.en.eq(chosen),
            frames_write.addr.eq(carried_write.data),
            frames_write.data.eq(next_frame),
            self.frame.eq(Mux(offered, offer.frame, next_frame)),
        ]
        return m


class RetryReceiver(wiring.Component):
    """Says which packets are new, which class's next packet is there, and which frames were lost.

    A packet whose CRC is right is ``asked`` about: ``accept`` says in the same cycle that it is new, and stays until it
    is ``stored``. No other packet may be asked about in between. ``ready`` tells of each class, from the next cycle
    on, that its next packet is stored; ``pass_`` passes it on.

    Parameters
    ----------
    parameters : :class:`RetryParameters`

    Members
    -------
    asked : :py:`In(packet)`, accept : :py:`Out(1)`, store : :py:`In(1)`
        A packet; it is new, and its cells are free; it is stored, which only an accepted one may be.
    ready : :py:`Out(classes)`, pass_ : :py:`In(1)`, passed : :py:`In(packet)`
        The next packet of a class is there; it is passed on, so that its cells are free. Its ``cell`` is not looked at.
    framed : :py:`In(1)`, frame : :py:`In(frame_bits)`
        A packet came whose frame had this number.
    behind : :py:`In(1)`
        Or a ``Status``, whose sender's next frame will have it.
    counts : :py:`Out(counts)`, last : :py:`Out(frame_bits)`, lost : :py:`Out(history)`
        What is told to the other side.
    tell : :py:`Out(1)`, told : :py:`In(1)`
        A loss wants to be told in a ``Status``; one takes ``lost`` with it in this cycle.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "asked": In(p.packet),
                "accept": Out(1),
                "store": In(1),
                "ready": Out(len(p.cells)),
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
        # Packets that wait to be passed on, by their first cells.
        self.stored = [Signal(size, name=f"stored{n}") for n, size in enumerate(p.cells)]

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        asked, passed = self.asked, self.passed
        for n, size in enumerate(p.cells):
            stored = self.stored[n]
            count = Signal(p.cell_bits, name=f"count{n}")
            index, low = asked.cell & (size - 1), count & (size - 1)
            fits = (asked.cell - count)[: p.cell_bits] + asked.cells <= size
            mine, going = Signal(name=f"mine{n}"), Signal(name=f"going{n}")
            m.d.comb += [
                self.counts[n].eq(count),
                self.ready[n].eq(stored.bit_select(low, 1)),
                mine.eq(self.store & (asked.kind == n)),
                going.eq(self.pass_ & (passed.kind == n)),
            ]
            with m.If(asked.kind == n):
                m.d.comb += self.accept.eq(fits & ~stored.bit_select(index, 1))
            with m.If(going):
                m.d.sync += count.eq(count + passed.cells)
            m.d.sync += stored.eq(stored & ~Mux(going, 1 << low, 0) | Mux(mine, 1 << index, 0))

        # Frames from the last one to this one that did not come are lost.
        ahead = Signal(p.frame_bits)
        forward = Signal()
        m.d.comb += [ahead.eq(self.frame - self.last - self.behind), forward.eq(self.framed & (ahead != 0))]
        come = Mux(ahead > p.history, p.history, ahead)
        with m.If(forward):
            # All that are new are lost, but the one that came.
            new = ((1 << come) - 1) ^ ~self.behind
            m.d.sync += [self.last.eq(self.last + ahead), self.lost.eq(self.lost << come | new)]

        # Told at once, and again when `again` frames have come since: `since` is one more than these.
        unsaid = Signal()
        since = Signal(range(p.again + 2))
        due = since == p.again + 1
        m.d.comb += self.tell.eq(unsaid | due)
        with m.If(forward & (self.behind | (ahead != 1))):
            m.d.sync += [unsaid.eq(1), since.eq(0)]
        with m.Elif(self.told):
            m.d.sync += [unsaid.eq(0), since.eq(unsaid)]
        with m.Elif(forward & (since != 0) & ~due):
            m.d.sync += since.eq(since + 1)
        return m
