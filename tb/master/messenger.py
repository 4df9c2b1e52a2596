"""Testbench of hw/master/messenger.py."""

from collections import deque

import cocotb
import pytest
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.packet import Kind
from tessera.hw.link.receiver import ROOM
from tessera.hw.master.messenger import PATIENCE, Messenger
from tessera.tb.bench import Bench, Dut, pack
from tessera.tb.link.model import form_of

DUTS = {f"ports{ports}": Dut(lambda ports=ports: Messenger(ports), watched=True) for ports in (1, 3)}
NODE = 5


class MessengerBench(Bench):
    """Each port takes at its own rate; what it took is in ``sent``: target, message and cycle."""

    async def start(self, routes=None):
        """`routes`: of each node, the port behind which it is, or None; at random unless told."""
        dut, ports = self.dut, self.component.ports
        self.ports = ports
        choices = [*range(ports), None]
        self.routes = routes or [self.random.choice(choices) for _ in range(16)]
        dut.node.value, dut.lost.value = NODE, 0
        known = [{"known": way is not None, "port": way or 0} for way in self.routes]
        dut.routes.value = pack(self.component.signature.members["routes"].shape, known)
        await self.reset()
        self.sent = [[] for _ in range(ports)]
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
            assert (part.first, part.last, part.has_body, part.has_line) == (1, 1, 1, 0)
            assert (part.head.form, part.head.source) == (form_of(0, 1), NODE)
            self.sent[n].append((part.head.target, self.message(part), self.now()))

    async def _watch(self):
        while True:
            await ReadOnly()
            if self.get("again"):
                self.again.append(self.now())
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
    """Two cycles from a cast to the links, one more for each other node behind the same one."""
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
@cocotb.parametrize(stall=[0.0, 0.9])
async def what_comes_is_given_on(dut, stall):
    """Each message once, those of one port in order; what is of another class, or has lines, is nobody's."""
    bench = MessengerBench(dut, DUTS)
    await bench.start()
    come = [[] for _ in range(bench.ports)]
    count = 150

    async def feed(n):
        room = bench.port(f"room{n}")
        seen = deque([1] * 3, 3)
        left, late = [], 0
        for k in range(count):
            message = bench.draw()
            kind = bench.random.choice([Kind.SyncFirst, Kind.SyncFirst, Kind.SyncSecond, Kind.ResponseFirst])
            lines = bench.random.choice([0, 0, 0, 1, 3])
            if kind in (Kind.SyncFirst, Kind.SyncSecond):
                # A receiver sees a few cycles late that there is no room, and may have a packet's parts to give.
                while not seen[0] and late >= ROOM - 3:
                    seen.append(int(room.value))
                    late = late if not seen[0] else 0
                    await RisingEdge(dut.clk)
                if seen[0]:
                    late = 0
                if lines < 2:
                    late += 1
            if kind in (Kind.SyncFirst, Kind.SyncSecond) and lines == 0:
                come[n].append(message)
            for part in bench.parts(message, lines):
                seen.append(int(room.value))
                await bench.send(f"i{n}", [{"kind": kind.value, "here": 1, "part": part}])
            left.append(k)
            if stall and bench.random.random() < 0.2:
                await bench.cycles(bench.random.randrange(1, 10))

    feeds = [cocotb.start_soon(feed(n)) for n in range(bench.ports)]
    got = []

    async def take():
        while True:
            got.extend(await bench.receive("come", 1, stall))

    cocotb.start_soon(take())
    for feeding in feeds:
        await bench.within(60_000, feeding)
    await bench.cycles(2000)
    found = [(one.counter, one.session, one.count, one.ahead) for one in got]
    assert sorted(found) == sorted(message for messages in come for message in messages)
    for messages in come:
        mine = set(messages)
        assert [message for message in found if message in mine] == messages


@cocotb.test()
async def constructor(dut):
    for ports in (0, 9):
        with pytest.raises(ValueError, match="1 to 8 expected"):
            Messenger(ports)
