"""One end of a link: packets in, and the other end's packets out, over lanes that may do what they like."""

from dataclasses import dataclass

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import connect
from tessera.hw.link.block import BLOCK_BITS
from tessera.hw.link.crc import PacketCrc
from tessera.hw.link.lanes import LanesReceiver, LanesSender
from tessera.hw.link.pack import Packer
from tessera.hw.link.packet import CLASSES, Part, stripe
from tessera.hw.link.receiver import Delivery, PacketReceiver
from tessera.hw.link.retry import RetryParameters
from tessera.hw.link.sender import PacketSender
from tessera.hw.link.training import LinkState, Training
from tessera.hw.link.unpack import Unpacker

__all__ = ["Link", "LinkCounts", "LinkParameters"]


@dataclass(frozen=True)
class LinkParameters:
    """Parameters of :class:`Link`.

    Parameters
    ----------
    lanes : int
        1, 2 or 4.
    cells : tuple of int
        Of each class, as of :class:`RetryParameters`; the same at both ends.
    timeout_bits : int
        As of :class:`RetryParameters`: longer than what is sent takes to be answered, when nothing is lost.
    give_up : int
        Cycles of training after which a link that was up is dead.
    settle : int
        Blocks after which a slip has taken effect.
    """

    lanes: int = 1
    cells: tuple[int, ...] = (64, 16, 128, 16, 16, 16)
    timeout_bits: int = 12
    give_up: int = 1 << 20
    settle: int = 4

    def __post_init__(self):
        if len(self.cells) != CLASSES:
            raise ValueError(f"cells are {self.cells}; {CLASSES} classes expected")
        RetryParameters(self.cells, timeout_bits=self.timeout_bits)

    @property
    def retry(self):
        """For :class:`RetrySender` and :class:`RetryReceiver`."""
        return RetryParameters(self.cells, timeout_bits=self.timeout_bits)


class LinkCounts(data.Struct):
    """What software can read of a link's end. All wrap."""

    sent: 32
    """Packets that left for the first time."""
    again: 32
    """And again."""
    timeouts: 32
    """Times that a class had not moved for too long."""
    right: 32
    """Packets and ``Status`` that came right."""
    wrong: 32
    """And with a wrong CRC."""
    double: 32
    """Packets that came right, and had come before."""
    stalls: data.ArrayLayout(32, CLASSES)
    """Cycles in which a class had a packet to send, and no credit."""
    losses: 32
    """Lanes that were heard and were no more."""
    sessions: 32
    """Times that all was forgotten."""
    training: 32
    """Cycles in this state."""
    active: 32
    dead: 32


class _Packets(wiring.Component):
    """What is forgotten when a session begins: all between packets and stripes."""

    def __init__(self, parameters):
        self.parameters = p = parameters
        stripes, used = stream.Signature(stripe(p.lanes)), range(p.lanes + 1)
        events = ("begun", "again", "timed_out", "right", "wrong", "double")
        super().__init__(
            {
                **{f"i{n}": In(stream.Signature(Part)) for n in range(CLASSES)},
                "o": Out(stream.Signature(Delivery)),
                "node": In(4),
                "room": In(CLASSES),
                "stripes_o": Out(stripes),
                "used_o": In(used),
                "stripes_i": In(stripes),
                "used_i": In(used),
                "stalled": Out(CLASSES),
                **{name: Out(1) for name in events},
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.sender = sender = PacketSender(p.retry)
        m.submodules.packer = packer = Packer(p.lanes)
        m.submodules.unpacker = unpacker = Unpacker(p.lanes)
        m.submodules.crc = crc = PacketCrc()
        m.submodules.receiver = receiver = PacketReceiver(p.retry)
        connect(m, sender.o, packer.i)
        connect(m, unpacker.o, crc.i)
        connect(m, crc.o, receiver.i)
        # No joints: packets are withdrawn when the link is lost, what a packer offers may change before it is taken,
        # and a delivery does not wait.
        for n in range(CLASSES):
            i, sender_i = getattr(self, f"i{n}"), getattr(sender, f"i{n}")
            m.d.comb += [sender_i.valid.eq(i.valid), sender_i.payload.eq(i.payload), i.ready.eq(sender_i.ready)]
        m.d.comb += [
            packer.used.eq(self.used_o),
            self.stripes_o.valid.eq(packer.o.valid),
            self.stripes_o.payload.eq(packer.o.payload),
            packer.o.ready.eq(self.stripes_o.ready),
            unpacker.used.eq(self.used_i),
            unpacker.i.valid.eq(self.stripes_i.valid),
            unpacker.i.payload.eq(self.stripes_i.payload),
            self.stripes_i.ready.eq(unpacker.i.ready),
            self.o.valid.eq(receiver.o.valid),
            self.o.payload.eq(receiver.o.payload),
            receiver.o.ready.eq(self.o.ready),
            receiver.coming.eq(crc.coming),
            receiver.node.eq(self.node),
            receiver.room.eq(self.room),
            sender.report.eq(receiver.report),
            *(getattr(sender, name).eq(getattr(receiver, name)) for name in ("counts", "last", "lost", "tell")),
            receiver.told.eq(sender.told),
            *(getattr(self, name).eq(getattr(sender, name)) for name in ("stalled", "begun", "again", "timed_out")),
            *(getattr(self, name).eq(getattr(receiver, name)) for name in ("right", "wrong", "double")),
        ]
        return m


class Link(wiring.Component):
    """Carries packets, each once, those of a class in order, until it is dead.

    While the link is not up, packets wait. When it is ``lost``, both ends have forgotten all packets that were under
    way: those taken from ``i0`` to ``i5`` may have come to the other end or not, and a packet of which parts were taken
    or given ends there. That is so when a link was not up for so long that it was given up, when the other end was
    reset, and from reset until it is up for the first time.

    Latency from the last part of a packet of one part, at one end, to ``o`` at the other: 20 cycles and that of the
    wires, if nothing is before it; 21 on more than one lane.

    Parameters
    ----------
    parameters : :class:`LinkParameters`

    Members
    -------
    i0 .. i5 : :py:`In(stream.Signature(Part))`
        As of :class:`PacketSender`.
    o, room
        As of :class:`PacketReceiver`.
    node : :py:`In(4)`, peer : :py:`Out(4)`
        This chip's number, and what the other end says is its own.
    state : :py:`Out(LinkState)`
    lost : :py:`Out(1)`
        What is offered then has to be withdrawn, and begun anew when it ends.
    counts : :py:`Out(LinkCounts)`
    lanes_o : :py:`Out(data.ArrayLayout(257, lanes))`
        To the serializers.
    lanes_i, slip : :py:`In(data.ArrayLayout(257, lanes))`, :py:`Out(lanes)`
        From the deserializers, lane n in clock domain ``receive<n>``.
    """

    def __init__(self, parameters=None):
        self.parameters = p = parameters or LinkParameters()
        bits = data.ArrayLayout(BLOCK_BITS, p.lanes)
        super().__init__(
            {
                **{f"i{n}": In(stream.Signature(Part)) for n in range(CLASSES)},
                "o": Out(stream.Signature(Delivery)),
                "room": In(CLASSES),
                "node": In(4),
                "peer": Out(4),
                "state": Out(LinkState),
                "lost": Out(1, init=1),
                "counts": Out(LinkCounts),
                "lanes_o": Out(bits),
                "lanes_i": In(bits),
                "slip": Out(p.lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.sender = sender = LanesSender(p.lanes)
        m.submodules.receiver = receiver = LanesReceiver(p.lanes, p.settle)
        m.submodules.training = training = Training(p.lanes, p.give_up)
        packets, forget = _Packets(p), Signal(init=1)
        # All is forgotten a cycle after it is known that it must be, and by a reset of its own: that reaches far.
        m.domains.packets = forgotten = ClockDomain("packets", local=True)
        m.d.comb += [forgotten.clk.eq(ClockSignal()), forgotten.rst.eq(forget)]
        m.d.sync += [forget.eq(training.renew), self.lost.eq(training.lost)]
        m.submodules.packets = DomainRenamer("packets")(packets)
        for n in range(CLASSES):
            # No joint: it is withdrawn when all is forgotten.
            i, packets_i = getattr(self, f"i{n}"), getattr(packets, f"i{n}")
            m.d.comb += [packets_i.valid.eq(i.valid), packets_i.payload.eq(i.payload), i.ready.eq(packets_i.ready)]
        m.d.comb += [
            sender.dense.eq(training.dense),
            sender.session.eq(training.session),
            sender.heard.eq(receiver.heard),
            sender.node.eq(self.node),
            training.heard.eq(receiver.heard),
            training.told.eq(receiver.told),
            self.lanes_o.eq(sender.o),
            receiver.i.eq(self.lanes_i),
            self.slip.eq(receiver.slip),
            packets.used_o.eq(sender.used),
            sender.i.valid.eq(packets.stripes_o.valid),
            sender.i.payload.eq(packets.stripes_o.payload),
            packets.stripes_o.ready.eq(sender.i.ready),
            # What is of another session is dropped, if need be a little later: who takes stripes never waits for long.
            packets.used_i.eq(receiver.used),
            packets.stripes_i.valid.eq(receiver.o.valid & training.accept),
            packets.stripes_i.payload.eq(receiver.o.payload),
            receiver.o.ready.eq(packets.stripes_i.ready),
            self.o.valid.eq(packets.o.valid),
            self.o.payload.eq(packets.o.payload),
            packets.o.ready.eq(self.o.ready),
            packets.node.eq(self.node),
            packets.room.eq(self.room),
            self.peer.eq(receiver.told.node),
            self.state.eq(training.state),
        ]
        for name in ("losses", "training", "active", "dead"):
            m.d.comb += getattr(self.counts, name).eq(getattr(training, name))
        # What is to be sent follows what is heard a cycle later, and counts what they count two: none is in a hurry.
        m.d.sync += sender.wanted.eq(training.wanted)
        for count, event in (
            (self.counts.sent, packets.begun),
            (self.counts.again, packets.again),
            (self.counts.timeouts, packets.timed_out),
            (self.counts.right, packets.right),
            (self.counts.wrong, packets.wrong),
            (self.counts.double, packets.double),
            (self.counts.sessions, training.renew),
            *((self.counts.stalls[n], packets.stalled[n]) for n in range(CLASSES)),
        ):
            happened, counted = (Signal.like(event, name=name) for name in ("happened", "counted"))
            m.d.sync += [happened.eq(event), counted.eq(happened), count.eq(count + counted)]
        return m
