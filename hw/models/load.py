"""Load for a link, and a memory at its other end that knows what it holds, so that long runs need no testbench.

A trace is a list without end of accesses to lines that follow one another; number ``n`` of it begins where a hash of
``n`` says. A line's content follows from its place, so whoever has it can tell whether it is right.
"""

from amaranth.hdl import *
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.memory.port import Access, MemoryPort, MemoryStatus, Op, RemoteRequest, RemoteResponse
from tessera.hw.models.pcie_link import PcieLine, PcieRead

__all__ = ["LineLoad", "LoadCounts", "PcieLoad", "RuleMemory"]

_UNDER_WAY = 512
"""Lines that a memory may have been asked for; a power of two."""


def _mixed(m, number, salt, name):
    """32 bits that look random, and differ for each number."""
    steps = [Signal(32, name=f"{name}{n}") for n in range(3)]
    m.d.comb += [
        steps[0].eq((number + salt) * 0x9E3779B1),
        steps[1].eq((steps[0] ^ (steps[0] >> 15)) * 0x85EBCA6B),
        steps[2].eq(steps[1] ^ (steps[1] >> 13)),
    ]
    return steps[2]


def _content(place):
    """The line at a place, which is a window and an offset: no two are alike in any word."""
    return Cat(place.rotate_left(2 * n) ^ (0x9E3779B1 * (2 * n + 1) & 0xFFFFFFFF) for n in range(16))


def _begin(m, number, name):
    """Where an access of a trace begins: a window and an offset that is a multiple of 16."""
    mixed = _mixed(m, number, 0, name)
    place = Signal(32, name=f"{name}_place")
    m.d.comb += place.eq(Cat(C(0, 4), mixed[:28]))
    return place


def _dice(m):
    """16 bits that look random in each cycle."""
    dice = Signal(16, init=0xACE1)
    m.d.sync += dice.eq(Cat(dice[1:], dice[0] ^ dice[2] ^ dice[3] ^ dice[5]))
    return dice


class LoadCounts(data.Struct):
    """Lines since reset."""

    asked: 32
    answered: 32
    failed: 32
    """Answered as ``Failed``."""
    wrong: 32
    """Answers with other content, status, or for another request than was due."""
    written: 32
    """Writes answered as ``Ok``, and the sum of their offsets, modulo 2**32."""
    written_sum: 32


class RuleMemory(wiring.Component):
    """A memory whose content follows from the place, and which is written with nothing else.

    Members
    -------
    port : :py:`In(MemoryPort(Access))`
        Answers in order, ``latency`` cycles after the request, 2 or more, a line per cycle.
    latency : :py:`In(8)`
    stall : :py:`In(4)`
        Requests and answers are held back in stall/16 of the cycles, at random.
    written, written_sum : :py:`Out(32)`
        Lines written, and the sum of their offsets.
    wrong : :py:`Out(32)`
        Lines written with something else.
    """

    port: In(MemoryPort(Access))
    latency: In(8)
    stall: In(4)
    written: Out(32)
    written_sum: Out(32)
    wrong: Out(32)

    def elaborate(self, platform):
        m = Module()
        request, response = self.port.request, self.port.response
        asked = request.payload
        entry = data.StructLayout({"op": Op, "id": 3, "place": 32, "due": 12})
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(width=entry.size, depth=_UNDER_WAY)
        put, oldest = Signal(entry), data.View(entry, queue.r_data)
        time, place = Signal(12), Signal(32)
        m.d.sync += time.eq(time + 1)
        dice, offered, may_ask = _dice(m), Signal(), Signal()
        m.d.sync += offered.eq(response.valid & ~response.ready)
        m.d.comb += [
            may_ask.eq(dice[:4] >= self.stall),
            place.eq(Cat(asked.offset, asked.window)),
            put.op.eq(asked.op),
            put.id.eq(asked.id),
            put.place.eq(place),
            put.due.eq(time + self.latency),
            queue.w_data.eq(put),
            queue.w_en.eq(request.valid & may_ask),
            request.ready.eq(queue.w_rdy & may_ask),
            response.valid.eq(offered | (queue.r_rdy & ~(time - oldest.due)[11] & (dice[8:12] >= self.stall))),
            response.payload.op.eq(oldest.op),
            response.payload.id.eq(oldest.id),
            response.payload.data.eq(_content(oldest.place)),
            queue.r_en.eq(response.valid & response.ready),
        ]
        with m.If(request.valid & request.ready & (asked.op == Op.Write)):
            m.d.sync += [
                self.written.eq(self.written + 1),
                self.written_sum.eq(self.written_sum + asked.offset),
                self.wrong.eq(self.wrong + (asked.data != _content(place))),
            ]
        return m


class LineLoad(wiring.Component):
    """Goes through a trace line by line, and checks each answer.

    Members
    -------
    go : :py:`In(1)`
        Ask; one that is offered is not withdrawn when ``go`` falls.
    lines : :py:`In(5)`
        Of each access, 1 to 16, or 0 for any number; constant while any is under way, as ``writes`` is.
    writes : :py:`In(1)`
        Half of the accesses are writes.
    target : :py:`In(4)`
    stall : :py:`In(4)`
        It neither asks nor takes in stall/16 of the cycles, at random.
    request : :py:`Out(stream.Signature(RemoteRequest))`, response : :py:`In(stream.Signature(RemoteResponse))`
    counts : :py:`Out(LoadCounts)`
    """

    go: In(1)
    lines: In(5)
    writes: In(1)
    stall: In(4)
    target: In(4)
    request: Out(stream.Signature(RemoteRequest))
    response: In(stream.Signature(RemoteResponse))
    counts: Out(LoadCounts)

    def _line(self, m, step, name):
        """Which line is the next one, whether it is written, and its number; goes on with ``step``."""
        number, index = Signal(32, name=f"{name}_number"), Signal(4, name=f"{name}_index")
        begin, kind = _begin(m, number, name), _mixed(m, number, 0x51ED2700, f"{name}_kind")
        last = index == Mux(self.lines == 0, kind[:4], (self.lines - 1)[:4])
        place, op = Signal(32, name=f"{name}_line"), Signal(Op, name=f"{name}_op")
        m.d.comb += [place.eq(begin + index), op.eq(self.writes & kind[4])]
        with m.If(step):
            m.d.sync += index.eq(Mux(last, 0, index + 1))
            with m.If(last):
                m.d.sync += number.eq(number + 1)
        return place, op

    def elaborate(self, platform):
        m = Module()
        counts, given = self.counts, self.response.payload
        offered, taken = Signal(), Signal()
        dice = _dice(m)
        m.d.comb += [
            self.request.valid.eq(self.go & (dice[:4] >= self.stall) | offered),
            taken.eq(self.request.valid & self.request.ready),
        ]
        m.d.sync += offered.eq(self.request.valid & ~self.request.ready)
        place, op = self._line(m, taken, "ask")
        m.d.comb += [
            self.request.payload.op.eq(op),
            self.request.payload.id.eq(counts.asked),
            self.request.payload.target.eq(self.target),
            Cat(self.request.payload.offset, self.request.payload.window).eq(place),
            self.request.payload.data.eq(_content(place)),
            self.response.ready.eq(dice[8:12] >= self.stall),
        ]
        m.d.sync += counts.asked.eq(counts.asked + taken)

        came = self.response.valid & self.response.ready
        due_place, due_op = self._line(m, came, "check")
        right, failed = Signal(), Signal()
        m.d.comb += [
            failed.eq(given.status == MemoryStatus.Failed),
            right.eq(
                (given.id == counts.answered[:8])
                & (given.op == due_op)
                & (counts.answered != counts.asked)
                & (failed | (given.status == MemoryStatus.Ok))
                & (failed | (given.op == Op.Write) | (given.data == _content(due_place)))
            ),
        ]
        done = came & ~failed & (given.op == Op.Write)
        m.d.sync += [
            counts.answered.eq(counts.answered + came),
            counts.failed.eq(counts.failed + (came & failed)),
            counts.wrong.eq(counts.wrong + (came & ~right)),
            counts.written.eq(counts.written + done),
            counts.written_sum.eq(counts.written_sum + Mux(done, due_place[:26], 0)),
        ]
        return m


class PcieLoad(wiring.Component):
    """Reads the same trace over a :class:`PcieLink`, and checks each line.

    Members
    -------
    go, lines
        As of :class:`LineLoad`; ``lines`` not 0.
    read : :py:`Out(stream.Signature(PcieRead))`, line : :py:`In(stream.Signature(PcieLine))`
    counts : :py:`Out(LoadCounts)`
    """

    go: In(1)
    lines: In(5)
    read: Out(stream.Signature(PcieRead))
    line: In(stream.Signature(PcieLine))
    counts: Out(LoadCounts)

    def elaborate(self, platform):
        m = Module()
        counts, given = self.counts, self.line.payload
        number, offered, taken = Signal(32), Signal(), Signal()
        begin = _begin(m, number, "begin")
        m.submodules.begun = begun = memory.Memory(shape=32, depth=256, init=[])
        note, look = begun.write_port(), begun.read_port(domain="comb")
        m.d.comb += [
            # When a number is used again, the lines of the read before have come.
            self.read.valid.eq((self.go & ((counts.asked - counts.answered)[:32] < 128 * self.lines)) | offered),
            taken.eq(self.read.valid & self.read.ready),
            Cat(self.read.payload.offset, self.read.payload.window).eq(begin),
            self.read.payload.lines.eq(self.lines),
            self.read.payload.tag_id.eq(number),
            note.addr.eq(number),
            note.data.eq(begin),
            note.en.eq(taken),
            look.addr.eq(given.id),
            self.line.ready.eq(1),
        ]
        wrong = (given.data != _content((look.data + given.first)[:32])) | (given.status != MemoryStatus.Ok)
        m.d.sync += [
            offered.eq(self.read.valid & ~self.read.ready),
            number.eq(number + taken),
            counts.asked.eq(counts.asked + Mux(taken, self.lines, 0)),
            counts.answered.eq(counts.answered + self.line.valid),
            counts.wrong.eq(counts.wrong + (self.line.valid & wrong)),
        ]
        return m
