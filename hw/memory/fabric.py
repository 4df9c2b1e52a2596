"""The fabric: every client's requests through the window check to the memory or to a link, and the answers back."""

from amaranth.hdl import *
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.arbiter import RoundRobin
from tessera.hw.lib.streams import Skid, connect, observe
from tessera.hw.lib.turns import Turns, one_of
from tessera.hw.link.routes import route
from tessera.hw.memory.port import (
    NODES,
    WINDOWS,
    Access,
    LineRequest,
    LineResponse,
    MemoryPort,
    MemoryStatus,
    Op,
    Refusal,
    RemoteRequest,
    RemoteResponse,
    Request,
    Response,
    Window,
    WindowWrite,
    line_port,
    remote_port,
)

__all__ = ["Fabric"]

_QUEUE = 4
"""Requests that may wait for the memory, or for a link."""
_IDS = 8
_ASKED = 256
"""Requests that a link has taken and not answered, at the most: as many as a requester may have slots."""
_PLACE = {"target": 4, "window": 6, "offset": 26}


class Fabric(wiring.Component):
    """Joins a chip's engines to its memory and to links, and other chips to its memory.

    ::

        client0 ..  --> turns --> window --+--> lines: this chip's memory
                                           +--> port0 ..: links
        other0 ..   --> turns --> window -----> lines

    The upper bits of a request's window are the node that owns it. What this chip owns goes to the memory, what
    another one owns over the link behind which ``routes`` has it; there its owner checks it. A request waits for
    nobody who goes elsewhere: the two ways in have turns of their own, and each way out a queue.

    Each request for this chip's memory is checked against its window: that must be set, with the right asked for, and
    longer than the offset. Any other request is answered ``Refused`` and told on ``refused``; one for a node without a
    route is answered ``Failed``. To keep the order within its id, such an answer waits until its client's earlier
    requests are answered, comes two cycles after its request or later, and holds back all others that come the same way
    in. For the same reason a request waits until none of its id is under way to another place.

    A read that a link answers as ``Failed`` is sent once more if ``routes`` has its node behind another link by then,
    and the client sees that answer alone, whatever it is. Without another way it is answered ``Failed``. Answers of the
    first link that come after it wait until it is answered, so order holds; those of other links do not wait. Reads of
    one link at a time are sent again, all to one link: what fails on that one meanwhile is answered ``Failed``; what
    fails on a third one, or has its way over a third one, waits. While one waits for room, the link that it goes to
    takes no new request. Sent again, a read sees the line as it is then, and its owner may count a refusal twice.

    A write that fails is not sent again, and is answered ``Failed``: it may have been done, and done twice it may undo
    what its owner or a third chip has written between. Engines write to their own chip's memory; the task of one that
    does not ends as ``Refused``, like that of a read which fails.

    One request a cycle goes each way in, one each way out, and one response a cycle to each client. A request is
    offered to the memory or a link two cycles after it was taken, a read that failed two cycles after its answer or
    later. A response is offered to its client one cycle after the memory gave it, and in the cycle in which a link
    does; with several links, a read's ``Failed`` one cycle later. Clients take turns, and so do those that answer.

    Parameters
    ----------
    clients : int
        Engines; with the links at most 32.
    ports : int
        Links, 0 to 8.

    Members
    -------
    client0, client1, .. : :py:`In(MemoryPort())`
        Of this chip.
    other0, other1, .. : :py:`In(MemoryPort(Access))`
        Of other chips, over each link.
    port0, port1, .. : :py:`Out(remote_port())`
        Towards other chips' memories, over each link.
    lines : :py:`Out(line_port())`
        Towards this chip's memory. Each request's id is its client's number times 8 plus its own id; those of other
        chips count on behind the engines.
    node : :py:`In(4)`
        This chip's number.
    routes : :py:`In(data.ArrayLayout(route(ports), 16))`
        Behind which link each node is. When a link gives its first ``Failed``, the other way is there already.
    window : :py:`In(stream.Signature(WindowWrite))`
        Sets an entry of the window table; always ready. No window is set after reset.
    refused : :py:`Out(stream.Signature(Refusal))`
        Told when it is answered, or later; what is refused after it waits until it is taken.
    served : :py:`Out(clients + ports)`
        Bit n pulses for each response that client n takes.
    far : :py:`Out(clients)`
        As ``served``, of those alone that came over a link.
    """

    def __init__(self, clients, ports=0):
        if not 0 <= ports <= 8:
            raise ValueError(f"ports is {ports}; 0 to 8 expected")
        if not 1 <= clients <= 32 - ports:
            raise ValueError(f"clients is {clients}; 1 to {32 - ports} expected")
        self.clients, self.ports = clients, ports
        super().__init__(
            {
                **{f"client{n}": In(MemoryPort()) for n in range(clients)},
                **{f"other{n}": In(MemoryPort(Access)) for n in range(ports)},
                **{f"port{n}": Out(remote_port()) for n in range(ports)},
                "lines": Out(line_port()),
                "node": In(4),
                "routes": In(data.ArrayLayout(route(max(ports, 1)), NODES)),
                "window": In(stream.Signature(WindowWrite)),
                "refused": Out(stream.Signature(Refusal)),
                "served": Out(clients + ports),
                "far": Out(clients),
            }
        )

    def elaborate(self, platform):
        m = Module()
        ports = [getattr(self, f"port{n}") for n in range(self.ports)]
        near = [getattr(self, f"client{n}") for n in range(self.clients)]
        others = [getattr(self, f"other{n}") for n in range(self.ports)]
        m.submodules.near = way = _WayIn(self.clients, self.ports)
        ways = [(way, near)]
        if others:
            m.submodules.others = way_of_others = _WayIn(self.ports, 0, first=self.clients)
            ways.append((way_of_others, others))
        for name, shape, o in (("lines", LineRequest, self.lines.request), ("refused", Refusal, self.refused)):
            m.submodules[f"turns_{name}"] = turns = RoundRobin(shape, len(ways))
            for n, (each, _) in enumerate(ways):
                connect(m, getattr(each, name), getattr(turns, f"i{n}"))
            connect(m, turns.o, o)
        m.d.comb += [way.node.eq(self.node), way.routes.eq(self.routes), self.window.ready.eq(1)]
        links = [port.response for port in ports]
        if self.ports > 1:
            m.submodules.again = again = _Again(self.ports)
            m.d.comb += [
                again.routes.eq(self.routes),
                way.repeats.eq(again.repeats),
                way.repeated.eq(again.o),
                again.went.eq(way.repeats_go.any()),
                again.asks.eq(way.asks),
                again.places.eq(way.places),
                way.may_ask.eq(again.room),
            ]
            for n, link in enumerate(links):
                i = getattr(again, f"i{n}")
                m.d.comb += [i.valid.eq(link.valid), i.payload.eq(link.payload), link.ready.eq(i.ready)]
            links = [getattr(again, f"o{n}") for n in range(self.ports)]
        for n, port in enumerate(ports):
            connect(m, getattr(way, f"port{n}"), port.request)
        for each, clients in ways:
            m.d.comb += [each.window.eq(self.window.payload), each.set.eq(self.window.valid)]
            for n, client in enumerate(clients):
                connect(m, client.request, getattr(each, f"i{n}"))

        # Answers by client. Those of the memory come out of a register; the links' are of one already.
        m.submodules.back = back = Skid(LineResponse)
        connect(m, self.lines.response, back.i)
        sources = [back.o, *links]
        taken = []
        for number, (each, n, client) in enumerate(
            (each, n, client) for each, clients in ways for n, client in enumerate(clients)
        ):
            own = sources if each is way else sources[:1]
            m.submodules[f"answers{number}"] = answers = _Answers(len(own))
            for k, source in enumerate(own):
                mine = source.payload.id[3:] == number
                i = answers.i[k]
                m.d.comb += [
                    answers.wants[k].eq(source.valid & mine),
                    i.op.eq(source.payload.op),
                    i.id.eq(source.payload.id[:3]),
                    i.status.eq(source.payload.status),
                    i.data.eq(source.payload.data),
                ]
                taken.append((source, answers.taken[k]))
            m.d.comb += [
                answers.refuses.eq(each.refuses[n]),
                answers.refusal.eq(each.refusal),
                each.answered[n].eq(client.response.valid & client.response.ready),
                each.answered_id[n].eq(client.response.payload.id),
                self.served[number].eq(each.answered[n]),
                client.response.valid.eq(answers.valid),
                client.response.payload.eq(answers.o),
                answers.ready.eq(client.response.ready),
            ]
            if each is way:
                m.d.comb += self.far[n].eq(answers.taken[1:].any())
            observe(m, client.response)
        for source in sources:
            m.d.comb += source.ready.eq(Cat(take for other, take in taken if other is source).any())
        return m


class _WayIn(wiring.Component):
    """Requests of some clients, by turns, to the memory or to links; what must not be is held until it is answered.

    Members
    -------
    i0 .. : :py:`In(stream.Signature(Request))`, or of :class:`Access`
    lines : :py:`Out(stream.Signature(LineRequest))`
    port0 .. : :py:`Out(stream.Signature(RemoteRequest))`
    node, routes : In
        As of :class:`Fabric`; of no meaning without ports.
    repeats, repeated, repeats_go, asks, places, may_ask
        With several ports, as of :class:`_Again`; ``repeats_go`` says which one of ``repeats`` goes.
    window, set : In
        An entry of the window table, and that it is to be set.
    refuses : :py:`Out(clients)`
        ``refusal`` is to be answered to this client, of which nothing else is under way.
    refusal : :py:`Out(Response)`
    answered, answered_id : In
        Of each client, that a response is taken, and its id.
    refused : :py:`Out(stream.Signature(Refusal))`

    Parameters
    ----------
    clients, ports : int
    first : int
        0 for this chip's own clients; else they are other chips', and this is the first one's number.
    """

    def __init__(self, clients, ports, *, first=0):
        self.clients, self.ports, self.first = clients, ports, first
        self.request = Access if first else Request
        super().__init__(
            {
                **{f"i{n}": In(stream.Signature(self.request)) for n in range(clients)},
                "lines": Out(stream.Signature(LineRequest)),
                **{f"port{n}": Out(stream.Signature(RemoteRequest)) for n in range(ports)},
                **(_repeating(ports, repeats_go=Out(ports)) if ports > 1 else {}),
                "node": In(4),
                "routes": In(data.ArrayLayout(route(max(ports, 1)), NODES)),
                "window": In(WindowWrite),
                "set": In(1),
                "refuses": Out(clients),
                "refusal": Out(Response),
                "answered": In(clients),
                "answered_id": In(data.ArrayLayout(3, clients)),
                "refused": Out(stream.Signature(Refusal)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        clients = range(self.clients)
        inputs = [getattr(self, f"i{n}") for n in clients]
        # Ways out, one bit each: the memory, then the links; none where there is no way.
        ways = self.ports + 1
        room, take = Signal(ways), Signal()
        tagged = data.StructLayout({"client": 5, "way": ways, "request": self.request})
        m.submodules.turns = turns = Turns(self.clients, tagged)
        under_way = [Signal(10, name=f"under_way{n}") for n in clients]
        for n, i in enumerate(inputs):
            way = Signal(ways, name=f"way{n}")
            if self.first:
                m.d.comb += way.eq(1)
            else:
                node = i.payload.window[6:]
                target = self.routes[node]
                m.d.comb += way.eq(Mux(node == self.node, 1, Mux(target.known, 2 << target.port, 0)))
            m.d.comb += [
                turns.wants[n].eq(i.valid & ((way & room) | ~way.any()).any() & self._may_go(m, n, way)),
                turns.items[n].client.eq(n),
                turns.items[n].way.eq(way),
                turns.items[n].request.eq(i.payload),
                i.ready.eq(turns.chosen[n] & take),
            ]
            m.d.sync += under_way[n].eq(under_way[n] + (turns.chosen[n] & take) - self.answered[n])
        m.d.comb += turns.go.eq(take)

        # A register while the window is looked up.
        m.submodules.windows = windows = memory.Memory(shape=Window, depth=WINDOWS, init=[])
        set_port, look = windows.write_port(), windows.read_port()
        is_set, number = Signal(WINDOWS), turns.item.request.window[:6]
        asked, asked_valid, asked_set, done = Signal(tagged), Signal(), Signal(), Signal()
        m.d.comb += [
            set_port.en.eq(self.set),
            set_port.addr.eq(self.window.index),
            set_port.data.eq(self.window.window),
            take.eq(~asked_valid | done),
            look.addr.eq(number),
            look.en.eq(take),
        ]
        with m.If(self.set):
            m.d.sync += is_set.bit_select(self.window.index, 1).eq(self.window.window.length != 0)
        with m.If(take):
            m.d.sync += [
                asked_valid.eq(turns.wants.any()),
                asked.eq(turns.item),
                asked_set.eq(is_set.bit_select(number, 1)),
            ]

        window, request = look.data, asked.request
        if self.first:
            right = Mux(request.op == Op.Write, window.rights.others_write, window.rights.others_read)
        else:
            right = Mux(request.op == Op.Write, window.rights.write, window.rights.read)
        fine, goes = Signal(), Signal(ways)
        m.d.comb += [
            fine.eq(~asked.way[0] | (asked_set & right & (request.offset < window.length))),
            goes.eq(Mux(asked_valid & fine, asked.way, 0)),
        ]
        line, remote = Signal(LineRequest), Signal(RemoteRequest, name="remote")
        number = Cat(request.id, (asked.client + self.first)[:5])
        m.d.comb += [
            line.op.eq(request.op),
            line.id.eq(number),
            line.address.eq(window.base + request.offset),
            line.data.eq(request.data),
            remote.op.eq(request.op),
            remote.id.eq(number),
            remote.target.eq(request.window[6:]),
            remote.window.eq(request.window[:6]),
            remote.offset.eq(request.offset),
            remote.data.eq(request.data),
        ]
        for n in range(ways):
            item, out = (line, self.lines) if n == 0 else (remote, getattr(self, f"port{n - 1}"))
            repeats = n > 0 and self.ports > 1
            # One place more for what is sent again, which may come together with what was chosen.
            depth = _QUEUE + repeats
            m.submodules[f"queue{n}"] = queue = fifo.SyncFIFO(
                width=Value.cast(item).shape().width + repeats, depth=depth
            )
            # Room is kept for what was chosen, so it always goes on.
            level, came = Signal(range(depth + 1), name=f"level{n}"), Signal(name=f"came{n}")
            gone = (out.valid & out.ready) | (asked_valid & asked.way[n] & ~fine & done)
            m.d.comb += [
                came.eq(take & Cat(turns.chosen[k] & turns.items[k].way[n] for k in clients).any()),
                out.payload.eq(queue.r_data),
                queue.r_en.eq(out.valid & out.ready if repeats else out.ready),
            ]
            if repeats:
                k = n - 1
                goes_again = self.repeats_go[k]
                # Its data means nothing, and is that of another one.
                repeated = Signal(RemoteRequest, name=f"repeated{n}")
                m.d.comb += [
                    goes_again.eq(self.repeats[k] & ~goes[n] & (level != depth)),
                    repeated.data.eq(remote.data),
                    repeated.op.eq(Op.Read),
                    repeated.id.eq(Mux(goes_again, self.repeated.id, remote.id)),
                    *(repeated[name].eq(Mux(goes_again, self.repeated[name], remote[name])) for name in _PLACE),
                    queue.w_data.eq(Cat(repeated, goes_again)),
                    queue.w_en.eq(goes[n] | goes_again),
                    out.valid.eq(queue.r_rdy & self.may_ask[k]),
                    room[n].eq((level < _QUEUE) & ~self.repeats[k]),
                    self.asks[k].eq(out.valid & out.ready),
                    self.places[k].again.eq(queue.r_data[-1]),
                    *(self.places[k][name].eq(out.payload[name]) for name in _PLACE),
                ]
                with m.If(~goes_again):
                    m.d.comb += repeated.op.eq(remote.op)
                m.d.sync += level.eq(level + came + goes_again - gone)
            else:
                m.d.comb += [
                    queue.w_data.eq(item),
                    queue.w_en.eq(goes[n]),
                    out.valid.eq(queue.r_rdy),
                    room[n].eq(level != _QUEUE),
                ]
                m.d.sync += level.eq(level + came - gone)
            observe(m, out)

        # What must not be takes the place of an answer when all before it are answered, but no sooner than a memory
        # could: a link counts on two cycles.
        late = Signal()
        m.d.sync += late.eq(asked_valid & ~goes.any() & ~done)
        m.submodules.told = told = fifo.SyncFIFO(width=Refusal.as_shape().size, depth=2)
        refusal, refused = Signal(Refusal), Signal()
        for n in clients:
            m.d.comb += self.refuses[n].eq(
                late & asked_valid & (asked.client == n) & (under_way[n] == 1) & told.w_rdy
            )
        m.d.comb += [
            refused.eq((self.refuses & self.answered).any()),
            done.eq(goes.any() | refused),
            self.refusal.op.eq(request.op),
            self.refusal.id.eq(request.id),
            self.refusal.status.eq(Mux(asked.way[0], MemoryStatus.Refused, MemoryStatus.Failed)),
            refusal.client.eq(asked.client + self.first),
            refusal.id.eq(request.id),
            refusal.write.eq(request.op == Op.Write),
            refusal.window.eq(request.window[:6]),
            refusal.offset.eq(request.offset),
            told.w_data.eq(refusal),
            told.w_en.eq(refused & asked.way[0]),
            self.refused.valid.eq(told.r_rdy),
            self.refused.payload.eq(told.r_data),
            told.r_en.eq(self.refused.ready),
        ]
        return m

    def _may_go(self, m, n, way):
        """Whether client `n` has nothing of its request's id under way but in the same way out."""
        if not self.ports:
            return C(1)
        i = getattr(self, f"i{n}")
        taken, busy, same = i.valid & i.ready, Signal(_IDS, name=f"busy{n}"), Signal(_IDS, name=f"same{n}")
        for id in range(_IDS):
            level, where = Signal(10, name=f"level{n}_{id}"), Signal.like(way, name=f"where{n}_{id}")
            comes, goes = taken & (i.payload.id == id), self.answered[n] & (self.answered_id[n] == id)
            m.d.sync += level.eq(level + comes - goes)
            with m.If(comes):
                m.d.sync += where.eq(way)
            m.d.comb += [busy[id].eq(level != 0), same[id].eq(where == way)]
        return ~busy.bit_select(i.payload.id, 1) | same.bit_select(i.payload.id, 1)


def _repeating(ports, **members):
    """Members of what takes requests that failed, and tells which requests it gives to links."""
    place = data.StructLayout({**_PLACE, "again": 1})
    return {
        "repeats": In(ports),
        "repeated": In(data.StructLayout({"id": 8, **_PLACE})),
        "asks": Out(ports),
        "places": Out(data.ArrayLayout(place, ports)),
        "may_ask": In(ports),
        **members,
    }


class _Again(wiring.Component):
    """Answers of links to clients, but for reads that failed and have another way: those are asked for again.

    Members
    -------
    i0 .. : :py:`In(stream.Signature(RemoteResponse))`
        Of each link, in the order of its requests.
    o0 .. : :py:`Out(stream.Signature(RemoteResponse))`
        The same, in the same cycle, less those.
    asks : :py:`In(ports)`, places : In
        Of each link, that it takes a request, its place, and whether that was ``repeated``.
    room : :py:`Out(ports)`
        Of each link, that it may take one.
    repeats : :py:`Out(ports)`, o : Out
        A read that is to go to this link, until ``went``.
    routes : In
        As of :class:`Fabric`.
    """

    def __init__(self, ports):
        self.ports = ports
        of_way = _repeating(ports)
        super().__init__(
            {
                **{f"i{n}": In(stream.Signature(RemoteResponse)) for n in range(ports)},
                **{f"o{n}": Out(stream.Signature(RemoteResponse)) for n in range(ports)},
                "routes": In(data.ArrayLayout(route(ports), NODES)),
                "asks": In(ports),
                "places": In(of_way["places"].shape),
                "room": Out(ports),
                "repeats": Out(ports),
                "o": Out(of_way["repeated"].shape),
                "went": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # How many were sent again and are not answered: all of them failed on ``source``, and all went to ``to``. That
        # one's answers never wait for anything here, so all others may wait for them.
        out, source, to = Signal(range(2 * _ASKED)), Signal(range(self.ports)), Signal(range(self.ports))
        none, waits, comes, sent = Signal(), Signal(), Signal(), Signal(self.ports)
        m.d.comb += none.eq(out == 0)
        ends, earlier = [], C(0)
        for n in range(self.ports):
            i, o = getattr(self, f"i{n}"), getattr(self, f"o{n}")
            m.submodules[f"asked{n}"] = asked = fifo.SyncFIFOBuffered(
                width=Value.cast(self.places[n]).shape().width, depth=_ASKED
            )
            place = data.View(self.places[n].shape(), asked.r_data)
            there, fails, holds, other, may = (
                Signal(name=f"{name}{n}") for name in ("there", "fails", "holds", "other", "may")
            )
            gives_up, way = Signal(name=f"gives_up{n}"), self.routes[place.target]
            m.d.comb += [
                asked.w_data.eq(self.places[n]),
                asked.w_en.eq(self.asks[n]),
                self.room[n].eq(asked.w_rdy),
                there.eq(i.valid & asked.r_rdy),
                fails.eq((i.payload.status == MemoryStatus.Failed) & (i.payload.op == Op.Read) & ~place.again),
                holds.eq(~none & (source == n)),
                other.eq(way.known & (way.port != n)),
                may.eq(there & fails & ~gives_up & other & (none | (holds & (to == way.port)))),
                sent[n].eq(may & ~earlier & (~waits | self.went)),
                o.payload.eq(i.payload),
                o.valid.eq(there & ~holds & (~fails | gives_up)),
                i.ready.eq(sent[n] | (o.valid & o.ready)),
                asked.r_en.eq(i.valid & i.ready),
            ]
            earlier = earlier | may
            ends.append(o.valid & o.ready & place.again)
            # It is offered as failed until it is taken, whatever becomes of the routes.
            m.d.sync += gives_up.eq(
                there & ~i.ready & (gives_up | (fails & Mux(none, ~other, (to == n) | (~holds & ~other))))
            )
            with m.If(sent[n]):
                m.d.sync += [
                    source.eq(n),
                    to.eq(way.port),
                    self.o.id.eq(i.payload.id),
                    *(self.o[name].eq(place[name]) for name in _PLACE),
                ]
            observe(m, o)
        m.d.comb += [comes.eq(sent.any()), self.repeats.eq(Mux(waits, 1 << to, 0))]
        m.d.sync += [
            waits.eq(comes | (waits & ~self.went)),
            # Only ``to`` answers any.
            out.eq(out + comes - Cat(ends).any()),
        ]
        return m


class _Answers(wiring.Component):
    """Answers for one client from several sources, by turns; what was offered stays until it is taken.

    Members
    -------
    wants, i : In
        Of each source, whether it has an answer for this client, and that.
    taken : Out
        Of each source, that it is taken.
    refuses, refusal : In
        One more source, when no other one has anything.
    valid, o, ready
        Towards the client.
    """

    def __init__(self, sources):
        self.sources = sources
        super().__init__(
            {
                "wants": In(sources),
                "i": In(data.ArrayLayout(Response, sources)),
                "taken": Out(sources),
                "refuses": In(1),
                "refusal": In(Response),
                "valid": Out(1),
                "o": Out(Response),
                "ready": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.turns = turns = Turns(self.sources)
        stays, last, chosen = Signal(), Signal(self.sources), Signal(self.sources)
        m.d.comb += [
            turns.wants.eq(self.wants),
            turns.go.eq(~stays),
            chosen.eq(Mux(stays, last, turns.chosen)),
            self.valid.eq(self.wants.any() | self.refuses),
            self.taken.eq(Mux(self.ready, chosen, 0)),
            Value.cast(self.o).eq(
                Mux(self.refuses, self.refusal.as_value(), one_of(chosen, [self.i[n] for n in range(self.sources)]))
            ),
        ]
        m.d.sync += [stays.eq(self.wants.any() & ~self.ready), last.eq(chosen)]
        return m
