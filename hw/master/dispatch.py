"""Dispatch: tasks with what they wait for, to the engines and back as records."""

from amaranth.hdl import *
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.engine import Done, Status, Task
from tessera.hw.host.descriptor import COUNTERS, Descriptor, DoneRecord
from tessera.hw.lib.streams import observe

__all__ = ["Activity", "Dispatch"]


class Activity(data.Struct):
    """What a lane of the dispatcher does in this cycle; nothing set means that it has no task."""

    busy: 1
    """Its engine works on a task."""
    waits_first: 1
    """Its next task's first wait is not met."""
    waits_second: 1
    """The first is met, the second is not."""


class Dispatch(wiring.Component):
    """Starts each engine's tasks in the order of their descriptors, as soon as their counters are reached.

    Each engine has a queue of descriptors. The one at its head starts when its engine is free and both its waits are
    met. When a task is over, however it ended, the counter that it signals grows by one, and a record goes out.
    Counters are absolute counts modulo 2**20: a wait is met when its counter is at, or less than 2**19 past, its value.

    A descriptor for an engine that the chip does not have is answered ``BadTask`` with ``where`` 0 and signals its
    counter at once. The order of descriptors holds within an engine; a full queue holds back all that come behind.

    Between a task's end and the start of one that waited for it alone pass at most ``14 + 4 * engines`` cycles, if
    records are taken at once.

    Parameters
    ----------
    kinds : sequence of :class:`EngineKind`
        The engine of each lane.
    depth : int
        Descriptors that wait for one engine.

    Members
    -------
    i : :py:`In(stream.Signature(Descriptor))`
    record : :py:`Out(stream.Signature(DoneRecord))`
    task0, .. : :py:`Out(stream.Signature(Task))`
    done0, .. : :py:`In(stream.Signature(Done))`
    cycle : :py:`In(64)`
        The chip's time.
    clear : :py:`In(1)`
        While no task waits or runs: sets all counters to 0, in 64 cycles.
    activity0, .. : :py:`Out(Activity)`
    """

    def __init__(self, kinds, depth=16):
        self.kinds = tuple(kinds)
        self.depth = depth
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise ValueError(f"kinds are {self.kinds}; at least one, and none twice, expected")
        if depth < 2:
            raise ValueError(f"depth is {depth}; 2 or more expected")
        members = {
            "i": In(stream.Signature(Descriptor)),
            "record": Out(stream.Signature(DoneRecord)),
            "cycle": In(64),
            "clear": In(1),
        }
        for n in range(len(self.kinds)):
            members[f"task{n}"] = Out(stream.Signature(Task))
            members[f"done{n}"] = In(stream.Signature(Done))
            members[f"activity{n}"] = Out(Activity)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        lanes = len(self.kinds)
        entry = data.StructLayout({"task": Task, "waits": Descriptor.as_shape()["waits"].shape, "signal": 6})

        m.submodules.counters = counters = memory.Memory(shape=20, depth=COUNTERS, init=[])
        read, write = counters.read_port(), counters.write_port()

        # Descriptors to the queues; those for no lane to the last one, which answers by itself.
        given = self.i.payload
        queues, heads = [], []
        for n in range(lanes):
            m.submodules[f"queue{n}"] = queue = fifo.SyncFIFOBuffered(width=entry.size, depth=self.depth)
            packed = Signal(entry, name=f"packed{n}")
            m.d.comb += [
                packed.task.eq(given.task),
                packed.waits.eq(given.waits),
                packed.signal.eq(given.signal),
                queue.w_data.eq(packed),
            ]
            queues.append(queue)
            heads.append(data.View(entry, queue.r_data))
        unknown = Signal(data.StructLayout({"tag": 16, "engine": 4, "signal": 6}))
        unknown_valid = Signal()
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
                        unknown.signal.eq(given.signal),
                    ]

        # A lane: released by the checks below, handed over when the engine takes it, over with its last done.
        released, running = Signal(lanes), Signal(lanes)
        blocked = [Signal(2, name=f"blocked{n}") for n in range(lanes)]
        signals = [Signal(6, name=f"signal{n}") for n in range(lanes)]
        starts = [Signal(64, name=f"start{n}") for n in range(lanes)]
        for n in range(lanes):
            task, queue = getattr(self, f"task{n}"), queues[n]
            taken = task.valid & task.ready
            m.d.comb += [
                task.valid.eq(queue.r_rdy & released[n]),
                task.payload.eq(heads[n].task),
                queue.r_en.eq(taken),
            ]
            activity = getattr(self, f"activity{n}")
            m.d.comb += [
                activity.busy.eq(running[n]),
                activity.waits_first.eq(blocked[n][0]),
                activity.waits_second.eq(blocked[n][1]),
            ]
            observe(m, task)
            with m.If(taken):
                m.d.sync += [
                    released[n].eq(0),
                    running[n].eq(1),
                    signals[n].eq(heads[n].signal),
                    starts[n].eq(self.cycle),
                ]

        # One thing at a time: an end, or one lane's waits.
        dones = [getattr(self, f"done{n}") for n in range(lanes)]
        ended = Signal(lanes + 1)
        m.d.comb += ended.eq(Cat(*(done.valid for done in dones), unknown_valid))
        lane = Signal(range(lanes))
        over = Signal(range(lanes + 1))
        record = Signal(data.StructLayout({name: DoneRecord.as_shape()[name].shape for name in _RECORD}))
        m.d.comb += [getattr(self.record.payload, name).eq(getattr(record, name)) for name in _RECORD]
        signal = Signal(6)
        with m.If(self.clear):
            m.d.sync += lane.eq(0)
        wanted = [Array(head.waits[k] for head in heads) for k in range(2)]
        index = Signal(6, init=0)
        checked = Signal(range(lanes))
        next_lane = Mux(lane == lanes - 1, 0, lane + 1)

        def met(k):
            wait = wanted[k][checked]
            return (wait.counter == 0) | ~(read.data - wait.value)[19]

        with m.FSM(name="dispatch"):
            with m.State("ClearCounters"):
                m.d.comb += [write.en.eq(1), write.addr.eq(index)]
                m.d.sync += index.eq(index + 1)
                with m.If(index.all()):
                    m.next = "Look"
            with m.State("Look"):
                candidate = Signal(range(lanes))
                m.d.comb += candidate.eq(lane)
                m.d.sync += [checked.eq(candidate), lane.eq(next_lane)]
                m.d.comb += [read.addr.eq(wanted[0][candidate].counter), read.en.eq(1)]
                free = Signal(lanes)
                m.d.comb += free.eq(Cat(queue.r_rdy for queue in queues) & ~released & ~running)
                with m.If(self.clear):
                    m.next = "ClearCounters"
                with m.Elif(ended.any()):
                    for n in reversed(range(lanes + 1)):
                        with m.If(ended[n]):
                            m.d.sync += over.eq(n)
                    m.next = "TakeDone"
                with m.Elif(free.bit_select(candidate, 1)):
                    m.next = "CheckFirst"
            with m.State("CheckFirst"):
                m.d.comb += [read.addr.eq(wanted[1][checked].counter), read.en.eq(1)]
                m.next = "CheckSecond"
                with m.If(~met(0)):
                    for n in range(lanes):
                        with m.If(checked == n):
                            m.d.sync += blocked[n].eq(1)
                    m.next = "Look"
            with m.State("CheckSecond"):
                for n in range(lanes):
                    with m.If(checked == n):
                        m.d.sync += [blocked[n].eq(Cat(C(0, 1), ~met(1))), released[n].eq(met(1))]
                m.next = "Look"
            with m.State("TakeDone"):
                with m.Switch(over):
                    for n in range(lanes):
                        with m.Case(n):
                            m.d.comb += dones[n].ready.eq(1)
                            m.d.sync += [getattr(record, name).eq(getattr(dones[n].payload, name)) for name in _COPIED]
                            m.d.sync += [
                                record.engine.eq(self.kinds[n]),
                                record.start.eq(starts[n]),
                                signal.eq(signals[n]),
                            ]
                            with m.If(dones[n].payload.last):
                                m.d.sync += running[n].eq(0)
                    with m.Default():
                        m.d.sync += [getattr(record, name).eq(0) for name in _COPIED]
                        m.d.sync += [
                            record.tag.eq(unknown.tag),
                            record.status.eq(Status.BadTask),
                            record.last.eq(1),
                            record.engine.eq(unknown.engine),
                            record.start.eq(self.cycle),
                            signal.eq(unknown.signal),
                            unknown_valid.eq(0),
                        ]
                m.next = "ReadCounter"
            with m.State("ReadCounter"):
                m.d.comb += [read.addr.eq(signal), read.en.eq(1)]
                m.next = "Count"
            with m.State("Count"):
                # Counter 0 counts too, and nobody waits for it.
                m.d.comb += [write.addr.eq(signal), write.data.eq(read.data + 1), write.en.eq(record.last)]
                m.next = "SayRecord"
            with m.State("SayRecord"):
                m.d.comb += self.record.valid.eq(1)
                with m.If(self.record.ready):
                    m.next = "Look"
        observe(m, self.record)
        return m


_COPIED = ("tag", "status", "where", "bytes", "cycles", "stalled", "width", "height", "chroma_format", "last")
_RECORD = (*_COPIED, "engine", "start")
