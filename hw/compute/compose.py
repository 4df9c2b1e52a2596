"""The compose engine: surfaces laid over a background, at any place, into one."""

from dataclasses import dataclass

from amaranth.hdl import *
from amaranth.lib import data, enum, memory, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.compute.canvas import Canvas
from tessera.hw.compute.pieces import Pieces
from tessera.hw.engine import Done, EngineSignature, Format, SlotHeader, SlotKind, Status
from tessera.hw.lib.envelope import CoreSignature, Envelope
from tessera.hw.lib.streams import connect, observe
from tessera.hw.memory.port import Op
from tessera.hw.memory.share import PortShare
from tessera.hw.memory.surface import SurfaceMap, SurfaceWriter

__all__ = ["Compose", "ComposeConfig", "ComposeParameter", "ComposeTask", "ListedLayer"]

_READ, _WRITE, _HEADER = 0, 1, 2


@dataclass(frozen=True)
class ComposeConfig:
    """What the engine has room for.

    Parameters
    ----------
    max_width
        Luma samples of the widest canvas: a power of two, 16 to 16384.
    layers
        Of a frame: 2, 4, 8 or 16.
    """

    max_width: int = 2048
    layers: int = 16

    def __post_init__(self):
        if not 16 <= self.max_width <= 16384 or self.max_width & (self.max_width - 1):
            raise ValueError(f"max_width is {self.max_width}; a power of two from 16 to 16384 expected")
        if self.layers not in (2, 4, 8, 16):
            raise ValueError(f"layers is {self.layers}; 2, 4, 8 or 16 expected")


class ComposeTask(data.Struct):
    """A task's ``params``. What is above it is to be 0; what the other kind of task has means nothing."""

    layer: 1
    """1: a layer, one more for the list. 0: draw what is in the list."""
    x: signed(17)
    """Of a layer: column of the canvas on which its first one lies, in luma samples."""
    y: signed(17)
    alpha: 8
    """Of a layer: 0 (not seen) to 255 (opaque)."""
    width: 16
    """Luma samples of the canvas."""
    height: 16
    background: data.ArrayLayout(8, 3)
    """Y, Cb and Cr of the canvas where no layer lies."""


class ComposeParameter(enum.Enum, shape=3):
    """What makes no sense, in ``where`` of ``BadTask``; the first one that applies."""

    Extra = 0
    """A bit above the parameters."""
    Width = 1
    """0, or wider than the chip can."""
    Height = 2
    """0."""
    Format = 3
    """A layer is neither 4:2:0 nor 4:0:0."""
    Layers = 4
    """One layer more than the list holds."""


class ListedLayer(data.Struct):
    """What the list holds of a layer."""

    window: 10
    head: 26
    body: 26
    x: signed(17)
    y: signed(17)
    alpha: 8


class _Known(data.Struct):
    """What a layer's header said."""

    shown: 1
    gray: 1
    width: 16
    height: 16


def _parameters(task):
    """The parameters of a task, and whether there is anything above them."""
    size = ComposeTask.as_shape().size
    return data.View(ComposeTask, task.params[:size]), task.params[size:].any()


class _Core(wiring.Component):
    """What the envelope makes an engine of: the compose task. The list stands outside, and holds still meanwhile.

    Members besides those of :class:`CoreSignature`
    -----------------------------------------------
    count : In
        Layers in the list.
    index : Out, layer : :py:`In(ListedLayer)`
        The layer of a number, in the same cycle.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({**CoreSignature().members, "count": In(5), "index": Out(4), "layer": In(ListedLayer)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.share = share = PortShare(3)
        m.submodules.pieces = pieces = Pieces(_READ)
        m.submodules.canvas = canvas = Canvas(self.config.max_width)
        m.submodules.writer = writer = SurfaceWriter(_WRITE)
        m.submodules.target_map = target_map = SurfaceMap()
        m.submodules.known = known = memory.Memory(shape=_Known, depth=self.config.layers, init=[])
        connect(m, pieces.request, share.request0)
        connect(m, writer.request, share.request1)
        connect(m, pieces.o, canvas.i)
        connect(m, pieces.o_tile, canvas.i_tile)
        connect(m, canvas.o, writer.i)
        wiring.connect(m, share.memory, wiring.flipped(self.memory))
        headers, header = share.request2, SlotHeader(share.response2.payload.data[: SlotHeader.as_shape().size])
        m.d.comb += [
            pieces.response.valid.eq(share.response0.valid),
            pieces.response.payload.eq(share.response0.payload),
            share.response0.ready.eq(1),
            share.response1.ready.eq(1),
            share.response2.ready.eq(1),
        ]
        observe(m, headers)

        target = Signal(writer.surface.shape())
        background = Signal(data.ArrayLayout(8, 3))
        # A surface's lines, and so the room that counts, are a multiple of 512.
        room = Signal(15)
        extra, running = Signal(), Signal()
        m.d.comb += [
            writer.surface.eq(target),
            target_map.chroma_format.eq(target.chroma_format),
            target_map.width.eq(target.width),
            target_map.height.eq(target.height),
            canvas.running.eq(running),
            canvas.tiles_x.eq(target_map.tiles_x),
            canvas.tiles_y.eq(target_map.tiles_y),
            canvas.background.eq(background),
            pieces.running.eq(running),
            pieces.width.eq(target.width),
            pieces.height.eq(target.height),
            pieces.tiles_y.eq(target_map.tiles_y),
            pieces.count.eq(self.count),
        ]

        # Headers come in the order of the list.
        asking = Signal()
        asked, came = Signal.like(self.count), Signal.like(self.count)
        left_out = Signal(32)
        wrong_format = Signal()
        learn, look = known.write_port(), known.read_port(domain="comb")
        shown = (header.kind == SlotKind.Surface) & (header.status == Status.Ok)
        shown = shown & (header.width != 0) & (header.height != 0)
        drawable = (header.chroma_format == Format.C420) | (header.chroma_format == Format.Gray)
        m.d.comb += [
            self.index.eq(Mux(running, pieces.index, asked)),
            headers.valid.eq(asking & (asked != self.count)),
            headers.payload.op.eq(Op.Read),
            headers.payload.id.eq(_HEADER),
            headers.payload.window.eq(self.layer.window),
            headers.payload.offset.eq(self.layer.head),
            learn.en.eq(share.response2.valid),
            learn.addr.eq(came),
            learn.data.shown.eq(shown),
            learn.data.gray.eq(header.chroma_format == Format.Gray),
            learn.data.width.eq(header.width),
            learn.data.height.eq(header.height),
            look.addr.eq(pieces.index),
            pieces.layer.window.eq(self.layer.window),
            pieces.layer.body.eq(self.layer.body),
            pieces.layer.x.eq(self.layer.x),
            pieces.layer.y.eq(self.layer.y),
            pieces.layer.alpha.eq(self.layer.alpha),
            pieces.layer.shown.eq(look.data.shown),
            pieces.layer.gray.eq(look.data.gray),
            pieces.layer.width.eq(look.data.width),
            pieces.layer.height.eq(look.data.height),
        ]
        with m.If(headers.valid & headers.ready):
            m.d.sync += asked.eq(asked + 1)
        with m.If(share.response2.valid):
            m.d.sync += [came.eq(came + 1), left_out.bit_select(came, 1).eq(~shown)]
            with m.If(shown & ~drawable):
                m.d.sync += wrong_format.eq(1)

        # Tiles that the writer, which has room for two, has taken and the memory has not.
        unwritten = Signal(2)
        m.d.sync += unwritten.eq(
            unwritten + (writer.i.valid & writer.i.ready) - (writer.request.valid & writer.request.ready)
        )

        finish = self.finish.payload
        failed = Signal()
        verdict, where = Signal(Status), Signal(32)
        m.d.comb += [finish.status.eq(verdict), finish.where.eq(where)]

        def fail(status, place):
            return [verdict.eq(status), where.eq(place), failed.eq(1)]

        wait = Signal(2)
        with m.FSM(name="compose"):
            with m.State("TakeTask"):
                m.d.comb += self.start.ready.eq(1)
                task = self.start.payload.task
                given, above = _parameters(task)
                m.d.sync += [
                    extra.eq(above),
                    background.eq(given.background),
                    target.window.eq(task.target.window),
                    target.body.eq(task.target.body),
                    target.chroma_format.eq(Format.C420),
                    target.width.eq(given.width),
                    target.height.eq(given.height),
                    room.eq(task.target.lines[9:]),
                ]
                with m.If(self.start.valid):
                    m.next = "Check"
            with m.State("Check"):
                m.d.sync += wait.eq(wait + 1)
                bad = Signal()
                parameter = Signal(ComposeParameter)
                m.d.comb += bad.eq(1)
                with m.If(extra):
                    m.d.comb += parameter.eq(ComposeParameter.Extra)
                with m.Elif((target.width == 0) | (target.width > self.config.max_width)):
                    m.d.comb += parameter.eq(ComposeParameter.Width)
                with m.Elif(target.height == 0):
                    m.d.comb += parameter.eq(ComposeParameter.Height)
                with m.Else():
                    m.d.comb += bad.eq(0)
                with m.If(bad):
                    m.d.sync += fail(Status.BadTask, parameter)
                    m.next = "Finish"
                with m.Elif(wait == 2):
                    # By now the maps know the canvas.
                    with m.If(writer.lines[9:] > room):
                        m.d.sync += fail(Status.TargetTooSmall, writer.lines)
                        m.next = "Finish"
                    with m.Else():
                        m.next = "ReadHeaders"
            with m.State("ReadHeaders"):
                m.d.comb += asking.eq(1)
                with m.If(came == self.count):
                    with m.If(wrong_format):
                        m.d.sync += fail(Status.BadTask, ComposeParameter.Format)
                        m.next = "Finish"
                    with m.Else():
                        m.d.sync += running.eq(1)
                        m.next = "Draw"
            with m.State("Draw"):
                m.d.sync += where.eq(left_out)
                with m.If(canvas.done & (unwritten == 0)):
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


class Compose(wiring.Component):
    """Makes one surface of several: layers at any place over a background, each with an alpha. The picture wall.

    A frame is made by some tasks in a row: one for each layer, and one to compose. ``params`` of each are a
    :class:`ComposeTask`. As an engine's tasks start in order, each when its waits are met, the last one starts only
    when the frames of all layers are there, and needs no wait for them of its own.

    A *layer* task's source is a surface slot. It goes into the list with its place, and the task is done, ``Ok``, in
    the cycle after it was taken; nothing is read or written, and ``abort`` comes too late for it.

    A *compose* task's target is a surface slot; it has no source. The target is 4:2:0, drawn as ``golden.ops.compose``
    says, and each of its tiles is written once; its timestamp is the task's. A layer whose header says that its task
    failed, or that the slot holds no surface or one without samples, is left out: the task is ``Ok``, and ``where`` has
    a bit for each such layer, bit 0 the first one's. When the task is over, however it ended, the list is empty.

    Bad input: a layer task that is one too many, or has parameters that make no sense, ends as ``BadTask`` and is not
    in the list. A compose task with such parameters, or with a layer of 4:2:2 or 4:4:4, ends as ``BadTask``, and one
    whose target slot has too little room as ``TargetTooSmall`` with the lines needed. ``where`` of ``BadTask`` is a
    :class:`ComposeParameter`. Nothing of the target's body is written then.

    Cycles from task to done, if the memory takes a request at once: at most the sum of

    - 8 for each tile of a layer on each band (a row of tiles of the target's plane) that it lies on: those are what is
      read, and those of a 4:0:0 layer's chroma, which are not; alpha 0 and what is outside of the canvas do not count;
    - 8 for each tile of the target; on a band of fewer tiles than layers / 8, one for each layer;
    - 6 times the memory's latency, and 100.

    Where tiles always come in time, as with 20 cycles of latency: those of :class:`Canvas`, or one for each layer and
    band if that is more, and 4 latencies, 3 for each layer, and 60. A tile of the target then counts for 4, and a
    layer's tile on a band for as many as it has rows there. At most 32 tiles are under way.

    Memory: that of :class:`Canvas`, 32 tiles of 512 bits under way.

    Parameters
    ----------
    config : :class:`ComposeConfig`
    """

    def __init__(self, config=None, *, watchdog=1 << 16):
        self.config = config or ComposeConfig()
        self.core = _Core(self.config)
        self.envelope = Envelope(self.core, source=None, target=SlotKind.Surface, watchdog=watchdog)
        super().__init__(EngineSignature())

    def elaborate(self, platform):
        m = Module()
        m.submodules.envelope = envelope = self.envelope
        m.submodules.layers = layers = memory.Memory(shape=ListedLayer, depth=self.config.layers, init=[])
        wiring.connect(m, envelope.memory, wiring.flipped(self.memory))
        write, read = layers.write_port(), layers.read_port(domain="comb")
        count = Signal.like(self.core.count)
        task = self.task.payload
        given, above = _parameters(task)
        message = Signal(Done)
        m.d.comb += [
            envelope.abort.eq(self.abort),
            envelope.task.payload.eq(task),
            self.core.count.eq(count),
            read.addr.eq(self.core.index),
            self.core.layer.eq(read.data),
            write.addr.eq(count),
            write.data.window.eq(task.source.window),
            write.data.head.eq(task.source.head),
            write.data.body.eq(task.source.body),
            write.data.x.eq(given.x),
            write.data.y.eq(given.y),
            write.data.alpha.eq(given.alpha),
        ]

        with m.FSM(name="list"):
            with m.State("TakeTask"):
                m.d.comb += [
                    self.task.ready.eq(given.layer | envelope.task.ready),
                    envelope.task.valid.eq(self.task.valid & ~given.layer),
                ]
                m.d.sync += [
                    message.eq(0),
                    message.tag.eq(task.tag),
                    message.last.eq(1),
                    message.cycles.eq(1),
                ]
                with m.If(above):
                    m.d.sync += [message.status.eq(Status.BadTask), message.where.eq(ComposeParameter.Extra)]
                with m.Elif(count == self.config.layers):
                    m.d.sync += [message.status.eq(Status.BadTask), message.where.eq(ComposeParameter.Layers)]
                with m.Elif(self.task.valid & given.layer):
                    m.d.comb += write.en.eq(1)
                    m.d.sync += count.eq(count + 1)
                with m.If(self.task.valid & self.task.ready):
                    m.next = "SayListed"
                    with m.If(~given.layer):
                        m.next = "Compose"
            with m.State("SayListed"):
                m.d.comb += [self.done.valid.eq(1), self.done.payload.eq(message)]
                with m.If(self.done.ready):
                    m.next = "TakeTask"
            with m.State("Compose"):
                m.d.comb += [
                    self.done.valid.eq(envelope.done.valid),
                    self.done.payload.eq(envelope.done.payload),
                    envelope.done.ready.eq(self.done.ready),
                ]
                with m.If(self.done.valid & self.done.ready):
                    m.d.sync += count.eq(0)
                    m.next = "TakeTask"
        observe(m, self.done)
        return m
