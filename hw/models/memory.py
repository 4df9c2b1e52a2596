"""An ideal memory behind one port: for block tests, and to tell what a real memory costs."""

from amaranth.hdl import *
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In

from tessera.hw.engine import EngineSignature
from tessera.hw.memory.port import MemoryPort, MemoryStatus, Op, Request
from tessera.hw.models.storage import Backdoor, Storage

__all__ = ["WINDOW_LINES", "EngineHarness", "IdealMemory", "Knobs"]

WINDOW_LINES = 1 << 14
"""Lines from one window's start to the next in an :class:`IdealMemory`, unless told otherwise."""


class Knobs(data.Struct):
    """How the memory behaves, set by the testbench at any time."""

    latency: 8
    """Cycles from request to response at the least, 4 or more (less counts as 4)."""
    stall: 4
    """Requests and responses are held back in stall/16 of the cycles, at random."""
    window: 6
    """Accesses to this window ..."""
    limit: 26
    """.. at or beyond this line are refused; 0 for no limit."""


class IdealMemory(wiring.Component):
    """One line per cycle after a fixed latency, and every stall that the contract allows if asked.

    Window ``w`` is lines ``w * window_lines`` and on. Responses come in order. Up to 256 requests are under way.

    Parameters
    ----------
    windows : int
        A power of two.
    window_lines : int
        Lines of each window, a power of two.
    name : str
        Stem of the files of the backdoor.
    request : shape-like
        :class:`Request`, or :class:`Access`: what its port is for.
    """

    def __init__(self, *, windows=8, window_lines=WINDOW_LINES, name="memory", request=Request):
        self.windows, self.window_lines, self.name = windows, window_lines, name
        super().__init__({"port": In(MemoryPort(request)), "knobs": In(Knobs), "backdoor": In(Backdoor())})

    def elaborate(self, platform):
        m = Module()
        depth = 256
        m.submodules.storage = storage = Storage(self.name, depth=self.windows * self.window_lines)
        wiring.connect(m, wiring.flipped(self.backdoor), storage.backdoor)
        waiting = data.StructLayout({"op": Op, "id": 3, "status": MemoryStatus, "due": 16})
        m.submodules.order = order = fifo.SyncFIFOBuffered(width=Shape.cast(waiting).width, depth=depth)
        m.submodules.lines = lines = fifo.SyncFIFOBuffered(width=512, depth=depth)

        time = Signal(16)
        dice = Signal(16, init=0xACE1)
        m.d.sync += [time.eq(time + 1), dice.eq(Cat(dice[1:], dice[0] ^ dice[2] ^ dice[3] ^ dice[5]))]
        hold_request = Signal()
        hold_response = Signal()
        request, response = self.port.request, self.port.response
        m.d.comb += hold_request.eq(dice[4:8] < self.knobs.stall)

        under_way = Signal(range(depth + 1))
        taken, given = request.valid & request.ready, response.valid & response.ready
        m.d.sync += under_way.eq(under_way + taken - given)
        m.d.comb += request.ready.eq(~hold_request & (under_way != depth))
        asked = request.payload
        beyond = (asked.offset >= self.window_lines) | (asked.window >= self.windows)
        limited = (self.knobs.limit != 0) & (asked.window == self.knobs.window) & (asked.offset >= self.knobs.limit)
        refused = beyond | limited
        address = (asked.window * self.window_lines + asked.offset)[: len(storage.read_address)]
        entry = Signal(waiting)
        read_before = Signal()
        latency = Mux(self.knobs.latency < 4, 4, self.knobs.latency)
        m.d.comb += [
            storage.read.eq(taken),
            storage.read_address.eq(address),
            storage.write.eq(taken & (asked.op == Op.Write) & ~refused),
            storage.write_address.eq(address),
            storage.write_data.eq(asked.data),
            entry.op.eq(asked.op),
            entry.id.eq(asked.id),
            entry.status.eq(Mux(refused, MemoryStatus.Refused, MemoryStatus.Ok)),
            entry.due.eq((time + latency)[:16]),
            order.w_en.eq(taken),
            order.w_data.eq(entry),
            lines.w_en.eq(read_before),
            lines.w_data.eq(storage.read_data),
        ]
        m.d.sync += read_before.eq(taken)

        head = data.View(waiting, order.r_data)
        offered = Signal()
        due = (time - head.due).as_unsigned()[:16] < 0x8000
        ready_to_go = order.r_rdy & lines.r_rdy & due
        m.d.comb += [
            hold_response.eq((dice[8:12] < self.knobs.stall) & ~offered),
            response.valid.eq(ready_to_go & ~hold_response),
            response.payload.op.eq(head.op),
            response.payload.id.eq(head.id),
            response.payload.status.eq(head.status),
            response.payload.data.eq(Mux(head.status == MemoryStatus.Ok, lines.r_data, ~lines.r_data)),
            order.r_en.eq(given),
            lines.r_en.eq(given),
        ]
        m.d.sync += offered.eq(response.valid & ~response.ready)
        return m


class EngineHarness(wiring.Component):
    """An engine with an ideal memory: what a testbench of an engine simulates.

    Parameters
    ----------
    engine : component with :class:`EngineSignature`
    """

    def __init__(self, engine, **memory):
        self.engine, self.memory = engine, IdealMemory(**memory)
        members = dict(EngineSignature().members)
        del members["memory"]
        super().__init__({**members, "knobs": In(Knobs), "backdoor": In(Backdoor())})

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine = engine = self.engine
        m.submodules.memory = ideal = self.memory
        wiring.connect(m, engine.memory, ideal.port)
        wiring.connect(m, wiring.flipped(self.task), engine.task)
        wiring.connect(m, engine.done, wiring.flipped(self.done))
        wiring.connect(m, wiring.flipped(self.backdoor), ideal.backdoor)
        m.d.comb += [ideal.knobs.eq(self.knobs), engine.abort.eq(self.abort)]
        return m
