"""Testbench of hw/lib/queue.py against a Python queue, cycle by cycle."""

from collections import deque

import cocotb
from amaranth.hdl import unsigned
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.lib.queue import PassingQueue
from tessera.tb.bench import Bench, Dut

DUTS = {f"{n}": Dut(lambda n=n: PassingQueue(unsigned(16), n), watched=True) for n in (2, 8, 16)}


@cocotb.test()
@cocotb.parametrize(come=[1.0, 0.5], take=[1.0, 0.5, 0.1])
async def each_cycle_is_right(dut, come, take):
    """What comes is offered at once, in order, and kept until it is taken; full at its depth, and not before."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    random, depth = bench.random, bench.component.depth
    queue, offered, number = deque(), False, 0
    for cycle in range(400):
        # It comes and goes as it likes, but what is offered is not withdrawn.
        offered = offered or random.random() < come
        ready = random.random() < take
        dut.i__valid.value, dut.i__payload.value, dut.o__ready.value = offered, number, ready
        await ReadOnly()
        room, shown = len(queue) < depth, [*queue, *([number] if offered else [])]
        assert bench.get("i.ready") == room, f"cycle {cycle}: {len(queue)} in it"
        assert bench.get("o.valid") == bool(shown), f"cycle {cycle}"
        assert not shown or bench.get("o.payload") == shown[0], f"cycle {cycle}"
        await RisingEdge(dut.clk)
        if offered and room:
            queue.append(number)
            offered, number = False, (number + 1) % (1 << 16)
        if ready and shown:
            queue.popleft()
