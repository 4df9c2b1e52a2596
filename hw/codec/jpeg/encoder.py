"""The JPEG encoder: a surface to a complete file."""

from amaranth.hdl import *
from amaranth.lib import data, fifo, wiring

from tessera.hw.codec.jpeg.block_order import BlockOrder
from tessera.hw.codec.jpeg.entropy_coder import EntropyCoder
from tessera.hw.codec.jpeg.fdct import Fdct
from tessera.hw.codec.jpeg.headers import HeaderWriter, Picture
from tessera.hw.codec.jpeg.quantize import Quantizer, QuantizerTables
from tessera.hw.codec.jpeg.symbols import BlockInfo, RunLength, Symbol
from tessera.hw.engine import SlotKind, SlotRef, Status
from tessera.hw.lib.envelope import CoreSignature, Envelope, Finish
from tessera.hw.lib.streams import Skid, connect, observe
from tessera.hw.memory.bitstream_writer import BitstreamWriter, Chunk
from tessera.hw.memory.share import PortShare
from tessera.hw.memory.surface import Surface, SurfaceReader

__all__ = ["JpegEncodeParams", "JpegEncoder"]

_BLOCKS = 64
"""Blocks that may be on their way from their place in the order to their symbols."""


class JpegEncodeParams(data.Struct):
    """What a task asks for; the indices that ``BadTask`` gives are those of the fields."""

    quality: 7
    """1 to 100."""
    restart_interval: 16
    """MCUs; 0 for none."""


class _Core(wiring.Component):
    """The encoder in its envelope. Reads have id 0, writes id 1."""

    def __init__(self):
        super().__init__(CoreSignature())

    def elaborate(self, platform):
        m = Module()
        m.submodules.order = order = BlockOrder()
        m.submodules.share = share = PortShare(2)
        m.submodules.reader = reader = SurfaceReader(0)
        m.submodules.fdct = fdct = Fdct()
        m.submodules.tables = tables = QuantizerTables()
        m.submodules.quantizer = quantizer = Quantizer()
        m.submodules.symbols = symbols = RunLength()
        m.submodules.coder = coder = EntropyCoder()
        m.submodules.headers = headers = HeaderWriter()
        m.submodules.writer = writer = BitstreamWriter(1)

        for client, part in enumerate((reader, writer)):
            connect(m, part.request, getattr(share, f"request{client}"))
        connect(m, share.memory.request, wiring.flipped(self.memory.request))
        # Responses are taken at once, so nothing may stand in their way. The envelope counts the acknowledgements.
        for response, sink in ((self.memory.response, share.memory.response), (share.response0, reader.response)):
            m.d.comb += [
                sink.valid.eq(response.valid),
                sink.payload.eq(response.payload),
                response.ready.eq(sink.ready),
            ]
        m.d.comb += share.response1.ready.eq(1)

        # The task.
        params, picture, surface, target = Signal(JpegEncodeParams), Signal(Picture), Signal(Surface), Signal(SlotRef)
        result = Signal(Finish)
        task, source = self.start.payload.task, self.start.payload.source
        given = Signal(3)
        m.d.comb += [
            reader.surface.eq(surface),
            writer.window.eq(target.window),
            writer.base.eq(target.body),
            writer.lines.eq(target.lines),
            self.finish.payload.eq(result),
        ]
        for n, (sink, value) in enumerate(((tables.i, params.quality), (headers.i, picture), (order.i, picture))):
            m.d.comb += [sink.valid.eq(given[n]), sink.payload.eq(value)]
            with m.If(sink.ready):
                m.d.sync += given[n].eq(0)
        with m.FSM(name="core"):
            with m.State("AwaitStart"):
                m.d.comb += self.start.ready.eq(1)
                m.d.sync += [
                    params.eq(task.params),
                    target.eq(task.target),
                    surface.window.eq(task.source.window),
                    surface.body.eq(task.source.body),
                ]
                for part in (surface, picture, result):
                    m.d.sync += [
                        part.chroma_format.eq(source.chroma_format),
                        part.width.eq(source.width),
                        part.height.eq(source.height),
                    ]
                with m.If(self.start.valid):
                    m.next = "Check"
            with m.State("Check"):
                m.d.sync += picture.restart_interval.eq(params.restart_interval)
                with m.If((params.quality < 1) | (params.quality > 100)):
                    m.d.sync += [result.status.eq(Status.BadTask), result.where.eq(0)]
                    m.next = "Finish"
                with m.Elif((picture.width == 0) | (picture.height == 0)):
                    m.d.sync += [result.status.eq(Status.WrongSource), result.where.eq(SlotKind.Surface)]
                    m.next = "Finish"
                with m.Else():
                    m.d.sync += given.eq(0b111)
                    m.next = "AwaitWritten"
            with m.State("AwaitWritten"):
                m.d.comb += writer.o.ready.eq(1)
                with m.If(writer.o.valid):
                    with m.If(writer.o.payload.too_small):
                        m.d.sync += [result.status.eq(Status.TargetTooSmall), result.where.eq(target.lines + 1)]
                    with m.Else():
                        m.d.sync += [result.status.eq(Status.Ok), result.bytes.eq(writer.o.payload.bytes)]
                    m.next = "Finish"
            with m.State("Finish"):
                m.d.comb += self.finish.valid.eq(1)
                with m.If(self.finish.ready):
                    m.next = "AwaitStart"

        # Blocks in order: what is known of them waits for their coefficients.
        info, place = order.o.payload.info, order.o.payload.place
        m.submodules.infos = infos = fifo.SyncFIFOBuffered(width=Shape.cast(BlockInfo).width, depth=_BLOCKS)
        m.submodules.chromas = chromas = fifo.SyncFIFOBuffered(width=1, depth=_BLOCKS)
        room = infos.w_rdy & chromas.w_rdy
        m.d.comb += [
            order.o.ready.eq(room & (info.dummy | reader.i.ready)),
            infos.w_en.eq(order.o.valid & order.o.ready),
            infos.w_data.eq(info),
            chromas.w_en.eq(order.o.valid & order.o.ready & ~info.dummy),
            chromas.w_data.eq(info.component != 0),
            reader.i.valid.eq(order.o.valid & room & ~info.dummy),
            reader.i.payload.eq(place),
        ]
        for queue, sink in ((infos, symbols.i_info), (chromas, quantizer.i_chroma)):
            m.d.comb += [sink.valid.eq(queue.r_rdy), sink.payload.eq(queue.r_data), queue.r_en.eq(sink.ready)]
            observe(m, sink)

        connect(m, reader.o, fdct.i)
        # The skids cut the long way that readiness takes from the memory back to the transform.
        m.submodules.coefficients = coefficients = Skid(fdct.o.payload.shape())
        m.submodules.coded = coded = Skid(Symbol)
        connect(m, fdct.o, coefficients.i)
        connect(m, coefficients.o, quantizer.i)
        connect(m, quantizer.o, symbols.i)
        connect(m, symbols.o, coded.i)
        connect(m, coded.o, coder.i)

        # An entry goes to both; the quantizer never waits.
        entry = tables.o.payload
        m.d.comb += [
            headers.i_q.valid.eq(tables.o.valid),
            headers.i_q.payload.eq(entry.q),
            tables.o.ready.eq(headers.i_q.ready),
            quantizer.i_entry.valid.eq(tables.o.valid & headers.i_q.ready),
            quantizer.i_entry.payload.eq(entry),
        ]

        # The headers, then the scan.
        scanning = Signal()
        parts = headers.o, coder.o
        part = Mux(scanning, Value.cast(coder.o.payload), Value.cast(headers.o.payload))
        m.submodules.file = file = Skid(Chunk)
        connect(m, file.o, writer.i)
        m.d.comb += [
            file.i.valid.eq(Mux(scanning, coder.o.valid, headers.o.valid)),
            file.i.payload.eq(part),
            file.i.payload.last.eq(scanning & coder.o.payload.last),
            headers.o.ready.eq(~scanning & file.i.ready),
            coder.o.ready.eq(scanning & file.i.ready),
        ]
        for part in parts:
            with m.If(part.valid & part.ready & part.payload.last):
                m.d.sync += scanning.eq(~scanning)
        return m


class JpegEncoder(Envelope):
    """Engine: a surface slot to a bitstream slot that holds a complete JFIF file.

    Equals :func:`tessera.golden.jpeg.encoder.encode`: the surface's own chroma format, baseline, interleaved, the
    Huffman tables of annex K, its quantization tables scaled to the quality.

    ``task.params`` is a :class:`JpegEncodeParams`. Errors: ``BadTask`` (0: a quality of 0 or above 100),
    ``WrongSource`` (a surface without samples), ``TargetTooSmall``, and the envelope's.

    A picture takes up to 220 cycles, three latencies of the memory, and the larger of 32 cycles for each block, dummies
    included, and one for each symbol: of a block one for the DC, one for each other coefficient that is not zero, one
    for each run of sixteen zeros before one, one for the end of block unless coefficient 63 is not zero. (Where blocks
    with more than 32 symbols and with fewer alternate, eight blocks wait in between; the larger then rules for each
    stretch of the picture.) That is 0.75 cycles per pixel of 4:2:0 at the usual qualities.
    """

    def __init__(self, *, watchdog=1 << 16):
        super().__init__(_Core(), source=SlotKind.Surface, target=SlotKind.Bitstream, watchdog=watchdog)
