"""Testbench of hw/memory/share.py."""

import cocotb

from tessera.hw.memory.port import Op
from tessera.hw.memory.share import PortShare
from tessera.tb.bench import Bench, Dut

DUTS = {"one": Dut(lambda: PortShare(1), watched=True), "three": Dut(lambda: PortShare(3), stalls=True, watched=True)}


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def responses_go_to_their_client(dut, stall):
    bench = Bench(dut, DUTS)
    await bench.reset()
    clients, count = bench.component.clients, 80

    async def memory():
        while True:
            (request,) = await bench.receive("memory.request", 1, stall)
            answer = {"op": request.op, "id": request.id, "data": request.offset + 1}
            await bench.send("memory.response", [answer], stall)

    async def client(n):
        requests = [{"op": Op.Read, "id": n, "window": n, "offset": n << 10 | k} for k in range(count)]
        cocotb.start_soon(bench.send(f"request{n}", requests, stall))
        answers = await bench.receive(f"response{n}", count, stall)
        assert [answer.data - 1 for answer in answers] == [n << 10 | k for k in range(count)]

    cocotb.start_soon(memory())
    for task in [cocotb.start_soon(client(n)) for n in range(clients)]:
        await bench.within(10_000, task, "a client")
