"""A chip's port for one link: accesses to other nodes' memories, and theirs to this one's."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.link.block import BLOCK_BITS
from tessera.hw.link.link import Link, LinkCounts, LinkParameters
from tessera.hw.link.packet import CLASSES, Kind, Part
from tessera.hw.link.receiver import Delivery
from tessera.hw.link.requester import Requester
from tessera.hw.link.responder import Responder
from tessera.hw.link.training import LinkState
from tessera.hw.memory.port import Access, MemoryPort, RemoteRequest, RemoteResponse

__all__ = ["LinkPort"]

_ENDS = {"responder": (Kind.RequestFirst, Kind.RequestSecond), "requester": (Kind.ResponseFirst, Kind.ResponseSecond)}
"""Who takes which classes, if they are for this chip."""
_OTHERS = [kind for kind in Kind if kind.value < CLASSES and kind not in (Kind.RequestFirst, Kind.ResponseFirst)]
"""Classes that others send."""


class LinkPort(wiring.Component):
    """A :class:`Link`, a :class:`Requester` and a :class:`Responder`.

    Requests and responses for this chip end here, whether they came over one link or two. What is for other chips, and
    what is neither, is given on.

    Parameters
    ----------
    parameters : :class:`LinkParameters`
    slots, lines, answer_bits : int
        As of :class:`Requester` and :class:`Responder`.

    Members
    -------
    request : :py:`In(stream.Signature(RemoteRequest))`, response : :py:`Out(stream.Signature(RemoteResponse))`
        This chip's accesses, to the chip at the other end or, on a second hop, to one behind it.
    memory : :py:`Out(MemoryPort(Access))`
        Other chips' accesses; answered in order.
    i1, i3, i4, i5 : :py:`In(stream.Signature(Part))`
        Packets of the other classes.
    o : :py:`Out(stream.Signature(Delivery))`, room : :py:`In(6)`
        Packets that do not end here; as of :class:`PacketReceiver`. A first hop waits for room here wherever it ends.
    node : :py:`In(4)`
        This chip's number; from the cycle after.
    peer, state, lost, counts, lanes_o, lanes_i, slip
        As of :class:`Link`.
    """

    def __init__(self, parameters=None, *, slots=128, lines=64, answer_bits=16):
        self.parameters = p = parameters or LinkParameters()
        self._requester, self._responder = Requester(slots, answer_bits), Responder(lines)
        bits = data.ArrayLayout(BLOCK_BITS, p.lanes)
        super().__init__(
            {
                "request": In(stream.Signature(RemoteRequest)),
                "response": Out(stream.Signature(RemoteResponse)),
                "memory": Out(MemoryPort(Access)),
                **{f"i{kind.value}": In(stream.Signature(Part)) for kind in _OTHERS},
                "o": Out(stream.Signature(Delivery)),
                "room": In(CLASSES),
                "node": In(4),
                "peer": Out(4),
                "state": Out(LinkState),
                "lost": Out(1),
                "counts": Out(LinkCounts),
                "lanes_o": Out(bits),
                "lanes_i": In(bits),
                "slip": Out(p.lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.link = link = Link(self.parameters)
        m.submodules.requester = requester = self._requester
        m.submodules.responder = responder = self._responder
        wiring.connect(m, wiring.flipped(self.memory), responder.memory)
        # No joints towards the link: packets are withdrawn when it is lost, and those that come do not wait.
        for sink, source in (
            (link.i0, requester.packet),
            (link.i2, responder.packet),
            *((getattr(link, f"i{kind.value}"), getattr(self, f"i{kind.value}")) for kind in _OTHERS),
            (requester.i, self.request),
            (self.response, requester.o),
        ):
            m.d.comb += [sink.valid.eq(source.valid), sink.payload.eq(source.payload), source.ready.eq(sink.ready)]
        come = link.o.payload
        # This chip's number comes from far away, and does not change.
        node, mine = Signal(4), Signal()
        m.d.sync += node.eq(self.node)
        m.d.comb += [
            link.o.ready.eq(1),
            self.o.valid.eq(link.o.valid & ~mine),
            self.o.payload.eq(come),
            link.node.eq(node),
            link.lanes_i.eq(self.lanes_i),
            *(
                getattr(self, name).eq(getattr(link, name))
                for name in ("peer", "state", "lost", "counts", "lanes_o", "slip")
            ),
        ]
        rooms = [self.room[kind] for kind in range(CLASSES)]
        for name, (first, second) in _ENDS.items():
            end = getattr(self, f"_{name}")
            # A first hop may end here or not, a second one does.
            rooms[first.value] = end.room & self.room[first.value]
            rooms[second.value] = end.room
            is_its = come.here & ((come.kind == first.value) | (come.kind == second.value))
            with m.If(is_its):
                m.d.comb += mine.eq(1)
            m.d.comb += [
                end.come.eq(link.o.valid & is_its),
                end.part.eq(come.part),
                end.node.eq(node),
                end.lost.eq(link.lost),
            ]
        m.d.comb += link.room.eq(Cat(rooms))
        return m
