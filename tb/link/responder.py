"""Testbench of hw/link/responder.py with an ideal memory behind it."""

import cocotb
from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.packet import RequestBody
from tessera.hw.link.receiver import ROOM
from tessera.hw.link.responder import PARTS, RESPONSE_LINES, Responder
from tessera.hw.memory.port import Access, MemoryStatus, Op
from tessera.hw.models.memory import IdealMemory, Knobs
from tessera.tb.bench import Bench, Dut, pack, unpack
from tessera.tb.link.model import form_of


class WithMemory(wiring.Component):
    """A responder and its memory."""

    def __init__(self, lines):
        self.responder = Responder(lines)
        self.memory = IdealMemory(windows=2, window_lines=256, request=Access)
        members = {name: self.responder.signature.members[name] for name in MEMBERS}
        request = self.memory.port.signature.members["request"].signature.members["payload"].shape
        super().__init__({**members, "knobs": In(Knobs), "taken": Out(1), "request": Out(request)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.responder = responder = self.responder
        m.submodules.memory = memory = self.memory
        wiring.connect(m, responder.memory, memory.port)
        m.d.comb += [memory.knobs.eq(self.knobs), memory.backdoor.load.eq(0)]
        request = responder.memory.request
        m.d.comb += [self.taken.eq(request.valid & request.ready), self.request.eq(request.payload)]
        for name in ("node", "lost", "come", "part"):
            m.d.comb += getattr(responder, name).eq(getattr(self, name))
        m.d.comb += [
            self.room.eq(responder.room),
            self.packet.valid.eq(responder.packet.valid),
            self.packet.payload.eq(responder.packet.payload),
            responder.packet.ready.eq(self.packet.ready),
        ]
        return m


MEMBERS = ("node", "lost", "come", "part", "room", "packet")
DUTS = {f"lines{lines}": Dut(lambda lines=lines: WithMemory(lines)) for lines in (16, 64)}


class ResponderBench(Bench):
    """Requests in, responses out, and what the memory must hold."""

    async def start(self, *, latency=4, stall=0, limit=0):
        self.dut.node.value, self.dut.come.value, self.dut.lost.value = 3, 0, 1
        self.knobs(latency=latency, stall=stall, limit=limit)
        await self.reset()
        await self.cycles(2)
        self.dut.lost.value = 0
        self.content, self.asked, self.taken = {}, [], []

    def knobs(self, **fields):
        self.dut.knobs.value = pack(Knobs, fields)

    async def ask(self, op, window, offset, lines, tag, gaps=0.0):
        """A request, its parts a cycle each, or later; lines to write are random."""
        body = pack(RequestBody, {"window": window, "offset": offset})
        head = {"source": tag % 16, "tag": tag, "first": lines - 1, "epoch": tag % 4}
        head["form"] = form_of(lines if op is Op.Write else 0, 1)
        while not self.dut.room.value:
            await RisingEdge(self.dut.clk)
        count = lines if op is Op.Write else 1
        self.asked += [(op, window, offset + n, None) for n in range(lines) if op is Op.Read]
        for n in range(count):
            if self.random.random() < gaps:
                await self.cycles(self.random.randrange(1, 9))
            part = {"first": n == 0, "last": n == count - 1, "has_line": op is Op.Write}
            part |= {"has_body": 1, "head": head, "body": body} if n == 0 else {}
            if op is Op.Write:
                part["line"] = self.random.getrandbits(512)
                self.content[window, offset + n] = part["line"]
                self.asked.append((op, window, offset + n, part["line"]))
            self.dut.come.value = 1
            self.dut.part.value = pack(self.component.signature.members["part"].shape, part)
            await RisingEdge(self.dut.clk)
            self.dut.come.value = 0

    async def watch(self):
        """What the memory is asked for; for ever."""
        while True:
            await ReadOnly()
            if self.dut.taken.value:
                request = unpack(self.component.signature.members["request"].shape, self.get("request"))
                op = Op(request.op)
                self.taken.append((op, request.window, request.offset, request.data if op is Op.Write else None))
            await RisingEdge(self.dut.clk)

    async def answers(self, lines, tag, op, stall=0.0):
        """Responses to so many lines: (number of the line, status, data or None) each; and the packets' sizes."""
        found, sizes = [], []
        while len(found) < lines:
            parts = await self.receive("packet", stall=stall, until=lambda part: part.last)
            head = parts[0].head
            assert (head.source, head.target, head.epoch) == (3, tag % 16, tag % 4)
            lined = [part for part in parts if part.has_line]
            assert head.form == form_of(len(lined), 0) and parts[0].first and len(lined) in (0, len(parts))
            count = len(lined) or head.first + 1
            assert (head.tag - tag) % 256 == len(found), f"tag {head.tag} of {tag}, line {len(found)}"
            assert not lined or head.status == 0
            for k in range(count):
                found.append((MemoryStatus(head.status), lined[k].line if lined else None))
            sizes.append(count)
        return found, sizes


@cocotb.test()
@cocotb.parametrize(case=[(4, 0, 0.0, 0.0), (30, 0, 0.5, 0.0), (4, 8, 0.0, 0.5), (60, 3, 0.3, 0.3)])
async def does_what_is_asked(dut, case):
    """Reads and writes of any length at any place, beyond the limit as well: each line its own answer, in order."""
    bench = ResponderBench(dut, DUTS)
    latency, stall, gaps, stall_out = case
    await bench.start(latency=latency, stall=stall)
    asked = []

    async def ask():
        for tag in range(120):
            op = bench.random.choice(list(Op))
            lines = bench.random.choice((1, 1, 2, 4, 8 if op is Op.Write else 16, bench.random.randrange(1, 9)))
            asked.append((tag, op, 0, bench.random.randrange(0, 280 - lines), lines))
            _, *request = asked[-1]
            await bench.ask(*request, tag, gaps)

    # So that no write is overtaken by its read, one at a time.
    asking = cocotb.start_soon(ask())
    known = {}
    for n in range(120):
        while len(asked) <= n:
            await bench.cycles(1)
        tag, op, window, offset, lines = asked[n]
        found, sizes = await bench.within(2000, bench.answers(lines, tag, op, stall_out), f"answers to {asked[n]}")
        expected = [MemoryStatus.Ok if offset + k < 256 else MemoryStatus.Refused for k in range(lines)]
        assert [status for status, _ in found] == expected, f"{asked[n]}"
        if op is Op.Write:
            for k in range(lines):
                known[window, offset + k] = True
            assert len(sizes) == len(set(expected)), f"{asked[n]}: {sizes}"
        else:
            assert max(sizes) <= RESPONSE_LINES
            whole = sum(status is MemoryStatus.Ok for status in expected)
            assert len(sizes) == -(-whole // RESPONSE_LINES) + lines - whole, f"{asked[n]}: {sizes}"
    await asking


@cocotb.test()
async def reads_what_was_written(dut):
    bench = ResponderBench(dut, DUTS)
    await bench.start(latency=10, stall=4)
    for n in range(0, 128, 8):
        await bench.ask(Op.Write, 1, n, 8, n)
        await bench.within(300, bench.answers(8, n, Op.Write))
    for _ in range(40):
        lines = bench.random.randrange(1, 17)
        offset, tag = bench.random.randrange(128 - lines), bench.random.randrange(256)
        await bench.ask(Op.Read, 1, offset, lines, tag)
        found, _ = await bench.within(300, bench.answers(lines, tag, Op.Read, 0.2))
        assert [line for _, line in found] == [bench.content[1, offset + k] for k in range(lines)]
    for offset in range(128):
        await bench.ask(Op.Read, 1, offset, 1, offset)
        found, _ = await bench.within(300, bench.answers(1, offset, Op.Read))
        assert found == [(MemoryStatus.Ok, bench.content[1, offset])]


@cocotb.test()
async def is_quick(dut):
    """One cycle from a request to the memory, whose latency is 10, and one from its answer to the packet."""
    bench = ResponderBench(dut, DUTS)
    await bench.start(latency=10)
    dut.packet__ready.value = 1
    for lines in (1, 4):
        times = []
        began = bench.now()
        await bench.ask(Op.Read, 0, 5, lines, 9)
        for _ in range(40):
            await ReadOnly()
            if dut.packet__valid.value:
                times.append(bench.now() - began)
                assert unpack(bench.shape("packet"), dut.packet__payload.value.to_unsigned()).head.tag == 9
            await RisingEdge(dut.clk)
        # More lines than one go through a queue, when the last of them is there.
        first = 1 + 10 + 1 if lines == 1 else 1 + 10 + lines - 1 + 3
        assert times == list(range(first, first + lines)), f"{lines} lines: {times}"


@cocotb.test()
async def forgets_when_lost(dut):
    """Lost amid anything: what comes afterwards is answered, and nothing of before."""
    bench = ResponderBench(dut, DUTS)
    for latency, stall in ((4, 0), (40, 0), (20, 12)):
        await bench.start(latency=latency, stall=stall)
        for delay in range(1, 60, 3):
            for n in range(3):
                op = bench.random.choice(list(Op))
                asking = cocotb.start_soon(bench.ask(op, 0, 16 * n, 8, 77))
                if n < 2:
                    await asking
                    continue
                # The last one ends amid its parts.
                await bench.cycles(bench.random.randrange(1, 10))
                asking.cancel()
                dut.come.value = 0
            await bench.cycles(delay)
            dut.lost.value = 1
            await bench.cycles(bench.random.choice((1, 2, 30)))
            dut.lost.value = 0
            await bench.ask(Op.Write, 1, delay, 8, delay)
            await bench.within(400, bench.answers(8, delay, Op.Write))
            await bench.ask(Op.Read, 1, delay, 8, delay + 100)
            found, _ = await bench.within(400, bench.answers(8, delay + 100, Op.Read))
            assert [line for _, line in found] == [bench.content[1, delay + k] for k in range(8)]


@cocotb.test()
async def the_last_line_ends_otherwise(dut):
    """With nothing behind it, its answer comes as well."""
    bench = ResponderBench(dut, DUTS)
    await bench.start()
    for tag, op in enumerate(Op):
        for lines in (2, 4):
            await bench.ask(op, 0, 257 - lines, lines, tag)
            found, sizes = await bench.within(100, bench.answers(lines, tag, op), f"answers to {op.name} of {lines}")
            expected = [MemoryStatus.Ok] * (lines - 1) + [MemoryStatus.Refused]
            assert [status for status, _ in found] == expected and sizes == [lines - 1, 1], f"{found}"


@cocotb.test()
@cocotb.parametrize(gaps=[0.0, 0.3])
async def asks_the_memory_for_each_line(dut, gaps):
    """Of any window and offset, whether it has them or not; a write with its data."""
    bench = ResponderBench(dut, DUTS)
    await bench.start(stall=6)
    cocotb.start_soon(bench.watch())
    for tag in range(60):
        op, lines = bench.random.choice(list(Op)), bench.random.randrange(1, 9)
        offset = bench.random.choice([bench.random.getrandbits(26), (1 << 26) - 10])
        answering = cocotb.start_soon(bench.answers(lines, tag, op))
        await bench.ask(op, bench.random.getrandbits(6), offset, lines, tag, gaps)
        await bench.within(200, answering, f"answers to request {tag}")
    assert len(bench.taken) == len(bench.asked)
    for n, (found, right) in enumerate(zip(bench.taken, bench.asked)):
        assert found == right, f"line {n}: {found}, {right} expected"


@cocotb.test()
async def asks_only_for_what_it_has_room(dut):
    """So many lines and the one that is offered: no more is asked for until answers go. So behind a loss too."""
    bench = ResponderBench(dut, DUTS)
    lines = bench.component.responder.lines
    await bench.start(latency=10)
    watching = cocotb.start_soon(bench.watch())
    for turn in range(6):
        # Reads of single lines; those that end as one packet; those that are refused; writes.
        op, count, offset = ((Op.Read, 1, 0), (Op.Read, 8, 0), (Op.Read, 1, 300), (Op.Write, 1, 0))[turn % 4]
        bench.taken.clear()

        given = 0

        async def ask(op=op, count=count, offset=offset):
            nonlocal given
            for tag in range(2 * lines // count):
                await bench.ask(op, 0, offset, count, tag)
                given += 1

        asking = cocotb.start_soon(ask())
        await bench.cycles(3 * lines + 60)
        assert len(bench.taken) == lines + 1, f"turn {turn}: {len(bench.taken)} lines asked for"
        # One is offered, one was on its way, and so many wait as leave no room for what may come.
        assert count > 1 or given == lines + 1 + PARTS - ROOM + 2, f"turn {turn}: {given} requests taken"
        asking.cancel()
        dut.come.value = 0
        if turn < 4:
            # What is asked for comes, and then all of the room is there again.
            dut.packet__ready.value = 1
            await bench.cycles(4 * lines)
            dut.packet__ready.value = 0
        else:
            dut.lost.value = 1
            await bench.cycles(1)
            dut.lost.value = 0
            await bench.cycles(60)
    watching.cancel()


@cocotb.test()
async def forgets_all_that_the_memory_was_asked_for(dut):
    """Lost again and again, with as many requests in the memory as may be: no answer of before is taken for one."""
    bench = ResponderBench(dut, DUTS)
    lines = bench.component.responder.lines
    await bench.start(latency=4)
    for n in range(0, 16, 8):
        await bench.ask(Op.Write, 1, n, 8, n)
        await bench.within(100, bench.answers(8, n, Op.Write))
    for pause in (1, 5, lines, 2 * lines):
        bench.knobs(latency=200)
        for _ in range(3):
            for tag in range(lines // 16):
                await bench.ask(Op.Read, 0, 16 * tag, 16, tag)
            await bench.cycles(pause)
            dut.lost.value = 1
            await bench.cycles(1)
            dut.lost.value = 0
        bench.knobs(latency=4)
        await bench.ask(Op.Read, 1, 0, 16, 99)
        found, _ = await bench.within(2000, bench.answers(16, 99, Op.Read))
        assert found == [(MemoryStatus.Ok, bench.content[1, k]) for k in range(16)], f"pauses of {pause}"


@cocotb.test()
async def asks_no_more_of_a_memory_that_owes_as_much(dut):
    """Twice its lines, most of which it was asked for before losses."""
    bench = ResponderBench(dut, DUTS)
    lines = bench.component.responder.lines
    await bench.start(latency=250)
    watching = cocotb.start_soon(bench.watch())
    bench.taken.clear()

    async def ask():
        for tag in range(lines // 16 + 1):
            await bench.ask(Op.Read, 0, 0, 16, tag)

    for _ in range(3):
        asking = cocotb.start_soon(ask())
        await bench.cycles(lines + 8)
        asking.cancel()
        dut.come.value = 0
        dut.lost.value = 1
        await bench.cycles(1)
        dut.lost.value = 0
    assert len(bench.taken) == 2 * lines, f"{len(bench.taken)} lines asked for"
    watching.cancel()


@cocotb.test()
async def answers_wait_for_the_link(dut):
    """As long as it takes none, and then come in order, one line a cycle."""
    bench = ResponderBench(dut, DUTS)
    await bench.start()
    for n in range(0, 16, 8):
        await bench.ask(Op.Write, 1, n, 8, n)
        await bench.within(100, bench.answers(8, n, Op.Write))
    for lines in (1, 4, 3):
        for offset in range(12 // lines):
            await bench.ask(Op.Read, 1, offset, lines, offset)
            await bench.cycles(bench.random.choice((1, 40)))
        await bench.cycles(60)
        began = bench.now()
        for offset in range(12 // lines):
            found, _ = await bench.within(100, bench.answers(lines, offset, Op.Read))
            assert found == [(MemoryStatus.Ok, bench.content[1, offset + k]) for k in range(lines)]
        assert bench.now() - began == 12


@cocotb.test()
async def has_room_for_what_is_coming(dut):
    """For ROOM parts, the one among them with which ``room`` falls: all are answered."""
    bench = ResponderBench(dut, DUTS)
    await bench.start()
    shape = bench.component.signature.members["part"].shape
    for _ in range(3):
        tag = 0
        # No answer is taken, so in the end no request goes to the memory.
        more = ROOM - 1
        while more:
            more -= not dut.room.value
            head = {"form": form_of(0, 1), "source": tag % 16, "tag": tag, "epoch": tag % 4}
            body = pack(RequestBody, {"window": 1, "offset": tag % 16})
            dut.part.value = pack(shape, {"first": 1, "last": 1, "has_body": 1, "head": head, "body": body})
            dut.come.value = 1
            await RisingEdge(dut.clk)
            dut.come.value = 0
            tag += 1
            if dut.room.value:
                await bench.cycles(10)
        for n in range(tag):
            found, _ = await bench.within(100, bench.answers(1, n, Op.Read), f"answer to request {n} of {tag}")
            assert found[0][0] is MemoryStatus.Ok


@cocotb.test()
async def forgets_answers_that_come_at_once(dut):
    """In the very cycle in which it is lost, or the next one, and those behind them."""
    bench = ResponderBench(dut, DUTS)
    await bench.start(latency=10)
    await bench.ask(Op.Write, 1, 0, 8, 5)
    await bench.within(100, bench.answers(8, 5, Op.Write))
    for pause in range(1, 36):
        await bench.ask(Op.Read, 0, 0, 16, 7)
        await bench.cycles(pause)
        dut.lost.value = 1
        await bench.cycles(1)
        dut.lost.value = 0
        await bench.ask(Op.Read, 1, 0, 8, 99)
        found, _ = await bench.within(200, bench.answers(8, 99, Op.Read), f"answers, lost {pause} cycles after")
        assert found == [(MemoryStatus.Ok, bench.content[1, k]) for k in range(8)], f"lost {pause} cycles after"
