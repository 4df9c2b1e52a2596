"""The host: its memory behind a root complex, quick enough for the simulation of a whole system."""

from amaranth.hdl import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.host.tlp import (
    BEAT_DWS,
    Beat,
    CompletionHeader,
    CompletionStatus,
    Fmt,
    PciePort,
    RequestHeader,
    TlpType,
    request_address,
    request_bytes,
    request_first_byte,
)
from tessera.hw.models.storage import Backdoor, Storage, StoragePort

__all__ = ["DEVICE_ID", "MSI_ADDRESS", "HostKnobs", "HostModel", "MmioRequest", "MmioResponse", "RootPort"]

MSI_ADDRESS = 0xFEE0_0000
"""A page of 4 KiB: what is written there is an MSI; reads of it are answered as Completer Abort."""
DEVICE_ID = 0x0100
"""Bus, device and function number that the model gives to the chip."""

_READS = 64
_SLOTS = 4


class HostKnobs(data.Struct):
    """How the host behaves. All zeros is a quick and tidy host."""

    latency: 12
    """Cycles that a read waits, beside the few that it takes anyway."""
    stall: 4
    """Packets are held back in stall/16 of the cycles, each way, and so are credits."""
    split: 2
    """Completions carry at most 256 (0), 128 (1) or 64 bytes (2)."""
    reorder: 1
    """Completions of different reads come in any order."""
    max_payload: 2
    """The chip's largest write: 256 (0) or 128 bytes (1)."""
    max_read: 2
    """The chip's largest read: 512 (0), 256 (1) or 128 bytes (2)."""
    short_tags: 1
    """Tags have 5 bits instead of 8."""
    seed: 31
    """Of all that is random, taken at reset."""


class MmioRequest(data.Struct):
    """An access of one of the chip's registers."""

    write: 1
    address: 32
    """Bytes from BAR 0."""
    data: 32


class MmioResponse(data.Struct):
    """Its end: for a write, that it was sent; for a read, its completion."""

    data: 32
    status: 3
    """Of the completion: 0 successful, 1 unsupported request."""


class RootPort(wiring.Component):
    """A port of a host's root complex, in front of the host's memory.

    Memory is at addresses from 0; reads beyond it are answered as Unsupported Request, writes there are dropped and
    counted in ``dropped``. What comes from the chip takes effect in its order: after an MSI, all that was written
    before it is in memory.

    A beat a cycle either way, but a beat that does not fill a line takes up to 5 cycles to write. A read waits for the
    knob's latency and a few cycles.

    Parameters
    ----------
    size : int
        Bytes of memory, a power of two.
    bar : int
        Where BAR 0 is, a multiple of 4096.

    Members
    -------
    pcie : :py:`In(PciePort())`
    mmio_request : :py:`In(stream.Signature(MmioRequest))`
    mmio_response : :py:`Out(stream.Signature(MmioResponse))`
        One for each request, in order; one request is in work at a time.
    msi_count, msi_data : :py:`Out(32)`
        MSIs so far, and what the last one said.
    dropped : :py:`Out(32)`
        Writes outside the memory, in beats.
    knobs : :py:`In(HostKnobs)`
    storage : :py:`Out(StoragePort(...))`
        The memory, in lines of 64 bytes.
    """

    def __init__(self, *, size=1 << 26, bar=0xF000_0000):
        if size < 4096 or size & (size - 1):
            raise ValueError(f"size is {size}; a power of two from 4096 expected")
        if bar % 4096:
            raise ValueError(f"bar is {bar:#x}; a multiple of 4096 expected")
        self.size, self.bar = size, bar
        super().__init__(
            {
                "pcie": In(PciePort()),
                "mmio_request": In(stream.Signature(MmioRequest)),
                "mmio_response": Out(stream.Signature(MmioResponse)),
                "msi_count": Out(32),
                "msi_data": Out(32),
                "dropped": Out(32),
                "knobs": In(HostKnobs),
                "storage": Out(StoragePort(depth=size // 64)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        storage = self.storage
        line_bits = (self.size // 64 - 1).bit_length()

        time, dice, begun = Signal(16), Signal(32, init=0xACE1_2345), Signal()
        shown = dice ^ Mux(begun, 0, self.knobs.seed)
        m.d.sync += [
            begun.eq(1),
            time.eq(time + 1),
            dice.eq(Cat(shown[1:], shown[0] ^ shown[10] ^ shown[30] ^ shown[31])),
        ]
        knobs, config = self.knobs, self.pcie.config
        m.d.comb += [
            config.id.eq(DEVICE_ID),
            config.bus_master.eq(1),
            config.extended_tag.eq(~knobs.short_tags),
            config.max_payload.eq(knobs.max_payload == 0),
            config.max_read.eq(Mux(knobs.max_read == 0, 2, knobs.max_read == 1)),
            config.bar.eq(self.bar),
            self.pcie.credit.posted.eq(dice[0:4] >= knobs.stall),
            self.pcie.credit.nonposted.eq(dice[2:6] >= knobs.stall),
        ]

        rmw_read, rmw_address = Signal(), Signal(line_bits)
        mmio_answer = Signal(MmioResponse)
        mmio_answered = Signal()
        reads = self._receive(m, storage, time, dice, line_bits, rmw_read, rmw_address, mmio_answer, mmio_answered)
        completions = self._read(m, reads, storage, time, dice, line_bits, rmw_read, rmw_address)

        # The processor's own accesses.
        packet, packet_valid, packet_ready = Signal(Beat), Signal(), Signal()
        header = RequestHeader(packet.header)
        asked = self.mmio_request.payload
        address = (self.bar + asked.address)[:64]
        four = address[32:].any()
        m.d.comb += [
            packet.first.eq(1),
            packet.last.eq(1),
            packet.count.eq(asked.write),
            packet.data.eq(asked.data),
            header.start.length.eq(1),
            header.start.type.eq(TlpType.Memory),
            header.start.fmt.as_value().eq(Cat(four, asked.write)),
            header.first_be.eq(0xF),
            header.dw2.eq(Mux(four, address[32:], address[:32])),
            header.dw3.eq(Mux(four, address[:32], 0)),
        ]
        with m.FSM(name="mmio"):
            with m.State("SendRequest"):
                m.d.comb += [packet_valid.eq(self.mmio_request.valid), self.mmio_request.ready.eq(packet_ready)]
                with m.If(packet_valid & packet_ready):
                    m.d.sync += self.mmio_response.payload.eq(0)
                    m.next = "AwaitCompletion"
                    with m.If(asked.write):
                        m.next = "Answer"
            with m.State("AwaitCompletion"):
                with m.If(mmio_answered):
                    m.d.sync += self.mmio_response.payload.eq(mmio_answer)
                    m.next = "Answer"
            with m.State("Answer"):
                m.d.comb += self.mmio_response.valid.eq(1)
                with m.If(self.mmio_response.ready):
                    m.next = "SendRequest"

        # Packets to the chip: whole ones, the processor's first.
        out = self.pcie.from_host
        begun, mine, offered = Signal(), Signal(), Signal()
        pick = Signal()
        beat = data.View(Beat, completions.r_data)
        going = (dice[8:12] >= knobs.stall) | offered
        m.d.comb += [
            pick.eq(Mux(begun | offered, mine, packet_valid)),
            out.valid.eq(Mux(pick, packet_valid, completions.r_rdy) & going),
            out.payload.eq(Mux(pick, packet, beat)),
            packet_ready.eq(pick & out.ready & going),
            completions.r_en.eq(~pick & out.ready & going),
        ]
        m.d.sync += [mine.eq(pick), offered.eq(out.valid & ~out.ready)]
        with m.If(out.valid & out.ready):
            m.d.sync += begun.eq(~out.payload.last)
        return m

    def _receive(self, m, storage, time, dice, line_bits, rmw_read, rmw_address, mmio_answer, mmio_answered):
        """What comes from the chip, in its order: writes to memory, reads into the queue, completions to the CPU."""
        into = self.pcie.to_host
        beat = into.payload
        header = RequestHeader(beat.header)
        completion = CompletionHeader(beat.header)
        writes = header.start.fmt.as_value()[1]
        is_completion = header.start.type == TlpType.Completion
        address, left, last_be = Signal(64), Signal(11), Signal(4)
        here = Mux(beat.first, request_address(header), address)
        length = Mux(beat.first, Cat(header.start.length, header.start.length == 0), left)
        final_be = Mux(beat.first, header.last_be, last_be)

        enabled = Signal(64)
        for n in range(BEAT_DWS):
            be = Mux(n < beat.count, 0xF, 0)
            only = (n == 0) & beat.first
            last = (length == n + 1) & ~only
            be = Mux(only, header.first_be, Mux(last, final_be, be))
            m.d.comb += enabled[4 * n : 4 * n + 4].eq(be)
        rotation = here[2:6]
        wide = Signal(1024)
        wide_enabled = Signal(128)
        m.d.comb += [wide.eq(beat.data << (rotation << 5)), wide_enabled.eq(enabled << (rotation << 2))]
        held, held_enabled = Signal(1024), Signal(128)
        line = here[6 : 6 + line_bits]
        held_line = Signal(line_bits)
        inside = here[6 + line_bits :] == 0
        is_msi = here[12:] == MSI_ADDRESS >> 12
        high = Signal()

        m.submodules.reads = reads = fifo.SyncFIFOBuffered(width=_READ.size, depth=_READS)
        read = Signal(_READ)
        m.d.comb += [
            read.address.eq(request_address(header)),
            read.dws.eq(length),
            read.lower.eq(request_first_byte(header)),
            read.bytes.eq(request_bytes(header)),
            read.tag.eq(header.tag),
            read.requester.eq(header.requester),
            read.tc.eq(header.start.tc),
            read.attr.eq(header.start.attr),
            read.due.eq((time + self.knobs.latency)[:16]),
            reads.w_data.eq(read),
            mmio_answer.data.eq(Mux(writes, beat.data[:32], 0)),
            mmio_answer.status.eq(completion.status),
        ]
        willing = Signal()
        m.d.comb += willing.eq(dice[12:16] >= self.knobs.stall)
        current = Mux(high, held[512:], held[:512])
        mask = Mux(high, held_enabled[64:], held_enabled[:64])
        with m.FSM(name="receive"):
            with m.State("TakeBeat"):
                with m.If(into.valid & willing):
                    with m.If(beat.first & is_completion):
                        m.d.comb += [mmio_answered.eq(1), into.ready.eq(1)]
                    with m.Elif(beat.first & ~writes):
                        m.d.comb += [reads.w_en.eq(1), into.ready.eq(reads.w_rdy)]
                    with m.Else():
                        m.d.comb += into.ready.eq(1)
                        m.d.sync += [
                            address.eq(here + 64),
                            left.eq(length - BEAT_DWS),
                            last_be.eq(final_be),
                            held.eq(wide),
                            held_enabled.eq(wide_enabled),
                            held_line.eq(line),
                            high.eq(0),
                        ]
                        with m.If(is_msi):
                            m.d.sync += [self.msi_count.eq(self.msi_count + 1), self.msi_data.eq(beat.data[:32])]
                        with m.Elif(~inside):
                            m.d.sync += self.dropped.eq(self.dropped + 1)
                        with m.Elif(wide_enabled[:64].all()):
                            m.d.comb += [
                                storage.write.eq(1),
                                storage.write_address.eq(line),
                                storage.write_data.eq(wide[:512]),
                            ]
                            with m.If(wide_enabled[64:].any()):
                                m.d.sync += [high.eq(1), held_line.eq(line + 1)]
                                m.next = "ReadLine"
                        with m.Else():
                            m.next = "ReadLine"
            with m.State("ReadLine"):
                m.d.comb += [rmw_read.eq(1), rmw_address.eq(held_line)]
                m.next = "WriteLine"
            with m.State("WriteLine"):
                m.d.comb += [storage.write.eq(1), storage.write_address.eq(held_line)]
                for n in range(64):
                    m.d.comb += storage.write_data[8 * n : 8 * n + 8].eq(
                        Mux(mask[n], current[8 * n : 8 * n + 8], storage.read_data[8 * n : 8 * n + 8])
                    )
                m.d.sync += [high.eq(1), held_line.eq(held_line + 1)]
                m.next = "TakeBeat"
                with m.If(~high & held_enabled[64:].any()):
                    m.next = "ReadLine"
        return reads

    def _read(self, m, reads, storage, time, dice, line_bits, rmw_read, rmw_address):
        """Reads from the queue, once they are due, become completions."""
        head = data.View(_READ, reads.r_data)
        slots = [Signal(_READ, name=f"slot_{n}") for n in range(_SLOTS)]
        full = Signal(_SLOTS)
        due = (time - head.due).as_unsigned()[:16] < 0x8000
        allowed = Mux(self.knobs.reorder, (1 << _SLOTS) - 1, 1)
        free = Signal(_SLOTS)
        m.d.comb += free.eq(~full & allowed)
        with m.If(reads.r_rdy & due & free.any()):
            m.d.comb += reads.r_en.eq(1)
            for n in reversed(range(_SLOTS)):
                with m.If(free[n] & ((free & ((1 << n) - 1)) == 0)):
                    m.d.sync += [slots[n].eq(head), full[n].eq(1)]

        m.submodules.completions = completions = fifo.SyncFIFOBuffered(width=Beat.as_shape().size, depth=16)
        under_way = Signal()
        go = Signal()
        m.d.comb += go.eq((completions.w_level + under_way < 15) & ~rmw_read)
        # A slot is chosen anew for each packet.
        choice, chosen, inside = Signal(range(_SLOTS)), Signal(range(_SLOTS)), Signal()
        m.d.comb += choice.eq(chosen)
        with m.If(~inside):
            with m.Switch(dice[16:18]):
                for start in range(4):
                    with m.Case(start):
                        for k in reversed(range(_SLOTS)):
                            n = (start + k) % _SLOTS
                            with m.If(full[n]):
                                m.d.comb += choice.eq(n)
        slot = Signal(_READ)
        m.d.comb += slot.eq(Array(s.as_value() for s in slots)[choice])
        beyond = slot.address[6 + line_bits :] != 0
        status = Signal(CompletionStatus)
        with m.If(slot.address[12:] == MSI_ADDRESS >> 12):
            m.d.comb += status.eq(CompletionStatus.CompleterAbort)
        with m.Elif(beyond):
            m.d.comb += status.eq(CompletionStatus.UnsupportedRequest)
        fine = status == CompletionStatus.Successful

        # A completion ends at a multiple of its largest size, and at the first line's end if it starts within one.
        size_dws = Mux(self.knobs.split == 0, 64, Mux(self.knobs.split == 1, 32, 16))
        offset_dws = slot.address[2:8] & (size_dws - 1)
        to_end = Mux(slot.address[2:6] != 0, 16 - slot.address[2:6], size_dws - offset_dws)
        length = Signal(11)
        m.d.comb += length.eq(Mux(slot.dws < to_end, slot.dws, to_end))
        left = Signal(11)
        dws_now = Mux(inside, left, length)
        count = Mux(dws_now < BEAT_DWS - slot.address[2:6], dws_now, BEAT_DWS - slot.address[2:6])
        bytes_now = (count << 2) - slot.lower
        last_beat = (dws_now == count) | ~fine

        next_beat = Signal(Beat)
        header = CompletionHeader(next_beat.header)
        shift = Signal(4)
        with m.If(~inside):
            m.d.comb += [
                header.start.length.eq(Mux(fine, length, 0)),
                header.start.type.eq(TlpType.Completion),
                header.start.fmt.eq(Mux(fine, Fmt.ThreeDwData, Fmt.ThreeDw)),
                header.start.tc.eq(slot.tc),
                header.start.attr.eq(slot.attr),
                header.byte_count.eq(slot.bytes),
                header.status.eq(status.as_value()),
                header.lower_address.eq(Cat(slot.lower, slot.address[2:7])),
                header.tag.eq(slot.tag),
                header.requester.eq(slot.requester),
            ]
        issue = go & Mux(inside, 1, full.any())
        m.d.comb += [
            next_beat.first.eq(~inside),
            next_beat.last.eq(last_beat),
            next_beat.count.eq(Mux(fine, count, 0)),
            storage.read.eq(rmw_read | issue),
            storage.read_address.eq(Mux(rmw_read, rmw_address, slot.address[6 : 6 + line_bits])),
        ]
        m.d.sync += under_way.eq(issue)
        waiting = Signal(Beat)
        with m.If(issue):
            m.d.sync += [
                waiting.eq(next_beat),
                shift.eq(slot.address[2:6]),
                inside.eq(~last_beat),
                left.eq(dws_now - count),
                chosen.eq(choice),
            ]
            for n, each in enumerate(slots):
                with m.If(choice == n):
                    m.d.sync += [
                        each.address.eq(slot.address + (count << 2)),
                        each.dws.eq(slot.dws - count),
                        each.bytes.eq(slot.bytes - bytes_now),
                        each.lower.eq(0),
                    ]
                    with m.If((slot.dws == count) | ~fine):
                        m.d.sync += full[n].eq(0)
        arrived = Signal(Beat)
        m.d.comb += [
            arrived.eq(waiting),
            arrived.data.eq(storage.read_data >> (shift << 5)),
            completions.w_data.eq(arrived),
            completions.w_en.eq(under_way),
        ]
        return completions


_READ = data.StructLayout(
    {
        "address": 64,
        "dws": 11,
        "lower": 2,
        "bytes": 13,
        "tag": 8,
        "requester": 16,
        "tc": 3,
        "attr": 2,
        "due": 16,
    }
)


class HostModel(wiring.Component):
    """A host with one root port.

    Parameters
    ----------
    size, bar
        As of :class:`RootPort`.
    name : str
        Stem of the backdoor's files; its words are lines of 64 bytes.

    Members
    -------
    backdoor : :py:`In(Backdoor())`
    pcie, mmio_request, mmio_response, msi_count, msi_data, dropped, knobs
        As of :class:`RootPort`.
    """

    def __init__(self, *, size=1 << 26, name="host", bar=0xF000_0000):
        self.size, self.name, self.bar = size, name, bar
        self.root = RootPort(size=size, bar=bar)
        members = {name: member for name, member in self.root.signature.members.items() if name != "storage"}
        super().__init__({**members, "backdoor": In(Backdoor())})

    def elaborate(self, platform):
        m = Module()
        m.submodules.root = root = self.root
        m.submodules.storage = storage = Storage(self.name, depth=self.size // 64)
        wiring.connect(m, wiring.flipped(self.backdoor), storage.backdoor)
        port = root.storage
        m.d.comb += [
            *(getattr(storage, name).eq(getattr(port, name)) for name in ("read", "read_address", "write")),
            *(getattr(storage, name).eq(getattr(port, name)) for name in ("write_address", "write_data")),
            port.read_data.eq(storage.read_data),
        ]
        for name in ("pcie", "mmio_request", "mmio_response"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(root, name))
        m.d.comb += root.knobs.eq(self.knobs)
        m.d.comb += [getattr(self, name).eq(getattr(root, name)) for name in ("msi_count", "msi_data", "dropped")]
        return m
