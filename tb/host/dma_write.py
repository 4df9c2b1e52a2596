"""DMA writes: the packets' bytes and shape, void lines, and what a reset core leaves behind."""

from __future__ import annotations

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.host.dma_write import DmaWrite, WriteGuard
from tessera.hw.host.tlp import PcieConfig, RequestHeader
from tessera.tb.bench import Bench, Dut, pack

ID = 0x0300

DUTS = {
    "write": Dut(DmaWrite, tests=r"writes|void|cycles|nothing"),
    "guard": Dut(WriteGuard, stalls=True, tests=r"guard"),
}


def lines_of(payload, void=()):
    pieces = [payload[n : n + 64].ljust(64, b"\0") for n in range(0, len(payload), 64)]
    return [{"data": int.from_bytes(piece, "little"), "void": n in void} for n, piece in enumerate(pieces)]


class WriteBench(Bench):
    def __init__(self, dut):
        super().__init__(dut, DUTS)
        self.packets = []

    async def start(self, max_payload=1, stall=0.0):
        await self.reset()
        self.dut.config.value = pack(PcieConfig, {"id": ID, "bus_master": 1, "max_payload": max_payload})
        self.limit = 128 << min(max_payload, 1)
        self.memory = {}
        cocotb.start_soon(self._take(stall))

    async def _take(self, stall):
        while True:
            beats = await self.receive("packet", stall=stall, until=lambda beat: beat.last)
            header = RequestHeader.from_bits(beats[0].header)
            length = header.start.length
            address = header.dw2 << 32 | header.dw3 if header.start.fmt.value & 1 else header.dw2
            assert [beat.first for beat in beats] == [1] + [0] * (len(beats) - 1)
            assert sum(beat.count for beat in beats) == length and all(beat.count == 16 for beat in beats[:-1])
            assert 4 * length <= self.limit and address % self.limit + 4 * length <= self.limit
            data = b"".join(beat.data.to_bytes(64, "little")[: 4 * beat.count] for beat in beats)
            enabled = [1] * (4 * length)
            for n in range(4):
                enabled[n] = header.first_be >> n & 1
                if length > 1:
                    enabled[-4 + n] = header.last_be >> n & 1
            self.memory.update((address + n, byte) for n, (byte, on) in enumerate(zip(data, enabled)) if on)
            self.packets.append((address, length))

    async def write(self, address, payload, stall=0.0, void=()):
        done = cocotb.start_soon(self._done())
        cocotb.start_soon(self.send("writer.request", [{"address": address, "bytes": len(payload)}]))
        cocotb.start_soon(self.send("writer.line", lines_of(payload, void), stall))
        await self.within(20000, done, "the write")
        await self.cycles(1)

    async def _done(self):
        while True:
            await ReadOnly()
            done = self.dut.writer__done.value
            await RisingEdge(self.dut.clk)
            if done:
                return


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.5], stall_out=[0.0, 0.5, 0.9], max_payload=[0, 1, 3])
async def writes_any_range(dut, stall_in, stall_out, max_payload):
    bench = WriteBench(dut)
    await bench.start(max_payload, stall_out)
    offsets = [0, 1, 2, 3, 4, 63, 64, 65, 127, 252, 255, 256, 4095]
    for n in range(16):
        address = bench.random.choice((1 << 33, 0x4000)) + bench.random.choice(offsets)
        payload = bench.random.randbytes(bench.random.choice((1, 2, 4, 63, 64, 65, 256, 257, 1500 + n)))
        bench.memory.clear()
        await bench.write(address, payload, stall_in)
        assert bench.memory == {address + k: byte for k, byte in enumerate(payload)}, f"{len(payload)} to {address:#x}"


@cocotb.test()
async def void_lines_are_not_written(dut):
    bench = WriteBench(dut)
    await bench.start(1, 0.3)
    for address in (0x1000, 0x1001, 0x10C0, 0x10FF):
        for void in ({0}, {5}, {15}, {3, 4}):
            payload = bench.random.randbytes(1000)
            bench.memory.clear()
            await bench.write(address, payload, 0.3, void)
            lost = {k for n in void for k in range(64 * n, min(64 * n + 64, 1000))}
            written = {a - address for a in bench.memory}
            assert not written & lost, "a byte of a void line was written"
            assert all(bench.memory[address + k] == payload[k] for k in written)
            # All other packets are: what is missing is within a packet's size of a void line.
            assert all(any(abs(k - n) < 256 + 64 for n in lost) for k in set(range(1000)) - written)
            await bench.write(address, payload)
            assert bench.memory == {address + k: byte for k, byte in enumerate(payload)}


@cocotb.test()
async def nothing_is_done_at_once(dut):
    bench = WriteBench(dut)
    await bench.start()
    await bench.write(0x1234, b"")
    assert not bench.packets


@cocotb.test()
async def cycles_of_a_range(dut):
    bench = WriteBench(dut)
    await bench.start()
    for address, packets, extra in ((0x1000, [4] * 16, 1), (0x1040, [3] + [4] * 15 + [1], 1), (0x1001, None, 3)):
        # A line is taken in each cycle but one for each packet and those of the range.
        sender = cocotb.start_soon(bench.send("writer.request", [{"address": address, "bytes": 4096}]))
        feeder = cocotb.start_soon(bench.send("writer.line", lines_of(bytes(4096))))
        start, end = None, None
        while not feeder.done():
            await ReadOnly()
            if start is None and dut.writer__request__valid.value and dut.writer__request__ready.value:
                start = bench.now()
            if dut.writer__line__valid.value and dut.writer__line__ready.value:
                end = bench.now()
            await RisingEdge(dut.clk)
        await sender
        await bench.cycles(40)
        made = packets or [3] + [4] * 15
        wanted = sum(n + 1 for n in made) + extra
        dut._log.info("4096 bytes to %#x: %d cycles, %d by the formula", address, end - start + 1, wanted)
        assert end - start + 1 == wanted


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def guard_ends_what_a_reset_core_has_begun(dut, stall):
    bench = Bench(dut, DUTS)
    await bench.reset()
    ranges = []

    async def host():
        while True:
            (request,) = await bench.receive("port.request", 1, stall)
            lines = await bench.receive("port.line", (request.bytes + 63) // 64, stall)
            await bench.cycles(bench.random.randrange(1, 20))
            dut.port__done.value = 1
            await bench.cycles(1)
            dut.port__done.value = 0
            ranges.append((request.address, [(line.data, line.void) for line in lines]))

    cocotb.start_soon(host())
    dut.port__done.value = 0
    complete = 0
    for run in range(40):
        dut.running.value = 1
        payload = bench.random.randbytes(bench.random.randrange(1, 1000))
        lines = [line["data"] for line in lines_of(payload)]
        tasks = [
            cocotb.start_soon(bench.send("core.request", [{"address": run, "bytes": len(payload)}], stall)),
            cocotb.start_soon(bench.send("core.line", lines_of(payload), stall)),
        ]
        if run % 2:
            await bench.cycles(bench.random.randrange(1, 60))
            for task in tasks:
                task.cancel()
            dut.running.value = 0
            dut.core__request__valid.value = 0
            dut.core__line__valid.value = 0
            await bench.cycles(bench.random.randrange(1, 10))
            continue

        async def done():
            while True:
                await ReadOnly()
                high = dut.core__done.value
                await RisingEdge(dut.clk)
                if high:
                    return

        await bench.within(3000, done(), f"run {run}")
        await bench.cycles(2)
        complete += 1
        assert ranges[-1] == (run, [(line, 0) for line in lines]), f"run {run}"
        dut.running.value = 0
        await bench.cycles(2)
    assert complete == 20
    # Of the others, what came is a beginning of what was sent, then void.
    for address, lines in ranges:
        voids = [void for _, void in lines]
        assert voids == sorted(voids), f"run {address}"
