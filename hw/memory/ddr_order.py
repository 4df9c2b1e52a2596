"""Keeps requests from their acceptance to their response, and gives responses back in order within each id."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tessera.hw.memory.port import LineResponse, MemoryStatus, Op

__all__ = ["Opening", "ReorderBuffer"]


class Opening(data.Struct):
    """What a request leaves in the reorder buffer."""

    op: Op
    id: 8


class ReorderBuffer(wiring.Component):
    """Room for ``depth`` requests whose lines come in any order; their responses leave in order within each ``id``.

    A request opens the entry that ``entry`` offers. A write's is complete at once, a read's when ``fill`` brings its
    line. An entry's response is ready when it is complete and all earlier entries of its id have left; ready ones
    leave in turn, none waiting for more than ``depth - 1`` others.

    Throughput is one opening, one fill and one response a cycle. A response is offered two cycles after the later
    of its fill and the time when its predecessor of the same id left for the response register; that of a write
    three cycles after its opening.

    Parameters
    ----------
    depth : int
        Entries, a power of two from 8 to 512.

    Members
    -------
    entry : :py:`Out(stream.Signature(range(depth)))`
        The next free entry; taking it opens it with ``opening``.
    opening : :py:`In(Opening)`
        The request, sampled as ``entry`` is taken.
    fill : :py:`In(1)`
        A line has come for the open entry ``fill_entry``, at most once for each read.
    fill_data, fill_poison
        The line, and whether it is known to be bad.
    response : :py:`Out(stream.Signature(LineResponse))`
        Responses. A write's ``data`` means nothing.
    """

    def __init__(self, depth):
        if not 8 <= depth <= 512 or depth & (depth - 1):
            raise ValueError(f"depth is {depth}; a power of two from 8 to 512 expected")
        self.depth = depth
        super().__init__(
            {
                "entry": Out(stream.Signature(range(depth))),
                "opening": In(Opening),
                "fill": In(1),
                "fill_entry": In(range(depth)),
                "fill_data": In(512),
                "fill_poison": In(1),
                "response": Out(stream.Signature(LineResponse)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth, index = self.depth, range(self.depth)

        m.submodules.lines = lines = Memory(shape=513, depth=depth, init=[])
        m.submodules.openings = openings = Memory(shape=Opening, depth=depth, init=[])
        m.submodules.free = free = Memory(shape=index, depth=depth, init=[])
        m.submodules.last = last = Memory(shape=index, depth=256, init=[])
        m.submodules.next = following = Memory(shape=index, depth=depth, init=[])

        busy, done, waiting, followed = (Signal(depth, name=name) for name in ("busy", "done", "waiting", "followed"))
        taken = Signal()
        m.d.comb += taken.eq(self.entry.valid & self.entry.ready)
        released, release_entry = Signal(), Signal(index)

        # Free entries: never used ones first, so that nothing needs to be filled in after reset.
        free_write, free_read = free.write_port(), free.read_port(domain="comb")
        fresh = Signal(range(depth + 1))
        used_fresh = Signal()
        count = Signal(range(depth + 1))
        m.d.comb += [
            used_fresh.eq(fresh == depth),
            self.entry.valid.eq(~used_fresh | count.any()),
            self.entry.payload.eq(Mux(used_fresh, free_read.data, fresh[: depth.bit_length() - 1])),
            free_write.en.eq(released),
            free_write.data.eq(release_entry),
        ]
        from_free = Signal()
        m.d.comb += from_free.eq(taken & used_fresh)
        m.d.sync += [
            free_write.addr.eq(free_write.addr + released),
            free_read.addr.eq(free_read.addr + from_free),
            count.eq(count + released - from_free),
        ]
        with m.If(taken & ~used_fresh):
            m.d.sync += fresh.eq(fresh + 1)

        # The chain of each id: `last` gives the id's latest entry, if that is still open and still of this id.
        opening_write = openings.write_port()
        last_write, last_read = last.write_port(), last.read_port()
        next_write, next_read = following.write_port(), following.read_port(domain="comb")
        m.d.comb += [
            opening_write.en.eq(taken),
            opening_write.addr.eq(self.entry.payload),
            opening_write.data.eq(self.opening),
            last_read.addr.eq(self.opening.id),
        ]
        linking, entry, id_ = Signal(), Signal(index), Signal(8)
        m.d.sync += [linking.eq(taken), entry.eq(self.entry.payload), id_.eq(self.opening.id)]
        just_linked, just_id, just_entry = Signal(), Signal(8), Signal(index)
        m.d.sync += [just_linked.eq(linking), just_id.eq(id_), just_entry.eq(entry)]
        owner = openings.read_port(domain="comb")
        before, chained = Signal(index), Signal()
        m.d.comb += [
            before.eq(Mux(just_linked & (just_id == id_), just_entry, last_read.data)),
            owner.addr.eq(before),
            chained.eq(
                linking
                & busy.bit_select(before, 1)
                & (before != entry)
                & (owner.data.id == id_)
                & ~(released & (release_entry == before))
            ),
            last_write.en.eq(linking),
            last_write.addr.eq(id_),
            last_write.data.eq(entry),
            next_write.en.eq(chained),
            next_write.addr.eq(before),
            next_write.data.eq(entry),
        ]

        # The next response, in turn.
        turn = Signal(index)
        ready, later = Signal(depth), Signal(depth)
        any_ready, pick = Signal(), Signal(index)
        m.d.comb += [
            ready.eq(busy & done & ~waiting),
            later.eq(ready & Cat(turn <= n for n in range(depth))),
            any_ready.eq(ready.any()),
            pick.eq(_first(m, Mux(later.any(), later, ready))),
        ]
        line_write, line_read = lines.write_port(), lines.read_port()
        opening_read = openings.read_port()
        moving, full = Signal(), Signal()
        m.d.comb += [
            moving.eq(~full | self.response.ready),
            released.eq(moving & any_ready),
            release_entry.eq(pick),
            next_read.addr.eq(pick),
            line_write.en.eq(self.fill),
            line_write.addr.eq(self.fill_entry),
            line_write.data.eq(Cat(self.fill_data, self.fill_poison)),
            line_read.en.eq(moving),
            line_read.addr.eq(pick),
            opening_read.en.eq(moving),
            opening_read.addr.eq(pick),
            self.response.valid.eq(full),
            self.response.payload.op.eq(opening_read.data.op),
            self.response.payload.id.eq(opening_read.data.id),
            self.response.payload.data.eq(line_read.data[:512]),
            self.response.payload.status.eq(
                Mux(line_read.data[512] & (opening_read.data.op == Op.Read), MemoryStatus.Poison, MemoryStatus.Ok)
            ),
        ]
        with m.If(moving):
            m.d.sync += full.eq(any_ready)
        with m.If(released):
            m.d.sync += turn.eq(pick + 1)

        opens, fills, releases, links, follows, unlinks = (
            Signal(depth, name=name) for name in ("opens", "fills", "releases", "links", "follows", "unlinks")
        )
        m.d.comb += [
            opens.eq(taken << self.entry.payload),
            fills.eq(self.fill << self.fill_entry),
            releases.eq(released << pick),
            links.eq((linking & ~chained) << entry),
            follows.eq(chained << before),
            unlinks.eq((released & followed.bit_select(pick, 1)) << next_read.data),
        ]
        is_write = self.opening.op == Op.Write
        m.d.sync += [
            busy.eq((busy | opens) & ~releases),
            done.eq((done & ~opens) | fills | Mux(is_write, opens, 0)),
            waiting.eq((waiting | opens) & ~links & ~unlinks),
            followed.eq((followed & ~opens) | follows),
        ]
        return m


def _first(m, bits):
    """Number of the lowest one bit of `bits`: of the group of 16, then within it, so that paths stay short."""
    value = Signal(len(bits), name="first_of")
    m.d.comb += value.eq(bits)
    size = min(16, len(value))
    groups = [value[n : n + size] for n in range(0, len(value), size)]
    numbers = []
    for n, group in enumerate(groups):
        number = Signal(range(size), name=f"first_in_{n}")
        m.d.comb += number.eq(0)
        for k in reversed(range(size)):
            with m.If(group[k]):
                m.d.comb += number.eq(k)
        numbers.append(number)
    which = Signal(range(len(groups)), name="first_group")
    for n in reversed(range(len(groups))):
        with m.If(groups[n].any()):
            m.d.comb += which.eq(n)
    return Cat(Array(numbers)[which], which) if len(groups) > 1 else numbers[0]
