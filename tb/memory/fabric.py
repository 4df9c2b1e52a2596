"""Testbench of hw/memory/fabric.py."""

from collections import deque

import cocotb
from cocotb.triggers import RisingEdge

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


async def memory(bench, stall):
    """A dict behind the line port; order holds within an id, and only there."""
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
        else:
            response["data"] = lines.get(request.address, request.address * 3)
        waiting.setdefault(request.id, deque()).append(response)


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def each_client_gets_its_answers_in_order(dut, stall):
    bench = await prepared(dut)
    cocotb.start_soon(memory(bench, stall))
    refusals = []

    async def watch_refusals():
        while True:
            (refusal,) = await bench.receive("refused", 1)
            dut.refused__ready.value = 1
            refusals.append((refusal.client, refusal.id, refusal.write, refusal.window, refusal.offset))

    cocotb.start_soon(watch_refusals())
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
        await bench.within(100_000, task, "a client")
    assert sorted(refusals) == sorted(expected_refusals)


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
    await bench.reset()
    dut.refused__ready.value = 1
    cocotb.start_soon(bench.send("client0.request", [{"window": 0, "offset": 0, "op": Op.Read}]))
    (answer,) = await bench.within(500, bench.receive("client0.response", 1))
    assert answer.status == MemoryStatus.Refused
