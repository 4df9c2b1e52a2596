"""Testbench of hw/link/requester.py; the other side answers in any order, and sometimes not at all."""

from hashlib import sha512

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.packet import LINES_MAX, RequestBody
from tessera.hw.link.receiver import ROOM
from tessera.hw.link.requester import PATIENCE, READ_LINES, Requester
from tessera.hw.memory.port import MemoryStatus, Op
from tessera.tb.bench import Bench, Dut, pack, unpack
from tessera.tb.link.model import form_of

DUTS = {
    "slots128": Dut(Requester),
    "slots32": Dut(lambda: Requester(32)),
    "hasty": Dut(lambda: Requester(32, answer_bits=8), tests="gives_up"),
}


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


def run_of(op, count, target=1, window=2, offset=0):
    """Requests for lines that follow one another."""
    places = [(offset + k) % (1 << 26) for k in range(count)]
    return [
        {"op": op, "id": k % 256, "target": target, "window": window, "offset": at, "data": line_of(window, at)}
        for k, at in enumerate(places)
    ]


def line_of(window, offset):
    """512 bits that look random."""
    return int.from_bytes(sha512((window << 40 | offset).to_bytes(8, "little")).digest(), "little")


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
        last = await bench.send("i", run_of(Op.Read, lines))
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
        now = run_of(Op.Read, 20, window=1)
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


@cocotb.test()
async def a_run_becomes_few_packets(dut):
    """Of requests that follow one another without a gap, each packet but the last has as many lines as it may."""
    bench = RequesterBench(dut, DUTS)
    offsets = [bench.random.getrandbits(26) for _ in range(6)] + [(1 << 26) - 5, 1 << 25 | 1 << 17]
    for offset in offsets:
        for op, most in ((Op.Read, READ_LINES), (Op.Write, LINES_MAX)):
            await bench.start()
            listening = cocotb.start_soon(bench.listen())
            await bench.send("i", run_of(op, 2 * most + 3 if op is Op.Write else 19, offset=offset))
            await bench.cycles(2 * PATIENCE)
            listening.cancel()
            expected = [most] * (2 if op is Op.Write else 1) + [3]
            assert bench.sizes == expected, f"{op.name} at {offset:#x}: packets of {bench.sizes} lines"
            assert bench.asked[-1].offset == (offset + sum(expected) - 3) % (1 << 26)


@cocotb.test()
async def what_is_not_alike_is_no_run(dut):
    """Reads and writes, of two nodes' memories and windows: only where all is as before, a packet goes on."""
    bench = RequesterBench(dut, DUTS)
    for differs in ("op", "target", "window"):
        await bench.start()
        listening = cocotb.start_soon(bench.listen())
        requests = run_of(Op.Read, 24)
        for k, request in enumerate(requests):
            # No run is as long as a packet may be.
            if k % 7 == 6 or (k % 7 and bench.random.random() < 0.4):
                request[differs] = Op.Write if differs == "op" else 3
        await bench.send("i", requests)
        await bench.cycles(3 * PATIENCE)
        listening.cancel()
        kinds = [(request["op"], request["target"], request["window"]) for request in requests]
        runs = [k for k in range(24) if k == 0 or kinds[k] != kinds[k - 1]]
        expected = [(*kinds[k], k) for k in runs]
        found = [(asked.op, asked.target, asked.window, asked.offset) for asked in bench.asked]
        assert found == expected, f"{differs}: {found}, {expected} expected"


@cocotb.test()
async def waits_for_more_when_busy(dut):
    """While half of the slots wait for answers, a packet that may grow waits for so many cycles, or for another one."""
    bench = RequesterBench(dut, DUTS)
    half = bench.component.slots // 2 + READ_LINES
    patient = PATIENCE + 1
    # From the cycle after its last request: when it is offered if it waits, and when because the next one is another.
    for op, lines, other, waits in (
        (Op.Read, 1, None, PATIENCE),
        (Op.Read, 3, None, PATIENCE),
        (Op.Read, READ_LINES, None, 4),
        (Op.Write, 2, None, patient),
        (Op.Write, LINES_MAX, None, 5),
        (Op.Read, 1, 8, 9),
    ):
        for busy in (True, False):
            await bench.start()
            listening = cocotb.start_soon(bench.listen())
            await bench.send("i", run_of(Op.Read, half - 1 - (not busy) - lines))
            await bench.cycles(3 * PATIENCE)
            listening.cancel()
            # One that is offered first, so that there is time to see how many wait.
            dut.packet__ready.value = 0
            await bench.send("i", run_of(Op.Read, 1, target=2))
            await bench.cycles(3)
            began = await bench.send("i", run_of(op, lines, target=3)) - 1
            found = None
            for _ in range(2 * PATIENCE):
                cycle = bench.now() - began
                dut.packet__ready.value = cycle >= 3
                if other == cycle:
                    cocotb.start_soon(bench.send("i", run_of(Op.Read, 1, target=4)))
                await ReadOnly()
                if dut.packet__valid.value and cycle > 3 and found is None:
                    found = cycle
                    packet = unpack(bench.shape("packet"), dut.packet__payload.value.to_unsigned())
                    assert (packet.head.target, packet.head.first) == (3, lines - 1)
                await RisingEdge(dut.clk)
            expected = waits if busy else 4 + (op is Op.Write)
            assert found == expected, f"{op.name} of {lines}, busy {busy}: in cycle {found}, {expected} expected"


@cocotb.test()
async def fails_all_when_lost_and_full(dut):
    """With every slot waiting, and answers not taken: each is answered once, and those that come then are not."""
    bench = RequesterBench(dut, DUTS)
    await bench.start()
    slots = bench.component.slots
    for _ in range(2):
        # An answer that is not taken, so that none of the slots is free when it is lost.
        bench.asked.clear()
        listening = cocotb.start_soon(bench.listen())
        await bench.send("i", run_of(Op.Read, 1))
        await bench.cycles(5)
        (packet,) = bench.responses(bench.asked[0], [MemoryStatus.Ok], line_of)
        await bench.answer(packet)
        await bench.cycles(5)
        await bench.within(slots + 100, bench.send("i", run_of(Op.Read, slots)))
        listening.cancel()
        dut.lost.value = 1
        await bench.cycles(1)
        dut.lost.value = 0
        await bench.cycles(10)
        answers = await bench.within(slots + 20, bench.receive("o", slots + 1))
        found = [MemoryStatus(answer.status) for answer in answers]
        assert found == [MemoryStatus.Ok] + [MemoryStatus.Failed] * slots
        bench.asked.clear()
        listening = cocotb.start_soon(bench.listen())
        await bench.send("i", run_of(Op.Read, 20))
        await bench.cycles(2 * PATIENCE)
        listening.cancel()
        for asked in bench.asked:
            for packet in bench.responses(asked, [MemoryStatus.Ok] * asked.lines, line_of):
                await bench.answer(packet)
        answers = await bench.within(60, bench.receive("o", 20))
        assert [MemoryStatus(answer.status) for answer in answers] == [MemoryStatus.Ok] * 20
        assert [answer.data for answer in answers] == [line_of(2, k) for k in range(20)]


@cocotb.test()
async def an_answer_just_before_it_is_lost(dut):
    """One without lines counts if it came three cycles before."""
    bench = RequesterBench(dut, DUTS)
    for cycles in (1, 2, 3):
        await bench.start()
        listening = cocotb.start_soon(bench.listen())
        await bench.send("i", run_of(Op.Write, 1))
        await bench.cycles(10)
        listening.cancel()
        (packet,) = bench.responses(bench.asked[0], [MemoryStatus.Refused], line_of)
        await bench.answer(packet)
        if cycles > 1:
            await bench.cycles(cycles - 1)
        dut.lost.value = 1
        (answer,) = await bench.within(20, bench.receive("o", 1))
        expected = MemoryStatus.Refused if cycles == 3 else MemoryStatus.Failed
        assert MemoryStatus(answer.status) is expected, f"{MemoryStatus(answer.status)} {cycles} cycles before"


@cocotb.test()
async def lines_wait_for_their_packet(dut):
    """Two packets of writes are held, and what comes behind them, and is not taken yet, harms none of their lines."""
    bench = RequesterBench(dut, DUTS)
    for lines in (LINES_MAX, LINES_MAX - 1):
        await bench.start()
        runs = [run_of(Op.Write, lines, target=n, offset=bench.random.getrandbits(26)) for n in range(4)]
        sending = cocotb.start_soon(bench.send("i", [request for run in runs for request in run]))
        await bench.cycles(4 * LINES_MAX)
        assert not sending.done(), "more is taken than there is room for"
        listening = cocotb.start_soon(bench.listen(0.5))
        await bench.within(400, sending)
        await bench.cycles(100)
        listening.cancel()
        found = [(asked.target, asked.data) for asked in bench.asked]
        assert found == [(n, [request["data"] for request in run]) for n, run in enumerate(runs)]


@cocotb.test()
async def many_answers_without_lines(dut):
    """Each of two requests, one per cycle: more than can be noted, so ``room`` falls; all count that come then."""
    bench = RequesterBench(dut, DUTS)
    slots = bench.component.slots
    for status in (MemoryStatus.Refused, MemoryStatus.Failed):
        await bench.start()
        listening = cocotb.start_soon(bench.listen())
        for n in range(slots // 2):
            await bench.send("i", run_of(Op.Read, 2, offset=4 * n))
        await bench.cycles(2 * PATIENCE)
        listening.cancel()
        assert bench.sizes == [2] * (slots // 2)
        answers = [part for asked in bench.asked for part in bench.responses(asked, [status] * 2, line_of)]
        receiving = cocotb.start_soon(bench.receive("o", slots))
        falls = 0
        while answers:
            while dut.room.value and answers:
                await bench.answer([{"first": True, "last": True, "head": answers[0][0]["head"] | {"first": 1}}])
                answers.pop(0)
            falls += bool(answers)
            # What was on its way.
            for _ in range(min(ROOM, len(answers))):
                await bench.answer([{"first": True, "last": True, "head": answers[0][0]["head"] | {"first": 1}}])
                answers.pop(0)
            while not dut.room.value:
                await bench.cycles(1)
        found = await bench.within(4 * slots, receiving, "answers")
        assert [MemoryStatus(answer.status) for answer in found] == [status] * slots
        assert slots == 32 or falls


@cocotb.test()
async def an_answer_that_nobody_waits_for(dut):
    """Is not given."""
    bench = RequesterBench(dut, DUTS)
    await bench.start()
    head = {"form": form_of(1, 0), "tag": 0, "epoch": 1}
    await bench.answer([{"first": True, "last": True, "has_line": True, "head": head}])
    dut.o__ready.value = 1
    for _ in range(5):
        await ReadOnly()
        assert not dut.o__valid.value
        await RisingEdge(dut.clk)


@cocotb.test()
async def an_old_answer_harms_none_that_waits(dut):
    """One of before a loss, for a line whose answer has come, and waits for the answers of others."""
    bench = RequesterBench(dut, DUTS)
    await bench.start()
    listening = cocotb.start_soon(bench.listen())
    await bench.send("i", run_of(Op.Read, 4))
    await bench.cycles(5)
    listening.cancel()
    (asked,) = bench.asked
    heads = [{"form": form_of(1, 0), "tag": asked.tag + n, "epoch": asked.epoch} for n in range(4)]
    parts = [
        {"first": True, "last": True, "has_line": True, "line": line_of(2, n), "head": head}
        for n, head in enumerate(heads)
    ]
    await bench.answer(parts[1:])
    await bench.answer([part | {"line": 0, "head": part["head"] | {"epoch": asked.epoch ^ 1}} for part in parts])
    await bench.answer(parts[:1])
    answers = await bench.within(20, bench.receive("o", 4))
    assert [answer.data for answer in answers] == [line_of(2, n) for n in range(4)]


@cocotb.test()
async def only_those_of_before_a_loss_fail(dut):
    """However many were asked for and not answered, and though it is over a cycle later."""
    bench = RequesterBench(dut, DUTS)
    await bench.start()
    for count in range(1, 12):
        bench.asked.clear()
        await bench.send("i", run_of(Op.Read, count))
        dut.lost.value = 1
        await bench.cycles(1)
        dut.lost.value = 0
        listening = cocotb.start_soon(bench.listen())
        await bench.send("i", run_of(Op.Read, 3, window=1))
        answers = await bench.within(50, bench.receive("o", count))
        assert all(MemoryStatus(answer.status) is MemoryStatus.Failed for answer in answers)
        await bench.cycles(20)
        assert not dut.o__valid.value, f"an answer nobody gave, behind {count}"
        listening.cancel()
        for asked in bench.asked:
            for packet in bench.responses(asked, [MemoryStatus.Ok] * asked.lines, line_of):
                await bench.answer(packet)
        answers = await bench.within(50, bench.receive("o", 3))
        assert [answer.data for answer in answers] == [line_of(1, n) for n in range(3)]


@cocotb.test()
async def a_run_goes_on_after_a_pause(dut):
    """Whatever is beside ``valid`` when that is low."""
    bench = RequesterBench(dut, DUTS)
    await bench.start()
    listening = cocotb.start_soon(bench.listen())
    if bench.component.slots == 32:
        # When it waits for as many answers as make it busy, there is no slot for more.
        return
    await bench.send("i", run_of(Op.Read, bench.component.slots // 2 + READ_LINES))
    await bench.cycles(3 * PATIENCE)
    listening.cancel()
    bench.asked.clear()
    listening = cocotb.start_soon(bench.listen())
    for request in run_of(Op.Read, 3, target=3, offset=77):
        await bench.send("i", [request])
        dut.i__payload.value = bench.random.getrandbits(len(dut.i__payload))
        await bench.cycles(3)
    await bench.cycles(2 * PATIENCE)
    listening.cancel()
    assert [(asked.target, asked.offset, asked.lines) for asked in bench.asked] == [(3, 77, 3)]


@cocotb.test()
async def gives_up_after_so_many_cycles(dut):
    """Counted from the request if none is before it, else from the answer before; never while one waits to be taken."""
    bench = RequesterBench(dut, DUTS)
    if bench.name != "hasty":
        return
    await bench.start()
    limit = 1 << bench.component.answer_bits
    listening = cocotb.start_soon(bench.listen())
    taken = await bench.send("i", run_of(Op.Read, 2))
    await bench.cycles(100)
    listening.cancel()
    (packet,) = bench.responses(bench.asked[0], [MemoryStatus.Ok] * 2, line_of)[:1]
    await bench.answer([packet[0] | {"last": True, "head": packet[0]["head"] | {"form": form_of(1, 0)}}])
    answered = bench.now()
    dut.o__ready.value = 0
    await bench.cycles(2 * limit)
    (answer,) = await bench.receive("o", 1)
    assert MemoryStatus(answer.status) is MemoryStatus.Ok and answer.data == line_of(2, 0)
    began = bench.now()
    (answer,) = await bench.within(2 * limit, bench.receive("o", 1))
    assert MemoryStatus(answer.status) is MemoryStatus.Failed
    # It had waited while the one before was not taken.
    assert began - answered > limit and answered - taken < limit
    await bench.send("i", run_of(Op.Write, 1))
    began = bench.now()
    dut.o__ready.value = 1
    await bench.within(2 * limit, bench.receive("o", 1))
    assert bench.now() - began in range(limit, limit + 6), f"after {bench.now() - began} cycles"


@cocotb.test()
@cocotb.parametrize(stalls=[(0.0, 0.0, 0.0), (0.3, 0.3, 0.3)])
async def gives_up_what_is_not_answered(dut, stalls):
    """Each request has one answer, in order: those of packets nobody answers fail, and what comes late harms none."""
    bench = RequesterBench(dut, DUTS)
    if bench.name != "hasty":
        return
    await bench.start()
    requests = requests_of(bench.random, 1200)
    cocotb.start_soon(bench.listen(stalls[1]))
    sending = cocotb.start_soon(bench.send("i", requests, gaps=lambda: bench.random.choice((0, 0, 0, 0, 0, 0, 30))))
    receiving = cocotb.start_soon(bench.receive("o", len(requests), stalls[2]))
    late, unheard = [], 0

    async def respond():
        nonlocal unheard
        while True:
            await bench.cycles(bench.random.randrange(1, 6))
            if bench.asked:
                asked = bench.asked.pop(0)
                if bench.random.random() < 0.04:
                    unheard += 1
                    late.append((bench.now() + bench.random.choice((200, 260, 300, 500, 700)), asked))
                    continue
            elif late and late[0][0] < bench.now():
                asked = late.pop(0)[1]
            else:
                continue
            for packet in bench.responses(asked, [MemoryStatus.Ok] * asked.lines, line_of):
                while not dut.room.value:
                    await bench.cycles(1)
                await bench.answer(packet)

    responding = cocotb.start_soon(respond())
    answers = await bench.within(80_000, receiving, "answers")
    await sending
    responding.cancel()
    failed = 0
    for request, answer in zip(requests, answers):
        assert (answer.op, answer.id) == (request["op"], request["id"])
        status = MemoryStatus(answer.status)
        assert status in (MemoryStatus.Ok, MemoryStatus.Failed)
        failed += status is MemoryStatus.Failed
        if answer.op == Op.Read and status is MemoryStatus.Ok:
            assert answer.data == request["data"], f"{request}"
    assert unheard > 5 and 5 < failed < len(requests) / 2, f"{unheard} packets unheard, {failed} requests failed"


@cocotb.test()
async def gives_up_what_has_not_left(dut):
    """Packets that nobody took go later, of an older epoch; to the last of these, which waited, nothing is added."""
    bench = RequesterBench(dut, DUTS)
    if bench.name != "hasty":
        return
    limit = 1 << bench.component.answer_bits
    # One run is offered, and one grows; one of reads waits between them.
    for op, runs in ((Op.Read, 3), (Op.Write, 2)):
        await bench.start()
        dut.packet__ready.value = 0
        offsets = [10 * n for n in range(runs + 1)]
        requests = [request for offset in offsets for request in run_of(op, 1, offset=offset)]
        await bench.within(20, bench.send("i", requests))
        answers = await bench.within(2 * limit, bench.receive("o", len(offsets)))
        assert all(MemoryStatus(answer.status) is MemoryStatus.Failed for answer in answers)
        assert not dut.i__ready.value, f"one more than {runs} {op.name} packets is taken"
        bench.asked.append(Asked(await bench.within(20, bench.receive("packet", 1))))
        # A read is taken now; a write only when one more packet has left, as if those that wait were whole.
        sending = cocotb.start_soon(bench.send("i", run_of(op, 1, offset=offsets[-1] + 1)))
        await bench.cycles(5)
        assert sending.done() == (op is Op.Read)
        listening = cocotb.start_soon(bench.listen())
        await bench.cycles(3 * PATIENCE)
        listening.cancel()
        epoch = bench.asked[0].epoch
        found = [(asked.offset, asked.lines, (asked.epoch - epoch) % 4) for asked in bench.asked]
        assert found == [(offset, 1, 0) for offset in offsets] + [(offsets[-1] + 1, 1, 1)], f"{op.name}: {found}"
