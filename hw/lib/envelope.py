"""What is the same in every engine: headers, done messages, and every way in which a task can fail from outside."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.engine import EngineSignature, Format, SlotHeader, SlotKind, Status, Task
from tessera.hw.lib.streams import Skid, connect, observe
from tessera.hw.memory.port import MemoryPort, MemoryStatus, Op, Request

__all__ = ["ENVELOPE_ID", "CoreSignature", "Envelope", "Finish", "Start"]

ENVELOPE_ID = 7
"""Id of the envelope's own requests; cores use 0 to 6."""


class Start(data.Struct):
    """What a core is given."""

    task: Task
    source: SlotHeader
    """Of no meaning to an engine without a source slot."""


class Finish(data.Struct):
    """How a core ended. It goes into the target slot's header and the done message."""

    status: Status
    where: 32
    bytes: 32
    chroma_format: Format
    width: 16
    height: 16


class CoreSignature(wiring.Signature):
    """A core: ``start`` in once, then memory traffic, then ``finish`` out once.

    The core is held in reset between tasks, so it starts each one from its registers' initial values. Before it offers
    ``finish``, all its write requests were taken; reads may still be under way, and the envelope drops their responses.
    ``start`` stays put until the core has taken it.
    """

    def __init__(self):
        super().__init__(
            {
                "start": In(stream.Signature(Start)),
                "finish": Out(stream.Signature(Finish)),
                "memory": Out(MemoryPort()),
            }
        )


class Envelope(wiring.Component):
    """Makes an engine of a core.

    It takes a task, reads and checks the source slot's header, starts the core, and after ``finish`` waits for all
    acknowledgements, writes the target slot's header, waits for its acknowledgement and says done. The core is cut off
    and reset, and the task ends with a status, when

    - the source header says failed (``SourceFailed``) or holds another kind of slot (``WrongSource``);
    - the memory answers anything but ``Ok`` (``Refused``, ``Poison``);
    - ``abort`` is high (``Aborted``);
    - nothing moved on the memory port for `watchdog` cycles (``Timeout``).

    From a task's start to done it adds 2 header accesses of the memory's latency and 7 cycles to the core's time.
    It takes the next task only when no request waits for the memory and no response is awaited any more.

    Parameters
    ----------
    core : component with :class:`CoreSignature`
    source : :class:`SlotKind` or None
        What the source slot has to hold; None when the engine has no source slot.
    target : :class:`SlotKind` or None
        What the target slot will hold; None when the engine has no target slot.
    watchdog : int
        Cycles.
    """

    def __init__(self, core, *, source, target, watchdog=1 << 16):
        if watchdog < 256:
            raise ValueError(f"watchdog is {watchdog}; 256 cycles or more expected")
        self.core, self.source, self.target, self.watchdog = core, source, target, watchdog
        super().__init__(EngineSignature())

    def elaborate(self, platform):
        m = Module()
        reset_core = Signal(init=1)
        core = self.core
        m.submodules.core = ResetInserter(reset_core)(core)
        m.submodules.skid = skid = Skid(Request)

        task = Signal(Task)
        source = Signal(SlotHeader)
        # How the core ended, or why it was cut off; and an access that was refused, which counts instead.
        result = Signal(Finish)
        refusal = Signal(data.StructLayout({"found": 1, "poison": 1, "id": 3, "op": Op}))
        outcome = Signal(Finish)
        m.d.comb += outcome.eq(result)
        with m.If(refusal.found):
            m.d.comb += [
                outcome.eq(0),
                outcome.status.eq(Mux(refusal.poison, Status.Poison, Status.Refused)),
                outcome.where.eq(Cat(refusal.id, refusal.op)),
            ]
        cycles = Signal(32)
        stalled = Signal(32)
        outstanding = Signal(12)
        quiet = Signal(range(self.watchdog + 1))
        timeout = quiet == self.watchdog

        # The envelope's own requests, only ever offered while the core is reset and the skid empty: taken at once.
        # What the core offers while it is reset is not taken.
        own, own_valid = Signal(Request), Signal()
        m.d.comb += [
            skid.i.valid.eq(Mux(reset_core, own_valid, core.memory.request.valid)),
            skid.i.payload.eq(Mux(reset_core, own, core.memory.request.payload)),
            core.memory.request.ready.eq(skid.i.ready & ~reset_core),
            own.id.eq(ENVELOPE_ID),
            own.window.eq(task.source.window),
        ]
        connect(m, skid.o, self.memory.request)
        asked, answered = Signal(), Signal()
        response = self.memory.response
        for_core = response.payload.id != ENVELOPE_ID
        m.d.comb += [
            asked.eq(self.memory.request.valid & self.memory.request.ready),
            answered.eq(response.valid & response.ready),
            core.memory.response.payload.eq(response.payload),
            core.memory.response.valid.eq(response.valid & for_core & ~reset_core),
            response.ready.eq(~for_core | reset_core | core.memory.response.ready),
        ]
        m.d.sync += outstanding.eq(outstanding + asked - answered)
        with m.If(own_valid | asked | answered):
            m.d.sync += quiet.eq(0)
        with m.Elif(~timeout):
            m.d.sync += quiet.eq(quiet + 1)
        m.d.sync += cycles.eq(cycles + 1)
        with m.If(self.memory.request.valid & ~self.memory.request.ready):
            m.d.sync += stalled.eq(stalled + 1)

        m.d.comb += [core.start.payload.task.eq(task), core.start.payload.source.eq(source)]

        def fail(status, where):
            return [result.eq(0), result.status.eq(status), result.where.eq(where), refusal.eq(0)]

        bad = Signal()
        m.d.comb += bad.eq(answered & (response.payload.status != MemoryStatus.Ok))
        refuse = [
            refusal.found.eq(1),
            refusal.poison.eq(response.payload.status == MemoryStatus.Poison),
            refusal.id.eq(response.payload.id),
            refusal.op.eq(response.payload.op),
        ]

        with m.FSM(name="envelope"):
            with m.State("TakeTask"):
                m.d.comb += self.task.ready.eq((outstanding == 0) & ~skid.o.valid)
                m.d.sync += [task.eq(self.task.payload), cycles.eq(1), stalled.eq(0), quiet.eq(0), result.eq(0)]
                m.d.sync += refusal.eq(0)
                if self.source is None:
                    m.d.sync += source.eq(0)
                with m.If(self.task.valid & self.task.ready):
                    if self.source is None:
                        m.d.sync += reset_core.eq(0)
                        m.next = "StartCore"
                    else:
                        m.next = "AskHeader"
            if self.source is not None:
                with m.State("AskHeader"):
                    m.d.comb += [own_valid.eq(1), own.op.eq(Op.Read), own.offset.eq(task.source.head)]
                    m.next = "AwaitHeader"
                with m.State("AwaitHeader"):
                    m.d.sync += source.eq(response.payload.data)
                    with m.If(answered):
                        m.next = "CheckHeader"
                    with m.If(bad):
                        m.d.sync += refuse
                        m.next = "Drain"
                    with m.Elif(timeout):
                        m.d.sync += fail(Status.Timeout, 1)
                        m.next = "Drain"
                with m.State("CheckHeader"):
                    with m.If(source.kind != self.source):
                        m.d.sync += fail(Status.WrongSource, source.kind)
                        m.next = "Drain"
                    with m.Elif(source.status != Status.Ok):
                        m.d.sync += fail(Status.SourceFailed, source.status)
                        m.next = "Drain"
                    with m.Else():
                        m.d.sync += reset_core.eq(0)
                        m.next = "StartCore"
            with m.State("StartCore"):
                m.d.comb += core.start.valid.eq(1)
                with m.If(core.start.ready):
                    m.next = "Run"
            with m.State("Run"):
                m.d.comb += core.finish.ready.eq(1)
                # Whatever finish offers in the last cycle of this state is what counts.
                m.d.sync += result.eq(core.finish.payload)
                with m.If(core.finish.valid | bad | self.abort | timeout):
                    m.d.sync += reset_core.eq(1)
                    m.next = "Drain"
                with m.If(self.abort):
                    m.d.sync += fail(Status.Aborted, 0)
                with m.Elif(timeout):
                    m.d.sync += fail(Status.Timeout, Mux(outstanding != 0, 1, 2))
                with m.If(bad):
                    m.d.sync += refuse
            with m.State("Drain"):
                with m.If(bad & (outcome.status == Status.Ok)):
                    m.d.sync += refuse
                with m.If((outstanding == 0) & ~skid.o.valid):
                    m.next = "WriteHeader" if self.target is not None else "SayDone"
                with m.Elif(timeout):
                    m.d.sync += fail(Status.Timeout, 1)
                    m.next = "SayDone"
            if self.target is not None:
                header = Signal(SlotHeader)
                m.d.comb += [
                    header.kind.eq(self.target),
                    header.status.eq(outcome.status),
                    header.where.eq(outcome.where),
                    header.chroma_format.eq(outcome.chroma_format),
                    header.width.eq(outcome.width),
                    header.height.eq(outcome.height),
                    header.bytes.eq(outcome.bytes if self.target is SlotKind.Bitstream else 0),
                    header.timestamp.eq(source.timestamp if self.source is not None else task.timestamp),
                    header.tag.eq(task.tag),
                ]
                with m.State("WriteHeader"):
                    m.d.comb += [
                        own_valid.eq(1),
                        own.op.eq(Op.Write),
                        own.window.eq(task.target.window),
                        own.offset.eq(task.target.head),
                        own.data.eq(header),
                    ]
                    m.next = "AwaitAck"
                with m.State("AwaitAck"):
                    with m.If(answered):
                        m.next = "SayDone"
                    with m.If(bad):
                        m.d.sync += refuse
                    with m.Elif(timeout):
                        m.d.sync += fail(Status.Timeout, 1)
                        m.next = "SayDone"
            with m.State("SayDone"):
                m.d.comb += self.done.valid.eq(1)
                # The message must hold still while it waits.
                m.d.sync += [cycles.eq(cycles), stalled.eq(stalled)]
                with m.If(self.done.ready):
                    m.next = "TakeTask"

        message = self.done.payload
        m.d.comb += [
            message.tag.eq(task.tag),
            message.last.eq(1),
            message.status.eq(outcome.status),
            message.where.eq(outcome.where),
            message.cycles.eq(cycles),
            message.stalled.eq(stalled),
            message.bytes.eq(outcome.bytes),
            message.chroma_format.eq(outcome.chroma_format),
            message.width.eq(outcome.width),
            message.height.eq(outcome.height),
        ]
        observe(m, self.done)
        observe(m, self.memory.request)
        return m
