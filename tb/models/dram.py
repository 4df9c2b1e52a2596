"""Testbench of hw/models/dram.py: hand-made commands, data and poison."""

from pathlib import Path

import cocotb
from amaranth.lib import data
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.config import ddr4_2400r, ddr4_3200aa
from tessera.hw.memory.dram import SLOTS, Command, DramCommand
from tessera.hw.models.dram import DramDevices
from tessera.hw.models.dram_checker import Rule
from tessera.tb.bench import Bench, Dut, pack

DUTS = {
    "ddr4_3200aa": Dut(lambda: DramDevices(ddr4_3200aa(), depth=2**13)),
    "ddr4_2400r": Dut(lambda: DramDevices(ddr4_2400r(), depth=2**13)),
}
ONES = 2**512 - 1


def latencies(bench):
    """cl, cwl and rcd in ticks."""
    return {"ddr4_3200aa": (22, 16, 22), "ddr4_2400r": (16, 12, 16)}[bench.name]


async def play(bench, commands, writes=(), cycles=120):
    """Drive (tick, fields of a command); the lines read, as (cycle, line, poison). `writes` are the data in order."""
    _, cwl, _ = latencies(bench)
    at, bursts, reads = {}, {}, []
    writes = iter(writes)
    for tick, fields in commands:
        at.setdefault(tick // SLOTS, {})[tick % SLOTS] = {"bank": 0, "row": 0, "column": 0, **fields}
        if fields["command"] == Command.Write:
            bursts[(tick + cwl) // SLOTS] = next(writes)
    nop = {"command": Command.Nop, "bank": 0, "row": 0, "column": 0}
    shape = data.ArrayLayout(DramCommand, SLOTS)
    for cycle in range(cycles):
        slots = at.get(cycle, {})
        bench.port("bus.command").value = pack(shape, [slots.get(k, nop) for k in range(SLOTS)])
        bench.port("bus.write_valid").value = cycle in bursts
        bench.port("bus.write_data").value = bursts.get(cycle, 0)
        await ReadOnly()
        if bench.get("bus.read_valid"):
            reads.append((cycle, bench.get("bus.read_data"), bench.get("bus.read_poison")))
        await RisingEdge(bench.dut.clk)
    return reads


def command(kind, **fields):
    return {"command": kind, **fields}


def aligned(tick, latency):
    """The first tick from `tick` on whose burst is a whole core cycle."""
    return tick + -(tick + latency) % SLOTS


def broken(bench):
    counts = bench.get("counts")
    return {rule for rule in Rule if counts >> 16 * rule.value & 0xFFFF}


@cocotb.test()
async def data_goes_to_the_open_row(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    cl, cwl, rcd = latencies(bench)
    lines = [bench.random.getrandbits(512) for _ in range(4)]
    places = [(0, 0, 5), (0, 1, 5), (7, 0, 5), (7, 3, 6)]
    commands, tick = [], 8
    for kind, latency in ((Command.Write, cwl), (Command.Read, cl)):
        for bank, row, column in places:
            access = aligned(tick + rcd, latency)
            commands += [
                (tick, command(Command.Activate, bank=bank, row=row)),
                (access, command(kind, bank=bank, column=column)),
                (access + 60, command(Command.Precharge, bank=bank)),
            ]
            tick = access + 60 + 24
    got = await play(bench, commands, lines, tick // SLOTS + 20)
    due = [(at + cl) // SLOTS for at, fields in commands if fields["command"] == Command.Read]
    assert got == [(cycle, line, 0) for cycle, line in zip(due, lines)]
    assert broken(bench) == set()
    # The storage has them at their addresses: group, column, bank in the group (hashed with bit 1 of the row), row.
    for (bank, row, column), line in zip(places, lines):
        bank_ = bank >> 2 ^ (row >> 1 & 1) << 1
        where = bank & 3 | column << 2 | bank_ << 9 | row << 11
        assert await dumped(bench, where) == line.to_bytes(64, "little")


async def dumped(bench, line):
    bench.port("backdoor.start").value = line
    bench.port("backdoor.count").value = 1
    bench.port("backdoor.dump").value = 1
    await bench.cycles(2)
    bench.port("backdoor.dump").value = 0
    await bench.cycles(2)
    return Path("dram.dump").read_bytes()


@cocotb.test()
async def early_accesses_fail(dut):
    """One tick before tRCD a read brings poison, a write stores the complement; at the limit they succeed."""
    bench = Bench(dut, DUTS)
    cl, cwl, rcd = latencies(bench)
    for early in (0, 1):
        await bench.reset()
        line = bench.random.getrandbits(512)
        write_at = aligned(40, cwl)
        read_at = aligned(write_at + 100, cl)
        again = aligned(read_at + 200, cl)
        commands = [
            (write_at - rcd, command(Command.Activate, bank=2, row=1)),
            (write_at, command(Command.Write, bank=2, column=9)),
            (read_at, command(Command.Read, bank=2, column=9)),
            (read_at + 40, command(Command.Precharge, bank=2)),
            (again - rcd + early, command(Command.Activate, bank=2, row=1)),
            (again, command(Command.Read, bank=2, column=9)),
        ]
        got = await play(bench, commands, [line])
        second = (line ^ ONES, 1) if early else (line, 0)
        assert [entry[1:] for entry in got] == [(line, 0), second], f"{early} ticks early"
        assert broken(bench) == ({Rule.Rcd} if early else set())

        await bench.reset()
        commands[0] = (commands[0][0] + early, commands[0][1])
        commands[4] = (again - rcd, commands[4][1])
        got = await play(bench, commands, [line])
        stored = line ^ ONES if early else line
        assert [entry[1:] for entry in got] == [(stored, 0), (stored, 0)], f"write {early} ticks early"
        assert broken(bench) == ({Rule.Rcd} if early else set())
