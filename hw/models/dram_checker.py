"""Judges the traffic of a DRAM bus by the timing table, tick by tick."""

from amaranth.hdl import *
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.memory.dram import BANKS, GROUPS, SLOTS, Command, DramCommand

__all__ = ["DramChecker", "Rule"]


class Rule(enum.Enum, shape=5):
    """What a command can break; of several at one tick the first counts as the first."""

    State = 0
    """Access to a closed bank, activate of an open one, refresh with a bank open."""
    Rcd = 1
    Rp = 2
    Ras = 3
    Rc = 4
    RrdS = 5
    RrdL = 6
    Faw = 7
    Wr = 8
    WtrS = 9
    WtrL = 10
    Rtp = 11
    CcdS = 12
    CcdL = 13
    Rfc = 14
    Refi = 15
    """A refresh has been put off for more than 8 intervals."""
    ReadToWrite = 16
    """Write data less than two ticks behind read data."""
    Alignment = 17
    """The burst is not one whole core cycle."""
    WriteData = 18
    """Write data missing, or there without a write."""


# Long enough ago at the start for every rule.
_START = 1 << 20


class DramChecker(wiring.Component):
    """Checks each command against all earlier ones, in ticks, straight from the timing table.

    Banks are closed at first and nothing has happened lately. Every rule that a command breaks counts. An access is bad
    if it breaks a rule itself, if its row was activated against a rule or after a precharge or refresh that broke
    one, or while a refresh is overdue.

    Parameters
    ----------
    config : DdrConfig
        The timing table.

    Members
    -------
    command : :py:`In(data.ArrayLayout(DramCommand, SLOTS))`
        The four ticks of this cycle.
    write_valid : :py:`In(1)`
        Write data is on the bus in this cycle.
    bad : :py:`Out(SLOTS)`
        The access in this slot must not succeed.
    counts : :py:`Out(data.ArrayLayout(16, len(Rule)))`
        Commands that broke each rule; stops at the highest number.
    violations : :py:`Out(32)`
        Sum of all counts.
    first_rule : :py:`Out(Rule)`
        The first rule that was broken, if any was.
    first_tick : :py:`Out(32)`
        When: tick 0 is slot 0 of the first cycle after reset.
    """

    def __init__(self, config):
        shortest = min(config.ticks(name) for name in ("ras", "rtp", "rrd_s", "ccd_s"))
        if shortest < SLOTS:
            raise ValueError(f"a time is {shortest} ticks; at least {SLOTS} expected of ras, rtp, rrd_s and ccd_s")
        self.config = config
        super().__init__(
            {
                "command": In(data.ArrayLayout(DramCommand, SLOTS)),
                "write_valid": In(1),
                "bad": Out(SLOTS),
                "counts": Out(data.ArrayLayout(16, len(Rule))),
                "violations": Out(32),
                "first_rule": Out(Rule),
                "first_tick": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        t = {name: config.ticks(name) for name in config.__dataclass_fields__ if name not in _NO_TIMES}
        now = Signal(32, init=_START)
        m.d.sync += now.eq(now + SLOTS)
        write_due = self._write_due(m, t)

        # Ticks of the last commands before this cycle. Rules forbid two activates, reads or writes in one cycle, so
        # that of each only the last is kept.
        act, pre, rd, wr = (
            [Signal(32, name=f"{name}{b}") for b in range(BANKS)] for name in ("act", "pre", "rd", "wr")
        )
        group_act, group_rd, group_wr = (
            [Signal(32, name=f"{name}_group{g}") for g in range(GROUPS)] for name in ("act", "rd", "wr")
        )
        last_act, last_pre, last_rd, last_wr, last_ref = (
            Signal(32, name=f"last_{name}") for name in ("act", "pre", "rd", "wr", "ref")
        )
        fourth_act = [Signal(32, name=f"act_before{n}") for n in range(3)]
        deadline, late = Signal(32, init=_START + 9 * t["refi"]), Signal()
        opened, tainted, hurt = (Signal(BANKS, name=name) for name in ("opened", "tainted", "hurt"))
        opened_now, tainted_now, hurt_now, late_now, deadline_now = opened, tainted, hurt, late, deadline

        broken = [Signal(len(Rule), name=f"broken{k}") for k in range(SLOTS)]
        ticks = [Signal(32, name=f"tick{k}") for k in range(SLOTS)]
        is_ = [{kind: Signal(name=f"is_{kind.name}{k}") for kind in Command} for k in range(SLOTS)]
        banks = [slot.bank for slot in self.command]
        for k in range(SLOTS):
            m.d.comb += ticks[k].eq(now + k)
            m.d.comb += [signal.eq(self.command[k].command == kind) for kind, signal in is_[k].items()]

        # Precharging all looks at every bank; in a cycle only the first that does so is looked at in full.
        all_tick = Signal(32)
        for k in reversed(range(SLOTS)):
            with m.If(is_[k][Command.PrechargeAll]):
                m.d.comb += all_tick.eq(ticks[k])
        all_early = {}
        for rule, signals, limit in (
            (Rule.Ras, act, t["ras"]),
            (Rule.Rtp, rd, t["rtp"]),
            (Rule.Wr, wr, t["cwl"] + 4 + t["wr"]),
        ):
            all_early[rule] = Signal(name=f"all_early_{rule.name}")
            m.d.comb += all_early[rule].eq(
                Cat(opened[b] & ((all_tick - signals[b])[:32] < limit) for b in range(BANKS)).any()
            )

        for k in range(SLOTS):
            tick, bank = ticks[k], banks[k]

            def since(kind, before, same=None, k=k):
                """Ticks since the last command of `kind`, which was at `before` or is in an earlier slot."""
                for j in range(k):
                    matches = is_[j][kind] if same is None else is_[j][kind] & same(banks[j], banks[k])
                    before = Mux(matches, ticks[j], before)
                passed = Signal(32, name=f"since{k}")
                m.d.comb += passed.eq(ticks[k] - before)
                return passed

            same_bank = lambda a, b: a == b  # noqa: E731
            same_group = lambda a, b: a[0:2] == b[0:2]  # noqa: E731
            bank_act = since(Command.Activate, Array(act)[bank], same_bank)
            bank_rd = since(Command.Read, Array(rd)[bank], same_bank)
            bank_wr = since(Command.Write, Array(wr)[bank], same_bank)
            bank_pre = Signal(32, name=f"bank_pre{k}")
            before = Array(pre)[bank]
            any_pre = last_pre
            for j in range(k):
                closing = is_[j][Command.PrechargeAll] | (is_[j][Command.Precharge] & (banks[j] == bank))
                before = Mux(closing, ticks[j], before)
                any_pre = Mux(is_[j][Command.PrechargeAll] | is_[j][Command.Precharge], ticks[j], any_pre)
            m.d.comb += bank_pre.eq(tick - before)
            any_act = since(Command.Activate, last_act)
            any_rd, any_wr = since(Command.Read, last_rd), since(Command.Write, last_wr)
            any_ref = since(Command.Refresh, last_ref)
            acts_before = Cat(is_[j][Command.Activate] for j in range(k)).any() if k else Const(0, 1)
            earlier = {
                Rule.Ras: [is_[j][Command.Activate] for j in range(k)],
                Rule.Rtp: [is_[j][Command.Read] for j in range(k)],
                Rule.Wr: [is_[j][Command.Write] for j in range(k)],
            }

            command = is_[k]
            activates, precharges, refreshes = (
                command[kind] for kind in (Command.Activate, Command.Precharge, Command.Refresh)
            )
            reads, writes, closes_all = (command[kind] for kind in (Command.Read, Command.Write, Command.PrechargeAll))
            accesses = reads | writes
            is_open = opened_now.bit_select(bank, 1)

            def closes_early(rule, passed, limit, k=k, command=command, is_open=is_open, earlier=earlier):
                alone = command[Command.Precharge] & is_open & (passed < limit)
                same_cycle = Cat(earlier[rule]).any() if k else 0
                return alone | (command[Command.PrechargeAll] & (all_early[rule] | same_cycle))

            rules = {rule: Const(0, 1) for rule in Rule}
            rules[Rule.State] = (accesses & ~is_open) | (activates & is_open) | (refreshes & opened_now.any())
            rules[Rule.Rcd] = accesses & (bank_act < t["rcd"])
            rules[Rule.Rp] = (activates & (bank_pre < t["rp"])) | (refreshes & ((tick - any_pre)[:32] < t["rp"]))
            rules[Rule.Ras] = closes_early(Rule.Ras, bank_act, t["ras"])
            rules[Rule.Rc] = activates & (bank_act < t["rc"])
            rules[Rule.RrdS] = activates & (any_act < t["rrd_s"])
            rules[Rule.RrdL] = activates & (
                since(Command.Activate, Array(group_act)[bank[0:2]], same_group) < t["rrd_l"]
            )
            rules[Rule.Faw] = activates & ((tick - Mux(acts_before, fourth_act[1], fourth_act[2]))[:32] < t["faw"])
            rules[Rule.Wr] = closes_early(Rule.Wr, bank_wr, t["cwl"] + 4 + t["wr"])
            rules[Rule.WtrS] = reads & (any_wr < t["cwl"] + 4 + t["wtr_s"])
            group_write = since(Command.Write, Array(group_wr)[bank[0:2]], same_group)
            group_read = since(Command.Read, Array(group_rd)[bank[0:2]], same_group)
            rules[Rule.WtrL] = reads & (group_write < t["cwl"] + 4 + t["wtr_l"])
            rules[Rule.Rtp] = closes_early(Rule.Rtp, bank_rd, t["rtp"])
            rules[Rule.CcdS] = (reads & (any_rd < t["ccd_s"])) | (writes & (any_wr < t["ccd_s"]))
            rules[Rule.CcdL] = (reads & (group_read < t["ccd_l"])) | (writes & (group_write < t["ccd_l"]))
            rules[Rule.Rfc] = ~command[Command.Nop] & (any_ref < t["rfc"])
            overdue = Signal(name=f"overdue{k}")
            m.d.comb += overdue.eq(tick > deadline_now)
            rules[Rule.Refi] = overdue & ~late_now
            rules[Rule.ReadToWrite] = writes & (any_rd < t["cl"] + 4 + 2 - t["cwl"])
            rules[Rule.Alignment] = (reads & int((k + t["cl"]) % SLOTS != 0)) | (
                writes & int((k + t["cwl"]) % SLOTS != 0)
            )
            if k == 0:
                rules[Rule.WriteData] = self.write_valid != write_due
            m.d.comb += broken[k].eq(Cat(rules[rule] for rule in Rule))

            wrong, here, closed = (
                Signal(1, name=f"wrong{k}"),
                Signal(BANKS, name=f"here{k}"),
                Signal(BANKS, name=f"closed{k}"),
            )
            meant = Signal(BANKS, name=f"meant{k}")
            m.d.comb += [
                wrong.eq(Cat(rules[rule] for rule in Rule if rule not in (Rule.Refi, Rule.WriteData)).any()),
                here.eq(1 << bank),
                meant.eq(Mux(closes_all, ~0, Mux(precharges, here, 0))),
                closed.eq(opened_now & meant),
                self.bad[k].eq(wrong | tainted_now.bit_select(bank, 1) | late_now | overdue),
            ]

            def then(name, width, value, k=k):
                signal = Signal(width, name=f"{name}_after{k}")
                m.d.comb += signal.eq(value)
                return signal

            opened_now = then("opened", BANKS, (opened_now | Mux(activates, here, 0)) & ~closed)
            taint = Mux(wrong, here, hurt_now & here)
            tainted_now = then("tainted", BANKS, Mux(activates, (tainted_now & ~here) | taint, tainted_now))
            hurt_now = then(
                "hurt",
                BANKS,
                Mux(refreshes & wrong, ~0, Mux(wrong, hurt_now | meant, hurt_now & ~closed)),
            )
            furthest, following = tick + 9 * t["refi"], deadline_now + t["refi"]
            put_off = Mux(late_now | overdue | (following > furthest), furthest, following)
            late_now = then("late", 1, (late_now | overdue) & ~refreshes)
            deadline_now = then("deadline", 32, Mux(refreshes, put_off, deadline_now))

            for b in range(BANKS):
                with m.If(closed[b]):
                    m.d.sync += pre[b].eq(tick)
            for kind, of_bank, of_group, of_any in (
                (Command.Activate, act, group_act, last_act),
                (Command.Read, rd, group_rd, last_rd),
                (Command.Write, wr, group_wr, last_wr),
            ):
                with m.If(command[kind]):
                    m.d.sync += [
                        Array(of_bank)[bank].eq(tick),
                        Array(of_group)[bank[0:2]].eq(tick),
                        of_any.eq(tick),
                    ]
            with m.If(activates):
                m.d.sync += [new.eq(old) for new, old in zip(fourth_act, [last_act, *fourth_act])]
            with m.If(precharges | closes_all):
                m.d.sync += last_pre.eq(tick)
            with m.If(refreshes):
                m.d.sync += last_ref.eq(tick)
        m.d.sync += [
            opened.eq(opened_now),
            tainted.eq(tainted_now),
            hurt.eq(hurt_now),
            late.eq(late_now),
            deadline.eq(deadline_now),
        ]

        # Results.
        total = Signal(range(len(Rule) * SLOTS + 1))
        m.d.comb += total.eq(sum((bit for signal in broken for bit in signal), start=Const(0, 1)))
        with m.If(total.any()):
            m.d.sync += self.violations.eq(self.violations + total)
        for rule in Rule:
            count = self.counts[rule.value]
            more = sum((signal[rule.value] for signal in broken), start=Const(0, 1))
            with m.If(Cat(signal[rule.value] for signal in broken).any() & (count < 0xFFF0)):
                m.d.sync += count.eq(count + more)
        with m.If((self.violations == 0) & total.any()):
            for k in reversed(range(SLOTS)):
                for rule in reversed(Rule):
                    with m.If(broken[k][rule.value]):
                        m.d.sync += [self.first_rule.eq(rule), self.first_tick.eq(now + k - _START)]
        return m

    def _write_due(self, m, t):
        """Whether a write's burst begins in this cycle."""
        due = Const(0, 1)
        for k in range(SLOTS):
            write = self.command[k].command == Command.Write
            for n in range((k + t["cwl"]) // SLOTS):
                delayed = Signal(name=f"write_due{k}_{n}")
                m.d.sync += delayed.eq(write)
                write = delayed
            due = due | write
        return due


_NO_TIMES = ("rate", "reorder", "queue", "writes", "postpone")
