"""The order in which an encoder codes blocks."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.codec.jpeg.headers import Picture
from tessera.hw.codec.jpeg.symbols import BlockInfo
from tessera.hw.engine import Format
from tessera.hw.memory.surface import TilePlace

__all__ = ["BlockOrder", "OrderedBlock"]


class OrderedBlock(data.Struct):
    """A block of the scan."""

    info: BlockInfo
    place: TilePlace
    """Of no meaning for a dummy."""


class BlockOrder(wiring.Component):
    """Lists the blocks of a picture, MCU by MCU: luma's left to right and down, then Cb's, Cr's.

    Luma blocks beyond the picture that only fill up an MCU are dummies; there are none of chroma.

    One block a cycle; the first is offered three cycles after the picture.

    Ref: ITU-T T.81 A.2.3

    Members
    -------
    i : :py:`In(stream.Signature(Picture))`
        Width and height at least 1. Taken with the last block.
    o : :py:`Out(stream.Signature(OrderedBlock))`
    """

    def __init__(self):
        super().__init__({"i": In(stream.Signature(Picture)), "o": Out(stream.Signature(OrderedBlock))})

    def elaborate(self, platform):
        m = Module()
        picture, block = self.i.payload, self.o.payload
        gray = picture.chroma_format == Format.Gray
        double_x = (picture.chroma_format == Format.C420) | (picture.chroma_format == Format.C422)
        double_y = picture.chroma_format == Format.C420

        tiles_x, tiles_y = Signal(14), Signal(14)
        last_mcu_x, last_mcu_y = Signal(13), Signal(13)
        m.d.sync += [
            tiles_x.eq((picture.width + 7) >> 3),
            tiles_y.eq((picture.height + 7) >> 3),
            last_mcu_x.eq((picture.width - 1) >> Mux(double_x, 4, 3)),
            last_mcu_y.eq((picture.height - 1) >> Mux(double_y, 4, 3)),
        ]

        mcu_x, mcu_y = Signal(13), Signal(13)
        x, y = Signal(), Signal()
        component = Signal(2)
        since_restart = Signal(16)
        restart = Signal()
        # The place of a luma block.
        luma_x, luma_y = Signal(14), Signal(14)
        m.d.comb += [
            luma_x.eq(Mux(double_x, Cat(x, mcu_x), mcu_x)),
            luma_y.eq(Mux(double_y, Cat(y, mcu_y), mcu_y)),
        ]
        first = (component == 0) & ~x & ~y
        at_right, at_bottom = mcu_x == last_mcu_x, mcu_y == last_mcu_y
        luma_done = (x == double_x) & (y == double_y)
        mcu_done, last = Signal(), Signal()
        m.d.comb += [
            mcu_done.eq(Mux(gray, luma_done, component == 2)),
            last.eq(mcu_done & at_right & at_bottom),
        ]

        def offer():
            with m.If(~self.o.valid | self.o.ready):
                m.d.sync += [
                    self.o.valid.eq(1),
                    block.info.component.eq(component),
                    block.info.dummy.eq((component == 0) & ((luma_x >= tiles_x) | (luma_y >= tiles_y))),
                    block.info.restart.eq(first & restart),
                    block.info.last.eq(last),
                    block.place.plane.eq(component),
                    block.place.x.eq(Mux(component == 0, luma_x, mcu_x)),
                    block.place.y.eq(Mux(component == 0, luma_y, mcu_y)),
                ]
                with m.If(component == 0):
                    m.d.sync += x.eq(~x & double_x)
                    with m.If(x == double_x):
                        m.d.sync += y.eq(~y & double_y)
                    with m.If(luma_done & ~gray):
                        m.d.sync += component.eq(1)
                with m.Else():
                    m.d.sync += component.eq(Mux(component == 2, 0, 2))
                with m.If(mcu_done):
                    m.d.sync += [mcu_x.eq(mcu_x + 1), since_restart.eq(since_restart + 1), restart.eq(0)]
                    with m.If(at_right):
                        m.d.sync += [mcu_x.eq(0), mcu_y.eq(mcu_y + 1)]
                    with m.If(since_restart + 1 == picture.restart_interval):
                        m.d.sync += [since_restart.eq(0), restart.eq(1)]
                with m.If(last):
                    m.d.comb += self.i.ready.eq(1)
                    m.d.sync += [mcu_y.eq(0), since_restart.eq(0), restart.eq(0)]
                    m.next = "Measure"

        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.FSM(name="order"):
            with m.State("Measure"):
                with m.If(self.i.valid):
                    m.next = "Measured"
            with m.State("Measured"):
                m.next = "List"
            with m.State("List"):
                offer()
        return m
