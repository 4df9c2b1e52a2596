"""The two passes of the scaler: across along the columns of tiles, down along the rows of pictures."""

from amaranth.hdl import *
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.golden.ops_tables import CUBIC_BITS, PRODUCT_SHIFT, RECIPROCAL_BITS, SUM_GUARD
from tessera.hw.compute.steps import Step
from tessera.hw.compute.stream import LANES

__all__ = ["SAMPLE", "Across", "Down", "Samples"]

SAMPLE = signed(14)
"""A sample within the scaler: 4 fractional bits; beyond 0 to 255 by what two passes can overshoot."""
Samples = data.ArrayLayout(SAMPLE, LANES)
"""Samples that one step handles: of a tile's column from top to bottom, or of a row from left to right."""

_PRODUCT = signed(SAMPLE.width + CUBIC_BITS + 2 - PRODUCT_SHIFT)
_SUM = signed(26)
_SCALED = signed(18)
_Slots = data.ArrayLayout(data.ArrayLayout(_SUM, LANES), 4)
_Operands = data.ArrayLayout(Samples, 4)
_ROOM = 16


class _Lanes(wiring.Component):
    """The arithmetic of both passes, for 8 lanes: 4 multipliers each for weights, and one to normalize.

    A step flows through without stopping. `given` reserves room for its output when it starts.

    ``step`` and ``operands`` belong to cycle 0 of a step, ``old`` and ``new`` to cycle 2; the output is offered in
    cycle 7 at the earliest.

    Members
    -------
    valid, step, operands : In
        Operands are the slots' samples when growing, four times the sample taken when shrinking.
    old : In
        Sums in the slots before this step, when shrinking.
    new, store : Out
        And after it, if ``store``.
    given : In(1)
        A step that will give an output was started.
    room : Out(1)
        Such a step may be started.
    o : :py:`Out(stream.Signature(Samples))`
    """

    def __init__(self):
        super().__init__(
            {
                "valid": In(1),
                "step": In(Step),
                "operands": In(_Operands),
                "old": In(_Slots),
                "new": Out(_Slots),
                "store": Out(1),
                "given": In(1),
                "room": Out(1),
                "o": Out(stream.Signature(Samples)),
            }
        )

    def elaborate(self, platform):
        m = Module()

        def after(valid, step, name):
            later, held = Signal(name=f"{name}_valid"), Signal(Step, name=f"{name}_step")
            m.d.sync += [later.eq(valid), held.eq(step)]
            return later, held

        valid1, step1 = after(self.valid, self.step, "operands")
        valid2, step2 = after(valid1, step1, "products")
        valid3, step3 = after(valid2, step2, "sums")
        valid4, step4 = after(valid3, step3, "scaled")
        valid5, step5 = after(valid4, step4, "normalized")
        operands = Signal(_Operands)
        m.d.sync += operands.eq(self.operands)
        m.d.comb += self.store.eq(valid2 & ~step2.grow)
        results = Signal(Samples)
        for lane in range(LANES):
            products = [Signal(_PRODUCT, name=f"product{k}_{lane}") for k in range(4)]
            for k, product in enumerate(products):
                m.d.sync += product.eq((operands[k][lane] * step1.weights[k]) >> PRODUCT_SHIFT)
                clear = step2.fresh | (step2.give & (step2.slot == k))
                m.d.comb += self.new[k][lane].eq(product + Mux(clear, 0, self.old[k][lane]))

            low = Signal(signed(_PRODUCT.width + 1), name=f"low_{lane}")
            high = Signal(signed(_PRODUCT.width + 1), name=f"high_{lane}")
            total = Signal(_SUM, name=f"total_{lane}")
            m.d.sync += [low.eq(products[0] + products[1]), high.eq(products[2] + products[3])]
            with m.Switch(step2.slot):
                for k in range(4):
                    with m.Case(k):
                        m.d.sync += total.eq(self.old[k][lane])

            guard = CUBIC_BITS - PRODUCT_SHIFT
            grown = Signal(SAMPLE, name=f"grown_{lane}")
            scaled = Signal(_SCALED, name=f"scaled_{lane}")
            m.d.sync += grown.eq((low + high + (1 << (guard - 1))) >> guard)
            with m.Switch(step3.shift):
                for shift in range(5):
                    with m.Case(shift):
                        m.d.sync += scaled.eq(total >> (guard - SUM_GUARD + shift))

            normalized = Signal(signed(36), name=f"normalized_{lane}")
            grown_later = Signal(SAMPLE, name=f"grown_later_{lane}")
            m.d.sync += [normalized.eq(scaled * Cat(step4.reciprocal, C(0, 1)).as_signed()), grown_later.eq(grown)]
            left = RECIPROCAL_BITS + SUM_GUARD
            shrunk = (normalized + (1 << (left - 1))) >> left
            m.d.comb += results[lane].eq(Mux(step5.grow, grown_later, shrunk))

        m.submodules.results = queue = fifo.SyncFIFOBuffered(width=Samples.size, depth=_ROOM)
        promised = Signal(range(_ROOM + 1))
        m.d.sync += promised.eq(promised + self.given - (self.o.valid & self.o.ready))
        m.d.comb += [
            self.room.eq(promised != _ROOM),
            queue.w_en.eq(valid5 & step5.give),
            queue.w_data.eq(results),
            self.o.valid.eq(queue.r_rdy),
            self.o.payload.eq(queue.r_data),
            queue.r_en.eq(self.o.ready),
        ]
        return m


class Across(wiring.Component):
    """Scales along rows: columns of eight samples in, columns out.

    One step per cycle while there are input, output room and steps; an output is offered 8 cycles after its step was
    taken.

    Members
    -------
    i_step : :py:`In(stream.Signature(Step))`
        A sequence for each row of tiles.
    i, o : streams of :data:`Samples`
        Columns of a row of tiles from left to right, the plane's alone: none from beyond the edge.
    """

    def __init__(self):
        super().__init__(
            {
                "i_step": In(stream.Signature(Step)),
                "i": In(stream.Signature(Samples)),
                "o": Out(stream.Signature(Samples)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.lanes = lanes = _Lanes()
        step = self.i_step.payload
        ready = Signal()
        m.d.comb += [
            ready.eq(~step.give | lanes.room),
            self.i_step.ready.eq(ready & (~step.take | self.i.valid)),
            self.i.ready.eq(ready & self.i_step.valid & step.take),
            lanes.given.eq(self.i_step.valid & self.i_step.ready & step.give),
        ]
        taken, now = Signal(Samples), Signal(Step)
        valid = Signal()
        m.d.sync += [taken.eq(self.i.payload), now.eq(step), valid.eq(self.i_step.valid & self.i_step.ready)]

        kept = Signal(_Operands)
        sums = Signal(_Slots)
        m.d.comb += [lanes.valid.eq(valid), lanes.step.eq(now), lanes.old.eq(sums)]
        for k in range(4):
            replaced = now.take & (now.slot == k)
            m.d.comb += lanes.operands[k].eq(Mux(~now.grow | replaced, Value.cast(taken), Value.cast(kept[k])))
        with m.If(valid):
            m.d.sync += kept.eq(lanes.operands)
        with m.If(lanes.store):
            m.d.sync += sums.eq(lanes.new)

        m.d.comb += [
            self.o.valid.eq(lanes.o.valid),
            self.o.payload.eq(lanes.o.payload),
            lanes.o.ready.eq(self.o.ready),
        ]
        return m


class Down(wiring.Component):
    """Scales along columns: rows in groups of eight samples in, such rows out.

    One step is one row: it takes max(``groups``, 2) cycles, while there are input and output room. An output is offered
    8 cycles after its group's turn.

    Memory: ``groups`` words of 4 x 8 sums of 26 bits; 24 block RAMs of 18 kbit for 256 groups.

    Parameters
    ----------
    groups : int
        Groups in the widest row.

    Members
    -------
    groups : In
        In each row of this plane, 1 or more; holds still while steps are offered or under way.
    i_step : :py:`In(stream.Signature(Step))`
        One sequence for the plane.
    i, o : streams of :data:`Samples`
        Rows of the plane from top to bottom, each from left to right.
    """

    def __init__(self, groups):
        if not 1 <= groups <= 8192:
            raise ValueError(f"groups is {groups}; 1 to 8192 expected")
        self._groups = groups
        super().__init__(
            {
                "groups": In(range(groups + 1)),
                "i_step": In(stream.Signature(Step)),
                "i": In(stream.Signature(Samples)),
                "o": Out(stream.Signature(Samples)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.lanes = lanes = _Lanes()
        step = self.i_step.payload
        group = Signal(range(self._groups + 1))
        # A row reads a group after the row before has written it, even if there is one group.
        rested = Signal(init=1)
        ready = Signal()
        go = Signal()
        end = group + 1 == self.groups
        m.d.comb += [
            ready.eq((~step.give | lanes.room) & ((group != 0) | rested)),
            self.i.ready.eq(ready & self.i_step.valid & step.take),
            go.eq(ready & self.i_step.valid & (~step.take | self.i.valid)),
            self.i_step.ready.eq(ready & (~step.take | self.i.valid) & end),
            lanes.given.eq(go & step.give),
        ]
        m.d.sync += rested.eq(~(go & (group == 0)))
        with m.If(go):
            m.d.sync += group.eq(Mux(end, 0, group + 1))

        taken, now, valid, place = Signal(Samples), Signal(Step), Signal(), Signal.like(group)
        m.d.sync += [taken.eq(self.i.payload), now.eq(step), valid.eq(go), place.eq(group)]
        place1, place2 = Signal.like(place), Signal.like(place)
        m.d.sync += [place1.eq(place), place2.eq(place1)]
        m.d.comb += [lanes.valid.eq(valid), lanes.step.eq(now)]
        for k in range(4):
            words = memory.Memory(shape=_Slots.elem_shape, depth=self._groups, init=[])
            m.submodules[f"slot{k}"] = words
            read, write = words.read_port(), words.write_port()
            # Growing needs the slots before the multipliers, shrinking behind them.
            replaced = now.take & (now.slot == k)
            m.d.comb += [
                read.addr.eq(Mux(step.grow & go, group, place1)),
                write.addr.eq(Mux(lanes.store, place2, place)),
                write.en.eq(lanes.store | (valid & now.grow & replaced)),
                lanes.old[k].eq(read.data),
            ]
            for lane in range(LANES):
                kept = read.data[lane][: SAMPLE.width].as_signed()
                m.d.comb += [
                    lanes.operands[k][lane].eq(Mux(~now.grow | replaced, taken[lane], kept)),
                    # The upper bits of a slot that holds a sample are never looked at.
                    write.data[lane].eq(
                        Cat(
                            Mux(lanes.store, lanes.new[k][lane], taken[lane])[: SAMPLE.width],
                            lanes.new[k][lane][SAMPLE.width :],
                        )
                    ),
                ]

        m.d.comb += [
            self.o.valid.eq(lanes.o.valid),
            self.o.payload.eq(lanes.o.payload),
            lanes.o.ready.eq(self.o.ready),
        ]
        return m
