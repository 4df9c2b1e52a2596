"""What `tessera run` loads into the simulator: plays the host that :mod:`tessera.sim.plan` planned.

It fills memories by file, writes registers, rings the doorbell once, sleeps until interrupts say that records have
come, and reads memories back by file. Nothing here wakes on a clock while the chip works. In the simulation's folder
it reads ``plan.json`` and leaves ``progress`` (tasks that ended, and cycles) as it goes on, and ``outcome.json``.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, First, Timer, ValueChange

from tessera.hw.gpu import counters_of
from tessera.hw.host.registers import ADDRESS, IDENTIFICATION, REGISTERS
from tessera.hw.models.host import MSI_ADDRESS
from tessera.hw.system import System
from tessera.tb.bench import CYCLE_NS, Bench, Dut

DUTS = {"system": Dut(System)}

_MMIO_LIMIT = 20_000
_ERRORS = tuple(r.name for r in REGISTERS if r.name.startswith(("REFUSED", "BUS_", "RING_")))


class Host:
    """The host's processor and its driver of a chip."""

    def __init__(self, bench: Bench, chip: int = 0):
        self.bench, self.chip = bench, chip

    async def _access(self, write: int, name: str, value: int) -> Any:
        bench = self.bench
        await bench.send(f"mmio_request{self.chip}", [{"write": write, "address": ADDRESS[name], "data": value}])
        answers = bench.receive(f"mmio_response{self.chip}", 1)
        (answer,) = await bench.within(_MMIO_LIMIT, answers, f"an access to {name}")
        assert answer.status == 0, f"an access to {name} was answered with completion status {answer.status}"
        return answer.data

    async def write(self, name: str, value: int) -> None:
        """Write a register."""
        await self._access(1, name, value)

    async def read(self, name: str) -> int:
        """Value of a register."""
        return await self._access(0, name, 0)

    async def counters(self) -> dict[str, int]:
        """The performance counters."""
        found = {}
        for name, number in counters_of(self.bench.component.config.chip).items():
            await self.write("COUNTER_SELECT", number)
            low = await self.read("COUNTER_LOW")
            found[name] = low | await self.read("COUNTER_HIGH") << 32
        return found

    async def backdoor(self, what: str, memory: str, file: str, start: int, count: int) -> None:
        """``load`` a memory from `file` or ``dump`` it to there: `count` lines from line `start` on."""
        bench, passage = self.bench, Path(f"{memory}.{what}")
        passage.unlink(missing_ok=True)
        if what == "load":
            passage.symlink_to(Path(file).absolute())
        bench.port(f"{memory}.start").value = start
        bench.port(f"{memory}.count").value = count
        bench.port(f"{memory}.{what}").value = 1
        await bench.cycles(2)
        bench.port(f"{memory}.{what}").value = 0
        await bench.cycles(2)
        if what == "load":
            passage.unlink()
        else:
            shutil.move(passage, file)

    async def start(self, plan: dict[str, Any]) -> None:
        """Make sure that it is a chip, and set it up."""
        assert await self.read("IDENTIFICATION") == IDENTIFICATION
        await self.write("MSI_ADDRESS_LOW", MSI_ADDRESS & 0xFFFFFFFF)
        await self.write("MSI_ADDRESS_HIGH", MSI_ADDRESS >> 32)
        await self.write("MSI_ENABLE", 1)
        for name, value in plan["registers"]:
            await self.write(name, value)
        await self.write("RESET_COUNTERS", 1)

    async def serve(self, plan: dict[str, Any], began: int) -> int:
        """Ring the doorbell and sleep until all tasks have ended; how many did before the limit."""
        bench, total = self.bench, plan["tasks"]
        deadline = began + plan["limit_cycles"]
        interrupts = bench.port(f"msi_count{self.chip}")
        seen = interrupts.value.to_unsigned()
        await self.write("SUBMIT_TAIL", total)
        ended = 0
        while ended < total:
            if interrupts.value.to_unsigned() == seen:
                left = deadline - bench.now()
                if left <= 0:
                    break
                await First(ValueChange(interrupts), Timer(left * CYCLE_NS, unit="ns"))
                await FallingEdge(bench.dut.clk)
                continue
            seen = interrupts.value.to_unsigned()
            ended = await self.read("COMPLETE_TAIL")
            Path("progress").write_text(f"{ended} {bench.now() - began}\n")
            await self.write("COMPLETE_HEAD", ended)
        return ended


async def cold_start(bench: Bench, knobs: dict[str, int]) -> None:
    """Reset everything, with a host that behaves so."""
    for memory in ("host", *(f"dram{n}" for n in bench.component.chips)):
        for part in ("load", "dump", "start", "count"):
            bench.port(f"{memory}.{part}").value = 0
    if bench.component.links:
        bench.port("errors").value = bench.port("cut").value = 0
    shape = bench.component.signature.members["knobs"].shape
    bench.port("knobs").value = shape.const(knobs).as_bits()
    await bench.reset()


@cocotb.test()
async def run(dut):
    """The plan, from cold start to the last interrupt."""
    plan = json.loads(Path("plan.json").read_text())
    bench = Bench(dut, DUTS)
    await cold_start(bench, plan["knobs"])
    host = Host(bench)
    for load in plan["loads"]:
        await host.backdoor("load", **load)
    await host.start(plan)

    began, clock = bench.now(), time.monotonic()
    ended = await host.serve(plan, began)
    cycles, seconds = bench.now() - began, time.monotonic() - clock

    counters = await host.counters()
    errors = {name: await host.read(name) for name in _ERRORS}
    status = await host.read("STATUS")
    for dump in plan["dumps"]:
        await host.backdoor("dump", **dump)
    outcome = {
        "tasks": plan["tasks"],
        "ended": ended,
        "cycles": cycles,
        "seconds": seconds,
        "counters": counters,
        "errors": errors,
        "status": status,
        "violations": bench.get("violations"),
    }
    partial = Path("outcome.part")
    partial.write_text(json.dumps(outcome))
    partial.rename("outcome.json")
