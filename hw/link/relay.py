"""What a link brings for another node goes on over another link: the second hop of a detour."""

from amaranth.hdl import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.turns import Turns, one_of
from tessera.hw.link.cells import KEPT
from tessera.hw.link.packet import Head, Kind, Part
from tessera.hw.link.receiver import ROOM, Delivery
from tessera.hw.link.routes import route

__all__ = ["HOPS", "PARTS", "Relay"]

HOPS = ((Kind.RequestFirst, Kind.RequestSecond), (Kind.ResponseFirst, Kind.ResponseSecond),
        (Kind.SyncFirst, Kind.SyncSecond))  # fmt: skip
"""The classes in which packets come, and those in which they go on. None goes on twice."""
PARTS = 16
"""Parts of a class from one port that may wait."""


class Relay(wiring.Component):
    """Carries packets of a first hop on, each over the link behind which its target is.

    A packet waits until it is whole. Those of one class from one port stay in order. A class waits for no other, and
    where several ports have packets for one, they take turns: so none is held up for ever by a link that takes nothing
    of another class, which is why there are hops.

    What has no way is dropped: its target is not known, or behind the port it came from, or that link is lost or comes
    to be so amid the packet. Whoever asked has to give up waiting on its own. A packet that breaks off, since the link
    over which it comes is lost, is forgotten.

    A packet is offered one cycle after its last part came if none is before it; one part of each class of each port
    goes in a cycle.

    Parameters
    ----------
    ports : int
        Of the chip, 2 to 8.

    Members
    -------
    i0 .. : :py:`In(stream.Signature(Delivery))`
        Of each port, packets of first hops for other nodes. Always ready.
    room0 .. : :py:`Out(3)`
        Of each port, for each of :data:`HOPS`, as of :class:`PacketReceiver`.
    o0_1, o0_3, o0_5 .. : :py:`Out(stream.Signature(Part))`
        Of each port, packets of each second hop. Withdrawn when the link is lost.
    lost : :py:`In(ports)`
        Of each port: its link is lost.
    routes : :py:`In(data.ArrayLayout(route(ports), 16))`
        Of each node. Looked at when a packet comes.
    dropped : :py:`Out(data.ArrayLayout(3, ports))`
        Pulses of each port and of each of :data:`HOPS`, when a packet that came whole has been dropped.
    """

    def __init__(self, ports):
        if not 2 <= ports <= 8:
            raise ValueError(f"ports is {ports}; 2 to 8 expected")
        self.ports = ports
        super().__init__(
            {
                **{f"i{n}": In(stream.Signature(Delivery)) for n in range(ports)},
                **{f"room{n}": Out(len(HOPS)) for n in range(ports)},
                **{f"o{n}_{out.value}": Out(stream.Signature(Part)) for n in range(ports) for _, out in HOPS},
                "lost": In(ports),
                "routes": In(data.ArrayLayout(route(ports), 16)),
                "dropped": Out(data.ArrayLayout(len(HOPS), ports)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        ports = range(self.ports)
        queues = [[_Queue(self.ports) for _ in HOPS] for _ in ports]
        for n in ports:
            come = getattr(self, f"i{n}")
            wanted = self.routes[come.payload.part.head.target]
            to = Mux(wanted.known, 1 << wanted.port, 0)[: self.ports] & ~(1 << n)
            m.d.comb += come.ready.eq(1)
            for hop, (kind, _) in enumerate(HOPS):
                m.submodules[f"queue{n}_{kind.value}"] = queue = queues[n][hop]
                m.d.comb += [
                    queue.come.eq(come.valid & (come.payload.kind == kind.value)),
                    queue.part.eq(come.payload.part),
                    queue.way.eq(to),
                    queue.broken.eq(self.lost[n]),
                    queue.lost.eq(self.lost),
                    getattr(self, f"room{n}")[hop].eq(queue.room),
                    self.dropped[n][hop].eq(queue.dropped),
                ]
        for hop, (_, kind) in enumerate(HOPS):
            takes = [Signal(self.ports, name=f"takes{n}_{kind.value}") for n in ports]
            for n in ports:
                self._give(m, n, kind, [queue[hop] for queue in queues], Cat(take[n] for take in takes))
            for queue, take in zip(queues, takes):
                m.d.comb += queue[hop].take.eq(take.any())
        return m

    def _give(self, m, n, kind, queues, takes):
        """Packets of a class from all ports to one: those that want take turns, and none is left amid a packet."""
        o = getattr(self, f"o{n}_{kind.value}")
        turns = Turns(self.ports)
        m.submodules[f"turns{n}_{kind.value}"] = turns
        stays, last_chosen, chosen = Signal(), Signal(self.ports), Signal(self.ports)
        offered = Cat(queue.to[n] for queue in queues)
        m.d.comb += [
            turns.wants.eq(offered),
            turns.go.eq(~stays),
            chosen.eq(Mux(stays, last_chosen, turns.chosen)),
            o.valid.eq((chosen & offered).any()),
            Value.cast(o.payload).eq(one_of(chosen, [queue.shown for queue in queues])),
            takes.eq(Mux(o.ready, chosen & offered, 0)),
        ]
        # What is offered stays, up to its packet's end.
        m.d.sync += [
            stays.eq(~self.lost[n] & Mux(o.valid, ~(o.ready & o.payload.last), stays)),
            last_chosen.eq(chosen),
        ]


class _Queue(wiring.Component):
    """Packets of one class from one port: parts go in, whole packets come out, each with the port it goes to.

    Members
    -------
    come, part, way : In
        A part comes; with the first one of a packet, the port it goes to as one bit of many, or none.
    broken : :py:`In(1)`
        Forget the packet of which the last part has not come, and what comes now.
    room : :py:`Out(1)`
    lost : :py:`In(ports)`
    to : :py:`Out(ports)`
        The port to which the part in ``shown`` is offered, or none.
    shown : :py:`Out(Part)`
    take : :py:`In(1)`
    dropped : :py:`Out(1)`
    """

    def __init__(self, ports):
        super().__init__(
            {
                "come": In(1),
                "part": In(Part),
                "way": In(ports),
                "broken": In(1),
                "room": Out(1, init=1),
                "lost": In(ports),
                "to": Out(ports),
                "shown": Out(Part),
                "take": In(1),
                "dropped": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        head = data.StructLayout({name: Head.as_shape()[name].shape for name in KEPT})
        flags = {"first": 1, "last": 1, "has_line": 1}
        stored = data.StructLayout({**flags, "head": head, "body": 32, "line": 512, "way": len(self.way)})
        m.submodules.parts = parts = memory.Memory(shape=stored, depth=PARTS, init=[])
        put, get = parts.write_port(), parts.read_port(domain="comb")
        new, part, shown = put.data, get.data, self.shown
        m.d.comb += [
            *(new[name].eq(self.part[name]) for name in (*flags, "body", "line")),
            *(new.head[name].eq(self.part.head[name]) for name in KEPT),
            new.way.eq(self.way),
            *(shown[name].eq(part[name]) for name in (*flags, "body", "line")),
            *(shown.head[name].eq(part.head[name]) for name in KEPT),
            shown.has_body.eq(part.head.form[4]),
        ]

        # Behind ``end`` are the parts of a packet that is not whole.
        numbers = range(2 * PARTS)
        written, end, read = (Signal(numbers, name=name) for name in ("written", "end", "read"))
        next_written, next_read = Signal(numbers), Signal(numbers)
        m.d.comb += [
            put.addr.eq(written),
            put.en.eq(self.come),
            get.addr.eq(read),
            next_written.eq(Mux(self.broken, end, written + self.come)),
        ]
        with m.If(self.come & self.part.last & ~self.broken):
            m.d.sync += end.eq(written + 1)

        # The way is the first part's. From when it is lost on, the packet goes nowhere.
        there, kept, way = Signal(), Signal.like(self.way), Signal.like(self.way)
        m.d.comb += [
            there.eq(read != end),
            way.eq(Mux(part.first, part.way, kept) & ~self.lost),
            self.to.eq(Mux(there, way, 0)),
            next_read.eq(read + (there & (self.take | ~way.any()))),
            self.dropped.eq(there & ~way.any() & part.last),
        ]
        with m.If(there):
            m.d.sync += kept.eq(way)
        m.d.sync += [
            written.eq(next_written),
            read.eq(next_read),
            self.room.eq((next_written - next_read)[: len(written)] <= PARTS - ROOM),
        ]
        return m
