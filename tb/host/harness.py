"""A host port with the host model at its PCIe side, and the host's view of them: what several testbenches share."""

from __future__ import annotations

from pathlib import Path

import cocotb
import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import RisingEdge

from tessera.hw.engine import SlotHeader, SlotKind
from tessera.hw.host.port import HostPort
from tessera.hw.host.registers import ADDRESS
from tessera.hw.models.host import MSI_ADDRESS, HostModel
from tessera.hw.models.memory import IdealMemory
from tessera.tb.bench import Bench, pack

SIZE = 1 << 20
LINES = SIZE // 64


def expose(m, outer, part, names, prefix=""):
    """Make members `names` of `part` members of `outer`, each with `prefix`."""
    for name in names:
        member = part.signature.members[name]
        inside, outside = getattr(part, name), getattr(outer, prefix + name)
        if member.is_signature:
            outside = wiring.flipped(outside)
            wiring.connect(m, *((inside, outside) if member.flow == Out else (outside, inside)))
        elif member.flow == In:
            m.d.comb += inside.eq(outside)
        else:
            m.d.comb += outside.eq(inside)


class Pair(wiring.Component):
    """A host port with the host model at its PCIe side."""

    def __init__(self):
        self.port, self.host = HostPort(), HostModel(size=SIZE)
        self.names = {part: [n for n in part.signature.members if n != "pcie"] for part in (self.port, self.host)}
        super().__init__({n: part.signature.members[n] for part, names in self.names.items() for n in names})

    def elaborate(self, platform):
        m = Module()
        m.submodules.port, m.submodules.host = self.port, self.host
        wiring.connect(m, self.port.pcie, self.host.pcie)
        for part, names in self.names.items():
            expose(m, self, part, names)
        return m


class Rig(wiring.Component):
    """An engine of the host side with an ideal memory, the host port and the host model."""

    def __init__(self, engine, attach):
        self.engine, self.attach, self.pair, self.memory = engine, attach, Pair(), IdealMemory()
        self.from_pair = [n for n in self.pair.signature.members if n not in ("ingest", "egress")]
        super().__init__(
            {
                **{n: self.pair.signature.members[n] for n in self.from_pair if n != "abort"},
                **{n: engine.signature.members[n] for n in ("task", "done", "abort")},
                **{f"memory_{n}": self.memory.signature.members[n] for n in ("knobs", "backdoor")},
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine, m.submodules.pair, m.submodules.memory = self.engine, self.pair, self.memory
        wiring.connect(m, self.engine.memory, self.memory.port)
        wiring.connect(m, self.engine.host, getattr(self.pair, self.attach))
        expose(m, self, self.pair, [n for n in self.from_pair if n != "abort"])
        expose(m, self, self.engine, ["task", "done", "abort"])
        expose(m, self, self.memory, ["knobs", "backdoor"], "memory_")
        return m


KNOBS = {
    "tidy": {},
    "slow": {"latency": 300},
    "small": {"split": 2, "max_payload": 1, "max_read": 2, "short_tags": 1},
    "wild": {"split": 1, "reorder": 1, "stall": 6, "latency": 40, "max_read": 1},
}


class HostBench(Bench):
    """The bench with the host's view: memory, registers, rings."""

    def __init__(self, dut, duts):
        super().__init__(dut, duts)
        self.memory = np.zeros(SIZE, np.uint8)

    async def start(self, **knobs):
        for name in ("backdoor__load", "backdoor__dump", "counter_value"):
            getattr(self.dut, name).value = 0
        layout = self.component.signature.members["knobs"].shape
        number = 0
        for name, value in knobs.items():
            number |= value << layout.as_shape()[name].offset
        await self.reset()
        self.dut.knobs.value = number
        self.memory[:] = np.random.default_rng(self.random.getrandbits(32)).integers(0, 256, SIZE, np.uint8)
        await self.load()

    async def load(self):
        Path("host.load").write_bytes(self.memory.tobytes())
        await self._transfer(self.dut.backdoor__load)

    async def dump(self):
        await self._transfer(self.dut.backdoor__dump)
        return np.frombuffer(Path("host.dump").read_bytes(), np.uint8)

    async def _transfer(self, which):
        self.dut.backdoor__start.value, self.dut.backdoor__count.value = 0, LINES
        which.value = 1
        await self.cycles(3)
        which.value = 0
        await self.cycles(2)

    async def expect_memory(self):
        """The host's memory is what the bench thinks it is."""
        found = await self.dump()
        if not np.array_equal(found, self.memory):
            at = int(np.flatnonzero(found != self.memory)[0])
            raise AssertionError(f"host byte {at:#x}: {found[at]:#x}, {self.memory[at]:#x} expected")

    async def access(self, write, address, data=0):
        sender = cocotb.start_soon(
            self.send("mmio_request", [{"write": write, "address": address, "data": data}])
        )
        (answer,) = await self.within(3000, self.receive("mmio_response", 1), f"access of register {address:#x}")
        await sender
        return int(answer.data), int(answer.status)

    async def get(self, name):
        data, status = await self.access(0, ADDRESS[name])
        assert status == 0, f"{name} was answered with status {status}"
        return data

    async def put(self, name, value):
        await self.access(1, ADDRESS[name], value)

    async def read_range(self, address, count, stall=0.0):
        """The lines and the status of one ingest read."""
        cocotb.start_soon(self.send("ingest.request", [{"address": address, "bytes": count}]))
        lines = await self.within(
            20000, self.receive("ingest.line", stall=stall, until=lambda line: line.last), f"read of {count} bytes"
        )
        return b"".join(int(line.data).to_bytes(64, "little") for line in lines), lines[-1].status

    async def write_range(self, address, payload, stall=0.0, void=None):
        """Write a range, which line `void` ends, if one is named."""
        lines = [payload[n : n + 64].ljust(64, b"\0") for n in range(0, len(payload), 64)]
        if void is not None:
            lines = lines[: void + 1]
        done = cocotb.start_soon(self._await_done())
        cocotb.start_soon(self.send("egress.request", [{"address": address, "bytes": len(payload)}]))
        cocotb.start_soon(
            self.send(
                "egress.line",
                [
                    {"data": int.from_bytes(line, "little"), "void": n == void}
                    for n, line in enumerate(lines)
                ],
                stall,
            )
        )
        await self.within(20000, done, f"write of {len(payload)} bytes")

    async def _await_done(self):
        while True:
            await RisingEdge(self.dut.clk)
            if self.dut.egress__done.value:
                return

    async def rings(self, size, base=0x8000, complete_base=0x10000, msi=True):
        for prefix, at in (("SUBMIT", base), ("COMPLETE", complete_base)):
            await self.put(f"{prefix}_BASE_LOW", at)
            await self.put(f"{prefix}_BASE_HIGH", 0)
            await self.put(f"{prefix}_SIZE", size)
        await self.put("MSI_ADDRESS_LOW", MSI_ADDRESS | 0x40)
        await self.put("MSI_DATA", 0x1234)
        await self.put("MSI_ENABLE", msi)


class EngineBench(HostBench):
    """The bench of a :class:`Rig`: tasks, and the chip's memory as an array of bytes."""

    async def start(self, **knobs):
        for name in ("backdoor__load", "backdoor__dump"):
            getattr(self.dut, f"memory_{name}").value = 0
        self.dut.memory_knobs.value = 0
        self.dut.abort.value = 0
        await super().start(**knobs)
        self.lines = np.random.default_rng(self.random.getrandbits(32)).integers(0, 256, (1 << 12, 64), np.uint8)
        await self.load_lines()

    def memory_knobs(self, **knobs):
        layout = self.component.signature.members["memory_knobs"].shape.as_shape()
        self.dut.memory_knobs.value = sum(value << layout[name].offset for name, value in knobs.items())

    async def _move(self, which):
        self.dut.memory_backdoor__start.value, self.dut.memory_backdoor__count.value = 0, len(self.lines)
        which.value = 1
        await self.cycles(3)
        which.value = 0
        await self.cycles(2)

    async def load_lines(self):
        Path("memory.load").write_bytes(self.lines.tobytes())
        await self._move(self.dut.memory_backdoor__load)

    async def expect_lines(self, but=()):
        """The chip's memory is what the bench thinks it is, lines `but` aside."""
        await self._move(self.dut.memory_backdoor__dump)
        found = np.frombuffer(Path("memory.dump").read_bytes(), np.uint8).reshape(-1, 64).copy()
        found[list(but)] = self.lines[list(but)]
        if not np.array_equal(found, self.lines):
            line, byte = (int(n[0]) for n in np.nonzero(found != self.lines))
            expected = self.lines[line, byte]
            raise AssertionError(f"line {line} byte {byte}: {found[line, byte]:#x}, {expected:#x} expected")

    def header(self, **fields):
        """The 64 bytes of a bitstream slot's header."""
        bits = pack(SlotHeader, {"kind": SlotKind.Bitstream, **fields})
        return np.frombuffer(bits.to_bytes(64, "little"), np.uint8)

    async def do(self, task, cycles=60000):
        """Run one task; its done message."""
        sender = cocotb.start_soon(self.send("task", [task]))
        (done,) = await self.within(cycles, self.receive("done", 1), "the task")
        await sender
        assert done.tag == task["tag"] and done.last
        return done
