"""One memory port for several parts of an engine."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.arbiter import RoundRobin
from tessera.hw.lib.streams import connect
from tessera.hw.memory.port import MemoryPort, Request, Response

__all__ = ["PortShare"]


class PortShare(wiring.Component):
    """Joins the request streams of up to eight clients; responses go back by ``id``.

    Client ``n`` uses id ``n`` alone. Requests take turns, one a cycle; one that comes alone may wait a cycle.
    Responses go straight to their client. A client without a use for responses may be told so: its acknowledgements are
    dropped.

    Parameters
    ----------
    clients : int
        1 to 8.

    Members
    -------
    request0, request1, .. : :py:`In(stream.Signature(Request))`
    response0, response1, .. : :py:`Out(stream.Signature(Response))`
    memory : :py:`Out(MemoryPort())`
    """

    def __init__(self, clients):
        if not 1 <= clients <= 8:
            raise ValueError(f"clients is {clients}; 1 to 8 expected")
        self.clients = clients
        members = {"memory": Out(MemoryPort())}
        for n in range(clients):
            members[f"request{n}"] = In(stream.Signature(Request))
            members[f"response{n}"] = Out(stream.Signature(Response))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.turns = turns = RoundRobin(Request, self.clients, ahead=True)
        for n in range(self.clients):
            connect(m, getattr(self, f"request{n}"), getattr(turns, f"i{n}"))
        connect(m, turns.o, self.memory.request)
        with m.Switch(self.memory.response.payload.id):
            for n in range(self.clients):
                response = getattr(self, f"response{n}")
                m.d.comb += response.payload.eq(self.memory.response.payload)
                with m.Case(n):
                    m.d.comb += [
                        response.valid.eq(self.memory.response.valid),
                        self.memory.response.ready.eq(response.ready),
                    ]
        return m
