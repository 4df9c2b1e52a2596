"""Testbench of hw/models/memory.py."""

import cocotb
import numpy as np

from tessera.hw.memory.port import MemoryStatus, Op
from tessera.hw.models.memory import IdealMemory
from tessera.tb.bench import Dut
from tessera.tb.engine import EngineBench

DUTS = {"ideal": Dut(lambda: IdealMemory(windows=4, window_lines=64))}


@cocotb.test()
@cocotb.parametrize(stall=[0, 8], port_stall=[0.0, 0.5])
async def every_access_is_answered_in_order(dut, stall, port_stall):
    bench = EngineBench(dut, DUTS)
    await bench.reset(stall=stall)
    image = np.random.default_rng(3).integers(0, 256, (256, 64), dtype=np.uint8)
    await bench.write_lines(0, 0, image)
    bench.set_memory(stall=stall, window=2, limit=50)
    lines = {n: int.from_bytes(image[n].tobytes(), "little") for n in range(256)}
    requests, expected = [], []
    for _ in range(400):
        op, window, offset = bench.random.choice(list(Op)), bench.random.randrange(6), bench.random.randrange(80)
        data, id = bench.random.getrandbits(512), bench.random.randrange(8)
        requests.append({"op": op, "id": id, "window": window, "offset": offset, "data": data})
        refused = window >= 4 or offset >= (50 if window == 2 else 64)
        place = window * 64 + offset
        status = MemoryStatus.Refused if refused else MemoryStatus.Ok
        expected.append((op, id, status, None if refused else lines[place]))
        if op == Op.Write and not refused:
            lines[place] = data
    cocotb.start_soon(bench.send("port.request", requests, port_stall))
    answers = await bench.within(50_000, bench.receive("port.response", len(requests), port_stall))
    for number, (answer, (op, id, status, line)) in enumerate(zip(answers, expected)):
        assert (answer.op, answer.id, answer.status) == (op, id, status), number
        if op == Op.Read and status == MemoryStatus.Ok:
            assert answer.data == line, number
    left = await bench.read_lines(0, 0, 256)
    assert [int.from_bytes(line.tobytes(), "little") for line in left] == [lines[n] for n in range(256)]


@cocotb.test()
@cocotb.parametrize(latency=[4, 20, 200])
async def a_line_per_cycle_after_the_latency(dut, latency):
    bench = EngineBench(dut, DUTS)
    await bench.reset(latency=latency)
    began = bench.now()
    cocotb.start_soon(bench.send("port.request", [{"op": Op.Read, "offset": n % 64} for n in range(100)]))
    await bench.within(1_000, bench.receive("port.response", 100))
    assert bench.now() - began == 100 + latency
