"""Testbench of hw/master/messenger.py."""

from collections import Counter, deque

import cocotb
import pytest
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.packet import Kind
from tessera.hw.link.receiver import ROOM
from tessera.hw.master.messenger import PATIENCE, LetterKind, Messenger
from tessera.tb.bench import Bench, Dut, pack
from tessera.tb.link.model import form_of

DUTS = {f"ports{ports}": Dut(lambda ports=ports: Messenger(ports), watched=True) for ports in (1, 3)}
NODE, SESSION = 5, 44


class MessengerBench(Bench):
    """Each port takes at its own rate; what it took is in ``sent`` and, of letters, ``posted``: target, what, cycle."""

    async def start(self, routes=None):
        """`routes`: of each node, the port behind which it is, or None; at random unless told."""
        dut, ports = self.dut, self.component.ports
        self.ports = ports
        choices = [*range(ports), None]
        self.routes = routes or [self.random.choice(choices) for _ in range(16)]
        dut.node.value, dut.lost.value, dut.session.value = NODE, 0, SESSION
        known = [{"known": way is not None, "port": way or 0} for way in self.routes]
        dut.routes.value = pack(self.component.signature.members["routes"].shape, known)
        await self.reset()
        self.sent, self.posted = [[] for _ in range(ports)], [[] for _ in range(ports)]
        self.returned = 0
        self.rate = [1.0] * ports
        self.again = []
        for n in range(ports):
            cocotb.start_soon(self._take(n))
        cocotb.start_soon(self._watch())

    async def _take(self, n):
        while True:
            if self.rate[n] == 0:
                await RisingEdge(self.dut.clk)
                continue
            (part,) = await self.receive(f"o{n}", 1, 1 - self.rate[n])
            assert (part.first, part.last, part.has_body) == (1, 1, 1)
            assert (part.head.form, part.head.source) == (form_of(part.has_line, 1), NODE)
            if part.has_line:
                assert (part.body, part.head.first, part.head.status, part.head.epoch) == (SESSION, 0, 0, 0)
                self.posted[n].append((part.head.target, (LetterKind(part.head.tag), part.line), self.now()))
            else:
                self.sent[n].append((part.head.target, self.message(part), self.now()))

    async def _watch(self):
        while True:
            await ReadOnly()
            if self.get("again"):
                self.again.append(self.now())
            self.returned += self.get("returned")
            await RisingEdge(self.dut.clk)

    @staticmethod
    def message(part):
        """Counter, session, count and what is ahead, as docs/link.md has them in a packet."""
        body, head = part.body, part.head
        ahead = head.tag | head.first << 8 | head.status << 12 | head.epoch << 14
        return body & 63, body >> 6 & 63, body >> 12, ahead

    def draw(self):
        """A message at random."""
        bits = self.random.getrandbits
        return bits(6), bits(6), bits(20), bits(16)

    async def cast(self, nodes, message, limit=3000):
        """Send a message to `nodes`, a set."""
        counter, session, count, ahead = message
        content = {"counter": counter, "session": session, "count": count, "ahead": ahead}
        payload = {"nodes": sum(1 << node for node in nodes), "message": content}
        return await self.within(limit, self.send("cast", [payload]), f"the cast to {nodes}")

    async def post(self, node, kind, line, limit=3000):
        """Send a letter."""
        payload = {"node": node, "kind": kind, "line": line}
        return await self.within(limit, self.send("letter", [payload]), f"the letter to {node}")

    def parts(self, message, lines=0):
        """The parts of a packet with a message, as a receiver gives them."""
        counter, session, count, ahead = message
        bits = self.random.getrandbits
        head = {"form": form_of(lines, 1), "kind": bits(2), "source": bits(4), "target": NODE, "tag": ahead & 255,
                "first": ahead >> 8 & 15, "status": ahead >> 12 & 3, "epoch": ahead >> 14, "frame": bits(8)}
        body = counter | session << 6 | count << 12
        count = max(1, lines)
        return [{"first": k == 0, "last": k == count - 1, "has_body": 1, "has_line": lines > 0, "head": head,
                 "body": body, "line": bits(512)} for k in range(count)]


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.7])
async def each_node_is_told_once(dut, stall):
    """Over the port behind which it is, and in order; neither this one nor nodes without a way."""
    bench = MessengerBench(dut, DUTS)
    await bench.start()
    bench.rate = [bench.random.choice([1.0, 1 - stall]) for _ in range(bench.ports)]
    wanted = [[] for _ in range(bench.ports)]
    for _ in range(300):
        nodes = {node for node in range(16) if bench.random.random() < bench.random.choice([0.1, 0.6])}
        message = bench.draw()
        await bench.cast(nodes, message)
        if stall:
            await bench.cycles(bench.random.randrange(1, 12))
        for n in range(bench.ports):
            wanted[n].append((message, {node for node in nodes - {NODE} if bench.routes[node] == n}))
    await bench.cycles(400)
    for n, entries in enumerate(wanted):
        came = deque((target, message) for target, message, _ in bench.sent[n])
        for message, nodes in entries:
            found = {came.popleft()[0] for target, its in list(came)[: len(nodes)] if its == message}
            assert found == nodes, (n, message)
        assert not came
    assert not bench.again


@cocotb.test()
async def it_is_quick(dut):
    """Two cycles from a cast to the links, one more for each other node behind the same one; one for all else."""
    bench = MessengerBench(dut, DUTS)
    ports = bench.component.ports
    await bench.start([node % ports for node in range(16)])
    for nodes in ({1, 2, 3}, {0}, {6, 9, 12, 15}, {node for node in range(16) if node != NODE}):
        at = await bench.cast(nodes, bench.draw())
        await bench.cycles(20)
        for n in range(ports):
            mine = [node for node in nodes if node % ports == n]
            cycles = [cycle - at for _, _, cycle in bench.sent[n]]
            # Taken at the end of the cycle in which it is there.
            assert cycles == [2 + k for k in range(len(mine))], (nodes, cycles)
            bench.sent[n].clear()
    for n in range(ports):
        at = await bench.post(n, LetterKind.Task, 7)
        await bench.cycles(5)
        assert [cycle - at for _, _, cycle in bench.posted[n]] == [1]
        for path, lines in (("come", 0), ("came", 1)):
            parts = bench.parts(bench.draw(), lines)
            parts[0]["body"] = SESSION
            taking = cocotb.start_soon(bench.receive(path, 1))
            at = await bench.send(f"i{n}", [{"kind": Kind.SyncFirst.value, "here": 1, "part": parts[0]}])
            await bench.within(5, taking)
            assert bench.now() - at == 1, path


@cocotb.test()
@cocotb.parametrize(how=["silent", "lost"])
async def a_link_that_takes_nothing_holds_nobody_up(dut, how):
    """What is for it is left out after 64 cycles, or at once if it is lost; when it takes again, all are asked for."""
    bench = MessengerBench(dut, DUTS)
    ports = bench.component.ports
    await bench.start([node % ports for node in range(16)])
    bench.rate[0] = 0.0
    first = bench.draw()
    await bench.cast({0}, first)
    await bench.cycles(5)
    assert not bench.again
    if how == "lost":
        dut.lost.value = 1
        await bench.cycles(4)
        assert len(bench.again) == 1, "when a link comes to be lost, all are to be told"
    began = bench.now()
    messages = [bench.draw() for _ in range(20)]
    for message in messages:
        await bench.cast(set(range(16)) - {NODE}, message, PATIENCE + 40)
    took = bench.now() - began
    await bench.cycles(20)
    others = list(range(1, ports))
    for n in others:
        mine = [node for node in range(16) if node % ports == n and node != NODE]
        assert [entry[:2] for entry in bench.sent[n]] == [(node, message) for message in messages for node in mine]
    most = 20 * (2 + max([sum(node % ports == n for node in range(16)) for n in others], default=1))
    assert took <= most + (0 if how == "lost" else PATIENCE), took
    await bench.cycles(200)
    assert len(bench.again) == (how == "lost") and not bench.sent[0]
    dut.lost.value = 0
    bench.rate[0] = 1.0
    await bench.cycles(10)
    # The one that was offered, and none of those left out.
    assert [entry[:2] for entry in bench.sent[0]] == [(0, first)]
    assert len(bench.again) == 1 + (how == "lost")
    await bench.cycles(200)
    assert len(bench.again) == 1 + (how == "lost"), "once is enough"
    last = bench.draw()
    await bench.cast({0}, last)
    await bench.cycles(10)
    assert bench.sent[0][-1][:2] == (0, last)


@cocotb.test()
async def a_lost_link_is_told_of_once(dut):
    """Each time it comes to be lost: at once, and when it is back."""
    bench = MessengerBench(dut, DUTS)
    await bench.start()
    for port in range(bench.ports):
        for _ in range(3):
            before = len(bench.again)
            at = bench.now()
            dut.lost.value = 1 << port
            await bench.cycles(100)
            assert [cycle - at for cycle in bench.again[before:]] == [1], "when the routes have changed"
            dut.lost.value = 0
            await bench.cycles(100)
            assert len(bench.again) == before + 2


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.7])
async def letters_go_among_messages(dut, stall):
    """Each over its port, in order; one without a way is returned."""
    bench = MessengerBench(dut, DUTS)
    await bench.start()
    bench.rate = [1 - stall] * bench.ports
    wanted, returned, told = [[] for _ in range(bench.ports)], 0, 0

    async def messages():
        nonlocal told
        for _ in range(100):
            nodes = {node for node in range(16) if bench.random.random() < 0.2} - {NODE}
            await bench.cast(nodes, bench.draw())
            told += sum(bench.routes[node] is not None for node in nodes)
            await bench.cycles(bench.random.randrange(1, 40))

    telling = cocotb.start_soon(messages())
    for _ in range(200):
        node, kind = bench.random.randrange(16), bench.random.choice(list(LetterKind))
        line = bench.random.getrandbits(512)
        await bench.post(node, kind, line)
        if bench.routes[node] is None:
            returned += 1
        else:
            wanted[bench.routes[node]].append((node, (kind, line)))
        if bench.random.random() < 0.3:
            await bench.cycles(bench.random.randrange(1, 30))
    await bench.within(20_000, telling)
    await bench.cycles(200)
    assert [[entry[:2] for entry in posted] for posted in bench.posted] == wanted
    assert bench.returned == returned > 0
    assert sum(len(sent) for sent in bench.sent) == told


@cocotb.test()
async def a_letter_waits_or_is_returned(dut):
    """It waits for a link that takes nothing, and messages to others pass it; if that is lost, it goes nowhere."""
    bench = MessengerBench(dut, DUTS)
    ports = bench.component.ports
    await bench.start([node % ports for node in range(16)])
    bench.rate[0] = 0.0
    first, second = (bench.random.getrandbits(512) for _ in range(2))
    await bench.post(0, LetterKind.Record, first)
    waiting = cocotb.start_soon(bench.post(0, LetterKind.Task, second))
    await bench.cycles(2 * PATIENCE)
    assert not waiting.done() and not bench.returned
    if ports > 1:
        await bench.cast({1}, bench.draw())
        await bench.cycles(5)
        assert len(bench.sent[1]) == 1
    bench.rate[0] = 1.0
    await waiting
    await bench.cycles(5)
    assert [entry[:2] for entry in bench.posted[0]] == [(0, (LetterKind.Record, first)), (0, (LetterKind.Task, second))]
    dut.lost.value = 1
    await bench.post(0, LetterKind.Window, first)
    await bench.cycles(3)
    assert bench.returned == 1
    dut.lost.value = 0
    await bench.cycles(20)
    assert len(bench.posted[0]) == 2


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.9])
async def what_comes_is_given_on(dut, stall):
    """Each message and letter once, those of one port in order; other classes, more lines, other sessions: nobody's."""
    bench = MessengerBench(dut, DUTS)
    await bench.start()
    come, came = [[] for _ in range(bench.ports)], [[] for _ in range(bench.ports)]
    count = 150

    async def feed(n):
        room = bench.port(f"room{n}")
        # A receiver sees a few cycles late that there is no room, and may have a packet's parts to give.
        seen, late = deque([1] * 3, 3), 0
        for _ in range(count):
            message = bench.draw()
            kind = bench.random.choice([Kind.SyncFirst, Kind.SyncFirst, Kind.SyncSecond, Kind.ResponseFirst])
            lines = bench.random.choice([0, 0, 1, 1, 3])
            is_sync = kind in (Kind.SyncFirst, Kind.SyncSecond)
            while is_sync and not seen[0] and late >= ROOM - 3:
                seen.append(int(room.value))
                late = 0 if seen[0] else late
                await RisingEdge(dut.clk)
            late = 0 if seen[0] else late + is_sync
            parts = bench.parts(message, lines)
            if is_sync and lines == 0:
                come[n].append(message)
            if is_sync and lines == 1:
                session = bench.random.choice([SESSION, SESSION, SESSION - 1])
                parts[0]["body"] = session
                parts[0]["head"]["tag"] = what = bench.random.randrange(3)
                if session == SESSION:
                    came[n].append((parts[0]["head"]["source"], LetterKind(what), parts[0]["line"]))
            for part in parts:
                seen.append(int(room.value))
                await bench.send(f"i{n}", [{"kind": kind.value, "here": 1, "part": part}])
            if stall and bench.random.random() < 0.2:
                await bench.cycles(bench.random.randrange(1, 10))

    feeds = [cocotb.start_soon(feed(n)) for n in range(bench.ports)]
    got = {"come": [], "came": []}

    async def take(path):
        while True:
            got[path].extend(await bench.receive(path, 1, stall))

    for path in got:
        cocotb.start_soon(take(path))
    for feeding in feeds:
        await bench.within(60_000, feeding)
    await bench.cycles(2000)
    for wanted, found in (
        (come, [(one.counter, one.session, one.count, one.ahead) for one in got["come"]]),
        (came, [(one.node, one.kind, one.line) for one in got["came"]]),
    ):
        assert Counter(found) == Counter(message for messages in wanted for message in messages)
        for messages in wanted:
            mine = set(messages)
            assert [message for message in found if message in mine] == messages


@cocotb.test()
async def constructor(dut):
    for ports in (0, 9):
        with pytest.raises(ValueError, match="1 to 8 expected"):
            Messenger(ports)
