"""Dispatch: tasks with what they wait for, to the engines and back as records."""

from amaranth.hdl import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.engine import Done, Status, Task
from tessera.hw.host.descriptor import Descriptor, DoneRecord, Wait
from tessera.hw.lib.streams import observe
from tessera.hw.lib.turns import Turns
from tessera.hw.master.frame_sync import AHEAD, SyncSignal

__all__ = ["Activity", "Dispatch"]

_WAITS = 3
"""A descriptor's two, and that its own number is near its counter's count."""
_GIVER = 5
"""Bits of who is told of the end: ``managed`` and ``owner``."""


class Activity(data.Struct):
    """What a lane of the dispatcher does in this cycle; nothing set means that it has no task."""

    busy: 1
    """Its engine works on a task."""
    waits_first: 1
    """Its next task's first wait is not known to be met."""
    waits_second: 1
    """The first is met, the second is not, or its number is too far ahead."""


class Dispatch(wiring.Component):
    """Starts each engine's tasks in the order of their descriptors, as soon as their counters are reached.

    Each engine has a queue of descriptors. The one at its head starts when its engine is free, both its waits are met,
    and the number that it signals is at most 16 beyond its counter's count: so what is signalled never has to wait.
    When a task is over, however it ended, its number is signalled, and a record goes out. Counters are those of
    :class:`FrameSync`, modulo 2**20: a wait is met when the count is at, or less than 2**19 past, its value. Once met,
    it stays so.

    A descriptor for an engine that the chip does not have is answered ``BadTask`` with ``where`` 0, and signals, as
    soon as its number is near; it waits for nothing else. The order of descriptors holds within an engine; a full queue
    holds back all that come behind.

    If records and signals are taken at once, a task's end is signalled two cycles later, and three more for each other
    one that ends. From when a count is what the last wait asks for to the start pass at most ``3 * engines + 3``
    cycles, and three if it is the only wait of all engines that is not met. With :class:`FrameSync`, between a task's
    end and the start of one that waited for it alone: at most ``10 + 3 * engines``.

    Parameters
    ----------
    kinds : sequence of :class:`EngineKind`
        The engine of each lane.
    depth : int
        Descriptors that wait for one engine.
    deeper : dict
        Of some kinds, how many wait for those instead.

    Members
    -------
    i : :py:`In(stream.Signature(Descriptor))`
    record : :py:`Out(stream.Signature(DoneRecord))`
    signal : :py:`Out(stream.Signature(SyncSignal))`
    read : :py:`Out(6)`, count : :py:`In(20)`
        A counter, and its count one cycle later.
    hold : :py:`In(1)`
        Counts mean nothing: no wait is met, no signal given.
    task0, .. : :py:`Out(stream.Signature(Task))`
    done0, .. : :py:`In(stream.Signature(Done))`
    node : :py:`In(4)`
        The chip's number.
    cycle : :py:`In(64)`
        The chip's time.
    activity0, .. : :py:`Out(Activity)`
    """

    def __init__(self, kinds, depth=16, deeper=None):
        self.kinds = tuple(kinds)
        self.depth, self.deeper = depth, deeper or {}
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise ValueError(f"kinds are {self.kinds}; at least one, and none twice, expected")
        if depth < 2:
            raise ValueError(f"depth is {depth}; 2 or more expected")
        members = {
            "i": In(stream.Signature(Descriptor)),
            "record": Out(stream.Signature(DoneRecord)),
            "signal": Out(stream.Signature(SyncSignal)),
            "read": Out(6),
            "count": In(20),
            "hold": In(1),
            "node": In(4),
            "cycle": In(64),
        }
        for n in range(len(self.kinds)):
            members[f"task{n}"] = Out(stream.Signature(Task))
            members[f"done{n}"] = In(stream.Signature(Done))
            members[f"activity{n}"] = Out(Activity)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        lanes = len(self.kinds)
        entry = data.StructLayout({"task": Task, "waits": data.ArrayLayout(Wait, _WAITS), "tell": 16, "giver": _GIVER})

        # Descriptors to the queues; those for no lane to a register, as if it was one more lane without an engine.
        given = self.i.payload
        near = Signal(Wait)
        m.d.comb += [near.counter.eq(given.signal), near.value.eq(given.number - AHEAD)]
        waits = Cat(given.waits, near)
        queues, heads, waiting = [], [], []
        for n, kind in enumerate(self.kinds):
            depth = self.deeper.get(kind, self.depth)
            m.submodules[f"queue{n}"] = queue = fifo.SyncFIFOBuffered(width=entry.size, depth=depth)
            packed = Signal(entry, name=f"packed{n}")
            m.d.comb += [
                packed.task.eq(given.task),
                packed.waits.as_value().eq(waits),
                packed.tell.eq(given.tell),
                packed.giver.eq(Cat(given.managed, given.owner)),
                queue.w_data.eq(packed),
            ]
            queues.append(queue)
            heads.append(data.View(entry, queue.r_data))
            waiting.append(queue.r_rdy)
        unknown = Signal(data.StructLayout({"tag": 16, "engine": 4, "wait": Wait, "tell": 16, "giver": _GIVER}))
        unknown_valid = Signal()
        waiting.append(unknown_valid)
        with m.Switch(given.engine):
            for n, kind in enumerate(self.kinds):
                with m.Case(kind):
                    m.d.comb += [queues[n].w_en.eq(self.i.valid), self.i.ready.eq(queues[n].w_rdy)]
            with m.Default():
                m.d.comb += self.i.ready.eq(~unknown_valid)
                with m.If(self.i.valid & ~unknown_valid):
                    m.d.sync += [
                        unknown_valid.eq(1),
                        unknown.tag.eq(given.task.tag),
                        unknown.engine.eq(given.engine),
                        unknown.wait.eq(near),
                        unknown.tell.eq(given.tell),
                        unknown.giver.eq(Cat(given.managed, given.owner)),
                    ]

        # Waits that are not met are looked at in turns. A head whose waits are not all met stays, so what was looked up
        # is still its own a cycle later.
        places = [(n, k, heads[n].waits[k]) for n in range(lanes) for k in range(_WAITS)]
        places.append((lanes, _WAITS - 1, unknown.wait))
        met = [Signal(_WAITS, name=f"met{n}", init=0 if n < lanes else 0b011) for n in range(lanes + 1)]
        m.submodules.turns = turns = Turns(len(places), Wait)
        looked, looked_at = Signal(Wait), Signal(len(places))
        reached = (looked.counter == 0) | ~(self.count - looked.value)[19]
        for place, (n, k, wait) in enumerate(places):
            m.d.comb += [
                turns.wants[place].eq(waiting[n] & ~met[n][k] & ~looked_at[place] & ~self.hold),
                turns.items[place].eq(wait),
            ]
            with m.If(looked_at[place] & reached & ~self.hold):
                m.d.sync += met[n][k].eq(1)
        m.d.comb += [turns.go.eq(1), self.read.eq(turns.item.counter)]
        m.d.sync += [looked.eq(turns.item), looked_at.eq(turns.chosen)]

        # A lane: handed over when the engine takes it, over with its last done.
        running = Signal(lanes)
        signals = [Signal(SyncSignal, name=f"signal{n}") for n in range(lanes)]
        givers = [Signal(_GIVER, name=f"giver{n}") for n in range(lanes)]
        starts = [Signal(64, name=f"start{n}") for n in range(lanes)]
        for n, (task, queue, head) in enumerate(zip((getattr(self, f"task{n}") for n in range(lanes)), queues, heads)):
            taken = task.valid & task.ready
            free = queue.r_rdy & ~running[n]
            m.d.comb += [
                task.valid.eq(free & met[n].all()),
                task.payload.eq(head.task),
                queue.r_en.eq(taken),
            ]
            activity = getattr(self, f"activity{n}")
            m.d.comb += [
                activity.busy.eq(running[n]),
                activity.waits_first.eq(free & ~met[n][0]),
                activity.waits_second.eq(free & met[n][0] & ~met[n].all()),
            ]
            observe(m, task)
            with m.If(taken):
                m.d.sync += [
                    met[n].eq(0),
                    running[n].eq(1),
                    _signal(signals[n], head.waits[_WAITS - 1], head.tell),
                    givers[n].eq(head.giver),
                    starts[n].eq(self.cycle),
                ]

        # One end at a time: each that came before the next round begins has its turn.
        dones = [getattr(self, f"done{n}") for n in range(lanes)]
        m.submodules.ends = ends = Turns(lanes + 1)
        m.d.comb += ends.wants.eq(Cat(*(done.valid for done in dones), unknown_valid & met[lanes].all()))
        over = Signal(lanes + 1)
        record = Signal(data.StructLayout({name: DoneRecord.as_shape()[name].shape for name in _RECORD}))
        m.d.comb += [getattr(self.record.payload, name).eq(getattr(record, name)) for name in _RECORD]
        m.d.comb += self.record.payload.node.eq(self.node)
        with m.FSM(name="dispatch"):
            with m.State("Look"):
                m.d.comb += ends.go.eq(1)
                m.d.sync += over.eq(ends.chosen)
                with m.If(ends.wants.any()):
                    m.next = "TakeDone"
            with m.State("TakeDone"):
                for n, done in enumerate(dones):
                    with m.If(over[n]):
                        m.d.comb += done.ready.eq(1)
                        m.d.sync += [getattr(record, name).eq(getattr(done.payload, name)) for name in _COPIED]
                        m.d.sync += [
                            record.engine.eq(self.kinds[n]),
                            record.start.eq(starts[n]),
                            Cat(record.managed, record.owner).eq(givers[n]),
                            self.signal.payload.eq(signals[n]),
                            self.signal.valid.eq(done.payload.last),
                        ]
                        with m.If(done.payload.last):
                            m.d.sync += running[n].eq(0)
                with m.If(over[lanes]):
                    m.d.sync += [getattr(record, name).eq(0) for name in _COPIED]
                    m.d.sync += [
                        record.tag.eq(unknown.tag),
                        record.status.eq(Status.BadTask),
                        record.last.eq(1),
                        record.engine.eq(unknown.engine),
                        record.start.eq(self.cycle),
                        Cat(record.managed, record.owner).eq(unknown.giver),
                        _signal(self.signal.payload, unknown.wait, unknown.tell),
                        self.signal.valid.eq(1),
                        unknown_valid.eq(0),
                        met[lanes][_WAITS - 1].eq(0),
                    ]
                m.d.sync += self.record.valid.eq(1)
                m.next = "Say"
            with m.State("Say"):
                with m.If(self.signal.ready):
                    m.d.sync += self.signal.valid.eq(0)
                with m.If(self.record.ready):
                    m.d.sync += self.record.valid.eq(0)
                with m.If((~self.signal.valid | self.signal.ready) & (~self.record.valid | self.record.ready)):
                    m.next = "Look"
        observe(m, self.signal)
        observe(m, self.record)
        return m


def _signal(signal, near, tell):
    """Set `signal` to what a task signals, of which the wait for its number is `near`."""
    return [signal.counter.eq(near.counter), signal.number.eq(near.value + AHEAD), signal.tell.eq(tell)]


_COPIED = ("tag", "status", "where", "bytes", "cycles", "stalled", "width", "height", "chroma_format", "last")
_RECORD = (*_COPIED, "engine", "start", "managed", "owner")
