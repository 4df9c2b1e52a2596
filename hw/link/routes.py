"""Behind which of a chip's links each node is."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.memory.port import NODES

__all__ = ["MAX_PORTS", "Route", "RouteWrite", "Routes", "route"]

MAX_PORTS = 8


def route(ports):
    """Layout of where a node is: behind which of so many ports, if it is known."""
    return data.StructLayout({"known": 1, "port": range(ports)})


class Route(data.Struct):
    """The way to a node, and one to take while the first one's link is lost: over a chip that is between."""

    port: range(MAX_PORTS)
    known: 1
    detour: range(MAX_PORTS)
    has_detour: 1


class RouteWrite(data.Struct):
    """An entry for the table of routes."""

    node: 4
    route: Route


class Routes(wiring.Component):
    """The table of routes. No way is known after reset; ports that the chip does not have are no ways.

    Parameters
    ----------
    ports : int
        Of the chip, 1 to 8.

    Members
    -------
    set : :py:`In(stream.Signature(RouteWrite))`
        Always ready.
    lost : :py:`In(ports)`
        Of each port: its link is lost.
    direct : :py:`Out(data.ArrayLayout(route(ports), 16))`
        Where each node is, from the cycle after it was set: for what comes over one link and goes on over another.
    first : :py:`Out(data.ArrayLayout(route(ports), 16))`
        As ``direct``, or a cycle later the detour, if there is one and that link alone is not lost: for what begins
        here.
    """

    def __init__(self, ports):
        if not 1 <= ports <= MAX_PORTS:
            raise ValueError(f"ports is {ports}; 1 to {MAX_PORTS} expected")
        self.ports = ports
        ways = data.ArrayLayout(route(ports), NODES)
        super().__init__(
            {"set": In(stream.Signature(RouteWrite)), "lost": In(ports), "direct": Out(ways), "first": Out(ways)}
        )

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.set.ready.eq(1)
        given = self.set.payload
        for node in range(NODES):
            entry = Signal(Route, name=f"entry{node}")
            with m.If(self.set.valid & (given.node == node)):
                m.d.sync += entry.eq(given.route)
            known = entry.known & (entry.port < self.ports)
            detour = entry.has_detour & (entry.detour < self.ports)
            around = detour & ~self.lost.bit_select(entry.detour, 1) & (~known | self.lost.bit_select(entry.port, 1))
            first = self.first[node]
            m.d.comb += [self.direct[node].known.eq(known), self.direct[node].port.eq(entry.port)]
            m.d.sync += [first.known.eq(known | around), first.port.eq(Mux(around, entry.detour, entry.port))]
        return m
