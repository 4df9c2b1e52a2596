"""Testbench of hw/memory/ddr.py: the controller with its devices and their checker."""

import random

import cocotb
from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import RisingEdge, ReadOnly

from tessera.hw.config import ddr4_2400r, ddr4_3200aa
from tessera.hw.memory.ddr import DdrActivity, DdrController
from tessera.hw.memory.ddr_schedule import Gaps
from tessera.hw.memory.port import LineRequest, LineResponse, MemoryStatus, Op, line_port
from tessera.hw.models.dram import DramDevices
from tessera.hw.models.dram_checker import Rule
from tessera.hw.models.storage import Backdoor
from tessera.tb.bench import Bench, Dut, pack

DEPTH = 2**16


class Memory(wiring.Component):
    """A controller and its devices."""

    def __init__(self, config):
        self.config = config
        super().__init__(
            {
                "port": In(line_port()),
                "backdoor": In(Backdoor()),
                "activity": Out(DdrActivity),
                "violations": Out(32),
                "first_rule": Out(Rule),
                "first_tick": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.controller = controller = DdrController(self.config)
        m.submodules.devices = devices = DramDevices(self.config, depth=DEPTH)
        wiring.connect(m, controller.dram, devices.bus)
        wiring.connect(m, wiring.flipped(self.port), controller.port)
        wiring.connect(m, wiring.flipped(self.backdoor), devices.backdoor)
        m.d.comb += [
            self.activity.eq(controller.activity),
            self.violations.eq(devices.violations),
            self.first_rule.eq(devices.first_rule),
            self.first_tick.eq(devices.first_tick),
        ]
        return m


DUTS = {
    "ddr4_3200aa": Dut(lambda: Memory(ddr4_3200aa())),
    "ddr4_2400r": Dut(lambda: Memory(ddr4_2400r())),
}


def no_rule_broken(bench):
    count = bench.get("violations")
    assert count == 0, f"{count} violations, first {Rule(bench.get('first_rule')).name} at tick {bench.get('first_tick')}"


async def access(bench, requests, stall_in=0.0, stall_out=0.0):
    """Send `requests`; the responses, and the cycles in which the first was offered and the last was taken."""
    cocotb.start_soon(bench.send("port.request", requests, stall_in))
    return await bench.within(
        20_000 + 200 * len(requests), bench.receive("port.response", len(requests), stall_out), "the responses"
    )


def read(address, id=0):
    return {"op": Op.Read, "id": id, "address": address, "data": 0}


def write(address, data, id=0):
    return {"op": Op.Write, "id": id, "address": address, "data": data}


def judge(requests, responses, memory):
    """Check `responses` against `requests` applied in order to dict `memory` of lines."""
    expected = {}
    for request in requests:
        if request["op"] == Op.Write:
            memory[request["address"]] = request["data"]
        expected.setdefault(request["id"], []).append((request, memory.get(request["address"])))
    taken = {id: 0 for id in expected}
    for n, response in enumerate(responses):
        id = response.id
        place = f"response {n}, {taken[id]} of id {id}"
        request, line = expected[id][taken[id]]
        taken[id] += 1
        assert response.op == request["op"], f"{place}: {response.op}, {request['op']} expected"
        assert response.status == MemoryStatus.Ok, f"{place}: {response.status}"
        if request["op"] == Op.Read and line is not None:
            assert response.data == line, (
                f"{place}: line {request['address']:#x} is {response.data:#x}, {line:#x} expected"
            )
    assert all(taken[id] == len(expected[id]) for id in expected)


@cocotb.test()
async def reads_what_was_written(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    memory = {}
    for burst in range(2):
        writes = [write(a * 37 % DEPTH, bench.random.getrandbits(512)) for a in range(100)]
        requests = writes + [read(w["address"]) for w in writes]
        judge(requests, await access(bench, requests), memory)
    no_rule_broken(bench)


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.5], stall_out=[0.0, 0.8])
async def random_traffic(dut, stall_in, stall_out):
    bench = Bench(dut, DUTS)
    await bench.reset()
    rng, memory = bench.random, {}
    for spread in (4, 64, 4096, DEPTH):
        requests = []
        base = rng.randrange(0, DEPTH, 512)
        for _ in range(1500):
            address = (base + rng.randrange(spread)) % DEPTH if rng.random() < 0.7 else rng.randrange(spread) * 2048 % DEPTH
            id = rng.choice((0, 1, 9, 200, 255))
            requests.append(write(address, rng.getrandbits(512), id) if rng.random() < 0.4 else read(address, id))
        judge(requests, await access(bench, requests, stall_in, stall_out), memory)
        no_rule_broken(bench)
