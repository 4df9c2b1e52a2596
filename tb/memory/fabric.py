"""Testbench of hw/memory/fabric.py."""

from collections import deque

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.memory.fabric import Fabric
from tessera.hw.memory.port import MemoryStatus, Op
from tessera.tb.bench import Bench, Dut

DUTS = {"one": Dut(lambda: Fabric(1), watched=True), "five": Dut(lambda: Fabric(5), stalls=True, watched=True)}

WINDOWS = {
    0: {"node": 3, "base": 0x100, "length": 0x40, "rights": {"read": 1, "write": 1}},
    5: {"node": 3, "base": 0x1000, "length": 0x10, "rights": {"read": 1, "write": 0}},
    6: {"node": 3, "base": 0x2000, "length": 0x10, "rights": {"read": 0, "write": 1}},
    7: {"node": 2, "base": 0x3000, "length": 0x10, "rights": {"read": 1, "write": 1}},
    63: {"node": 3, "base": (1 << 30) - 8, "length": 8, "rights": {"read": 1, "write": 1}},
}


def address_of(request):
    """Line that a request reaches, or None when it has to be refused."""
    window = WINDOWS.get(request["window"])
    if window is None or window["node"] != 3 or request["offset"] >= window["length"]:
        return None
    if not window["rights"]["write" if request["op"] == Op.Write else "read"]:
        return None
    return window["base"] + request["offset"]


async def prepared(dut):
    bench = Bench(dut, DUTS)
    dut.node.value = 3
    await bench.reset()
    dut.refused__ready.value = 1
    await bench.send("window", [{"index": n, "window": window} for n, window in WINDOWS.items()])
    return bench


async def memory(bench, stall, writes=None):
    """A dict behind the line port; order holds within an id, and only there.

    Adds (client, address, data) of each write to `writes`.
    """
    lines, waiting = {}, {}
    served = []

    async def respond():
        while True:
            while not (ids := [key for key, queue in waiting.items() if queue]):
                await RisingEdge(bench.dut.clk)
            response = waiting[bench.random.choice(ids)].popleft()
            await bench.send("lines.response", [response], stall)

    cocotb.start_soon(respond())
    while True:
        (request,) = await bench.receive("lines.request", 1, stall)
        served.append(int(request.address))
        response = {"op": request.op, "id": request.id, "status": MemoryStatus.Ok, "data": 0}
        if request.op == Op.Write:
            lines[request.address] = request.data
            if writes is not None:
                writes.append((request.id >> 3, request.address, request.data))
        else:
            response["data"] = lines.get(request.address, request.address * 3)
        waiting.setdefault(request.id, deque()).append(response)


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def each_client_gets_its_answers_in_order(dut, stall):
    bench = await prepared(dut)
    writes, expected_writes = [], []
    cocotb.start_soon(memory(bench, stall, writes))
    refusals = []

    async def watch_refusals():
        while True:
            (refusal,) = await bench.receive("refused", 1)
            dut.refused__ready.value = 1
            refusals.append((refusal.client, refusal.id, refusal.write, refusal.window, refusal.offset))

    async def watch_served():
        clients = [f"client{n}.response" for n in range(bench.component.clients)]
        while True:
            await ReadOnly()
            taken = [bench.get(f"{client}.valid") & bench.get(f"{client}.ready") for client in clients]
            assert bench.get("served") == sum(bit << n for n, bit in enumerate(taken))
            await RisingEdge(dut.clk)

    cocotb.start_soon(watch_refusals())
    cocotb.start_soon(watch_served())
    expected_refusals = []

    async def client(n):
        random = bench.random
        requests = []
        for _ in range(120):
            op = random.choice([Op.Read, Op.Write])
            request = {"op": op, "id": random.randrange(8), "data": random.getrandbits(512)}
            request["window"] = random.choice([0, 0, 0, 0, 5, 6, 7, 9, 63])
            request["offset"] = random.choice([random.randrange(8), 15, 16, 17, 0x3F, 0x40, 7, 8, (1 << 26) - 1])
            requests.append(request)
            if address_of(request) is None:
                expected_refusals.append((n, request["id"], int(op == Op.Write), request["window"], request["offset"]))
            elif op == Op.Write:
                expected_writes.append((n, address_of(request), request["data"]))
        cocotb.start_soon(bench.send(f"client{n}.request", requests, stall))
        answers = await bench.receive(f"client{n}.response", len(requests), stall)
        for id in range(8):
            mine = [request for request in requests if request["id"] == id]
            got = [answer for answer in answers if answer.id == id]
            assert [answer.op for answer in got] == [request["op"] for request in mine]
            for request, answer in zip(mine, got):
                refused = address_of(request) is None
                assert answer.status == (MemoryStatus.Refused if refused else MemoryStatus.Ok), request
                if request["op"] == Op.Read and request["window"] == 5 and not refused:
                    assert answer.data == address_of(request) * 3

    running = [cocotb.start_soon(client(n)) for n in range(bench.component.clients)]
    for task in running:
        await bench.within(10_000, task, "a client")
    assert sorted(refusals) == sorted(expected_refusals)
    assert sorted(writes) == sorted(expected_writes)


@cocotb.test()
async def one_line_per_cycle_and_its_latency(dut):
    bench = await prepared(dut)
    if bench.stalled:
        return
    count = 60
    began = bench.now()
    for n in range(bench.component.clients):
        cocotb.start_soon(
            bench.send(f"client{n}.request", [{"window": 0, "offset": k, "op": Op.Read} for k in range(count)])
        )
    got = await bench.within(5_000, bench.receive("lines.request", count * bench.component.clients))
    assert bench.now() - began == count * bench.component.clients + 2
    assert [r.address for r in got if r.id >> 3 == 0] == [0x100 + k for k in range(count)]
    began = bench.now()
    cocotb.start_soon(bench.send("lines.response", [{"id": 0, "data": k} for k in range(count)]))
    answers = await bench.within(5_000, bench.receive("client0.response", count))
    assert bench.now() - began == count + 1
    assert [answer.data for answer in answers] == list(range(count))


@cocotb.test()
async def reset_takes_all_windows_back(dut):
    bench = await prepared(dut)
    whole = {"node": 3, "base": 0, "length": 1 << 20, "rights": {"read": 1, "write": 1}}
    await bench.send("window", [{"index": n, "window": whole} for n in range(64)])
    await bench.reset()
    dut.refused__ready.value = 1
    cocotb.start_soon(bench.send("client0.request", [{"window": n, "offset": 0, "op": Op.Read} for n in range(64)]))
    answers = await bench.within(500, bench.receive("client0.response", 64))
    assert all(answer.status == MemoryStatus.Refused for answer in answers)


@cocotb.test()
async def any_window(dut):
    """Its first and last line are reached, the next one is not; nor any with the right or the node missing."""
    bench = await prepared(dut)
    writes = []
    cocotb.start_soon(memory(bench, 0.0, writes))
    draw = bench.random.getrandbits

    async def reaches(index, op, offset):
        """The answer's status, and the address that was asked for if it is an ``Ok`` of a read of a fresh line."""
        client = bench.random.randrange(bench.component.clients)
        data = draw(512)
        request = {"op": op, "id": draw(3), "window": index, "offset": offset, "data": data}
        await bench.send(f"client{client}.request", [request])
        (answer,) = await bench.within(500, bench.receive(f"client{client}.response", 1))
        assert (answer.op, answer.id) == (op, request["id"])
        if (op, answer.status) == (Op.Write, MemoryStatus.Ok):
            assert writes.pop() == (client, (base + offset) % (1 << 30), data)
        assert not writes
        return answer.status, answer.data // 3 if op == Op.Read else None

    async def set_window(index, **fields):
        await bench.send("window", [{"index": index, "window": fields}])

    lengths = [1 << n for n in range(27)] + [(1 << 26) - 1, 3, 77777]
    for index, length in enumerate(lengths + [1 + draw(26) for _ in range(60)]):
        index, base, node = index % 64, draw(30), draw(6)
        dut.node.value = node
        both = {"read": 1, "write": 1}
        await set_window(index, node=node, base=base, length=length, rights=both)
        for offset in {0, length // 2, length - 1}:
            status, address = await reaches(index, Op.Read, offset)
            assert (status, address) == (MemoryStatus.Ok, (base + offset) % (1 << 30)), (index, base, length, offset)
        assert (await reaches(index, Op.Write, draw(26) % length))[0] == MemoryStatus.Ok
        refused = [{"rights": {"read": 0, "write": 1}}, {"node": node ^ 1 << draw(3) % 6}, {"length": 0}]
        if length < 1 << 26:
            assert (await reaches(index, Op.Read, length))[0] == MemoryStatus.Refused, (index, length)
            assert (await reaches(index, Op.Write, (1 << 26) - 1))[0] == MemoryStatus.Refused, (index, length)
        for change in refused:
            fields = {"node": node, "base": base, "length": length, "rights": both} | change
            await set_window(index, **fields)
            assert (await reaches(index, Op.Read, 0))[0] == MemoryStatus.Refused, (index, change)
        await set_window(index, node=node, base=base, length=length, rights={"read": 1, "write": 0})
        assert (await reaches(index, Op.Write, 0))[0] == MemoryStatus.Refused, index


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.1])
async def a_refusal_waits_for_all_answers(dut, stall):
    """It keeps its place behind whatever its client has under way, however much that is."""
    bench = await prepared(dut)
    if bench.stalled:
        return
    clients = range(bench.component.clients)
    for client, count in [(clients[-1], 1), (clients[0], 1000), *((client, 600) for client in clients)]:
        requests = [{"window": 0, "offset": 1, "op": Op.Read, "id": 2}] * count
        requests += [{"window": 9, "offset": 5, "op": Op.Read, "id": 2}, {"window": 0, "offset": 2, "id": 2}]
        sender = cocotb.start_soon(bench.send(f"client{client}.request", requests, stall))
        await bench.within(3_000, bench.receive("lines.request", count))
        answers = cocotb.start_soon(bench.receive(f"client{client}.response", count + 2))
        response = {"id": client << 3 | 2, "data": 7}
        await bench.send("lines.response", [response] * (count - 1), stall)
        await bench.cycles(20)
        assert not sender.done() and not bench.get("lines.request.valid")
        await bench.send("lines.response", [response])
        await bench.within(100, bench.receive("lines.request", 1))
        await bench.send("lines.response", [response])
        statuses = [answer.status for answer in await bench.within(100, answers)]
        assert statuses == [MemoryStatus.Ok] * count + [MemoryStatus.Refused, MemoryStatus.Ok]
        await sender
