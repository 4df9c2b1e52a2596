"""The two rings in host memory: task descriptors that the chip fetches, and done records that it leaves there."""

from amaranth.hdl import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.host.descriptor import RECORD_BYTES, Descriptor, DoneRecord
from tessera.hw.host.dma_read import DmaReadPort
from tessera.hw.host.registers import MsiSetup, RingControl
from tessera.hw.host.tlp import Beat, CompletionStatus, PcieConfig, memory_write_header
from tessera.hw.lib.streams import observe

__all__ = ["MAXIMUM_ENTRIES", "Completion", "Submission"]

MAXIMUM_ENTRIES = 1 << 16


def _setting(m, control, ring):
    """The part that both rings share: `ring.set` latches base and size and starts the counts anew."""
    size = control.size
    # A power of two below twice the most.
    short = size[: MAXIMUM_ENTRIES.bit_length()]
    fine = (short != 0) & (size[len(short) :] == 0) & ((short & (short - 1)) == 0) & (control.base[:6] == 0)
    with m.If(control.set):
        m.d.sync += [
            ring.base.eq(control.base),
            ring.size.eq(size),
            ring.enabled.eq(fine),
            control.enabled.eq(fine),
            control.bad.eq((size != 0) & ~fine),
            ring.head.eq(0),
            ring.tail.eq(0),
        ]
    m.d.comb += [control.head.eq(ring.head), control.tail.eq(ring.tail)]


class _Ring(data.Struct):
    base: 64
    size: 17
    enabled: 1
    head: 32
    tail: 32


def _place(ring, count):
    """Host address of entry number `count`."""
    return (ring.base + ((count[:16] & (ring.size - 1)[:16]) << 6))[:64]


class Submission(wiring.Component):
    """Fetches descriptors from the ring in host memory, in order, and hands them out.

    It reads as soon as the doorbell (``control.index`` with ``control.move``) has told of descriptors, as many at once
    as it has room for; a fetch is one read of 64 bytes. ``control.head`` counts what has arrived: the host may then use
    that entry of the ring again.

    - A size that is no power of two up to 65536, or a base that is no multiple of 64, leaves the ring disabled, with
      ``control.bad`` unless the size is 0.
    - A doorbell for a disabled ring, or for more descriptors than fit the ring, changes nothing; ``control.refused``
      pulses.
    - A read that fails stops the ring (``failed``) until it is set again; what was read before it is still handed out.
    - Setting the ring at any time drops what it had fetched, but for a descriptor that is already offered, and the
      reads under way.

    A descriptor is asked for every 2 cycles at most, and offered 3 cycles after its line came.

    Parameters
    ----------
    depth : int
        Descriptors read ahead, a power of two from 2 to 32.

    Members
    -------
    control : :py:`In(RingControl())`
    read : :py:`Out(DmaReadPort())`
    o : :py:`Out(stream.Signature(Descriptor))`
    failed : :py:`Out(1)`
    """

    def __init__(self, depth=16):
        if depth not in (2, 4, 8, 16, 32):
            raise ValueError(f"depth is {depth}; 2, 4, 8, 16 or 32 expected")
        self.depth = depth
        super().__init__(
            {
                "control": In(RingControl()),
                "read": Out(DmaReadPort()),
                "o": Out(stream.Signature(Descriptor)),
                "failed": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        control, read = self.control, self.read
        ring = Signal(_Ring)
        asked = Signal(ring.size.shape())
        under_way, stale, held = (Signal(range(self.depth + 1), name=name) for name in ("under_way", "stale", "held"))
        m.submodules.queue = queue = ResetInserter(control.set)(
            fifo.SyncFIFOBuffered(width=8 * RECORD_BYTES, depth=self.depth)
        )

        # The host's doorbell.
        enabled = ring.enabled & ~self.failed
        reach = (control.index - ring.head)[:32]
        forward = (control.index - ring.tail)[:32] <= reach
        with m.If(control.move & ~control.set):
            with m.If(ring.enabled & (reach <= ring.size) & forward):
                m.d.sync += ring.tail.eq(control.index)
            with m.Else():
                m.d.comb += control.refused.eq(1)

        # One read for each descriptor, while there is room for it.
        issue, arrive, leave = Signal(), Signal(), Signal()
        m.d.comb += read.request.payload.bytes.eq(RECORD_BYTES)
        with m.FSM(name="fetch"):
            with m.State("AwaitDoorbell"):
                room = (under_way + held) != self.depth
                m.d.sync += read.request.payload.address.eq(_place(ring, asked))
                with m.If(enabled & (asked != ring.tail[: len(asked)]) & room & ~control.set):
                    m.d.comb += issue.eq(1)
                    m.next = "Ask"
            with m.State("Ask"):
                m.d.comb += read.request.valid.eq(1)
                with m.If(read.request.ready):
                    m.next = "AwaitDoorbell"
        line = read.line.payload
        fresh = arrive & (stale == 0)
        fine = line.status == CompletionStatus.Successful
        m.d.comb += [
            read.line.ready.eq(1),
            arrive.eq(read.line.valid),
            queue.w_data.eq(line.data),
            queue.w_en.eq(fresh & fine & ~self.failed),
            leave.eq(queue.r_rdy & ~control.set & (~self.o.valid | self.o.ready)),
            queue.r_en.eq(leave),
        ]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(leave):
            m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(queue.r_data)]
        m.d.sync += [under_way.eq(under_way + issue - arrive), held.eq(held + queue.w_en - leave)]
        with m.If(issue):
            m.d.sync += asked.eq(asked + 1)
        with m.If(arrive & (stale != 0)):
            m.d.sync += stale.eq(stale - 1)
        with m.If(queue.w_en):
            m.d.sync += ring.head.eq(ring.head + 1)
        with m.If(fresh & ~fine):
            m.d.sync += self.failed.eq(1)
        _setting(m, control, ring)
        with m.If(control.set):
            m.d.sync += [self.failed.eq(0), asked.eq(0), held.eq(0), stale.eq(under_way - arrive)]
        observe(m, read.request)
        observe(m, self.o)
        return m


class Completion(wiring.Component):
    """Writes done records into the ring in host memory, then tells the host by an MSI.

    A record goes to entry ``control.tail`` (counted since the ring was set) with that number in ``sequence``, as one
    write of 64 bytes. ``control.tail`` grows when the write has its place on the link. Records wait while the ring is
    disabled or full, that is while ``tail - head`` is its size; ``full`` tells so.

    An MSI follows the write of a record when none is unserved. The host serves it by writing the number of records that
    it has taken (``control.index`` with ``control.move``); if there are more by then, the next MSI follows at once. So
    there is one MSI for a batch, and none is lost.

    Setting, ``bad`` and ``refused`` are as for :class:`Submission`; a head before the last one or beyond ``tail`` is
    refused. A record that is leaving while the ring is set still goes to the old one.

    A record is offered to the link 1 cycle after it was taken, one every 2 cycles.

    Members
    -------
    config : :py:`In(PcieConfig)`
    control : :py:`In(RingControl())`
    msi : :py:`In(MsiSetup)`
    i : :py:`In(stream.Signature(DoneRecord))`
        ``sequence`` does not count.
    packet : :py:`Out(stream.Signature(Beat))`
        Memory write TLPs of one beat.
    full, unserved : :py:`Out(1)`
    """

    def __init__(self):
        super().__init__(
            {
                "config": In(PcieConfig),
                "control": In(RingControl()),
                "msi": In(MsiSetup),
                "i": In(stream.Signature(DoneRecord)),
                "packet": Out(stream.Signature(Beat)),
                "full": Out(1),
                "unserved": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        control, packet = self.control, self.packet
        ring = Signal(_Ring)
        waiting = (ring.tail - ring.head)[: len(ring.size)]
        m.d.comb += self.full.eq(ring.enabled & (waiting == ring.size))

        record = Signal(DoneRecord)
        of_old_ring = Signal()
        m.d.comb += [record.eq(self.i.payload), record.sequence.eq(ring.tail)]
        with m.FSM(name="tell"):
            with m.State("AwaitRecord"):
                with m.If(control.set | control.move):
                    # What is written next is decided on the new counts.
                    pass
                with m.Elif(self.msi.enable & (waiting != 0) & ring.enabled & ~self.unserved):
                    m.d.sync += [
                        packet.payload.eq(0),
                        packet.payload.data.eq(self.msi.data),
                        packet.payload.header.eq(
                            memory_write_header(self.config, self.msi.address, 1, C(15, 4), C(0, 4))
                        ),
                        packet.payload.count.eq(1),
                        packet.payload.first.eq(1),
                        packet.payload.last.eq(1),
                        self.unserved.eq(1),
                    ]
                    m.next = "SendMsi"
                with m.Elif(self.i.valid & ring.enabled & ~self.full):
                    m.d.comb += self.i.ready.eq(1)
                    m.d.sync += [
                        packet.payload.data.eq(record),
                        packet.payload.header.eq(
                            memory_write_header(self.config, _place(ring, ring.tail), 16, C(15, 4), C(15, 4))
                        ),
                        packet.payload.count.eq(16),
                        packet.payload.first.eq(1),
                        packet.payload.last.eq(1),
                    ]
                    m.next = "SendRecord"
            with m.State("SendRecord"):
                m.d.comb += packet.valid.eq(1)
                with m.If(control.set):
                    m.d.sync += of_old_ring.eq(1)
                with m.If(packet.ready):
                    m.d.sync += of_old_ring.eq(0)
                    with m.If(~of_old_ring):
                        m.d.sync += ring.tail.eq(ring.tail + 1)
                    m.next = "AwaitRecord"
            with m.State("SendMsi"):
                m.d.comb += packet.valid.eq(1)
                with m.If(packet.ready):
                    m.next = "AwaitRecord"

        with m.If(control.move & ~control.set):
            with m.If(ring.enabled & ((control.index - ring.head)[:32] <= waiting)):
                m.d.sync += [ring.head.eq(control.index), self.unserved.eq(0)]
            with m.Else():
                m.d.comb += control.refused.eq(1)
        _setting(m, control, ring)
        with m.If(control.set):
            m.d.sync += self.unserved.eq(0)
        observe(m, self.i)
        observe(m, packet)
        return m
