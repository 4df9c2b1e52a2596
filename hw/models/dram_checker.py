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
        now = Signal(40, init=_START)
        m.d.sync += now.eq(now + SLOTS)

        kept = {}

        def state(name, shape, init=0):
            kept[name] = Signal(shape, name=name, init=init)
            return kept[name]

        lately = {name: [state(f"{name}{b}", 40) for b in range(BANKS)] for name in ("act", "pre", "rd", "wr")}
        group = {name: [state(f"{name}_group{g}", 40) for g in range(GROUPS)] for name in ("act", "rd", "wr")}
        last = {name: state(f"{name}_any", 40) for name in ("act", "rd", "wr", "pre", "ref")}
        acts = [state(f"act_before{n}", 40) for n in range(1, 4)]
        opened, tainted, hurt = (state(name, BANKS) for name in ("opened", "tainted", "hurt"))
        deadline = state("deadline", 40, init=_START + 9 * t["refi"])
        late = state("late", 1)

        broken = [Signal(len(Rule), name=f"broken{k}") for k in range(SLOTS)]
        for k in range(SLOTS):
            tick = Signal(40, name=f"tick{k}")
            m.d.comb += tick.eq(now + k)
            command, bank = self.command[k].command, self.command[k].bank
            is_ = {kind: Signal(name=f"is_{kind.name}{k}") for kind in Command}
            for kind, signal in is_.items():
                m.d.comb += signal.eq(command == kind)

            def early(since, ticks, tick=tick):
                return tick < since + ticks

            def of(signals, bank=bank):
                return Array(signals)[bank if len(signals) == BANKS else bank[0:2]]

            is_open = opened.bit_select(bank, 1)
            rules = {rule: Const(0, 1) for rule in Rule}
            act, pre = is_[Command.Activate], is_[Command.Precharge]
            read, write = is_[Command.Read], is_[Command.Write]
            pre_all, refresh = is_[Command.PrechargeAll], is_[Command.Refresh]
            closes = [opened[b] & (pre_all | (pre & (bank == b))) for b in range(BANKS)]
            access = read | write

            def any_closing(name, ticks, closes=closes):
                return Cat(closes[b] & early(lately[name][b], ticks) for b in range(BANKS)).any()

            rules[Rule.State] = (access & ~is_open) | (act & is_open) | (refresh & opened.any())
            rules[Rule.Rcd] = access & early(of(lately["act"]), t["rcd"])
            rules[Rule.Rp] = (act & early(of(lately["pre"]), t["rp"])) | (refresh & early(last["pre"], t["rp"]))
            rules[Rule.Ras] = any_closing("act", t["ras"])
            rules[Rule.Rc] = act & early(of(lately["act"]), t["rc"])
            rules[Rule.RrdS] = act & early(last["act"], t["rrd_s"])
            rules[Rule.RrdL] = act & early(of(group["act"]), t["rrd_l"])
            rules[Rule.Faw] = act & early(acts[2], t["faw"])
            rules[Rule.Wr] = any_closing("wr", t["cwl"] + 4 + t["wr"])
            rules[Rule.WtrS] = read & early(last["wr"], t["cwl"] + 4 + t["wtr_s"])
            rules[Rule.WtrL] = read & early(of(group["wr"]), t["cwl"] + 4 + t["wtr_l"])
            rules[Rule.Rtp] = any_closing("rd", t["rtp"])
            rules[Rule.CcdS] = (read & early(last["rd"], t["ccd_s"])) | (write & early(last["wr"], t["ccd_s"]))
            rules[Rule.CcdL] = (read & early(of(group["rd"]), t["ccd_l"])) | (
                write & early(of(group["wr"]), t["ccd_l"])
            )
            rules[Rule.Rfc] = ~is_[Command.Nop] & early(last["ref"], t["rfc"])
            rules[Rule.Refi] = (tick > deadline) & ~late
            rules[Rule.ReadToWrite] = write & early(last["rd"], t["cl"] + 4 + 2 - t["cwl"])
            rules[Rule.Alignment] = (read & ((k + t["cl"]) % SLOTS != 0)) | (write & ((k + t["cwl"]) % SLOTS != 0))
            if k == 0:
                rules[Rule.WriteData] = self.write_valid != self._write_due(m, t)
            m.d.comb += broken[k].eq(Cat(rules[rule] for rule in Rule))

            wrong = Signal(name=f"wrong{k}")
            timing = Cat(rules[rule] for rule in Rule if rule not in (Rule.Refi, Rule.WriteData))
            m.d.comb += [
                wrong.eq(timing.any()),
                self.bad[k].eq(wrong | tainted.bit_select(bank, 1) | late | (tick > deadline)),
            ]

            after = {}

            def then(signal, value, after=after, k=k):
                name = signal.name.partition("_after")[0]
                after[name] = Signal.like(signal, name=f"{name}_after{k}")
                m.d.comb += after[name].eq(value)
                return after[name]

            new_acts = [then(a, Mux(act, before, a)) for a, before in zip(acts, [last["act"], *acts[:2]])]
            did = {"act": act, "rd": read, "wr": write}
            lately = {
                name: [
                    then(s, Mux(closes[b] if name == "pre" else did[name] & (bank == b), tick, s))
                    for b, s in enumerate(signals)
                ]
                for name, signals in lately.items()
            }
            group = {
                name: [then(s, Mux(did[name] & (bank[0:2] == g), tick, s)) for g, s in enumerate(signals)]
                for name, signals in group.items()
            }
            did |= {"pre": Cat(closes).any(), "ref": refresh}
            last = {name: then(s, Mux(did[name], tick, s)) for name, s in last.items()}
            acts = new_acts
            here = Signal(BANKS, name=f"here{k}")
            m.d.comb += here.eq(1 << bank)
            opened = then(opened, (opened | Mux(act, here, 0)) & ~Cat(closes))
            tainted = then(tainted, Mux(act, Mux(wrong, tainted | here, (tainted & ~here) | (hurt & here)), tainted))
            hurt = then(
                hurt, Mux(refresh & wrong, ~0, Mux(wrong, hurt | Cat(closes), hurt & ~Cat(closes)))
            )
            furthest, next_ = tick + 9 * t["refi"], deadline + t["refi"]
            put_off = Mux(late | (tick > deadline) | (next_ > furthest), furthest, next_)
            late = then(late, (late | (tick > deadline)) & ~refresh)
            deadline = then(deadline, Mux(refresh, put_off, deadline))
        for name, signal in kept.items():
            m.d.sync += signal.eq(after[name])

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
