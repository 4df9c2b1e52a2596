"""The messenger: what frame sync and the master have to tell other chips goes over links, and theirs comes so."""

from amaranth.hdl import *
from amaranth.lib import data, enum, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.arbiter import RoundRobin
from tessera.hw.lib.streams import connect, observe
from tessera.hw.lib.turns import Turns
from tessera.hw.link.packet import Head, Kind, Part, form_code
from tessera.hw.link.receiver import ROOM, Delivery
from tessera.hw.link.routes import MAX_PORTS, route
from tessera.hw.master.frame_sync import SyncCast, SyncMessage
from tessera.hw.memory.port import NODES

__all__ = ["PATIENCE", "Letter", "LetterKind", "Messenger"]

PATIENCE = 64
"""Cycles that a link may leave a message waiting before those for it are left out."""
_QUEUE = 16
_IN_HEAD = ("tag", "first", "status", "epoch")
"""Where ``ahead`` goes in a packet's head, from its low bits on."""


class LetterKind(enum.Enum, shape=2):
    """What a letter's line is."""

    Task = 0
    """A :class:`Descriptor`, for the node that is to do it."""
    Record = 1
    """A :class:`DoneRecord`, for the node that gave the task."""
    Window = 2
    """A :class:`WindowWrite`, for the node that owns it."""


class Letter(data.Struct):
    """A line for another chip, or from it."""

    node: 4
    kind: LetterKind
    line: 512


class Messenger(wiring.Component):
    """Sends messages and letters, each over the link behind which its node is, and gives on what comes for this chip.

    A message is a ``Sync`` packet without a line: its body is the counter, the session and the count, from the low bits
    on, and ``tag``, ``first``, ``status`` and ``epoch`` of its head are what is known ahead. A letter is one with a
    line: its body is the session, ``tag`` of its head the kind. One of another session is dropped.

    No link holds up another for long. One that has not taken a message for 64 cycles, or is lost, is passed over until
    it takes that one; then, and when a link comes to be lost, since messages on it may be gone and the way may be
    another one now, ``again`` asks for all to be told once more. A message for a node that is not known goes nowhere.

    Letters go one after the other. One for a node that is not known, or behind a link that is lost, goes nowhere;
    ``returned`` tells of it. What is on a link when that comes to be lost may be gone.

    From ``cast`` to the links pass two cycles, and one more for each other node behind the same link; from ``letter``
    one, behind messages; from a link to ``come`` or ``came`` one, or more if others come at once.

    Parameters
    ----------
    ports : int
        Links of the chip, 1 to 8.

    Members
    -------
    cast : :py:`In(stream.Signature(SyncCast))`
        This chip is not among those that are told.
    come : :py:`Out(stream.Signature(SyncMessage))`
    letter : :py:`In(stream.Signature(Letter))`
        To another chip.
    came : :py:`Out(stream.Signature(Letter))`
        From another chip. What is not taken holds back messages too, after some letters.
    returned : :py:`Out(1)`
        A pulse: the letter that is taken goes nowhere.
    session : :py:`In(6)`
    i0 .. : :py:`In(stream.Signature(Delivery))`
        Of each port, what comes for this chip; packets of other classes, or of more lines, are nobody's. Always ready.
    room0 .. : :py:`Out(1)`
        Of each port, for both classes, as of :class:`PacketReceiver`.
    o0 .. : :py:`Out(stream.Signature(Part))`
        To each port, of the class of first hops.
    node : :py:`In(4)`
        This chip's number.
    lost : :py:`In(ports)`
        Of each port: its link is lost.
    routes : :py:`In(data.ArrayLayout(route(ports), 16))`
        Behind which port each node is; changes at most one cycle after ``lost``.
    again : :py:`Out(1)`
    """

    def __init__(self, ports):
        if not 1 <= ports <= MAX_PORTS:
            raise ValueError(f"ports is {ports}; 1 to {MAX_PORTS} expected")
        self.ports = ports
        super().__init__(
            {
                "cast": In(stream.Signature(SyncCast)),
                "come": Out(stream.Signature(SyncMessage)),
                "letter": In(stream.Signature(Letter)),
                "came": Out(stream.Signature(Letter)),
                "returned": Out(1),
                "session": In(6),
                **{f"i{n}": In(stream.Signature(Delivery)) for n in range(ports)},
                **{f"room{n}": Out(1, init=1) for n in range(ports)},
                **{f"o{n}": Out(stream.Signature(Part)) for n in range(ports)},
                "node": In(4),
                "lost": In(ports),
                "routes": In(data.ArrayLayout(route(ports), NODES)),
                "again": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # Who has not been told yet, and is behind which port.
        message, left = Signal(SyncMessage), Signal(NODES)
        behind = [
            Cat(left[node] & self.routes[node].known & (self.routes[node].port == n) for node in range(NODES))
            for n in range(self.ports)
        ]
        given = [Signal(NODES, name=f"given{n}") for n in range(self.ports)]
        gone = [Signal(NODES, name=f"gone{n}") for n in range(self.ports)]
        unknown = Cat(~route.known for route in self.routes)
        m.d.comb += self.cast.ready.eq(~left.any())
        with m.If(self.cast.ready):
            m.d.sync += [
                message.eq(self.cast.payload.message),
                left.eq(Mux(self.cast.valid, self.cast.payload.nodes & ~(1 << self.node), 0)),
            ]
        with m.Else():
            m.d.sync += left.eq(left & ~unknown & ~Cat(Cat(each[node] for each in gone).any() for node in range(NODES)))

        letter = self.letter
        way = self.routes[letter.payload.node]
        lost = ~way.known | self.lost.bit_select(way.port, 1)
        posted = Signal(self.ports)
        m.d.comb += [
            self.returned.eq(letter.valid & lost),
            letter.ready.eq(lost | posted.any()),
        ]

        was_lost, changed, owed = Signal(self.ports), Signal(), Signal(self.ports)
        free = Signal(self.ports)
        m.d.sync += [was_lost.eq(self.lost), changed.eq((self.lost & ~was_lost).any())]
        m.d.comb += self.again.eq(changed | (owed & free).any())
        for n in range(self.ports):
            posts = letter.valid & ~lost & (way.port == n)
            self._send(m, n, message, behind[n], given[n], gone[n], free[n], posts, posted[n])
            passed_over = (gone[n] & ~given[n]).any() | (self.lost[n] & ~was_lost[n])
            m.d.sync += owed[n].eq(passed_over | (owed[n] & ~free[n]))

        m.submodules.messages = messages = RoundRobin(SyncMessage, self.ports)
        m.submodules.letters = letters = RoundRobin(Letter, self.ports)
        for n in range(self.ports):
            self._receive(m, n, getattr(messages, f"i{n}"), getattr(letters, f"i{n}"))
        connect(m, messages.o, self.come)
        connect(m, letters.o, self.came)
        for interface in (self.cast, self.come, self.came):
            observe(m, interface)
        return m

    def _send(self, m, n, message, wanted, given, gone, free, posts, posted):
        """One port: of the nodes `wanted`, which is `given` its message, and which are not to be waited for any more.

        `free`: it has taken all that it was given, and is not lost. A letter is `posted` if it `posts` and no message
        is wanted.
        """
        o = getattr(self, f"o{n}")
        m.submodules[f"nodes{n}"] = nodes = Turns(NODES)
        waited = Signal(range(PATIENCE + 1), name=f"waited{n}")
        stuck = (waited == PATIENCE) | self.lost[n]
        can = ~o.valid | o.ready
        part = Signal(Part, name=f"part{n}")
        target = Signal(4, name=f"target{n}")
        m.d.comb += [
            nodes.wants.eq(wanted),
            nodes.go.eq(can),
            given.eq(Mux(can, nodes.chosen, 0)),
            gone.eq(Mux(stuck & ~can, wanted, given)),
            free.eq(can & ~self.lost[n]),
            *(target[bit].eq(Cat(nodes.chosen[k] for k in range(NODES) if k >> bit & 1).any()) for bit in range(4)),
            part.first.eq(1),
            part.last.eq(1),
            part.has_body.eq(1),
            part.head.form.eq(form_code(0, 1)),
            part.head.source.eq(self.node),
            part.head.target.eq(target),
            Cat(part.head[name] for name in _IN_HEAD).eq(message.ahead),
            part.body.eq(Cat(message.counter, message.session, message.count)),
            part.line.eq(self.letter.payload.line),
            posted.eq(posts & can & ~wanted.any()),
        ]
        with m.If(~wanted.any()):
            m.d.comb += [
                part.has_line.eq(1),
                part.head.form.eq(form_code(1, 1)),
                part.head.target.eq(self.letter.payload.node),
                Cat(part.head[name] for name in _IN_HEAD).eq(self.letter.payload.kind),
                part.body.eq(self.session),
            ]
        with m.If(can):
            m.d.sync += [o.valid.eq(wanted.any() | posts), waited.eq(0)]
            with m.If(wanted.any() | posts):
                m.d.sync += o.payload.eq(part)
        with m.Elif(waited != PATIENCE):
            m.d.sync += waited.eq(waited + 1)

    def _receive(self, m, n, messages, letters):
        """What comes over one port, into queues that have room for what may come after they say that they have none."""
        i = getattr(self, f"i{n}")
        part = i.payload.part
        message, letter = Signal(SyncMessage, name=f"message{n}"), Signal(Letter, name=f"letter{n}")
        is_sync = (i.payload.kind == Kind.SyncFirst.value) | (i.payload.kind == Kind.SyncSecond.value)
        alone = i.valid & is_sync & part.first & part.last
        m.d.comb += [
            i.ready.eq(1),
            Cat(message.counter, message.session, message.count).eq(part.body),
            message.ahead.eq(Cat(part.head[name] for name in _IN_HEAD)),
            letter.node.eq(part.head.source),
            letter.kind.eq(part.head.tag[: len(letter.kind.as_value())]),
            letter.line.eq(part.line),
        ]
        levels = []
        for what, content, wanted, o in (
            ("messages", message, ~part.has_line, messages),
            ("letters", letter, part.has_line & (part.body[:6] == self.session), letters),
        ):
            m.submodules[f"{what}{n}"] = queue = fifo.SyncFIFO(width=len(content.as_value()), depth=_QUEUE)
            m.d.comb += [
                queue.w_data.eq(content),
                queue.w_en.eq(alone & wanted),
                o.valid.eq(queue.r_rdy),
                o.payload.eq(queue.r_data),
                queue.r_en.eq(o.ready),
            ]
            levels.append(queue.level)
        room = Cat(level <= _QUEUE - ROOM for level in levels).all()
        m.d.sync += getattr(self, f"room{n}").eq(room)


assert sum(Shape.cast(Head.as_shape()[name].shape).width for name in _IN_HEAD) == len(Signal(SyncMessage).ahead)
