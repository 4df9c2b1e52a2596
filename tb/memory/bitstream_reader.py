"""Testbench of hw/memory/bitstream_reader.py."""

import cocotb
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.lib.streams import connect
from tessera.hw.memory.bitstream_reader import Bitstream, BitstreamReader, ByteGroup
from tessera.hw.memory.port import Op, Request
from tessera.hw.models.memory import IdealMemory, Knobs
from tessera.hw.models.storage import Backdoor
from tessera.tb.bench import Dut, unpack
from tessera.tb.engine import EngineBench


class Harness(wiring.Component):
    """A reader in front of an ideal memory.

    ``asked`` tells that it takes request ``request``, ``groups`` how many were taken since reset, ``ended`` that the
    last of a bitstream is.
    """

    def __init__(self, depth):
        self.reader = BitstreamReader(id=2, depth=depth)
        self.memory = IdealMemory()
        super().__init__(
            {
                "start": In(stream.Signature(Bitstream)),
                "o": Out(stream.Signature(ByteGroup)),
                "knobs": In(Knobs),
                "backdoor": In(Backdoor()),
                "abort": In(1),
                "asked": Out(1),
                "groups": Out(32),
                "ended": Out(1),
                "request": Out(Request),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.reader = reader = self.reader
        m.submodules.memory = memory = self.memory
        m.d.comb += memory.knobs.eq(self.knobs)
        wiring.connect(m, wiring.flipped(self.backdoor), memory.backdoor)
        connect(m, self.start, reader.start)
        connect(m, reader.o, self.o)
        connect(m, reader.request, memory.port.request)
        connect(m, memory.port.response, reader.response)
        taken = self.o.valid & self.o.ready
        m.d.sync += self.groups.eq(self.groups + taken)
        m.d.comb += self.ended.eq(taken & self.o.payload.last)
        request = reader.request
        m.d.comb += [self.asked.eq(request.valid & request.ready), self.request.eq(request.payload)]
        return m


DUTS = {"deep": Dut(lambda: Harness(8), stalls=True), "shallow": Dut(lambda: Harness(2), tests="gives")}


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5], memory_stall=[0, 8])
async def gives_all_bytes(dut, stall, memory_stall):
    bench = EngineBench(dut, DUTS)
    await bench.reset(stall=memory_stall)
    for size in (0, 1, 7, 8, 9, 63, 64, 65, 127, 128, 1000, 2047):
        data = bench.random.randbytes(size)
        line = bench.random.randrange(1000)
        await bench.write_lines(3, line, data)
        await bench.send("start", [{"window": 3, "body": line, "bytes": size}])
        got = await bench.within(6_000, bench.receive("o", None, stall, until=lambda group: group.last))
        assert len(got) == max(1, -(-size // 8)), f"{size} bytes: {len(got)} groups"
        assert all(group.count == 8 for group in got[:-1])
        found = b"".join(group.data.to_bytes(8, "little")[: group.count] for group in got)
        assert found == data, f"{size} bytes at line {line}"


@cocotb.test()
async def one_group_per_cycle(dut):
    bench = EngineBench(dut, DUTS)
    if bench.stalled:
        return
    for latency in (4, 20):
        await bench.reset(latency=latency)
        await bench.write_lines(0, 0, bytes(range(256)) * 8)
        began = bench.now()
        await bench.send("start", [{"window": 0, "body": 0, "bytes": 2048}])
        await bench.within(1000, bench.receive("o", 1))
        assert bench.now() - began == 5 + latency
        await bench.within(1000, bench.receive("o", 255))
        assert bench.now() - began == 5 + latency + 255


async def watch(bench, requests):
    """Add each request that the memory takes to `requests`."""
    while True:
        await ReadOnly()
        if bench.get("asked"):
            requests.append(unpack(Request, bench.get("request")))
        await RisingEdge(bench.dut.clk)


@cocotb.test()
async def gives_as_much_wherever_it_lies(dut):
    """Each line is asked for once, in order; those that are refused count like others."""
    bench = EngineBench(dut, DUTS)
    await bench.reset()
    requests = []
    cocotb.start_soon(watch(bench, requests))
    for size in (1, 64, 65, 500, 640):
        for _ in range(6):
            window, body = bench.random.randrange(64), bench.random.randrange(1 << 26)
            await bench.send("start", [{"window": window, "body": body, "bytes": size}])
            got = await bench.within(2_000, bench.receive("o", None, 0.2, until=lambda group: group.last))
            assert sum(group.count for group in got) == size and len(got) == -(-size // 8)
            assert {(request.op, request.id, request.window) for request in requests} == {(Op.Read, 2, window)}
            lines = [(body + n) % (1 << 26) for n in range(-(-size // 64))]
            assert [request.offset for request in requests] == lines, f"{size} bytes at line {body}"
            requests.clear()


@cocotb.test()
async def gives_long_ones(dut):
    """Those that would take too long are only begun."""
    bench = EngineBench(dut, DUTS)
    for size in [(1 << power) + more for power in range(11, 32) for more in (0, 1)]:
        await bench.reset()
        await bench.send("start", [{"window": 0, "body": 0, "bytes": size}])
        got = await bench.within(5_000, bench.receive("o", 30))
        assert all(group.count == 8 and not group.last for group in got), size
        bench.port("o.ready").value = 1
        await bench.cycles(min(size // 8 - 50, 1_000))
        assert not bench.get("start.ready")


@cocotb.test()
async def gives_all_of_a_long_one(dut):
    bench = EngineBench(dut, DUTS)
    for size in (0x5_2A5D, 0x2_1001):
        await bench.reset(latency=4)
        await bench.send("start", [{"window": 0, "body": 0, "bytes": size}])
        bench.port("o.ready").value = 1
        await bench.within(size, RisingEdge(bench.port("ended")))
        await ReadOnly()
        last = unpack(bench.shape("o"), bench.get("o.payload"))
        assert (bench.get("groups") + 1, last.count) == (-(-size // 8), size % 8)
        await RisingEdge(dut.clk)


@cocotb.test()
async def gives_no_more_than_it_is_asked_for(dut):
    """With nothing taken, it asks for as many lines as it has room for; a next start waits for the last group."""
    bench = EngineBench(dut, DUTS)
    depth = bench.component.reader.depth
    await bench.reset()
    requests = []
    cocotb.start_soon(watch(bench, requests))
    await bench.write_lines(0, 0, bytes(range(256)) * 16)
    await bench.send("start", [{"window": 0, "body": 0, "bytes": 4096}])
    await bench.cycles(400)
    assert len(requests) == depth, f"{len(requests)} lines were asked for"
    second = cocotb.start_soon(bench.send("start", [{"window": 0, "body": 1, "bytes": 100}]))
    got = await bench.within(5_000, bench.receive("o", 512))
    assert b"".join(group.data.to_bytes(8, "little") for group in got) == bytes(range(256)) * 16
    assert [group.last for group in got] == [0] * 511 + [1]
    got = await bench.within(500, bench.receive("o", 13))
    assert [group.count for group in got] == [8] * 12 + [4]
    assert second.done()
    assert [request.offset for request in requests] == [*range(64), 1, 2]
