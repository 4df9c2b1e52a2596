"""Testbench of hw/link/requester.py; the other side answers in any order, and sometimes not at all."""

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.packet import RequestBody
from tessera.hw.link.requester import READ_LINES, Requester
from tessera.hw.memory.port import MemoryStatus, Op
from tessera.tb.bench import Bench, Dut, pack, unpack
from tessera.tb.link.model import form_of

DUTS = {"slots128": Dut(Requester), "slots32": Dut(lambda: Requester(32))}


class Asked:
    """A packet that came: its kind, target and place, how many lines, their tag and epoch, and what is written."""

    def __init__(self, parts):
        head, body = parts[0].head, RequestBody.from_bits(parts[0].body)
        self.op = Op.Write if parts[0].has_line else Op.Read
        self.target, self.window, self.offset = head.target, body.window, body.offset
        self.lines, self.tag, self.epoch = head.first + 1, head.tag, head.epoch
        self.data = [part.line for part in parts] if self.op is Op.Write else []
        assert head.form == form_of(len(self.data), 1) and parts[0].has_body and head.source == 5
        assert [part.first for part in parts] == [1] + [0] * (len(parts) - 1)
        assert not self.data or len(self.data) == self.lines <= 8
        assert self.lines <= READ_LINES


class RequesterBench(Bench):
    """Requests in, packets out; responses in, answers out."""

    async def start(self):
        self.dut.node.value, self.dut.come.value, self.dut.lost.value = 5, 0, 1
        await self.reset()
        await self.cycles(2)
        self.dut.lost.value = 0
        self.asked, self.sizes = [], []

    async def listen(self, stall=0.0):
        """Take packets for ever."""
        while True:
            parts = await self.receive("packet", stall=stall, until=lambda part: part.last)
            self.asked.append(Asked(parts))
            self.sizes.append(self.asked[-1].lines)

    async def answer(self, parts):
        """Parts of responses, one a cycle."""
        for part in parts:
            self.dut.come.value = 1
            self.dut.part.value = pack(self.component.signature.members["part"].shape, part)
            await RisingEdge(self.dut.clk)
        self.dut.come.value = 0

    def responses(self, asked, statuses, content):
        """Packets that answer `asked`: of its lines that are alike, in pieces."""
        packets, at = [], 0
        while at < asked.lines:
            lined = asked.op is Op.Read and statuses[at] is MemoryStatus.Ok
            most = self.random.randrange(1, 9 if lined else 17)
            end = at + 1
            while end < asked.lines and end - at < most and statuses[end] is statuses[at]:
                end += 1
            count = end - at if lined else 0
            head = {"form": form_of(count, 0), "tag": (asked.tag + at) % 256, "epoch": asked.epoch,
                    "status": statuses[at].value, "first": end - at - 1}  # fmt: skip
            parts = [{"first": k == 0, "last": k == max(count, 1) - 1, "has_line": lined} for k in range(max(count, 1))]
            parts[0]["head"] = head
            for k in range(count):
                parts[k]["line"] = content(asked.window, (asked.offset + at + k) % (1 << 26))
            packets.append(parts)
            at = end
        return packets


def line_of(window, offset):
    return (window << 40 | offset) * 0x9E3779B97F4A7C15F39CC0605CEDC8341082276BF3A27251 % (1 << 512)


def requests_of(random, count):
    """Runs of lines that follow one another, of a kind, target and window each."""
    requests = []
    while len(requests) < count:
        op, target, window = random.choice(list(Op)), random.randrange(16), random.randrange(64)
        at = random.choice((0, random.getrandbits(26), (1 << 26) - 3))
        for k in range(random.choice((1, 1, 2, 5, 40))):
            where = (at + k) % (1 << 26)
            requests.append({"op": op, "id": random.randrange(256), "target": target, "window": window,
                             "offset": where, "data": line_of(window, where)})  # fmt: skip
    return requests[:count]


@cocotb.test()
@cocotb.parametrize(stalls=[(0.0, 0.0, 0.0), (0.5, 0.0, 0.3), (0.0, 0.5, 0.5)])
async def answers_in_order(dut, stalls):
    """Whatever the order in which they come; packets are as long as they may be when these wait."""
    bench = RequesterBench(dut, DUTS)
    await bench.start()
    requests = requests_of(bench.random, 400)
    cocotb.start_soon(bench.listen(stalls[1]))
    sending = cocotb.start_soon(bench.send("i", requests, stalls[0]))
    receiving = cocotb.start_soon(bench.receive("o", len(requests), stalls[2]))
    told = []

    async def respond():
        while True:
            await bench.cycles(bench.random.randrange(1, 20))
            while not dut.room.value:
                await bench.cycles(1)
            if not bench.asked:
                continue
            asked = bench.asked.pop(bench.random.randrange(len(bench.asked)))
            statuses = [bench.random.choice([MemoryStatus.Ok] * 8 + list(MemoryStatus)[:3]) for _ in range(asked.lines)]
            told.append((asked, statuses))
            for packet in bench.responses(asked, statuses, line_of):
                while not dut.room.value:
                    await bench.cycles(1)
                await bench.answer(packet)

    responding = cocotb.start_soon(respond())
    answers = await bench.within(40_000, receiving, "answers")
    await sending
    responding.cancel()
    assert sum(asked.lines for asked, _ in told) == len(requests)
    for request, answer in zip(requests, answers):
        assert (answer.op, answer.id) == (request["op"], request["id"])
        if answer.op == Op.Read and MemoryStatus(answer.status) is MemoryStatus.Ok:
            assert answer.data == request["data"], f"{request}"
    for asked, _ in told:
        lines = [line_of(asked.window, (asked.offset + k) % (1 << 26)) for k in range(asked.lines)]
        assert not asked.data or asked.data == lines
    found = sorted(MemoryStatus(answer.status).value for answer in answers)
    assert found == sorted(status.value for _, statuses in told for status in statuses)
    assert stalls[0] or max(bench.sizes) == READ_LINES


@cocotb.test()
async def is_quick(dut):
    """A packet one cycle after its request, an answer two after its line; lines of a run one per cycle."""
    bench = RequesterBench(dut, DUTS)
    await bench.start()
    dut.packet__ready.value = dut.o__ready.value = 1
    for lines in (1, 4, 16):
        requests = [{"op": Op.Read, "id": k, "target": 1, "window": 2, "offset": k, "data": 0} for k in range(lines)]
        last = await bench.send("i", requests)
        # `last` is the cycle after the one in which it was taken.
        await ReadOnly()
        assert dut.packet__valid.value and bench.now() == last, f"{lines} lines"
        asked = Asked([unpack(bench.shape("packet"), dut.packet__payload.value.to_unsigned())])
        assert (asked.lines, asked.offset) == (lines, 0)
        await bench.cycles(5)
        parts = [part for packet in bench.responses(asked, [MemoryStatus.Ok] * lines, line_of) for part in packet]
        times = []

        async def watch(times=times, lines=lines):
            while len(times) < lines:
                await ReadOnly()
                if dut.o__valid.value:
                    times.append(bench.now())
                await RisingEdge(dut.clk)

        watching = cocotb.start_soon(watch())
        began = bench.now()
        await bench.answer(parts)
        await bench.within(40, watching)
        assert times == [began + 2 + k for k in range(lines)], f"{times}, {began}"


@cocotb.test()
async def fails_once_when_lost(dut):
    """Requests that are not answered end as Failed, those that come meanwhile too; late answers are not heard."""
    bench = RequesterBench(dut, DUTS)
    await bench.start()
    listening = cocotb.start_soon(bench.listen(0.5))
    for epoch in range(1, 7):
        bench.asked.clear()
        requests = requests_of(bench.random, 60)
        sending = cocotb.start_soon(bench.send("i", requests))
        receiving = cocotb.start_soon(bench.receive("o", len(requests), 0.2))
        await bench.cycles(bench.random.randrange(20, 60))
        old = list(bench.asked)
        answered = sum(asked.lines for asked in old[:2])
        for asked in old[:2]:
            for packet in bench.responses(asked, [MemoryStatus.Ok] * asked.lines, line_of):
                await bench.answer(packet)
        await bench.cycles(30)
        listening.cancel()
        bench.port("packet.ready").value = 0
        dut.lost.value = 1
        answers = await bench.within(400, receiving, "answers when lost")
        await sending
        statuses = [MemoryStatus(answer.status) for answer in answers]
        assert statuses == [MemoryStatus.Ok] * answered + [MemoryStatus.Failed] * (60 - answered)
        assert [(answer.op, answer.id) for answer in answers] == [(r["op"], r["id"]) for r in requests]
        dut.lost.value = 0
        listening = cocotb.start_soon(bench.listen())
        bench.asked.clear()
        # Answers of before, amid requests of now.
        now = [{"op": Op.Read, "id": k, "target": 1, "window": 1, "offset": k, "data": 0} for k in range(20)]
        sending = cocotb.start_soon(bench.send("i", now))
        receiving = cocotb.start_soon(bench.receive("o", len(now)))
        await bench.cycles(5)
        for asked in old[2:]:
            for packet in bench.responses(asked, [MemoryStatus.Ok] * asked.lines, lambda *_: 0xBAD):
                await bench.answer(packet)
        await bench.cycles(40)
        assert all(asked.epoch == (epoch + 1) % 4 for asked in bench.asked), "epoch"
        for asked in bench.asked:
            for packet in bench.responses(asked, [MemoryStatus.Ok] * asked.lines, line_of):
                await bench.answer(packet)
        await sending
        answers = await bench.within(200, receiving, "answers when it is back")
        assert [answer.data for answer in answers] == [line_of(1, k) for k in range(20)]
    listening.cancel()
