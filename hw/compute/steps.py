"""The sequence of steps in which a pass of the scaler goes along one axis."""

from amaranth.hdl import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.golden.ops_tables import CUBIC, CUBIC_BITS, PHASE_BITS, POSITION_BITS, RECIPROCAL_BITS

__all__ = ["WEIGHT", "AxisTask", "Step", "Steps"]

WEIGHT = signed(CUBIC_BITS + 2)
"""A weight, or the sum of some that fell on one sample at an edge."""

_DEPTH = 32
_GAIN = 17
_RECIPROCAL = 17
# Below a gain of 2**13 the reciprocal would not fit; the least, of a kernel cut in its middle, is about 2**14.
_DIVIDER_STAGES = 9
_ROOM = CUBIC_BITS + RECIPROCAL_BITS - 2 * _DIVIDER_STAGES


class AxisTask(data.Struct):
    """How one plane goes along one axis; see ``golden.ops.Axis``."""

    grow: 1
    """The output has as many samples as the input, or more."""
    fine: 16
    """Samples of the plane on the finer of the two grids: the output's when growing, else the input's. Not 0."""
    coarse: 16
    """Samples on the other grid. Not 0."""
    part: 17
    """The step is part/whole of a coarse sample: 1/16 to 1."""
    whole: 17
    repeats: 13
    """How many times the sequence is given, 1 or more."""


class Step(data.Struct):
    """What a pass does next. A pass has four slots, for the coarse samples that a fine one touches."""

    grow: 1
    take: 1
    """Take an input sample. Growing, it replaces what is in ``slot``; shrinking, its products with ``weights`` are
    added to the slots."""
    give: 1
    """Give an output sample: growing, the sum of the slots' products with ``weights``, after ``take``; shrinking, what
    is in ``slot``, normalized, before ``take``, and clear the slot."""
    fresh: 1
    """Shrinking: clear all slots before ``take``."""
    slot: 2
    weights: data.ArrayLayout(WEIGHT, 4)
    """All 0 when shrinking without ``take``."""
    reciprocal: _RECIPROCAL
    """Shrinking, with ``give``: what normalizes, in 2**-14, after ``shift``."""
    shift: 3
    """Shrinking: the output samples are 2**(shift - 1) to 2**shift input samples wide."""
    last: 1
    """Last of the sequence."""


class Steps(wiring.Component):
    """Gives the steps of a pass along one axis, ``repeats`` times.

    Growing, samples are taken as late as possible, and those that no output needs at the end: a sequence is ``fine``
    steps and one more for each sample that is taken before the first output or after the last one (at most 4).
    Shrinking, outputs are given as early as possible: ``fine`` steps and one for each output that is left after the
    last input (at most 3).

    The first step is offered 32 cycles after its task was taken; then one step per cycle without gaps, from repeat to
    repeat too, except that a shrinking task's first output may keep it waiting for up to 12 cycles. The next task is
    taken after the last step was made, up to 32 steps ahead of what was taken.

    A ``part`` above ``whole``, or counts that do not suit the step, give a sequence of no meaning, but one that ends.

    Members
    -------
    i : :py:`In(stream.Signature(AxisTask))`
    o : :py:`Out(stream.Signature(Step))`
    """

    def __init__(self):
        super().__init__({"i": In(stream.Signature(AxisTask)), "o": Out(stream.Signature(Step))})

    def elaborate(self, platform):
        m = Module()
        task = Signal(AxisTask)
        step = Signal(POSITION_BITS + 1)
        shift = Signal(3)
        m.d.comb += shift.eq(4)
        for n in reversed(range(4)):
            with m.If(step[POSITION_BITS - n]):
                m.d.comb += shift.eq(n)

        # The state of the sequence. `base` is the position's whole part.
        position = Signal(signed(POSITION_BITS + 18))
        base = Signal(signed(18))
        fine_left = Signal(16)
        coarse_left = Signal(16)
        at = Signal(17)
        repeats_left = Signal(13)
        fresh = Signal()
        m.d.comb += base.eq(position >> POSITION_BITS)
        start = (step >> 1) - (1 << (POSITION_BITS - 1)) + (1 << (POSITION_BITS - PHASE_BITS - 1))
        begin = [
            position.eq(start),
            fine_left.eq(task.fine),
            coarse_left.eq(task.coarse),
            at.eq(0),
            fresh.eq(1),
        ]

        under_way = Signal(range(_DEPTH + 1))
        issue = Signal()
        m.d.sync += under_way.eq(under_way + issue - (self.o.valid & self.o.ready))

        fine_done, coarse_done = fine_left == 0, coarse_left == 0
        ahead = base - at.as_signed()
        take, give, last = Signal(), Signal(), Signal()
        with m.If(task.grow):
            # Sample base + 2 (the last one at most) must be there before the output at base can be given.
            with m.If(fine_done):
                m.d.comb += take.eq(1)
            with m.Else():
                m.d.comb += take.eq((ahead >= -2) & ~coarse_done)
                m.d.comb += give.eq(~((ahead > -2) & (coarse_left > 1)))
        with m.Else():
            # What is left of base - 1 gets nothing more.
            with m.If(fine_done):
                m.d.comb += give.eq(1)
            with m.Else():
                m.d.comb += take.eq(1)
                m.d.comb += give.eq((ahead > 1) & ~coarse_done)
        fine_moves = Mux(task.grow, give, take)
        coarse_moves = Mux(task.grow, take, give)
        m.d.comb += last.eq((fine_left == fine_moves) & (coarse_left == coarse_moves))

        rest = Signal(18)
        count = Signal(range(POSITION_BITS + 2))
        fits = rest >= task.whole
        with m.FSM(name="steps"):
            with m.State("TakeTask"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [task.eq(self.i.payload), rest.eq(self.i.payload.part), count.eq(POSITION_BITS)]
                with m.If(self.i.valid):
                    m.next = "Divide"
            with m.State("Divide"):
                m.d.sync += [
                    step.eq(Cat(fits, step)),
                    rest.eq(Mux(fits, rest - task.whole, rest) << 1),
                    count.eq(count - 1),
                ]
                with m.If(count == 0):
                    m.next = "Begin"
            with m.State("Begin"):
                m.d.sync += [*begin, repeats_left.eq(task.repeats)]
                m.next = "Go"
            with m.State("Go"):
                m.d.comb += issue.eq(under_way != _DEPTH)
                with m.If(issue):
                    m.d.sync += [
                        fine_left.eq(fine_left - fine_moves),
                        coarse_left.eq(coarse_left - coarse_moves),
                        at.eq(at + coarse_moves),
                        fresh.eq(0),
                    ]
                    with m.If(fine_moves):
                        m.d.sync += position.eq(position + step)
                    with m.If(last):
                        m.d.sync += [*begin, repeats_left.eq(repeats_left - 1)]
                        with m.If(repeats_left == 1):
                            m.next = "TakeTask"

        # From here all flows on; `under_way` keeps room at the end. First: which coarse samples, with what weights.
        one = self._stage(m, None, {"grow": task.grow, "take": take, "give": give, "last": last, "slot": at[:2],
                                    "fresh": fresh & ~task.grow, "shift": shift}, issue, "one")  # fmt: skip
        places = Signal(data.ArrayLayout(signed(18), 4))
        phase = Signal(PHASE_BITS)
        tail = Signal()
        bound = Signal(17)
        m.d.sync += [places[t].eq(base + (t - 1)) for t in range(4)]
        m.d.sync += [phase.eq(position[POSITION_BITS - PHASE_BITS : POSITION_BITS]), tail.eq(fine_done)]
        m.d.sync += bound.eq(task.coarse - 1)

        two = self._stage(m, one, {}, None, "two")
        weights = Signal(data.ArrayLayout(WEIGHT, 4))
        slots = Signal(data.ArrayLayout(2, 4))
        counts = Signal(4)
        with m.Switch(phase):
            for n, row in enumerate(CUBIC):
                with m.Case(n):
                    m.d.sync += [weights[t].eq(row[t]) for t in range(4)]
        for t, place in enumerate(places):
            below, above = place < 0, place > bound.as_signed()
            m.d.sync += [
                slots[t].eq(Mux(below, 0, Mux(above, bound[:2], place[:2]))),
                counts[t].eq(one.grow | ~(below | above | tail)),
            ]

        three = self._stage(m, two, {}, None, "three")
        folded = Signal(data.ArrayLayout(WEIGHT, 4))
        for k in range(4):
            terms = [Mux(counts[t] & (slots[t] == k), weights[t], 0) for t in range(4)]
            m.d.sync += folded[k].eq((terms[0] + terms[1]) + (terms[2] + terms[3]))

        item = data.StructLayout({"head": self._head, "weights": data.ArrayLayout(WEIGHT, 4)})
        m.submodules.items = items = fifo.SyncFIFOBuffered(width=item.size, depth=_DEPTH)
        m.d.comb += [items.w_en.eq(three.valid), items.w_data.eq(Cat(three.head, folded))]

        # What an output's weights add up to, and its reciprocal.
        sums = [Signal(signed(_GAIN + 6), name=f"sum{k}") for k in range(4)]
        gain = Signal(_GAIN)
        gives = Signal()
        m.d.sync += gives.eq(three.valid & three.give & ~three.grow)
        with m.Switch(three.slot):
            for k in range(4):
                with m.Case(k):
                    m.d.sync += gain.eq(sums[k] >> three.shift)
        with m.If(three.valid & ~three.grow):
            for k in range(4):
                clear = three.fresh | (three.give & (three.slot == k))
                m.d.sync += sums[k].eq(Mux(clear, 0, sums[k]) + folded[k])
        m.submodules.reciprocals = reciprocals = fifo.SyncFIFOBuffered(width=_RECIPROCAL, depth=_DEPTH)
        valid, divisor, remainder, quotient = gives, gain, Const(1 << _ROOM, _GAIN + 1), Const(0, 0)
        for n in range(_DIVIDER_STAGES):
            for _ in range(2):
                double = remainder << 1
                bit = double >= divisor
                remainder = Mux(bit, double - divisor, double)[: _GAIN + 1]
                quotient = Cat(bit, quotient)
            registers = [Signal(len(value), name=f"divide{n}_{k}") for k, value in enumerate((divisor, remainder))]
            m.d.sync += [register.eq(value) for register, value in zip(registers, (divisor, remainder))]
            done = Signal(len(quotient), name=f"quotient{n}")
            moves = Signal(name=f"divides{n}")
            m.d.sync += [done.eq(quotient), moves.eq(valid)]
            (divisor, remainder), quotient, valid = registers, done, moves
        m.d.comb += [reciprocals.w_en.eq(valid), reciprocals.w_data.eq(quotient)]

        waiting = data.View(item, items.r_data)
        needs = waiting.head.give & ~waiting.head.grow
        m.d.comb += [
            self.o.valid.eq(items.r_rdy & (~needs | reciprocals.r_rdy)),
            items.r_en.eq(self.o.valid & self.o.ready),
            reciprocals.r_en.eq(self.o.valid & self.o.ready & needs),
            self.o.payload.weights.eq(waiting.weights),
            self.o.payload.reciprocal.eq(Mux(needs, reciprocals.r_data, 0)),
            *(self.o.payload[name].eq(waiting.head[name]) for name in self._head.members),
        ]
        return m

    _head = data.StructLayout({"grow": 1, "take": 1, "give": 1, "fresh": 1, "slot": 2, "shift": 3, "last": 1})

    class _Held:
        pass

    def _stage(self, m, before, values, valid, name):
        """Registers that carry a step's head to the next stage."""
        held = self._Held()
        held.valid = Signal(name=f"{name}_valid")
        held.head = Signal(self._head, name=f"{name}_head")
        if before is None:
            m.d.sync += held.valid.eq(valid)
            m.d.sync += [held.head[field].eq(value) for field, value in values.items()]
        else:
            m.d.sync += [held.valid.eq(before.valid), held.head.eq(before.head)]
        for field in self._head.members:
            setattr(held, field, held.head[field])
        return held
