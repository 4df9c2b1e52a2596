"""The order of a scan's blocks (Ref: ITU-T T.81 A.2)."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.codec.jpeg.entropy_decoder import Block
from tessera.hw.lib.streams import Skid

__all__ = ["McuWalk", "Scan", "ScanComponent"]


class ScanComponent(data.Struct):
    """A component of a scan."""

    plane: 2
    h: 3
    """Its sampling factors in the frame, 1 to 4."""
    v: 3
    td: 2
    ta: 2
    tq: 2


class Scan(data.Struct):
    """A scan, and what it needs of its frame."""

    count: 2
    """Components, 1 to 3."""
    components: data.ArrayLayout(ScanComponent, 3)
    interval: 16
    """MCUs between restarts; 0 for none."""
    h_max: 3
    """Largest sampling factors of the frame: luma's."""
    v_max: 3
    tiles_x: data.ArrayLayout(14, 2)
    """Tiles across and down that hold samples, luma and chroma."""
    tiles_y: data.ArrayLayout(14, 2)


class McuWalk(wiring.Component):
    """Lists the blocks of a scan in their order.

    One block per cycle, from 3 cycles after ``start`` on. Another scan may be started when all blocks were taken.

    Members
    -------
    start : :py:`In(stream.Signature(Scan))`
        The payload must hold still until all blocks were taken.
    o : :py:`Out(stream.Signature(Block))`
    scan_last : :py:`Out(1)`
        The block taken last was the scan's last.
    """

    start: In(stream.Signature(Scan))
    o: Out(stream.Signature(Block))
    scan_last: Out(1)

    def elaborate(self, platform):
        m = Module()
        m.submodules.skid = skid = Skid(data.StructLayout({"block": Block, "last": 1}))
        m.d.comb += [
            self.o.valid.eq(skid.o.valid),
            self.o.payload.eq(skid.o.payload.block),
            skid.o.ready.eq(self.o.ready),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.scan_last.eq(skid.o.payload.last)

        scan = self.start.payload
        single = scan.count == 1
        # Tiles at which the current MCU begins: of luma at full size, and of each of the scan's components.
        across, down = Signal(14), Signal(14)
        origin_x = [Signal(14, name=f"origin_x{n}") for n in range(3)]
        origin_y = [Signal(14, name=f"origin_y{n}") for n in range(3)]
        number, x, y = Signal(2), Signal(2), Signal(2)
        interval_left = Signal(16)
        component = Signal(ScanComponent)
        with m.Switch(number):
            for n in range(3):
                with m.Case(n):
                    m.d.comb += component.eq(scan.components[n])
        chroma = component.plane != 0

        # An MCU of a scan of one component is one block, whatever its factors.
        single_chroma = scan.components[0].plane != 0
        step_x, step_y = Signal(3), Signal(3)
        limit_x, limit_y = Signal(14), Signal(14)
        row_last, column_last, interval_last = Signal(), Signal(), Signal()
        m.d.sync += [
            step_x.eq(Mux(single, 1, scan.h_max)),
            step_y.eq(Mux(single, 1, scan.v_max)),
            limit_x.eq(scan.tiles_x[single & single_chroma]),
            limit_y.eq(scan.tiles_y[single & single_chroma]),
        ]

        item = Signal(Block)
        place_x, place_y = Signal(14), Signal(14)
        last_x, last_y, last_component = Signal(), Signal(), Signal()
        mcu_last = last_x & last_y & last_component
        m.d.comb += [
            place_x.eq(Array(origin_x)[number] + x),
            place_y.eq(Array(origin_y)[number] + y),
            last_x.eq(single | (x + 1 == component.h)),
            last_y.eq(single | (y + 1 == component.v)),
            last_component.eq(number + 1 == scan.count),
            item.place.plane.eq(component.plane),
            item.place.x.eq(place_x),
            item.place.y.eq(place_y),
            item.inside.eq((place_x < scan.tiles_x[chroma]) & (place_y < scan.tiles_y[chroma])),
            item.td.eq(component.td),
            item.ta.eq(component.ta),
            item.tq.eq(component.tq),
            item.mcu_last.eq(mcu_last),
            item.segment_last.eq(mcu_last & ((row_last & column_last) | interval_last)),
            skid.i.payload.block.eq(item),
            skid.i.payload.last.eq(mcu_last & row_last & column_last),
        ]
        m.d.comb += [
            column_last.eq(across + step_x >= limit_x),
            row_last.eq(down + step_y >= limit_y),
            interval_last.eq(interval_left == 1),
        ]
        with m.FSM(name="walk"):
            with m.State("AwaitScan"):
                m.d.comb += self.start.ready.eq(1)
                m.d.sync += [across.eq(0), down.eq(0), number.eq(0), x.eq(0), y.eq(0)]
                m.d.sync += [o.eq(0) for o in (*origin_x, *origin_y)]
                m.d.sync += interval_left.eq(scan.interval)
                with m.If(self.start.valid):
                    m.next = "Settle"
            with m.State("Settle"):
                m.next = "List"
            with m.State("List"):
                m.d.comb += skid.i.valid.eq(1)
                with m.If(skid.i.ready):
                    m.d.sync += x.eq(x + 1)
                    with m.If(last_x):
                        m.d.sync += [x.eq(0), y.eq(y + 1)]
                        with m.If(last_y):
                            m.d.sync += [y.eq(0), number.eq(number + 1)]
                    with m.If(mcu_last):
                        m.d.sync += [number.eq(0), across.eq(across + step_x)]
                        m.d.sync += interval_left.eq(Mux(interval_last, scan.interval, interval_left - 1))
                        for n in range(3):
                            m.d.sync += origin_x[n].eq(origin_x[n] + Mux(single, 1, scan.components[n].h))
                        with m.If(column_last):
                            m.d.sync += [across.eq(0), down.eq(down + step_y)]
                            for n in range(3):
                                m.d.sync += origin_x[n].eq(0)
                                m.d.sync += origin_y[n].eq(origin_y[n] + Mux(single, 1, scan.components[n].v))
                            with m.If(row_last):
                                m.next = "AwaitScan"
        return m
