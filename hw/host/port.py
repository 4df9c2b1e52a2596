"""The chip's host side: everything between the PCIe core and the rest of the chip."""

from dataclasses import dataclass, field

from amaranth.hdl import *
from amaranth.lib import data, enum, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.host.descriptor import Descriptor, DoneRecord
from tessera.hw.host.dma_read import DmaRead, DmaReadPort, ReadConfig
from tessera.hw.host.dma_write import DmaWrite, DmaWritePort
from tessera.hw.host.registers import (
    ChipParameters,
    LinkStatus,
    RegisterPort,
    Registers,
)
from tessera.hw.host.rings import Completion, Submission
from tessera.hw.host.tlp import (
    Beat,
    CompletionHeader,
    CompletionStatus,
    Credit,
    Fmt,
    PcieConfig,
    PciePort,
    RequestHeader,
    TlpType,
    request_address,
    request_bytes,
    request_first_byte,
)
from tessera.hw.lib.streams import connect, observe
from tessera.hw.link.routes import RouteWrite
from tessera.hw.memory.port import Refusal, WindowWrite

__all__ = ["HostConfig", "HostPort", "Receiver", "Transmitter"]


class _Kind(enum.Enum, shape=2):
    Read = 0
    Write = 1
    Refuse = 2


class _Access(data.Struct):
    """A request from the host, with what its completion repeats of it."""

    kind: _Kind
    address: 12
    data: 32
    locked: 1
    attr: 2
    attr_ido: 1
    tc: 3
    tag: 8
    tag_8: 1
    tag_9: 1
    requester: 16
    lower_address: 7
    byte_count: 12


class Receiver(wiring.Component):
    """Sorts the packets from the host: completions to the DMA, accesses of BAR 0 to the registers.

    ========================================================================  =======================================
    what comes                                                                what happens
    ========================================================================  =======================================
    completion                                                                passed on
    memory read of 1 DW in BAR 0                                              register read, completed with the whole DW
    memory write of 1 DW in BAR 0, all bytes enabled                          register write
    memory write of 1 DW in BAR 0, no byte enabled                            nothing
    any other memory write, a message, a packet of no known type, a
    locked completion, a packet with a prefix                                 dropped, counted
    any other request: read outside BAR 0 or of more than 1 DW, locked read,
    I/O, configuration, atomic                                                completed as Unsupported Request, counted
    ========================================================================  =======================================

    A poisoned request is treated as one that is not supported. Requests are answered in order.

    Completions are taken one beat a cycle. A register's completion is offered 5 cycles after its request was taken.

    Members
    -------
    config : :py:`In(PcieConfig)`
    i : :py:`In(stream.Signature(Beat))`
        TLPs from the host.
    to_dma : :py:`Out(stream.Signature(Beat))`
        Completion TLPs.
    registers : :py:`Out(RegisterPort())`
    answer : :py:`Out(stream.Signature(Beat))`
        Completion TLPs for the host, of one beat.
    unsupported : :py:`Out(1)`
        A pulse for each packet that was refused or dropped.
    """

    def __init__(self):
        super().__init__(
            {
                "config": In(PcieConfig),
                "i": In(stream.Signature(Beat)),
                "to_dma": Out(stream.Signature(Beat)),
                "registers": Out(RegisterPort()),
                "answer": Out(stream.Signature(Beat)),
                "unsupported": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.waiting = waiting = fifo.SyncFIFO(width=_Access.as_shape().size, depth=4)
        beat = self.i.payload
        header = RequestHeader(beat.header)
        start = header.start
        fmt, kind = start.fmt.as_value(), start.type

        with_data = fmt[1]
        prefix = fmt[2]
        memory = (kind == TlpType.Memory) | (kind == TlpType.MemoryLocked)
        address = request_address(header)
        in_bar = (address[12:] == self.config.bar[12:]) & (start.length == 1) & ~start.ep & (kind == TlpType.Memory)
        atomic = (kind == TlpType.FetchAdd) | (kind == TlpType.Swap) | (kind == TlpType.CompareSwap)
        nonposted = Signal()
        m.d.comb += nonposted.eq(
            ~prefix
            & (
                (memory & ~with_data)
                | (kind == TlpType.Io)
                | (kind == TlpType.Config0)
                | (kind == TlpType.Config1)
                | (atomic & with_data)
            )
        )
        completion, read, write, nothing, refuse, drop = (
            Signal(name=name) for name in ("completion", "read", "write", "nothing", "refuse", "drop")
        )
        posted_write = ~prefix & with_data & in_bar
        m.d.comb += [
            completion.eq(~prefix & (kind == TlpType.Completion)),
            read.eq(nonposted & in_bar),
            write.eq(posted_write & (header.first_be == 0xF)),
            nothing.eq(posted_write & (header.first_be == 0)),
            refuse.eq(nonposted & ~read),
            drop.eq(~(completion | read | write | nothing | refuse)),
        ]

        access = Signal(_Access)
        m.d.comb += [
            access.kind.eq(Mux(refuse, _Kind.Refuse, Mux(write, _Kind.Write, _Kind.Read))),
            access.address.eq(address[:12]),
            access.data.eq(beat.data[:32]),
            access.locked.eq(kind == TlpType.MemoryLocked),
            access.attr.eq(start.attr),
            access.attr_ido.eq(start.attr_ido),
            access.tc.eq(start.tc),
            access.tag.eq(header.tag),
            access.tag_8.eq(start.tag_8),
            access.tag_9.eq(start.tag_9),
            access.requester.eq(header.requester),
            access.lower_address.eq(Mux(memory, address[:7] | request_first_byte(header), 0)),
            access.byte_count.eq(Mux(memory, request_bytes(header), 4)),
            waiting.w_data.eq(access),
        ]
        for_registers = read | write | refuse
        inside, to_dma = Signal(), Signal()
        dma_now = Mux(beat.first, completion, to_dma & inside)
        m.d.comb += [
            self.to_dma.payload.eq(beat),
            self.to_dma.valid.eq(self.i.valid & dma_now),
            waiting.w_en.eq(self.i.valid & beat.first & for_registers),
            self.i.ready.eq(Mux(dma_now, self.to_dma.ready, ~(beat.first & for_registers) | waiting.w_rdy)),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.comb += self.unsupported.eq(beat.first & (drop | refuse))
            m.d.sync += inside.eq(~beat.last)
            with m.If(beat.first):
                m.d.sync += to_dma.eq(completion)

        # One access at a time: the register, then the completion.
        now = Signal(_Access)
        registers = self.registers
        reply = Signal(CompletionHeader)
        m.d.comb += [
            registers.request.payload.write.eq(now.kind == _Kind.Write),
            registers.request.payload.address.eq(now.address),
            registers.request.payload.data.eq(now.data),
            reply.start.length.eq(now.kind == _Kind.Read),
            reply.start.attr.eq(now.attr),
            reply.start.attr_ido.eq(now.attr_ido),
            reply.start.tc.eq(now.tc),
            reply.start.tag_8.eq(now.tag_8),
            reply.start.tag_9.eq(now.tag_9),
            reply.start.type.eq(Mux(now.locked, TlpType.CompletionLocked, TlpType.Completion)),
            reply.start.fmt.eq(Mux(now.kind == _Kind.Read, Fmt.ThreeDwData, Fmt.ThreeDw)),
            reply.byte_count.eq(now.byte_count),
            reply.status.eq(
                Mux(now.kind == _Kind.Refuse, CompletionStatus.UnsupportedRequest, CompletionStatus.Successful)
            ),
            reply.completer.eq(self.config.id),
            reply.lower_address.eq(now.lower_address),
            reply.tag.eq(now.tag),
            reply.requester.eq(now.requester),
        ]
        answer, word = self.answer, Signal(32)
        m.d.comb += [
            answer.payload.header.eq(reply),
            answer.payload.data.eq(word),
            answer.payload.count.eq(now.kind == _Kind.Read),
            answer.payload.first.eq(1),
            answer.payload.last.eq(1),
        ]
        with m.FSM(name="answer"):
            with m.State("TakeAccess"):
                m.d.comb += waiting.r_en.eq(1)
                m.d.sync += [now.eq(waiting.r_data), word.eq(0)]
                with m.If(waiting.r_rdy):
                    m.next = "AskRegister"
                    with m.If(data.View(_Access, waiting.r_data).kind == _Kind.Refuse):
                        m.next = "SendAnswer"
            with m.State("AskRegister"):
                m.d.comb += registers.request.valid.eq(1)
                with m.If(registers.request.ready):
                    m.next = "AwaitRegister"
            with m.State("AwaitRegister"):
                m.d.comb += registers.response.ready.eq(1)
                m.d.sync += word.eq(registers.response.payload)
                with m.If(registers.response.valid):
                    m.next = "SendAnswer"
                    with m.If(now.kind == _Kind.Write):
                        m.next = "TakeAccess"
            with m.State("SendAnswer"):
                m.d.comb += answer.valid.eq(1)
                with m.If(answer.ready):
                    m.next = "TakeAccess"
        observe(m, self.i)
        return m


class Transmitter(wiring.Component):
    """Puts packets onto the link, in this order of preference:

    1. completions: no request ever holds them up, only the rest of a packet that has begun;
    2. ``record``: memory writes of the completion ring, and MSIs;
    3. ``write`` and ``read`` in turns: memory writes and memory reads of the DMA.

    A request starts only when the host allows requests and the PCIe core has room for it; a memory write that has to
    wait so does not hold up reads, nor the other way round. Memory writes of one input stay in order.

    A beat passes in the cycle in which it is offered.

    Members
    -------
    config : :py:`In(PcieConfig)`
    credit : :py:`In(Credit)`
    completion, record, write, read : :py:`In(stream.Signature(Beat))`
    o : :py:`Out(stream.Signature(Beat))`
    """

    def __init__(self):
        inputs = ("completion", "record", "write", "read")
        super().__init__(
            {
                "config": In(PcieConfig),
                "credit": In(Credit),
                **{name: In(stream.Signature(Beat)) for name in inputs},
                "o": Out(stream.Signature(Beat)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        inputs = [self.completion, self.record, self.write, self.read]
        posted = self.config.bus_master & self.credit.posted
        nonposted = self.config.bus_master & self.credit.nonposted
        wants = Signal(4)
        m.d.comb += wants.eq(
            Cat(
                self.completion.valid,
                self.record.valid & posted,
                self.write.valid & posted,
                self.read.valid & nonposted,
            )
        )
        begun, chosen, reads_turn = Signal(), Signal(4), Signal()
        grant = Signal(4)
        with m.If(begun):
            m.d.comb += grant.eq(chosen)
        with m.Elif(wants[0]):
            m.d.comb += grant.eq(0b0001)
        with m.Elif(wants[1]):
            m.d.comb += grant.eq(0b0010)
        with m.Elif(wants[3] & (reads_turn | ~wants[2])):
            m.d.comb += grant.eq(0b1000)
        with m.Elif(wants[2]):
            m.d.comb += grant.eq(0b0100)
        for n, source in enumerate(inputs):
            with m.If(grant[n]):
                m.d.comb += [
                    self.o.valid.eq(source.valid),
                    self.o.payload.eq(source.payload),
                    source.ready.eq(self.o.ready),
                ]
        m.d.sync += chosen.eq(grant)
        with m.If(self.o.valid):
            m.d.sync += begun.eq(~(self.o.ready & self.o.payload.last))
        with m.If(self.o.valid & self.o.ready & self.o.payload.last):
            with m.If(grant[2]):
                m.d.sync += reads_turn.eq(1)
            with m.If(grant[3]):
                m.d.sync += reads_turn.eq(0)
        observe(m, self.o)
        return m


@dataclass(frozen=True)
class HostConfig:
    """Sizes of a :class:`HostPort`.

    Parameters
    ----------
    chip
        What the registers tell of the chip.
    read
        Of the DMA reads; it has to have 2 readers.
    descriptors
        Descriptors read ahead, a power of two from 2 to 32.
    """

    chip: ChipParameters = field(default_factory=ChipParameters)
    read: ReadConfig = field(default_factory=ReadConfig)
    descriptors: int = 16

    def __post_init__(self):
        if self.read.readers != 2:
            raise ValueError(f"read.readers is {self.read.readers}; 2 expected")


class HostPort(wiring.Component):
    """PCIe at the transaction layer on one side; descriptors, done records, windows and DMA on the other.

    The DMA moves at least 32 bytes per cycle in each direction in transfers of 16 KiB and more, as long as the host
    answers reads within 100 cycles.

    Parameters
    ----------
    parameters : :class:`HostConfig`

    Members
    -------
    pcie : :py:`Out(PciePort())`
    descriptors : :py:`Out(stream.Signature(Descriptor))`
        Tasks that the host has submitted, in order.
    records : :py:`In(stream.Signature(DoneRecord))`
        How they ended; held back while the completion ring is full or disabled.
    ingest : :py:`In(DmaReadPort())`
    egress : :py:`In(DmaWritePort())`
    restart : :py:`Out(1)`
        A pulse when the host sets the submission ring anew.
    window, route, refused, node, session, link_index, link_status, abort, reset_counters, cycle, counter_select,
    counter_value
        As in :class:`Registers`.
    """

    def __init__(self, parameters=HostConfig()):
        self.parameters = parameters
        super().__init__(
            {
                "pcie": Out(PciePort()),
                "descriptors": Out(stream.Signature(Descriptor)),
                "records": In(stream.Signature(DoneRecord)),
                "ingest": In(DmaReadPort()),
                "egress": In(DmaWritePort()),
                "restart": Out(1),
                "window": Out(stream.Signature(WindowWrite)),
                "route": Out(stream.Signature(RouteWrite)),
                "node": In(4),
                "session": Out(6),
                "link_index": Out(3),
                "link_status": In(LinkStatus),
                "refused": In(stream.Signature(Refusal)),
                "abort": Out(16),
                "reset_counters": Out(1),
                "cycle": Out(64),
                "counter_select": Out(16),
                "counter_value": In(64),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.receiver = receiver = Receiver()
        m.submodules.transmitter = transmitter = Transmitter()
        m.submodules.registers = registers = Registers(p.chip)
        m.submodules.reads = reads = DmaRead(p.read)
        m.submodules.writes = writes = DmaWrite()
        m.submodules.submission = submission = Submission(p.descriptors)
        m.submodules.completion = completion = Completion()

        for part in (receiver, transmitter, reads, writes, completion):
            m.d.comb += part.config.eq(self.pcie.config)
        m.d.comb += transmitter.credit.eq(self.pcie.credit)
        connect(m, self.pcie.from_host, receiver.i)
        connect(m, receiver.to_dma, reads.completion)
        connect(m, receiver.answer, transmitter.completion)
        connect(m, completion.packet, transmitter.record)
        connect(m, writes.packet, transmitter.write)
        connect(m, reads.request, transmitter.read)
        connect(m, transmitter.o, self.pcie.to_host)
        connect(m, receiver.registers.request, registers.port.request)
        connect(m, registers.port.response, receiver.registers.response)
        wiring.connect(m, registers.submission, submission.control)
        wiring.connect(m, registers.completion, completion.control)

        connect(m, submission.read.request, reads.reader0.request)
        connect(m, reads.reader0.line, submission.read.line)
        connect(m, self.ingest.request, reads.reader1.request)
        connect(m, reads.reader1.line, self.ingest.line)
        connect(m, self.egress.request, writes.writer.request)
        connect(m, self.egress.line, writes.writer.line)
        connect(m, submission.o, self.descriptors)
        connect(m, self.records, completion.i)
        connect(m, registers.window, self.window)
        connect(m, registers.route, self.route)
        connect(m, self.refused, registers.refused)

        m.d.comb += [
            self.egress.done.eq(writes.writer.done),
            completion.msi.eq(registers.msi),
            registers.unsupported.eq(receiver.unsupported),
            registers.unexpected.eq(reads.unexpected),
            registers.failed.eq(reads.failed),
            registers.submission_failed.eq(submission.failed),
            registers.msi_unserved.eq(completion.unserved),
            registers.completion_full.eq(completion.full),
            registers.dma_idle.eq(reads.idle),
            registers.counter_value.eq(self.counter_value),
            registers.node.eq(self.node),
            registers.link_status.eq(self.link_status),
            self.session.eq(registers.session),
            self.link_index.eq(registers.link_index),
            self.restart.eq(registers.submission.set),
            self.abort.eq(registers.abort),
            self.reset_counters.eq(registers.reset_counters),
            self.cycle.eq(registers.cycle),
            self.counter_select.eq(registers.counter_select),
        ]
        return m
