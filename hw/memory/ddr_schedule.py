"""Chooses the DRAM's commands: opens and closes rows, issues accesses and refreshes, and keeps every timing rule."""

from dataclasses import dataclass

from amaranth.hdl import *
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.memory.ddr_queues import head_shape
from tessera.hw.memory.dram import BANKS, GROUPS, SLOTS, Command, DramCommand
from tessera.hw.memory.port import Op

__all__ = ["Gaps", "RefreshState", "Scheduler", "issue_shape"]


def issue_shape(tags):
    """The access that goes out, with the tag that came with it."""
    return data.StructLayout({"valid": 1, "op": Op, "tag": range(tags)})


@dataclass(frozen=True)
class Gaps:
    """The timing rules in core cycles, for commands that have fixed slots.

    Accesses stand in the slot that puts their burst onto a core cycle. Activates and precharges have two of the other
    slots, so chosen that a closed bank is reached soonest.

    Parameters
    ----------
    config : DdrConfig
        The timing.
    activate, precharge : int
        Slots; None to choose them.
    """

    config: object

    def __post_init__(self):
        config = self.config
        set_ = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        read, write = -config.cl % SLOTS, -config.cwl % SLOTS
        others = [slot for slot in range(SLOTS) if slot not in (read, write)]

        def gap(name, first, second, extra=0):
            return max(1, -(-(config.ticks(name) + extra + first - second) // SLOTS))

        def cost(slots):
            activate, precharge = slots
            return (
                gap("rp", precharge, activate) + gap("rcd", activate, read),
                gap("rtp", read, precharge),
                gap("ras", activate, precharge),
            )

        activate, precharge = min(((a, p) for a in others for p in others if a != p), key=cost)
        set_("read", read)
        set_("write", write)
        set_("activate", activate)
        set_("precharge", precharge)
        set_("activate_read", gap("rcd", activate, read))
        set_("activate_write", gap("rcd", activate, write))
        set_("precharge_activate", gap("rp", precharge, activate))
        set_("precharge_refresh", gap("rp", precharge, precharge))
        set_(
            "activate_precharge",
            max(gap("ras", activate, precharge), gap("rc", activate, activate) - self.precharge_activate),
        )
        set_("read_precharge", gap("rtp", read, precharge))
        set_("write_precharge", gap("wr", write, precharge, config.cwl + 4))
        set_("activate_activate", gap("rrd_s", activate, activate))
        set_("activate_activate_group", gap("rrd_l", activate, activate))
        set_("four_activates", gap("faw", activate, activate))
        set_("access_access", gap("ccd_s", 0, 0))
        set_("access_access_group", gap("ccd_l", 0, 0))
        set_("write_read", gap("wtr_s", write, read, config.cwl + 4))
        set_("write_read_group", gap("wtr_l", write, read, config.cwl + 4))
        # The data bus rests two ticks while it turns: the write's preamble.
        set_("read_write", gap("cl", read, write, 4 + 2 - config.cwl))
        set_("refresh", max(gap("rfc", precharge, activate), gap("rfc", precharge, precharge)))
        # Rounded down: the interval is a bound from above.
        set_("interval", config.ticks("refi") // SLOTS)
        set_("read_data", (read + config.cl) // SLOTS)
        set_("write_data", (write + config.cwl) // SLOTS)


class RefreshState(enum.Enum, shape=2):
    """What the scheduler does about refresh."""

    Running = 0
    Closing = 1
    """No more commands until all banks may be precharged, which then happens."""
    Closed = 2
    """All banks are closed; waiting to refresh."""
    Refreshing = 3


class Scheduler(wiring.Component):
    """Issues up to an access, an activate and a precharge in each core cycle, the oldest first that rules permit.

    Rows stay open until another row of the bank is wanted. Reads and writes are issued in turns: the direction
    changes when none of the other kind is first in its bank's queue, or after ``patience`` cycles with some of both.
    An access to an open row is issued in the cycle when it is its bank's head, if nothing hinders it; to a closed
    bank ``Gaps.activate_read`` cycles later, to a bank open in another row ``Gaps.precharge_activate`` more.

    Every ``Gaps.interval`` a refresh falls due. It is done when nothing has waited for ``REST`` cycles, and in any
    case when more than ``config.postpone`` are due; all banks are then closed first.

    Parameters
    ----------
    config : DdrConfig
        The timing.
    tags : int
        Number of tags.

    Members
    -------
    heads, older
        Of :class:`BankQueues`.
    pop, pop_bank
        To :class:`BankQueues`: the head is issued.
    issue : :py:`Out(issue_shape(tags))`
        The access that is issued: its command is on the bus in the next cycle.
    command : :py:`Out(data.ArrayLayout(DramCommand, SLOTS))`
        Commands of this core cycle.
    refreshing : :py:`Out(1)`
        No access is issued because of refresh.
    """

    REST = 32
    PATIENCE = 32

    def __init__(self, config, tags):
        self.config, self.tags = config, tags
        super().__init__(
            {
                "heads": In(head_shape(tags)).array(BANKS),
                "older": In(BANKS).array(BANKS),
                "pop": Out(1),
                "pop_bank": Out(4),
                "issue": Out(issue_shape(tags)),
                "command": Out(data.ArrayLayout(DramCommand, SLOTS)),
                "refreshing": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        gaps = Gaps(self.config)
        heads = self.heads
        groups = [b % GROUPS for b in range(BANKS)]

        opened, rows = Signal(BANKS), [Signal(18, name=f"row{b}") for b in range(BANKS)]
        accesses, activates, precharges = (Signal(BANKS, name=name) for name in ("accesses", "activates", "precharges"))
        reads, writes = Signal(BANKS), Signal(BANKS)
        precharge_all, refresh = Signal(), Signal()
        state = Signal(RefreshState)
        running = state == RefreshState.Running

        def group_of(banks, group):
            return Cat(banks[b] for b in range(BANKS) if groups[b] == group).any()

        valid, hit = Signal(BANKS), Signal(BANKS)
        is_write = Signal(BANKS)
        for b in range(BANKS):
            m.d.comb += [
                valid[b].eq(heads[b].valid),
                is_write[b].eq(heads[b].access.op == Op.Write),
                hit[b].eq(opened[b] & (heads[b].access.row == rows[b])),
            ]

        # The data bus and the bank groups.
        any_read, any_write, any_activate = reads.any(), writes.any(), activates.any()
        read_free = _timer(m, any_write, gaps.write_read, "write_read")
        write_free = _timer(m, any_read, gaps.read_write, "read_write")
        access_free = _timer(m, any_read | any_write, gaps.access_access, "access_access")
        activate_free = _timer(m, any_activate, gaps.activate_activate, "activate_activate")
        group_read, group_write, group_activate = (Signal(GROUPS, name=f"group_{n}") for n in ("read", "write", "act"))
        for g in range(GROUPS):
            same = _timer(m, group_of(accesses, g), gaps.access_access_group, f"access_access{g}")
            turned = _timer(m, group_of(writes, g), gaps.write_read_group, f"write_read{g}")
            m.d.comb += [
                group_read[g].eq(same & turned & read_free & access_free),
                group_write[g].eq(same & write_free & access_free),
                group_activate[g].eq(
                    _timer(m, group_of(activates, g), gaps.activate_activate_group, f"activate_activate{g}")
                ),
            ]
        window = Signal(gaps.four_activates - 1)
        in_window = Signal(range(5))
        m.d.sync += [window.eq(Cat(any_activate, window)), in_window.eq(in_window + any_activate - window[-1])]
        window_free = Signal()
        m.d.comb += window_free.eq(in_window < 4)

        # Direction of the data bus.
        reading, writing = Signal(), Signal()
        m.d.comb += [reading.eq((valid & ~is_write).any()), writing.eq((valid & is_write).any())]
        direction, now = Signal(Op), Signal(Op)
        waited = Signal(range(self.PATIENCE + 1))
        impatient = waited == self.PATIENCE
        with m.If(direction == Op.Write):
            m.d.comb += now.eq(Mux(writing & ~(reading & impatient), Op.Write, Op.Read))
        with m.Else():
            m.d.comb += now.eq(Mux(writing & ~(reading & ~impatient), Op.Write, Op.Read))
        m.d.sync += direction.eq(now)
        with m.If((now != direction) | ~reading | ~writing):
            m.d.sync += waited.eq(0)
        with m.Elif(~impatient & running):
            m.d.sync += waited.eq(waited + 1)

        # The banks.
        may_access, may_activate, may_precharge, at_rest = (
            Signal(BANKS, name=name) for name in ("may_access", "may_activate", "may_precharge", "at_rest")
        )
        for b in range(BANKS):
            g = groups[b]
            activated_read = _timer(m, activates[b], gaps.activate_read, f"activate_read{b}")
            activated_write = _timer(m, activates[b], gaps.activate_write, f"activate_write{b}")
            precharged = _timer(m, precharges[b], gaps.precharge_activate, f"precharge_activate{b}")
            m.d.comb += [
                at_rest[b].eq(
                    _timer(m, activates[b], gaps.activate_precharge, f"activate_precharge{b}")
                    & _timer(m, reads[b], gaps.read_precharge, f"read_precharge{b}")
                    & _timer(m, writes[b], gaps.write_precharge, f"write_precharge{b}")
                ),
                may_access[b].eq(
                    valid[b]
                    & hit[b]
                    & running
                    & Mux(
                        is_write[b],
                        activated_write & group_write[g] & (now == Op.Write),
                        activated_read & group_read[g] & (now == Op.Read),
                    )
                ),
                may_activate[b].eq(
                    valid[b] & ~opened[b] & precharged & group_activate[g] & activate_free & window_free & running
                ),
                may_precharge[b].eq(valid[b] & opened[b] & ~hit[b] & at_rest[b] & running),
            ]
            with m.If(activates[b]):
                m.d.sync += [opened[b].eq(1), rows[b].eq(heads[b].access.row)]
            with m.Elif(precharges[b] | precharge_all):
                m.d.sync += opened[b].eq(0)

        for chosen, candidates in (
            (accesses, may_access),
            (activates, may_activate),
            (precharges, may_precharge),
        ):
            for b in range(BANKS):
                older = [candidates[j] & self.older[j][b] for j in range(BANKS) if j != b]
                m.d.comb += chosen[b].eq(candidates[b] & ~Cat(older).any())
        m.d.comb += [reads.eq(accesses & ~is_write), writes.eq(accesses & is_write)]

        # Refresh.
        interval = Signal(range(gaps.interval), init=gaps.interval - 1)
        due = Signal(4)
        resting = Signal(range(self.REST + 1))
        closed_free = _timer(m, precharges.any() | precharge_all, gaps.precharge_refresh, "precharge_refresh")
        refreshed = _timer(m, refresh, gaps.refresh - 1, "refresh")
        tick = interval == 0
        m.d.sync += [interval.eq(Mux(tick, gaps.interval - 1, interval - 1)), due.eq(due + tick - refresh)]
        with m.If(valid.any()):
            m.d.sync += resting.eq(0)
        with m.Elif(resting != self.REST):
            m.d.sync += resting.eq(resting + 1)
        with m.Switch(state):
            with m.Case(RefreshState.Running):
                with m.If((due > self.config.postpone) | (due.any() & (resting == self.REST))):
                    m.d.sync += state.eq(RefreshState.Closing)
            with m.Case(RefreshState.Closing):
                m.d.comb += precharge_all.eq(opened.any() & at_rest.all())
                with m.If(precharge_all | ~opened.any()):
                    m.d.sync += state.eq(RefreshState.Closed)
            with m.Case(RefreshState.Closed):
                m.d.comb += refresh.eq(closed_free)
                with m.If(refresh):
                    m.d.sync += state.eq(RefreshState.Refreshing)
            with m.Case(RefreshState.Refreshing):
                with m.If(refreshed):
                    m.d.sync += state.eq(RefreshState.Running)

        m.d.comb += self.refreshing.eq(~running)

        # Commands.
        picked = Signal(data.StructLayout({"op": Op, "column": 7, "tag": range(self.tags)}))
        picked_bank, activate_bank, precharge_bank = (
            _number(m, chosen, name)
            for chosen, name in ((accesses, "access"), (activates, "activate"), (precharges, "precharge"))
        )
        activate_row = Signal(18)
        m.d.comb += [
            Value.cast(picked).eq(
                _select(
                    m,
                    accesses,
                    [Cat(head.access.op, head.access.column, head.access.tag) for head in heads],
                    "picked",
                )
            ),
            activate_row.eq(_select(m, activates, [head.access.row for head in heads], "activate_row")),
            self.pop.eq(accesses.any()),
            self.pop_bank.eq(picked_bank),
            self.issue.valid.eq(self.pop),
            self.issue.op.eq(picked.op),
            self.issue.tag.eq(picked.tag),
        ]
        slots = self.command
        for slot in {gaps.read, gaps.write}:
            m.d.sync += [
                slots[slot].command.eq(Command.Nop),
                slots[slot].bank.eq(picked_bank),
                slots[slot].column.eq(picked.column),
            ]
        with m.If(any_read):
            m.d.sync += slots[gaps.read].command.eq(Command.Read)
        with m.If(any_write):
            m.d.sync += slots[gaps.write].command.eq(Command.Write)
        m.d.sync += [
            slots[gaps.activate].command.eq(Command.Nop),
            slots[gaps.activate].bank.eq(activate_bank),
            slots[gaps.activate].row.eq(activate_row),
            slots[gaps.precharge].command.eq(Command.Nop),
            slots[gaps.precharge].bank.eq(precharge_bank),
        ]
        with m.If(any_activate):
            m.d.sync += slots[gaps.activate].command.eq(Command.Activate)
        with m.If(precharges.any()):
            m.d.sync += slots[gaps.precharge].command.eq(Command.Precharge)
        with m.If(precharge_all):
            m.d.sync += slots[gaps.precharge].command.eq(Command.PrechargeAll)
        with m.If(refresh):
            m.d.sync += slots[gaps.precharge].command.eq(Command.Refresh)
        return m


def _timer(m, event, cycles, name):
    """Low from the cycle after `event` on, until `cycles` cycles after it."""
    free = Signal(name=f"{name}_free", init=1)
    if cycles <= 1:
        m.d.comb += free.eq(1)
        return free
    left = Signal(range(cycles), name=f"{name}_left")
    with m.If(event):
        m.d.sync += [left.eq(cycles - 1), free.eq(0)]
    with m.Elif(~free):
        m.d.sync += [left.eq(left - 1), free.eq(left == 1)]
    return free


def _number(m, one_hot, name):
    number = Signal(4, name=f"{name}_number")
    for bit in range(4):
        m.d.comb += number[bit].eq(Cat(one_hot[b] for b in range(BANKS) if b >> bit & 1).any())
    return number


def _select(m, one_hot, values, name):
    """The one of `values` that `one_hot` tells; 0 for none."""
    width = len(Value.cast(values[0]))
    terms = [Mux(one_hot[b], value, 0) for b, value in enumerate(values)]
    while len(terms) > 1:
        terms = [terms[n] | terms[n + 1] for n in range(0, len(terms), 2)]
    selected = Signal(width, name=f"{name}_selected")
    m.d.comb += selected.eq(terms[0])
    return selected
