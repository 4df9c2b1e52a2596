"""The compute engine: a surface in, a chain of row-stream stages, a surface out."""

from amaranth.hdl import *
from amaranth.lib import data, enum, wiring

from tessera.hw.compute.scale import Scaler, ScalerConfig
from tessera.hw.compute.stream import RowsToTiles, TilesToRows
from tessera.hw.engine import Format, SlotKind, Status
from tessera.hw.lib.envelope import CoreSignature, Envelope
from tessera.hw.lib.streams import connect, observe
from tessera.hw.memory.share import PortShare
from tessera.hw.memory.surface import SurfaceMap, SurfaceReader, SurfaceWriter, TilePlace

__all__ = ["Compute", "ComputeParameter", "ComputeTask"]

_READ, _WRITE = 0, 1


class ComputeTask(data.Struct):
    """A task's ``params``. What is above it is to be 0."""

    width: 16
    """Luma samples of the target. Of no meaning if the scaler is bypassed: the target is as the source, format too."""
    height: 16
    bypass: 8
    """A bit for each stage of the chain: 0 the scaler; the others are to be 0."""


class ComputeParameter(enum.Enum, shape=3):
    """What makes no sense, in ``where`` of ``BadTask``; the first one that applies."""

    SourceWidth = 0
    """Of the source's header: 0, or wider than the chip can."""
    SourceHeight = 1
    """0."""
    Bypass = 2
    """A stage that does not exist, or a bit above the parameters."""
    Width = 3
    """0, wider than the chip can, or beyond 1/8 to 8 times the source's."""
    Height = 4


class _Places:
    """Goes through the tiles of a surface in the order of the row stream."""

    def __init__(self, m, name, tiles_x, tiles_y, planes):
        self.place = Signal(TilePlace, name=name)
        self.done = Signal(name=f"{name}_done")
        chroma = self.place.plane != 0
        self._right = self.place.x + 1 == tiles_x[chroma]
        self._bottom = self.place.y + 1 == tiles_y[chroma]
        self._final = self.place.plane + 1 == planes

    def advance(self, m):
        m.d.sync += self.place.x.eq(self.place.x + 1)
        with m.If(self._right):
            m.d.sync += [self.place.x.eq(0), self.place.y.eq(self.place.y + 1)]
            with m.If(self._bottom):
                m.d.sync += [self.place.y.eq(0), self.place.plane.eq(self.place.plane + 1), self.done.eq(self._final)]


class _Core(wiring.Component):
    """What the envelope makes an engine of."""

    def __init__(self, config):
        self.config = config
        super().__init__(CoreSignature())

    def elaborate(self, platform):
        m = Module()
        m.submodules.share = share = PortShare(2)
        m.submodules.reader = reader = SurfaceReader(_READ)
        m.submodules.cut = cut = TilesToRows()
        m.submodules.scaler = scaler = Scaler(self.config)
        m.submodules.gather = gather = RowsToTiles()
        m.submodules.writer = writer = SurfaceWriter(_WRITE)
        m.submodules.target_map = target_map = SurfaceMap()
        connect(m, reader.request, share.request0)
        connect(m, writer.request, share.request1)
        wiring.connect(m, share.memory, wiring.flipped(self.memory))
        m.d.comb += [
            reader.response.valid.eq(share.response0.valid),
            reader.response.payload.eq(share.response0.payload),
            share.response0.ready.eq(1),
            share.response1.ready.eq(1),
        ]

        source, target = Signal(reader.surface.shape()), Signal(writer.surface.shape())
        # A surface's lines, and so the room that counts, are a multiple of 512.
        room = Signal(15)
        extra = Signal()
        bypasses = Signal(8)
        bypass = bypasses[0]
        m.d.comb += [reader.surface.eq(source), writer.surface.eq(target)]
        running = Signal()
        planes = Mux(source.chroma_format == Format.Gray, 1, 3)

        # Tiles are asked for and go, each at its own pace.
        asked = _Places(m, "asked", reader.tiles_x, reader.tiles_y, planes)
        gone = _Places(m, "gone", target_map.tiles_x, target_map.tiles_y, planes)
        m.d.comb += [
            target_map.chroma_format.eq(target.chroma_format),
            target_map.width.eq(target.width),
            target_map.height.eq(target.height),
            reader.i.valid.eq(running & ~asked.done),
            reader.i.payload.eq(asked.place),
            cut.i.valid.eq(reader.o.valid),
            cut.i.payload.eq(reader.o.payload),
            reader.o.ready.eq(cut.i.ready),
            writer.i.valid.eq(gather.o.valid),
            writer.i.payload.place.eq(gone.place),
            writer.i.payload.tile.eq(gather.o.payload),
            gather.o.ready.eq(writer.i.ready),
        ]
        observe(m, reader.o)
        observe(m, writer.i)
        for places, item in ((asked, reader.i), (gone, writer.i)):
            with m.If(item.valid & item.ready):
                places.advance(m)

        # The chain. A stage that is bypassed sees nothing.
        m.d.comb += scaler.i.payload.eq(cut.o.payload)
        with m.If(bypass):
            m.d.comb += [
                gather.i.valid.eq(cut.o.valid),
                gather.i.payload.eq(cut.o.payload),
                cut.o.ready.eq(gather.i.ready),
            ]
        with m.Else():
            m.d.comb += [
                scaler.i.valid.eq(cut.o.valid),
                cut.o.ready.eq(scaler.i.ready),
                gather.i.valid.eq(scaler.o.valid),
                gather.i.payload.eq(scaler.o.payload),
                scaler.o.ready.eq(gather.i.ready),
            ]
        plane = Signal(2)
        halved_x = (source.chroma_format == Format.C420) | (source.chroma_format == Format.C422)
        halved_y = source.chroma_format == Format.C420
        m.d.comb += scaler.i_plane.payload.chroma.eq(plane != 0)
        for size, halved, there, here in (
            (scaler.i_plane.payload.across, halved_x, target.width, source.width),
            (scaler.i_plane.payload.down, halved_y, target.height, source.height),
        ):
            m.d.comb += [size.source.eq(here), size.target.eq(there), size.halved.eq(halved)]
        m.d.comb += scaler.i_plane.valid.eq(running & ~bypass & (plane != planes))
        with m.If(scaler.i_plane.valid & scaler.i_plane.ready):
            m.d.sync += plane.eq(plane + 1)
        observe(m, scaler.i_plane)

        # Tiles that the writer, which has room for two, has taken and the memory has not.
        unwritten = Signal(2)
        m.d.sync += unwritten.eq(
            unwritten + (writer.i.valid & writer.i.ready) - (writer.request.valid & writer.request.ready)
        )

        def beyond(there, here):
            return (there == 0) | (there > (here << 3)) | ((there << 3) < here)

        finish = self.finish.payload
        failed = Signal()
        verdict, where = Signal(Status), Signal(32)
        m.d.comb += [finish.status.eq(verdict), finish.where.eq(where)]

        def fail(status, place):
            return [verdict.eq(status), where.eq(place), failed.eq(1)]

        wait = Signal(2)
        with m.FSM(name="compute"):
            with m.State("TakeTask"):
                m.d.comb += self.start.ready.eq(1)
                task, header = self.start.payload.task, self.start.payload.source
                given = data.View(ComputeTask, task.params[: ComputeTask.as_shape().size])
                m.d.sync += [
                    bypasses.eq(given.bypass),
                    extra.eq(task.params[ComputeTask.as_shape().size :].any()),
                    source.window.eq(task.source.window),
                    source.body.eq(task.source.body),
                    source.chroma_format.eq(header.chroma_format),
                    source.width.eq(header.width),
                    source.height.eq(header.height),
                    target.window.eq(task.target.window),
                    target.body.eq(task.target.body),
                    target.chroma_format.eq(
                        Mux(given.bypass[0] | (header.chroma_format == Format.Gray), header.chroma_format, Format.C420)
                    ),
                    target.width.eq(Mux(given.bypass[0], header.width, given.width)),
                    target.height.eq(Mux(given.bypass[0], header.height, given.height)),
                    room.eq(task.target.lines[9:]),
                ]
                with m.If(self.start.valid):
                    m.next = "Check"
            with m.State("Check"):
                m.d.sync += wait.eq(wait + 1)
                widest = self.config.max_width
                bad = Signal()
                parameter = Signal(ComputeParameter)
                m.d.comb += bad.eq(1)
                with m.If((source.width == 0) | (source.width > widest)):
                    m.d.comb += parameter.eq(ComputeParameter.SourceWidth)
                with m.Elif(source.height == 0):
                    m.d.comb += parameter.eq(ComputeParameter.SourceHeight)
                with m.Elif((bypasses[1:] != 0) | extra):
                    m.d.comb += parameter.eq(ComputeParameter.Bypass)
                with m.Elif(beyond(target.width, source.width) | (target.width > widest)):
                    m.d.comb += parameter.eq(ComputeParameter.Width)
                with m.Elif(beyond(target.height, source.height)):
                    m.d.comb += parameter.eq(ComputeParameter.Height)
                with m.Else():
                    m.d.comb += bad.eq(0)
                with m.If(bad):
                    m.d.sync += fail(Status.BadTask, parameter)
                    m.next = "Finish"
                with m.Elif(wait == 2):
                    # By now the maps know the surfaces.
                    with m.If(writer.lines[9:] > room):
                        m.d.sync += fail(Status.TargetTooSmall, writer.lines)
                        m.next = "Finish"
                    with m.Else():
                        m.d.sync += running.eq(1)
                        m.next = "Run"
            with m.State("Run"):
                with m.If(gone.done & (unwritten == 0)):
                    m.next = "Finish"
            with m.State("Finish"):
                m.d.comb += self.finish.valid.eq(1)
                with m.If(~failed):
                    m.d.comb += [
                        finish.chroma_format.eq(target.chroma_format),
                        finish.width.eq(target.width),
                        finish.height.eq(target.height),
                    ]
                with m.If(self.finish.ready):
                    m.next = "Finished"
            with m.State("Finished"):
                pass
        observe(m, self.finish)
        return m


class Compute(Envelope):
    """Makes a surface of another: the scaler is the chain's only stage so far.

    The source slot's surface, of any chroma format, is read tile by tile, goes through the stages, and the target's is
    written; no frame is kept in between. The target is 4:2:0, or 4:0:0 if the source is; if all stages are bypassed it
    is a copy. ``params`` of the task are a :class:`ComputeTask`.

    A new stage is a component with a row stream in and out (``hw/compute/stream.py``), a bit in ``bypass``, and its
    own part of the parameters.

    Cycles from task to done, if the memory takes a request at once: at most those of :class:`Scaler` for all planes,
    5 times the memory's latency, and 50. With 20 cycles of latency that is 0.20 per pixel of the larger of source and
    target for 4:2:0 at 352x288, 0.40 for 4:4:4, and below 0.5 from 128x96 on whatever the format.

    Bad input: parameters that make no sense end the task as ``BadTask`` with a :class:`ComputeParameter`, and a target
    slot with too little room as ``TargetTooSmall`` with the lines needed, before anything is read or written. What the
    source slot may get wrong is the envelope's.

    Memory: the scaler's, and 32 tiles of 512 bits under way.

    Parameters
    ----------
    config : :class:`ScalerConfig`
    """

    def __init__(self, config=None, *, watchdog=1 << 16):
        super().__init__(
            _Core(config or ScalerConfig()), source=SlotKind.Surface, target=SlotKind.Surface, watchdog=watchdog
        )
