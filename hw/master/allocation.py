"""Task allocation: stages of jobs become tasks, and each task goes to a chip."""

from amaranth.hdl import *
from amaranth.lib import data, enum, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.engine import EngineKind
from tessera.hw.host.descriptor import COUNTERS, Descriptor
from tessera.hw.lib.streams import observe
from tessera.hw.master.frame_sync import AHEAD
from tessera.hw.memory.port import NODES

__all__ = ["PLACED", "Allocation", "Ended", "Move", "PlacedTask", "Pool", "Reason", "Stage", "StageWrite", "tag_of"]

PLACED = 2
"""Tasks that an engine is given: the one that it works on, and the next one."""
_REMEMBERED = 32
"""Frames of a stage of which it is known where they are."""


class Pool(data.Struct):
    """A stage's slots, one behind another in a window; on each node that may run it, the window of that number."""

    window: 6
    slots: 5
    """1 to 16."""
    head: 26
    """The first one's, and what each next one has more."""
    head_step: 24
    body: 26
    body_step: 24
    lines: 24


class Stage(data.Struct):
    """What is done to each frame: one task of one engine. Its number is that of the counter that its tasks signal."""

    engine: EngineKind
    frames: 20
    """Its tasks. 0: there is no such stage."""
    source: 6
    """The stage that fills what its tasks read; 0: none."""
    readers: 6
    """The first of the stages whose source it is; 0: none."""
    next_reader: 6
    """The next one with the same source; 0: none."""
    freed_by: 6
    """The stage whose task of the same number is the last one to read what this one's reads: of a layer, what composes
    it. 0: itself."""
    pool: Pool
    """Which its tasks fill."""
    numerator: 12
    """Task n reads frame floor(n numerator / denominator) of its source, or the last one if there are fewer."""
    denominator: 12
    """0: all read the first one."""
    home: 4
    nodes: NODES
    """That may run it."""
    movable: 1
    """A task may be moved from ``home`` to another one of ``nodes``."""
    follows: 1
    """A task goes where what it reads was made."""
    joined: 1
    """Its tasks are of one group with those of the next stage: the same engine and as many of them, one after the
    other, to where the group's last one goes."""
    cost: 16
    """Of a task, to its engine; of a group, its last stage's."""
    params: 128
    """Of its first task."""
    step: 32
    """By how much the low 64 bits of ``params`` grow with each task."""


class StageWrite(data.Struct):
    """A stage for the table."""

    number: 6
    stage: Stage


class PlacedTask(data.Struct):
    """A task, and the chip that is to do it."""

    node: 4
    descriptor: Descriptor


class Ended(data.Struct):
    """A task is over."""

    node: 4
    stage: 6


class Reason(enum.Enum, shape=1):
    """Why a task was moved."""

    Threshold = 0
    """Its chip's load was over the threshold."""
    Idle = 1
    """Its chip had no place for it, and the other one had nothing to do."""


class Move(data.Struct):
    """A task that has not been given to an engine goes to another chip than it was to."""

    valid: 1
    stage: 6
    number: 20
    source: 4
    target: 4
    reason: Reason


def tag_of(stage, number):
    """A task's tag."""
    return stage | (number & 0x3FF) << 6


class Allocation(wiring.Component):
    """Gives each stage's tasks out in order, as soon as they have a slot to fill, each to an engine of some chip.

    A task is *due* when its source's task is given out, so that it is known where its source lies, and when its slot is
    free: all readers are done with the frame that was in it before. It need not wait for its source: its engine does.
    Its chip is the stage's ``home``, or that of its source. From then on its cost is part of the *load* of that chip's
    engine, until it is over.

    It is given out when fewer than two tasks of that engine are; until then it may be moved, if its stage is
    ``movable``:

    - to the engine with the smallest load, if its own has more than ``threshold`` and the other one would not then;
    - to one with no load at all, if its own has two tasks already.

    Once given out it stays. Groups are given out whole, count as one task, and nothing comes between.

    Stages are looked at in turns. While ``task`` is taken at once, a look takes at most 80 cycles for each stage of its
    group.

    Members
    -------
    stage : :py:`In(stream.Signature(StageWrite))`
        A stage for the table, with nothing of it given out yet. Only while ``run`` is not set.
    clear : :py:`In(1)`
        Empties the table, and all loads, in 256 cycles. Only while ``run`` is not set.
    busy : :py:`Out(1)`
        It is being emptied, or a look is not over.
    run : :py:`In(1)`
    threshold : :py:`In(24)`
    moves : :py:`In(1)`
        Tasks may be moved.
    tell : :py:`In(16)`
        Nodes that work together: all are told of what is done.
    read : :py:`Out(6)`, count : :py:`In(20)`
        A counter, and its count one cycle later.
    hold : :py:`In(1)`
        Counts mean nothing: nothing is given out.
    task : :py:`Out(stream.Signature(PlacedTask))`
    ended : :py:`In(stream.Signature(Ended))`
        Taken within a look.
    move : :py:`Out(Move)`
        A pulse with each.
    """

    def __init__(self):
        super().__init__(
            {
                "stage": In(stream.Signature(StageWrite)),
                "clear": In(1),
                "busy": Out(1),
                "run": In(1),
                "threshold": In(24),
                "moves": In(1),
                "tell": In(NODES),
                "read": Out(6),
                "count": In(20),
                "hold": In(1),
                "task": Out(stream.Signature(PlacedTask)),
                "ended": In(stream.Signature(Ended)),
                "move": Out(Move),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # What is known of each stage; what of each engine of each node; where each of the last frames was made.
        state = data.StructLayout(
            {
                "next": 20,
                "slot": 4,
                "frame": 20,  # of the source, that the next task reads
                "frame_slot": 4,
                "rest": 13,
                "due": 1,
                "where": 4,
                "done": 20,  # tasks over, of which it is reckoned what they freed
                "freed": 20,
                "freed_rest": 13,
                "address": 64,
            }
        )
        engine = data.StructLayout({"load": 24, "given": 2})
        m.submodules.stages = stages = memory.Memory(shape=Stage, depth=COUNTERS, init=[])
        m.submodules.states = states = memory.Memory(shape=state, depth=COUNTERS, init=[])
        m.submodules.engines = engines = memory.Memory(shape=engine, depth=16 * NODES, init=[])
        m.submodules.places = places = memory.Memory(shape=4, depth=COUNTERS * _REMEMBERED, init=[])
        stage_put, stage_get = stages.write_port(), stages.read_port()
        state_put, state_get = states.write_port(), states.read_port()
        engine_put, engine_get = engines.write_port(), engines.read_port()
        place_put, place_get = places.write_port(), places.read_port()

        # The stage that is looked at, its state, and of a group the first one; the other stage that is looked up.
        number, first, top, skips = Signal(6), Signal(6), Signal(6), Signal()
        own, now = Signal(Stage), Signal(state)
        other, its = stage_get.data, state_get.data
        asked = Signal(6)
        where, source_place = Signal(4), Signal(4)
        mine = Signal(engine)
        # The best other engine so far.
        best, best_load, best_found = Signal(4), Signal(24), Signal()
        scanned, scan_valid, scan = Signal(4), Signal(), Signal(5)
        reason = Signal(Reason)
        index, clearing = Signal(8), Signal(init=1)
        with m.If(self.clear):
            m.d.sync += clearing.eq(1)
        m.d.comb += [
            stage_get.addr.eq(asked),
            state_get.addr.eq(asked),
            # Of what frees the source: no further on than the stage's own, so it says what is near as well.
            self.read.eq(Mux(own.freed_by == 0, number, own.freed_by)),
            state_put.addr.eq(number),
            state_put.data.eq(now),
            place_get.addr.eq(Cat(now.frame[:5], own.source)),
            place_put.addr.eq(Cat(now.next[:5], number)),
            place_put.data.eq(where),
        ]

        # A list that is read ends with the highest stage that was written.
        following = Mux(number == top, 1, number + 1)
        near = (now.next - self.count)[:20]

        descriptor = self.task.payload.descriptor
        with m.FSM(name="allocation") as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("Idle") | clearing)
            with m.State("Clear"):
                m.d.comb += [
                    stage_put.addr.eq(index),
                    stage_put.en.eq(1),
                    engine_put.addr.eq(index),
                    engine_put.en.eq(1),
                ]
                m.d.sync += [index.eq(index + 1), top.eq(0), number.eq(1)]
                with m.If(index.all()):
                    m.d.sync += clearing.eq(self.clear)
                    m.next = "Idle"
            with m.State("Idle"):
                written = self.stage.payload
                m.d.comb += [
                    stage_put.addr.eq(written.number),
                    stage_put.data.eq(written.stage),
                    state_put.addr.eq(written.number),
                    state_put.data.eq(0),
                    state_put.data.address.eq(written.stage.params[:64]),
                    asked.eq(number),
                ]
                m.d.sync += [first.eq(number), skips.eq(0)]
                with m.If(clearing):
                    m.d.sync += index.eq(0)
                    m.next = "Clear"
                with m.Elif(self.ended.valid):
                    m.d.comb += asked.eq(self.ended.payload.stage)
                    m.next = "EndStage"
                with m.Elif(self.stage.valid):
                    m.d.comb += [self.stage.ready.eq(1), stage_put.en.eq(1), state_put.en.eq(1)]
                    with m.If(written.number > top):
                        m.d.sync += top.eq(written.number)
                with m.Elif(self.run & ~self.hold & (top != 0)):
                    m.next = "Look"

            # A task is over: its engine has less to do.
            with m.State("EndStage"):
                m.d.sync += own.eq(other)
                m.d.comb += engine_get.addr.eq(Cat(other.engine, self.ended.payload.node))
                m.next = "EndEngine"
            with m.State("EndEngine"):
                m.d.comb += [
                    self.ended.ready.eq(1),
                    engine_put.addr.eq(Cat(own.engine, self.ended.payload.node)),
                    engine_put.data.load.eq(engine_get.data.load - own.cost),
                    engine_put.data.given.eq(engine_get.data.given - 1),
                    engine_put.en.eq(~own.joined),
                ]
                m.next = "Idle"

            # A look at a stage: what its tasks have freed of its source, and whether its next task is due.
            with m.State("Look"):
                m.d.sync += [own.eq(other), now.eq(its)]
                m.d.comb += self.read.eq(Mux(other.freed_by == 0, number, other.freed_by))
                m.next = "Count"
            with m.State("Count"):
                m.d.comb += asked.eq(own.source)
                with m.If(now.done != self.count):
                    m.d.sync += [now.done.eq(now.done + 1), now.freed_rest.eq(now.freed_rest + own.numerator)]
                    m.next = "Free"
                with m.Elif(skips | (now.next == own.frames) | ((near > AHEAD) & ~near[19])):
                    m.next = "Leave"
                with m.Else():
                    m.next = "Source"
            with m.State("Free"):
                with m.If((now.freed_rest >= own.denominator) & (own.denominator != 0)):
                    m.d.sync += [now.freed_rest.eq(now.freed_rest - own.denominator), now.freed.eq(now.freed + 1)]
                with m.Else():
                    m.d.comb += state_put.en.eq(1)
                    m.next = "Count"
            with m.State("Source"):
                m.d.sync += source_place.eq(place_get.data)
                m.d.comb += asked.eq(own.readers)
                m.next = "Readers"
                with m.If((own.source != 0) & ((its.next - now.frame)[19] | (its.next == now.frame))):
                    m.next = "Leave"
                with m.Elif(own.readers == 0):
                    m.next = "Due"
            with m.State("Readers"):
                # Frames of which a reader has freed all that were in a slot before, or that has no more to read.
                m.d.comb += asked.eq(other.next_reader)
                ahead = (now.next - its.freed)[:20]
                free = ahead[19] | (ahead < own.pool.slots) | (its.done == other.frames)
                with m.If(~free):
                    m.next = "Leave"
                with m.Elif(other.next_reader == 0):
                    m.next = "Due"
            with m.State("Due"):
                # Of a group, all have to be.
                m.d.comb += asked.eq(number + 1)
                m.d.sync += where.eq(Mux(now.due, now.where, Mux(own.follows, source_place, own.home)))
                with m.If(own.joined):
                    m.d.sync += number.eq(number + 1)
                    m.next = "Look"
                with m.Else():
                    m.next = "AskEngine"
            with m.State("Leave"):
                # Of the group's others, only what they have freed.
                m.d.comb += asked.eq(number + 1)
                m.d.sync += [number.eq(following), skips.eq(1)]
                m.next = "Idle"
                with m.If(own.joined):
                    m.d.sync += number.eq(number + 1)
                    m.next = "Look"

            # Where it goes.
            with m.State("AskEngine"):
                m.d.comb += engine_get.addr.eq(Cat(own.engine, where))
                m.next = "Engine"
            with m.State("Engine"):
                m.d.comb += [
                    engine_put.addr.eq(Cat(own.engine, where)),
                    engine_put.data.load.eq(engine_get.data.load + own.cost),
                    engine_put.data.given.eq(engine_get.data.given),
                    engine_put.en.eq(~now.due),
                ]
                m.d.sync += [
                    mine.load.eq(Mux(now.due, engine_get.data.load, engine_put.data.load)),
                    mine.given.eq(engine_get.data.given),
                    now.due.eq(1),
                    now.where.eq(where),
                    scan.eq(0),
                    scan_valid.eq(0),
                    best_found.eq(0),
                ]
                m.next = "Decide"
                with m.If(own.movable & self.moves):
                    m.next = "Scan"
            with m.State("Scan"):
                m.d.comb += engine_get.addr.eq(Cat(own.engine, scan[:4]))
                m.d.sync += [scan.eq(scan + 1), scanned.eq(scan), scan_valid.eq(~scan[4])]
                candidate = scan_valid & own.nodes.bit_select(scanned, 1) & (scanned != where)
                load = engine_get.data.load
                with m.If(candidate & (~best_found | (load < best_load))):
                    m.d.sync += [best.eq(scanned), best_load.eq(load), best_found.eq(1)]
                with m.If(scan[4] & ~scan_valid):
                    m.next = "Decide"
            with m.State("Decide"):
                over = (mine.load > self.threshold) & (best_load + own.cost <= self.threshold)
                idle = (best_load == 0) & (mine.given == PLACED)
                m.d.comb += state_put.en.eq(1)
                m.d.sync += number.eq(following)
                m.next = "Idle"
                with m.If(best_found & (over | idle)):
                    m.d.comb += state_put.en.eq(0)
                    m.d.sync += [number.eq(number), reason.eq(Mux(over, Reason.Threshold, Reason.Idle))]
                    m.next = "MoveFrom"
                with m.Elif(mine.given < PLACED):
                    m.d.sync += number.eq(number)
                    m.d.comb += state_put.en.eq(0)
                    m.next = "Give"
            with m.State("MoveFrom"):
                m.d.comb += [
                    engine_put.addr.eq(Cat(own.engine, where)),
                    engine_put.data.load.eq(mine.load - own.cost),
                    engine_put.data.given.eq(mine.given),
                    engine_put.en.eq(1),
                    engine_get.addr.eq(Cat(own.engine, best)),
                    self.move.valid.eq(1),
                    self.move.stage.eq(number),
                    self.move.number.eq(now.next),
                    self.move.source.eq(where),
                    self.move.target.eq(best),
                    self.move.reason.eq(reason),
                ]
                m.d.sync += [where.eq(best), now.where.eq(best)]
                m.next = "MoveTo"
            with m.State("MoveTo"):
                m.d.comb += [
                    engine_put.addr.eq(Cat(own.engine, where)),
                    engine_put.data.load.eq(engine_get.data.load + own.cost),
                    engine_put.data.given.eq(engine_get.data.given),
                    engine_put.en.eq(1),
                    state_put.en.eq(1),
                ]
                m.d.sync += [mine.eq(engine_put.data), number.eq(following)]
                m.next = "Idle"
                with m.If(engine_get.data.given < PLACED):
                    m.d.sync += number.eq(number)
                    m.next = "Give"

            # It is given out, and before it the others of its group.
            with m.State("Give"):
                m.d.comb += [
                    engine_put.addr.eq(Cat(own.engine, where)),
                    engine_put.data.load.eq(mine.load),
                    engine_put.data.given.eq(mine.given + 1),
                    engine_put.en.eq(1),
                    asked.eq(first),
                ]
                m.d.sync += number.eq(first)
                m.next = "GiveLook"
                with m.If(first == number):
                    m.d.comb += asked.eq(own.source)
                    m.next = "GiveSource"
            with m.State("GiveLook"):
                m.d.sync += [own.eq(other), now.eq(its)]
                m.next = "GiveAsk"
            with m.State("GiveAsk"):
                m.d.comb += asked.eq(own.source)
                m.next = "GiveSource"
            with m.State("GiveSource"):
                pool = other.pool
                m.d.comb += asked.eq(own.source)
                m.d.sync += [
                    self.task.payload.node.eq(where),
                    self.task.valid.eq(1),
                    descriptor.eq(0),
                    descriptor.task.tag.eq(Cat(number, now.next[:10])),
                    descriptor.task.timestamp.eq(now.next),
                    descriptor.task.params.eq(Cat(now.address, own.params[64:])),
                    *_slot(descriptor.task.target, own.pool, where, now.slot),
                    descriptor.engine.eq(own.engine),
                    descriptor.signal.eq(number),
                    descriptor.number.eq(now.next),
                    descriptor.tell.eq(self.tell),
                ]
                with m.If(own.source != 0):
                    m.d.sync += [
                        *_slot(descriptor.task.source, pool, place_get.data, now.frame_slot),
                        descriptor.waits[0].counter.eq(own.source),
                        descriptor.waits[0].value.eq(now.frame + 1),
                    ]
                m.d.comb += place_put.en.eq(1)
                m.d.sync += [
                    now.next.eq(now.next + 1),
                    now.slot.eq(Mux(now.slot + 1 == own.pool.slots, 0, now.slot + 1)),
                    now.address.eq(now.address + own.step),
                    now.rest.eq(now.rest + own.numerator),
                    now.due.eq(0),
                ]
                m.next = "Step"
            with m.State("Step"):
                # To the frame that the next task reads; beyond the last one there is none.
                m.d.comb += asked.eq(own.source)
                with m.If((now.rest >= own.denominator) & (own.denominator != 0)):
                    m.d.sync += now.rest.eq(now.rest - own.denominator)
                    with m.If(now.frame + 1 < other.frames):
                        m.d.sync += [
                            now.frame.eq(now.frame + 1),
                            now.frame_slot.eq(Mux(now.frame_slot + 1 == other.pool.slots, 0, now.frame_slot + 1)),
                        ]
                with m.Elif(self.task.ready | ~self.task.valid):
                    m.d.comb += [state_put.en.eq(1), asked.eq(number + 1)]
                    m.d.sync += number.eq(following)
                    m.next = "Idle"
                    with m.If(own.joined):
                        m.d.sync += number.eq(number + 1)
                        m.next = "GiveLook"
                with m.If(self.task.ready):
                    m.d.sync += self.task.valid.eq(0)
        for interface in (self.stage, self.ended, self.task):
            observe(m, interface)
        return m


def _slot(reference, pool, node, slot):
    """Set a :class:`SlotRef` to a slot of a stage's pool on a node."""
    return [
        reference.window.eq(Cat(pool.window, node)),
        reference.head.eq(pool.head + pool.head_step * slot),
        reference.body.eq(pool.body + pool.body_step * slot),
        reference.lines.eq(pool.lines),
    ]
