"""Testbench of hw/models/dram_checker.py: each rule at its limit and one tick before, from hand-made commands."""

import cocotb
from amaranth.lib import data
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.config import ddr4_2400r, ddr4_3200aa
from tessera.hw.memory.dram import SLOTS, Command, DramCommand
from tessera.hw.models.dram_checker import DramChecker, Rule
from tessera.tb.bench import Bench, Dut, pack, unpack

DUTS = {
    "ddr4_3200aa": Dut(lambda: DramChecker(ddr4_3200aa())),
    "ddr4_2400r": Dut(lambda: DramChecker(ddr4_2400r())),
}

# JESD79-4's tables, in ticks.
TICKS = {
    "ddr4_3200aa": {
        **{"cl": 22, "cwl": 16, "rcd": 22, "rp": 22, "ras": 52, "rc": 74, "rrd_s": 4, "rrd_l": 8, "faw": 34, "wr": 24},
        **{"wtr_s": 4, "wtr_l": 12, "rtp": 12, "ccd_s": 4, "ccd_l": 8, "rfc": 560, "refi": 12480},
    },
    "ddr4_2400r": {
        **{"cl": 16, "cwl": 12, "rcd": 16, "rp": 16, "ras": 39, "rc": 55, "rrd_s": 4, "rrd_l": 6, "faw": 26, "wr": 18},
        **{"wtr_s": 3, "wtr_l": 9, "rtp": 9, "ccd_s": 4, "ccd_l": 6, "rfc": 420, "refi": 9360},
    },
}

ACT, PRE, ALL, RD, WR, REF = (
    Command.Activate,
    Command.Precharge,
    Command.PrechargeAll,
    Command.Read,
    Command.Write,
    Command.Refresh,
)
LONG = 200


def cases(t):
    """(rule, commands up to the last but one, the last, ticks between these two at the limit, other rules broken).

    A command is (ticks after the one before, command, bank); bank 1 is in another group than 0, bank 4 in the same.
    """
    two_rows = [(8, ACT, 0), (LONG, ACT, 1)]
    one_group = [(8, ACT, 0), (LONG, ACT, 4)]
    write_end = t["cwl"] + 4
    turn = t["cl"] + 4 + 2 - t["cwl"]
    yield Rule.Rcd, [(8, ACT, 0)], (RD, 0), t["rcd"], ()
    yield Rule.Rcd, [(8, ACT, 0)], (WR, 0), t["rcd"], ()
    yield Rule.Rp, [(8, ACT, 0), (LONG, PRE, 0)], (ACT, 0), t["rp"], ()
    yield Rule.Rp, [(8, ACT, 0), (LONG, ALL, 0)], (ACT, 0), t["rp"], ()
    yield Rule.Rp, [(8, ACT, 0), (LONG, PRE, 0)], (REF, 0), t["rp"], ()
    yield Rule.Ras, [(8, ACT, 0)], (PRE, 0), t["ras"], ()
    yield Rule.Ras, [(8, ACT, 0), (LONG, ACT, 7)], (ALL, 0), t["ras"], ()
    yield Rule.RrdS, [(8, ACT, 0)], (ACT, 1), t["rrd_s"], ()
    yield Rule.RrdL, [(8, ACT, 0)], (ACT, 4), t["rrd_l"], ()
    first = [(8, ACT, 0), (t["rrd_s"], ACT, 1), (t["rrd_s"], ACT, 2), (t["rrd_s"], ACT, 3)]
    yield Rule.Faw, first, (ACT, 4), t["faw"] - 3 * t["rrd_s"], ()
    yield Rule.Wr, [(8, ACT, 0), (LONG, WR, 0)], (PRE, 0), write_end + t["wr"], ()
    yield Rule.Wr, [(8, ACT, 0), (LONG, WR, 0)], (ALL, 5), write_end + t["wr"], ()
    yield Rule.WtrS, [*two_rows, (LONG, WR, 0)], (RD, 1), write_end + t["wtr_s"], ()
    yield Rule.WtrL, [*one_group, (LONG, WR, 0)], (RD, 4), write_end + t["wtr_l"], ()
    yield Rule.WtrL, [(8, ACT, 0), (LONG, WR, 0)], (RD, 0), write_end + t["wtr_l"], ()
    yield Rule.Rtp, [(8, ACT, 0), (LONG, RD, 0)], (PRE, 0), t["rtp"], ()
    for access in (RD, WR):
        yield Rule.CcdS, [*two_rows, (LONG, access, 0)], (access, 1), t["ccd_s"], ()
        yield Rule.CcdL, [*one_group, (LONG, access, 0)], (access, 4), t["ccd_l"], ()
        yield Rule.CcdL, [(8, ACT, 0), (LONG, access, 0)], (access, 0), t["ccd_l"], ()
    yield Rule.ReadToWrite, [*two_rows, (LONG, RD, 0)], (WR, 1), turn, ()
    yield Rule.ReadToWrite, [(8, ACT, 0), (LONG, RD, 0)], (WR, 0), turn, ()
    for after in ((ACT, 0), (REF, 0), (PRE, 0)):
        yield Rule.Rfc, [(8, REF, 0)], after, t["rfc"], ()
    # The tables' tRC is tRAS + tRP: it cannot be broken alone.
    yield Rule.Rc, [(8, ACT, 0), (t["ras"], PRE, 0)], (ACT, 0), t["rc"] - t["ras"], (Rule.Rp,)


class Driver:
    """Puts commands onto the bus, and write data where it belongs."""

    def __init__(self, bench, ticks):
        self.bench, self.ticks = bench, ticks
        self.shape = data.ArrayLayout(DramCommand, SLOTS)

    async def play(self, commands, until=0):
        """Reset, then drive `commands`: (tick, command, bank), to tick `until`; for each, whether it was called bad."""
        bench, port = self.bench, self.bench.port("command")
        port.value = 0
        bench.port("write_valid").value = 0
        await bench.reset()
        at, bad = {}, {}
        for tick, command, bank in commands:
            at.setdefault(tick // SLOTS, {})[tick % SLOTS] = (command, bank)
        bursts = {(tick + self.ticks["cwl"]) // SLOTS for tick, command, _ in commands if command == WR}
        last = max([until // SLOTS, *at, *bursts])
        nop = {"command": Command.Nop, "bank": 0, "row": 0, "column": 0}
        cycle = 1  # reset() has let one cycle pass
        for change in sorted({n + k for n in {*at, *bursts, last} for k in (0, 1)}):
            if change > cycle:
                await bench.cycles(change - cycle)
                cycle = change
            slots = at.get(cycle, {})
            words = [
                nop if k not in slots else nop | {"command": slots[k][0], "bank": slots[k][1]} for k in range(SLOTS)
            ]
            port.value = pack(self.shape, words)
            bench.port("write_valid").value = cycle in bursts
            await ReadOnly()
            for k in slots:
                bad[cycle * SLOTS + k] = bench.get("bad") >> k & 1
            await RisingEdge(bench.dut.clk)
            cycle += 1
        port.value = 0
        bench.port("write_valid").value = 0
        await bench.cycles(2)
        return bad

    def broken(self):
        """Counts of the rules that were broken, without Alignment; single ticks leave the bursts' grid on purpose."""
        counts = unpack(self.bench.shape_of("counts"), self.bench.get("counts"))
        return {rule: counts[rule.value] for rule in Rule if counts[rule.value] and rule is not Rule.Alignment}


class _Bench(Bench):
    def shape_of(self, name):
        return self.component.signature.members[name].shape


def at_ticks(steps):
    """From steps of (ticks later, command, bank) to (tick, command, bank)."""
    tick, commands = 0, []
    for later, command, bank in steps:
        tick += later
        commands.append((tick, command, bank))
    return commands


def proof(last, t):
    """What shows, long after `last`, that the memory remembers: an access to its bank (or to any, after refresh)."""
    command, bank = last
    if command in (RD, WR):
        return []
    if command == ACT:
        return [(LONG, RD, bank)]
    bank = 7 if command == ALL and bank == 0 else 0
    return [(t["rfc"] + 8, ACT, bank), (LONG, RD, bank)]


@cocotb.test()
async def each_rule_at_its_limit(dut):
    bench = _Bench(dut, DUTS)
    t = TICKS[bench.name]
    driver = Driver(bench, t)
    seen = set()
    for rule, before, last, limit, others in cases(t):
        seen.add(rule)
        for phase in range(SLOTS):
            steps = [(before[0][0] + phase, *before[0][1:]), *before[1:]]
            for early in (0, 1):
                what = f"{rule.name}, {last[0].name} in bank {last[1]}, phase {phase}, {early} ticks early"
                commands = at_ticks([*steps, (limit - early, *last), *proof(last, t)])
                bad = await driver.play(commands)
                expected = dict.fromkeys([rule, *others], 1) if early else {}
                assert driver.broken() == expected, f"{what}: {driver.broken()}"
                tick = commands[len(steps)][0]
                if early:
                    if bench.get("counts") >> 16 * Rule.Alignment.value & 0xFFFF == 0:
                        assert Rule(bench.get("first_rule")) in (rule, *others), what
                        assert bench.get("first_tick") == tick, f"{what}: {bench.get('first_tick')}, {tick} expected"
                revealing = commands[-1]
                aligned = (revealing[0] + t["cl" if revealing[1] == RD else "cwl"]) % SLOTS == 0
                if early or aligned:
                    assert bad[revealing[0]] == early, f"{what}: bad is {bad[revealing[0]]}"
    unlisted = {Rule.State, Rule.Refi, Rule.Alignment, Rule.WriteData}
    assert seen == set(Rule) - unlisted, f"untested: {set(Rule) - unlisted - seen}"


@cocotb.test()
async def states(dut):
    bench = _Bench(dut, DUTS)
    t = TICKS[bench.name]
    driver = Driver(bench, t)
    for steps, count in (
        ([(8, RD, 3)], 1),
        ([(8, WR, 3)], 1),
        ([(8, ACT, 3), (LONG, PRE, 3), (LONG, RD, 3)], 1),
        ([(8, ACT, 3), (LONG, ALL, 0), (LONG, RD, 3)], 1),
        ([(8, ACT, 3), (LONG, ACT, 3)], 1),
        ([(8, ACT, 3), (LONG, REF, 0)], 1),
        ([(8, ACT, 3), (LONG, RD, 2)], 1),
        ([(8, PRE, 3), (LONG, ALL, 3), (LONG, REF, 0)], 0),
    ):
        commands = at_ticks(steps)
        bad = await driver.play(commands)
        assert driver.broken() == ({Rule.State: 1} if count else {}), f"{steps}: {driver.broken()}"
        if commands[-1][1] in (RD, WR):
            assert bad[commands[-1][0]] == 1


@cocotb.test()
async def alignment_and_write_data(dut):
    bench = _Bench(dut, DUTS)
    t = TICKS[bench.name]
    driver = Driver(bench, t)
    for command, latency in ((RD, t["cl"]), (WR, t["cwl"])):
        for slot in range(SLOTS):
            await driver.play([(8, ACT, 0), (8 + LONG + slot, command, 0)])
            aligned = (slot + latency) % SLOTS == 0
            counts = bench.get("counts") >> 16 * Rule.Alignment.value & 0xFFFF
            assert counts == (0 if aligned else 1), f"{command.name} in slot {slot}"
            assert driver.broken() == {}
    for shift in (-1, 1):
        driver.ticks = t | {"cwl": t["cwl"] + SLOTS * shift}
        await driver.play([(8, ACT, 0), (8 + LONG - t["cwl"] % SLOTS, WR, 0)], until=LONG * 2)
        assert driver.broken() == {Rule.WriteData: 2}, f"data {shift} cycles off: {driver.broken()}"


@cocotb.test()
async def refresh_in_time(dut):
    """A refresh may be 9 intervals after the last, not a tick more; 8 put off may not be followed by a ninth."""
    bench = _Bench(dut, DUTS)
    t = TICKS[bench.name]
    driver = Driver(bench, t)
    for late in (0, 1):
        end = 9 * t["refi"] + late
        await driver.play([(end, REF, 0)])
        assert driver.broken() == ({Rule.Refi: 1} if late else {}), f"{late} late: {driver.broken()}"
    for late in (0, 1):
        first, second = 9 * t["refi"], 10 * t["refi"] + late
        await driver.play([(first, REF, 0), (second, REF, 0)])
        assert driver.broken() == ({Rule.Refi: 1} if late else {}), f"second {late} late: {driver.broken()}"
    # While it is overdue, accesses fail.
    over = 9 * t["refi"] + 9
    over += -(over + t["cl"]) % SLOTS
    for tick, expected in ((over - 16, 0), (over, 1)):
        bad = await driver.play([(tick - LONG, ACT, 0), (tick, RD, 0)])
        assert bad[tick] == expected, f"access {tick - 9 * t['refi']} ticks after the limit"
