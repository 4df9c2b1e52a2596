"""Testbench of hw/memory/ddr_schedule.py: choices and cycles; the rules themselves are the checker's to judge."""

from functools import cache
from itertools import pairwise
from typing import NamedTuple

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge

from tessera.hw.config import ddr4_2400r, ddr4_3200aa
from tessera.hw.memory.ddr_queues import head_shape
from tessera.hw.memory.ddr_schedule import Gaps, RefreshState, Scheduler, issue_shape
from tessera.hw.memory.dram import BANKS, GROUPS, SLOTS, Command, DramCommand
from tessera.hw.memory.port import Op
from tessera.tb.bench import Bench, Dut, pack, unpack

TAGS = 128
CONFIGS = {"ddr4_3200aa": ddr4_3200aa, "ddr4_2400r": ddr4_2400r}
DUTS = {name: Dut(lambda make=make: Scheduler(make(), TAGS)) for name, make in CONFIGS.items()}

# Worked out by hand from JESD79-4's tables.
GAPS = {
    "ddr4_3200aa": {
        **{"read": 2, "write": 0, "activate": 3, "precharge": 1, "activate_read": 6, "activate_write": 7},
        **{"precharge_activate": 5, "precharge_refresh": 6, "activate_precharge": 14, "read_precharge": 4},
        **{"write_precharge": 11, "activate_activate": 1, "activate_activate_group": 2, "four_activates": 9},
        **{"access_access": 1, "access_access_group": 2, "write_read": 6, "write_read_group": 8, "read_write": 4},
        **{"refresh": 140, "interval": 3120, "read_data": 6, "write_data": 4},
    },
    "ddr4_2400r": {
        **{"read": 0, "write": 0, "activate": 2, "precharge": 1, "activate_read": 5, "activate_write": 5},
        **{"precharge_activate": 4, "precharge_refresh": 4, "activate_precharge": 10, "read_precharge": 2},
        **{"write_precharge": 9, "activate_activate": 1, "activate_activate_group": 2, "four_activates": 7},
        **{"access_access": 1, "access_access_group": 2, "write_read": 5, "write_read_group": 7, "read_write": 3},
        **{"refresh": 105, "interval": 2340, "read_data": 4, "write_data": 3},
    },
}

SLOT_BITS = DramCommand.as_shape().size
ANY_COMMAND = sum(7 << SLOT_BITS * slot for slot in range(SLOTS))


class Slot(NamedTuple):
    """A command slot, as plain numbers."""

    command: Command
    bank: int
    row: int
    column: int

    @staticmethod
    @cache
    def of(bits):
        slot = unpack(DramCommand, bits)
        return Slot(slot.command, slot.bank, slot.row, slot.column)


@cache
def issue_of(bits):
    """The operation and the tag of an issue."""
    issue = unpack(issue_shape(TAGS), bits)
    return issue.op, issue.tag


class Golden:
    """What the scheduler's docstring says, cycle by cycle: which banks get an access, an activate and a precharge."""

    def __init__(self, gaps, postpone):
        self.gaps, self.postpone = gaps, postpone
        # Of the cycle that a `Player` sees first, the second after reset.
        self.cycle, self.until_due = 0, gaps["interval"] - 2
        self.rows, self.at, self.window = {}, {}, []
        self.direction, self.waited = Op.Read, 0
        self.state, self.due, self.resting = RefreshState.Running, 0, 0

    def free(self, event, gap, place=None):
        """Whether the gap since the last `event` at `place` (a bank, a group's name, None for anywhere) has passed."""
        return self.cycle - self.at.get((event, place), -1000) >= self.gaps[gap]

    def note(self, event, bank):
        for place in (bank, f"group {bank % GROUPS}", None):
            self.at[event, place] = self.cycle

    def turn(self, kinds):
        """The direction of this cycle."""
        impatient = self.waited == Scheduler.PATIENCE
        if len(kinds) == 2:
            now = self.direction if not impatient else Op.Read if self.direction == Op.Write else Op.Write
        else:
            now = Op.Write if Op.Write in kinds else Op.Read
        if now != self.direction or len(kinds) != 2:
            self.waited = 0
        elif not impatient and self.state == RefreshState.Running:
            self.waited += 1
        self.direction = now
        return now

    def may_access(self, bank, op):
        group = f"group {bank % GROUPS}"
        if op == Op.Read:
            turned = self.free("write", "write_read") and self.free("write", "write_read_group", group)
            opened = self.free("activate", "activate_read", bank)
        else:
            turned, opened = self.free("read", "read_write"), self.free("activate", "activate_write", bank)
        apart = self.free("access", "access_access") and self.free("access", "access_access_group", group)
        return turned and opened and apart

    def may_activate(self, bank):
        return (
            self.free("precharge", "precharge_activate", bank)
            and self.free("activate", "activate_activate")
            and self.free("activate", "activate_activate_group", f"group {bank % GROUPS}")
            and (len(self.window) < 4 or self.cycle - self.window[-4] >= self.gaps["four_activates"])
        )

    def may_precharge(self, bank):
        return all(self.free(event, f"{event}_precharge", bank) for event in ("activate", "read", "write"))

    def step(self, heads, rank):
        """From the heads, by bank, and their order of age: (access, activate, precharge, precharge all, refresh)."""
        now = self.turn({head[0] for head in heads.values()})
        access = activate = precharge = None
        if self.state == RefreshState.Running:
            for bank in sorted(heads, key=rank.__getitem__):
                op, row = heads[bank][:2]
                if bank not in self.rows:
                    activate = bank if activate is None and self.may_activate(bank) else activate
                elif self.rows[bank] != row:
                    precharge = bank if precharge is None and self.may_precharge(bank) else precharge
                elif op == now and access is None and self.may_access(bank, op):
                    access = bank
        resting, precharge_all, refresh = self.refresh()
        if access is not None:
            self.note("access", access)
            self.note("read" if heads[access][0] == Op.Read else "write", access)
        if activate is not None:
            self.note("activate", activate)
            self.rows[activate] = heads[activate][1]
            self.window = [*self.window[-3:], self.cycle]
        if precharge is not None:
            self.note("precharge", precharge)
            del self.rows[precharge]
        self.resting = 0 if heads else min(self.resting + 1, Scheduler.REST)
        self.cycle += 1
        return resting, (access, activate, precharge, precharge_all, refresh)

    def refresh(self):
        """Whether it rests for refresh, and does its two commands."""
        state, precharge_all, refresh = self.state, False, False
        if state == RefreshState.Running:
            if self.due > self.postpone or (self.due and self.resting == Scheduler.REST):
                self.state = RefreshState.Closing
        elif state == RefreshState.Closing:
            precharge_all = bool(self.rows) and all(map(self.may_precharge, range(BANKS)))
            if precharge_all:
                self.at["precharge", None] = self.cycle
                self.rows.clear()
            if not self.rows:
                self.state = RefreshState.Closed
        elif state == RefreshState.Closed:
            refresh = self.free("precharge", "precharge_refresh")
            if refresh:
                self.at["refresh", None] = self.cycle
                self.state = RefreshState.Refreshing
        elif self.cycle - self.at["refresh", None] == self.gaps["refresh"] - 1:
            self.state = RefreshState.Running
        self.due += (self.until_due == 0) - refresh
        self.until_due = self.until_due - 1 if self.until_due else self.gaps["interval"] - 1
        return state != RefreshState.Running, precharge_all, refresh


class Player:
    """Shows heads to the scheduler and notes its commands as (cycle, command, bank, row or column).

    Each access is issued with its own tag, and its command follows in the next cycle; rows are opened as asked for.
    All is done in the cycle that the golden model says.
    """

    def __init__(self, bench):
        self.bench = bench
        self.gaps = GAPS[bench.name]
        self.cycle = 0
        self.commands = []
        self.pops = []
        self.shown, self.heads = {}, {}
        self.issued, self.before = None, {}
        self.refreshing = 0
        self.golden = Golden(self.gaps, CONFIGS[bench.name]().postpone)
        self.commanded = []
        for b in range(BANKS):
            self.hide(b)
        self.ages(range(BANKS))

    def hide(self, bank):
        # The access stays, as it does in the queues: without `valid` it means nothing.
        self.bench.port(f"heads__{bank}").value = self.heads.get(bank, 0) & ~1
        self.shown.pop(bank, None)

    def show(self, bank, op=Op.Read, row=0, column=None):
        column = self.bench.random.randrange(128) if column is None else column
        tag = self.bench.random.randrange(TAGS)
        self.shown[bank] = op, row, column, tag
        fields = {"valid": 1, "access": {"op": op, "row": row, "column": column, "tag": tag}}
        self.heads[bank] = pack(head_shape(TAGS), fields)
        self.bench.port(f"heads__{bank}").value = self.heads[bank]

    def ages(self, oldest_first):
        self.rank = rank = {bank: n for n, bank in enumerate(oldest_first)}
        for b in range(BANKS):
            self.bench.port(f"older__{b}").value = sum(1 << j for j in range(BANKS) if rank[b] < rank[j])

    async def step(self, count=1, popped=None):
        """`count` cycles; `popped(bank)` is called for each pop, and by default hides the head."""
        bench = self.bench
        for _ in range(count):
            await ReadOnly()
            bits = bench.get("command")
            slots = {}
            if bits & ANY_COMMAND:
                parts = [bits >> SLOT_BITS * k & (1 << SLOT_BITS) - 1 for k in range(SLOTS)]
                slots = {k: Slot.of(part) for k, part in enumerate(parts) if part & 7}
            for k, slot in slots.items():
                where = slot.row if slot.command == Command.Activate else slot.column
                self.commands.append((self.cycle, slot.command, slot.bank, where, k))
            self.judge(slots)
            pop = bench.get("pop_bank") if bench.get("pop") else None
            self.note(pop)
            self.foresee(pop)
            await RisingEdge(bench.dut.clk)
            await FallingEdge(bench.dut.clk)
            if pop is not None:
                self.pops.append((self.cycle, pop))
                (popped or self.hide)(pop)
            self.cycle += 1

    def judge(self, slots):
        """The commands of this cycle against what was issued and shown in the one before."""
        accesses = {Command.Read: Op.Read, Command.Write: Op.Write}
        found = [
            (accesses[slot.command], slot.bank, slot.column, k) for k, slot in slots.items() if slot.command in accesses
        ]
        assert found == ([self.issued] if self.issued else []), f"cycle {self.cycle}"
        others = [
            (slot.command, None if slot.command in (Command.PrechargeAll, Command.Refresh) else slot.bank, k)
            for k, slot in slots.items()
            if slot.command not in accesses
        ]
        assert others == self.commanded, f"cycle {self.cycle}: {others}, {self.commanded} expected"
        for slot in slots.values():
            row = self.before[slot.bank][1] if slot.command == Command.Activate else 0
            assert slot.row == row, f"cycle {self.cycle}"
            assert slot.column == 0 or slot.command in accesses, f"cycle {self.cycle}"

    def note(self, pop):
        """What is issued in this cycle."""
        issued = self.bench.get("issue")
        assert issued & 1 == (pop is not None)
        self.issued = None
        if pop is not None:
            op, _, column, tag = self.shown[pop]
            assert issue_of(issued) == (op, tag), f"cycle {self.cycle}"
            self.issued = op, pop, column, self.gaps["read" if op == Op.Read else "write"]
        self.before = dict(self.shown)
        if self.bench.get("refreshing"):
            self.refreshing += 1
            assert pop is None

    def foresee(self, pop):
        """What the golden model does in this cycle; the commands other than accesses are seen in the next."""
        resting, (access, activate, precharge, precharge_all, refresh) = self.golden.step(self.shown, self.rank)
        assert pop == access, f"cycle {self.cycle}: access of bank {pop}, {access} expected"
        assert self.bench.get("refreshing") == resting, f"cycle {self.cycle}: refreshing"
        at = self.gaps["precharge"]
        commands = [
            *([(Command.Activate, activate, self.gaps["activate"])] if activate is not None else []),
            *([(Command.Precharge, precharge, at)] if precharge is not None else []),
            *([(Command.PrechargeAll, None, at)] if precharge_all else []),
            *([(Command.Refresh, None, at)] if refresh else []),
        ]
        self.commanded = sorted(commands, key=lambda command: command[2])

    def seen(self, *kinds):
        """The commands of these kinds, as (cycle, bank)."""
        return [(cycle, bank) for cycle, command, bank, _, _ in self.commands if command in kinds]


async def start(dut):
    bench = Bench(dut, DUTS)
    player = Player(bench)
    await bench.reset()
    await FallingEdge(dut.clk)
    return bench, player


@cocotb.test()
async def gaps_are_the_tables(dut):
    bench = Bench(dut, DUTS)
    gaps = Gaps(CONFIGS[bench.name]())
    for name, value in GAPS[bench.name].items():
        assert getattr(gaps, name) == value, f"{name} is {getattr(gaps, name)}, {value} expected"


@cocotb.test()
@cocotb.parametrize(op=[Op.Read, Op.Write])
async def one_bank(dut, op):
    """Closed, open and conflicting rows: the docstring's cycles, each command in its slot."""
    _, player = await start(dut)
    gaps = player.gaps
    access, slot = (Command.Read, gaps["read"]) if op == Op.Read else (Command.Write, gaps["write"])
    opens = gaps["activate_read"] if op == Op.Read else gaps["activate_write"]
    first = player.cycle
    player.show(5, op, row=77, column=9)
    await player.step(40)
    assert player.commands == [
        (first + 1, Command.Activate, 5, 77, gaps["activate"]),
        (first + 1 + opens, access, 5, 9, slot),
    ]
    player.commands.clear()
    second = player.cycle
    player.show(5, op, row=77, column=10)
    await player.step(40)
    assert player.commands == [(second + 1, access, 5, 10, slot)]
    player.commands.clear()
    third = player.cycle
    player.show(5, op, row=78, column=11)
    await player.step(40)
    assert [entry[:3] for entry in player.commands] == [
        (third + 1, Command.Precharge, 5),
        (third + 1 + gaps["precharge_activate"], Command.Activate, 5),
        (third + 1 + gaps["precharge_activate"] + opens, access, 5),
    ]


@cocotb.test()
async def the_oldest_first(dut):
    bench, player = await start(dut)
    for bank in range(BANKS):
        player.show(bank, row=2**18 - 1)
    await player.step(100)
    for _ in range(20):
        banks = [4 * bench.random.randrange(4) + group for group in range(4)]
        bench.random.shuffle(banks)
        player.ages([*banks, *(b for b in range(BANKS) if b not in banks)])
        player.commands.clear()
        row = bench.random.randrange(2**17)
        for bank in banks:
            player.show(bank, row=row)
        await player.step(60)
        assert [bank for _, bank in player.seen(Command.Activate)] == banks
        assert [bank for _, bank in player.seen(Command.Read)] == banks
        # All rows are open now: accesses follow in consecutive cycles.
        bench.random.shuffle(banks)
        player.ages([*banks, *(b for b in range(BANKS) if b not in banks)])
        player.commands.clear()
        for bank in banks:
            player.show(bank, row=row)
        began = player.cycle
        await player.step(20)
        assert player.seen(Command.Read) == [(began + 1 + n, bank) for n, bank in enumerate(banks)]


@cocotb.test()
async def directions_take_turns(dut):
    """With reads and writes always at hand, each direction lasts for the patience and its turnaround."""
    _, player = await start(dut)
    kinds = {bank: Op.Read if bank < 4 else Op.Write for bank in range(8)}
    for bank, op in kinds.items():
        player.show(bank, op, row=1)
    await player.step(600, popped=lambda bank: None)
    accesses = [(cycle, bank < 4) for cycle, bank in player.seen(Command.Read, Command.Write)]
    turns = [n for n in range(1, len(accesses)) if accesses[n][1] != accesses[n - 1][1]]
    assert len(turns) > 10
    for n in turns[1:]:
        rest = accesses[n][0] - accesses[n - 1][0]
        if accesses[n][1]:
            expected = (player.gaps["write_read"], player.gaps["write_read_group"])
        else:
            expected = (player.gaps["read_write"],)
        assert rest in expected, f"turn at {accesses[n][0]} after {rest} cycles"
    lengths = {accesses[b][0] - accesses[a][0] for a, b in pairwise(turns[1:])}
    assert max(lengths) <= Scheduler.PATIENCE + player.gaps["write_read_group"] + 2, lengths
    # With reads alone there is no turn.
    for bank in range(4, 8):
        player.hide(bank)
    await player.step(60, popped=lambda bank: None)
    player.commands.clear()
    await player.step(200, popped=lambda bank: None)
    assert len(player.seen(Command.Read)) == 200


@cocotb.test()
async def refreshes(dut):
    _, player = await start(dut)
    gaps = player.gaps
    interval = gaps["interval"]
    await player.step(3 * interval + 500)
    idle = player.seen(Command.Refresh)
    assert len(idle) == 3
    assert all(b - a == interval for (a, _), (b, _) in pairwise(idle))
    # Under load they are put off, but never by more than `postpone`, and the average is kept.
    for bank in range(4):
        player.show(bank, row=3)
    player.commands.clear()
    began = player.cycle
    await player.step(12 * interval, popped=lambda bank: None)
    busy = player.seen(Command.Refresh)
    postpone = CONFIGS[player.bench.name]().postpone
    assert began + (postpone - 1) * interval < busy[0][0] < began + (postpone + 2) * interval
    # 600 cycles are more than a row, a refresh and the patience take.
    assert all(abs(b - a - interval) < 600 for (a, _), (b, _) in pairwise(busy)), busy
    assert len(busy) >= 12 - postpone - 1
    assert len(player.seen(Command.PrechargeAll)) == len(busy)
    # What was put off is made up for when nothing waits.
    for bank in range(4):
        player.hide(bank)
    player.commands.clear()
    await player.step(Scheduler.REST + (postpone + 2) * (gaps["refresh"] + 10))
    assert postpone <= len(player.seen(Command.Refresh)) <= postpone + 1


async def finish(player, more=10):
    """Until all that was shown is issued, and some cycles more; whether no refresh came in between."""
    for _ in range(600):
        if not player.shown:
            break
        await player.step()
    assert not player.shown
    await player.step(more)
    return not player.seen(Command.PrechargeAll, Command.Refresh)


@cocotb.test()
async def any_bank_and_row(dut):
    """Every bank is opened, read, written and closed for another row, with all bits of row and column."""
    bench, player = await start(dut)
    for bank in bench.random.sample(range(BANKS), BANKS) * 2:
        rows = [bench.random.getrandbits(18), bench.random.getrandbits(18)]
        player.commands.clear()
        for row in (*rows, rows[1] ^ 1 << bench.random.randrange(18)):
            for op in (Op.Read, Op.Write):
                player.show(bank, op, row)
                alone = await finish(player)
        began = player.cycle
        player.show(bank, Op.Read, row)
        alone = await finish(player, 3)
        if alone:
            # It was open in that row at the last: the same again needs no other command.
            assert player.seen(Command.Read)[-1][1] == bank
            assert player.seen(Command.Activate, Command.Precharge)[-1][0] < began
            assert len(player.seen(Command.Activate)) == 3


@cocotb.test()
async def rows_open_as_fast_as_permitted(dut):
    """All banks want another row: each is opened once, never five within the window of four."""
    bench, player = await start(dut)
    for _ in range(8):
        order = bench.random.sample(range(BANKS), BANKS)
        player.ages(order)
        player.commands.clear()
        row = bench.random.getrandbits(18)
        for bank in order:
            player.show(bank, bench.random.choice((Op.Read, Op.Write)), row)
        if not await finish(player):
            continue
        opened = [cycle for cycle, _ in player.seen(Command.Activate)]
        assert len(opened) == BANKS
        assert all(b - a >= player.gaps["four_activates"] for a, b in zip(opened, opened[4:]))
        assert opened[-1] - opened[0] <= 4 * player.gaps["four_activates"] + 8
        assert sorted(bank for _, bank in player.seen(Command.Read, Command.Write)) == list(range(BANKS))


@cocotb.test()
@cocotb.parametrize(rows=[1, 2, 1000], writes=[0.05, 0.5, 0.95])
async def random_heads(dut, rows, writes):
    """Of few banks and of all, of old and new rows: every command comes when the golden model gives it."""
    bench, player = await start(dut)
    rng, order = bench.random, list(range(BANKS))
    for banks, rate in ((1, 0.5), (4, 1.0), (BANKS, 0.1), (BANKS, 1.0)):
        chosen = rng.sample(range(BANKS), banks)
        some = [rng.getrandbits(18) for _ in range(rows)]
        for _ in range(250):
            hidden = [bank for bank in chosen if bank not in player.shown]
            if hidden and rng.random() < rate:
                bank = rng.choice(hidden)
                order.remove(bank)
                order.append(bank)
                player.ages(order)
                player.show(bank, Op.Write if rng.random() < writes else Op.Read, rng.choice(some))
            await player.step()
    await finish(player)


@cocotb.test()
async def any_two_by_age(dut):
    """Each bank comes right behind each other one in age, when rows are closed and opened and when all are open."""
    bench, player = await start(dut)
    zigzag = [(n + 1) // 2 if n % 2 else -n // 2 for n in range(BANKS)]
    for shift in bench.random.sample(range(BANKS), BANKS):
        order = [(bank + shift) % BANKS for bank in zigzag]
        player.ages(order)
        row = bench.random.getrandbits(18)
        # The second time the rows are open. Before the next shift they may all be closed at once.
        for rest in (0, max(player.gaps[f"{event}_precharge"] for event in ("activate", "read"))):
            for bank in order:
                player.show(bank, row=row)
            await finish(player, rest)
        # All rows are open: two at a time.
        for older, younger in pairwise(order):
            player.show(older, row=row)
            player.show(younger, row=row)
            await finish(player, 2)
