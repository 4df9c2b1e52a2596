"""The fabric: every client's requests through the window check to the memory, and the answers back."""

from amaranth.hdl import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.arbiter import RoundRobin
from tessera.hw.lib.streams import Skid, connect, observe
from tessera.hw.memory.port import (
    LineRequest,
    LineResponse,
    MemoryPort,
    MemoryStatus,
    Op,
    Refusal,
    Request,
    Window,
    WindowWrite,
    line_port,
)

__all__ = ["WINDOWS", "Fabric"]

WINDOWS = 64


class Fabric(wiring.Component):
    """Joins up to 32 clients to one memory.

    One request and one response move per cycle. A request is offered to the memory two cycles after it was taken,
    and a response to its client one cycle after the memory gave it. Clients take turns.

    Each request is checked against the window that it names: the window must be set, on this node, with the right
    asked for, and longer than the offset. Any other request is answered ``Refused`` and told on ``refused``; to keep
    the order within its id, it waits until its client's earlier requests are answered, and holds the others so long.

    Parameters
    ----------
    clients : int
        1 to 32.

    Members
    -------
    client0, client1, .. : :py:`In(MemoryPort())`
    lines : :py:`Out(line_port())`
        Each request's id is its client's number times 8 plus its own id.
    node : :py:`In(6)`
        This chip's number.
    window : :py:`In(stream.Signature(WindowWrite))`
        Sets an entry of the window table; always ready. No window is set after reset.
    refused : :py:`Out(stream.Signature(Refusal))`
        Must always be ready.
    served : :py:`Out(clients)`
        Bit n pulses for each response that client n takes.
    """

    def __init__(self, clients):
        if not 1 <= clients <= 32:
            raise ValueError(f"clients is {clients}; 1 to 32 expected")
        self.clients = clients
        members = {f"client{n}": In(MemoryPort()) for n in range(clients)}
        super().__init__(
            {
                **members,
                "lines": Out(line_port()),
                "node": In(6),
                "window": In(stream.Signature(WindowWrite)),
                "refused": Out(stream.Signature(Refusal)),
                "served": Out(clients),
            }
        )

    def elaborate(self, platform):
        m = Module()
        clients = [getattr(self, f"client{n}") for n in range(self.clients)]
        tagged = data.StructLayout({"client": 5, "request": Request})

        m.submodules.windows = windows = memory.Memory(shape=Window, depth=WINDOWS, init=[])
        set_port, look = windows.write_port(), windows.read_port()
        is_set = Signal(WINDOWS)
        entry = self.window.payload
        m.d.comb += [
            self.window.ready.eq(1),
            set_port.en.eq(self.window.valid),
            set_port.addr.eq(entry.index),
            set_port.data.eq(entry.window),
        ]
        with m.If(self.window.valid):
            m.d.sync += is_set.bit_select(entry.index, 1).eq(entry.window.length != 0)

        # Turns, then a register while the window is looked up, then the check, then a register.
        m.submodules.turns = turns = RoundRobin(tagged, self.clients)
        for n, client in enumerate(clients):
            turn = getattr(turns, f"i{n}")
            m.d.comb += [
                turn.valid.eq(client.request.valid),
                turn.payload.client.eq(n),
                turn.payload.request.eq(client.request.payload),
                client.request.ready.eq(turn.ready),
            ]
        asked = Signal(tagged)
        asked_valid, asked_set, done = Signal(), Signal(), Signal()
        take = ~asked_valid | done
        m.d.comb += [
            turns.o.ready.eq(take),
            look.addr.eq(turns.o.payload.request.window),
            look.en.eq(take),
        ]
        with m.If(take):
            m.d.sync += [
                asked_valid.eq(turns.o.valid),
                asked.eq(turns.o.payload),
                asked_set.eq(is_set.bit_select(turns.o.payload.request.window, 1)),
            ]

        window, request = look.data, asked.request
        right = Mux(request.op == Op.Write, window.rights.write, window.rights.read)
        fine = asked_set & (window.node == self.node) & right & (request.offset < window.length)
        m.submodules.out = out = Skid(LineRequest)
        connect(m, out.o, self.lines.request)
        refuse = Signal()
        m.d.comb += [
            out.i.valid.eq(asked_valid & fine),
            out.i.payload.op.eq(request.op),
            out.i.payload.id.eq(Cat(request.id, asked.client)),
            out.i.payload.address.eq(window.base + request.offset),
            out.i.payload.data.eq(request.data),
            done.eq(Mux(fine, out.i.ready, refuse)),
        ]

        # Responses by client; a refusal takes the place of one when its client has nothing under way.
        m.submodules.back = back = Skid(LineResponse)
        connect(m, self.lines.response, back.i)
        answer = back.o.payload
        under_way = Array(Signal(10, name=f"under_way{n}") for n in range(self.clients))
        refusing = asked_valid & ~fine
        ready = Array(client.response.ready for client in clients)
        m.d.comb += back.o.ready.eq(ready[answer.id[3:]])
        for n, client in enumerate(clients):
            response = client.response
            mine = refusing & (asked.client == n) & (under_way[n] == 0)
            sent = out.i.valid & out.i.ready & (asked.client == n)
            with m.If(mine):
                m.d.comb += [
                    response.valid.eq(1),
                    response.payload.op.eq(request.op),
                    response.payload.id.eq(request.id),
                    response.payload.status.eq(MemoryStatus.Refused),
                    refuse.eq(response.ready),
                ]
            with m.Else():
                m.d.comb += [
                    response.valid.eq(back.o.valid & (answer.id[3:] == n)),
                    response.payload.op.eq(answer.op),
                    response.payload.id.eq(answer.id[:3]),
                    response.payload.status.eq(answer.status),
                    response.payload.data.eq(answer.data),
                ]
            taken = response.valid & response.ready
            m.d.comb += self.served[n].eq(taken)
            m.d.sync += under_way[n].eq(under_way[n] + sent - (taken & ~mine))
            observe(m, response)
        m.d.comb += [
            self.refused.valid.eq(refuse),
            self.refused.payload.client.eq(asked.client),
            self.refused.payload.id.eq(request.id),
            self.refused.payload.write.eq(request.op == Op.Write),
            self.refused.payload.window.eq(request.window),
            self.refused.payload.offset.eq(request.offset),
        ]
        return m
