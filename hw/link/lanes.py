"""All lanes of a link: stripes to bits, and bits to stripes."""

from functools import reduce

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.cdc import AsyncQueue
from tessera.hw.lib.streams import connect
from tessera.hw.link.block import BLOCK_BITS, DENSE, SPARSE, Block, Marker
from tessera.hw.link.deskew import Deskew
from tessera.hw.link.lane import LaneReceiver, LaneSender, Received
from tessera.hw.link.packet import FILL, stripe

__all__ = ["CROWD", "QUEUE_BLOCKS", "LanesReceiver", "LanesSender"]

QUEUE_BLOCKS = 16
"""Of each lane: 7 of skew, 6 that are under way between the clocks, and those that a slow reader is behind."""
CROWD = 10
"""Blocks of a lane that are too many: 7 wait for skew, one leaves, and clocks may part by one."""


class LanesSender(wiring.Component):
    """Spreads stripes over the lanes in use, and sends all lanes' markers.

    A stripe is on the wires one cycle after it was taken: one in each cycle but a marker's, every 16th with ``dense``,
    else every 1024th. Where none is sent, the first word of each lane is ``FILL``, and the others are 0.

    Parameters
    ----------
    lanes : int
        1, 2 or 4.

    Members
    -------
    wanted : :py:`In(4)`
        Lanes to be in use from the next marker on: 1, 2 or 4 of them, or none. From the cycle after it is 0, no stripe
        is taken.
    dense, heard, session, node : In
        What the markers tell, from the next one on.
    used : :py:`Out(range(lanes + 1))`
        Lanes over which the stripe is spread that comes after the one of this cycle; 0 if none are in use.
    i : :py:`In(stream.Signature(stripe(lanes)))`
    o : :py:`Out(data.ArrayLayout(257, lanes))`
        What each lane sends.
    """

    def __init__(self, lanes):
        shape = stripe(lanes)
        self.lanes = lanes
        super().__init__(
            {
                "wanted": In(4),
                "dense": In(1),
                "heard": In(4),
                "session": In(4),
                "node": In(4),
                "used": Out(range(lanes + 1)),
                "i": In(stream.Signature(shape)),
                "o": Out(data.ArrayLayout(BLOCK_BITS, lanes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        left, number = Signal(range(SPARSE)), Signal(8)
        using, next_using = Signal(self.lanes), Signal(self.lanes)
        # A marker is due when none are left; it is known in time what is taken then.
        marker, takes, taking = Signal(init=1), Signal(), Signal()
        m.d.comb += [
            next_using.eq(Mux(left == 1, self.wanted, using)),
            self.used.eq(reduce(lambda a, b: a + b, next_using)),
            self.i.ready.eq(takes),
            taking.eq(self.i.valid & takes),
        ]
        m.d.sync += [
            using.eq(next_using),
            left.eq(left - 1),
            marker.eq(left == 1),
            takes.eq((left != 1) & next_using.any() & self.wanted[: self.lanes].any()),
        ]
        fields = Signal(Marker)
        m.d.comb += [
            fields.used.eq(using),
            fields.heard.eq(self.heard),
            fields.dense.eq(self.dense),
            fields.session.eq(self.session),
            fields.node.eq(self.node),
            fields.number.eq(number),
        ]
        with m.If(marker):
            m.d.sync += [number.eq(number + 1), left.eq(Mux(self.dense, DENSE - 1, SPARSE - 1))]

        fill = Block.const({"start": 1, "words": [FILL] + [0] * 7})
        blocks = _in_place(using, [self.i.payload[n].as_value() for n in range(self.lanes)])
        for n, block in enumerate(blocks):
            m.submodules[f"lane{n}"] = lane = LaneSender(n)
            m.d.comb += [
                lane.block.eq(Mux(taking, block, fill.as_value())),
                lane.marker.eq(marker),
                lane.fields.eq(fields),
                self.o[n].eq(lane.o),
            ]
        return m


def _in_place(using, items):
    """For each lane its item: the first of those in use has the first, and so on; they are 1, 2 or all."""
    placed = [items[0]]
    if len(items) > 1:
        placed.append(Mux(using[0], items[1], items[0]))
    if len(items) > 2:
        both, either = using[:2].all(), using[:2].any()
        placed.append(Mux(both, items[2], Mux(either, items[1], items[0])))
        placed.append(Mux(both, items[3], Mux(either | using[2], items[1], items[0])))
    return placed


class LanesReceiver(wiring.Component):
    """Finds the lanes and puts them side by side.

    Lane n is in clock domain ``receive<n>`` up to a queue behind its lock; all else is in ``sync``. A block is written
    at the edge that ends its cycle, and part of a stripe after the third edge of ``sync`` behind that, or when the last
    lane's is. Clocks may be 600 ppm apart either way, if ``o`` is never stalled.

    Parameters
    ----------
    lanes : int
        1, 2 or 4.
    settle : int
        As of :class:`LaneReceiver`.

    Members
    -------
    i : :py:`In(data.ArrayLayout(257, lanes))`
        Each lane's bits, in its own domain.
    slip : :py:`Out(lanes)`
        Each in its own domain.
    o, used, heard, told
        As of :class:`Deskew`.
    """

    def __init__(self, lanes, settle=4):
        self._deskew = Deskew(lanes)
        self.lanes, self.settle = lanes, settle
        signature = self._deskew.signature.members
        super().__init__(
            {
                "i": In(data.ArrayLayout(BLOCK_BITS, lanes)),
                "slip": Out(lanes),
                **{name: signature[name] for name in ("o", "used", "heard", "told")},
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.deskew = deskew = self._deskew
        for n in range(self.lanes):
            lane, queue = LaneReceiver(self.settle), AsyncQueue(Received, QUEUE_BLOCKS)
            m.submodules[f"lane{n}"] = DomainRenamer(f"receive{n}")(lane)
            m.submodules[f"queue{n}"] = DomainRenamer({"write": f"receive{n}", "read": "sync"})(queue)
            i = getattr(deskew, f"i{n}")
            # No joints: a lane does not wait for room, and the queue withdraws what it offers when it is emptied.
            m.d.comb += [
                lane.i.eq(self.i[n]),
                self.slip[n].eq(lane.slip),
                queue.i.valid.eq(lane.valid),
                queue.i.payload.eq(lane.o),
                queue.clear.eq(deskew.clear),
                i.valid.eq(queue.o.valid),
                i.payload.eq(queue.o.payload),
                queue.o.ready.eq(i.ready),
                deskew.crowded[n].eq(queue.level >= CROWD),
            ]
        connect(m, deskew.o, self.o)
        m.d.comb += [getattr(self, name).eq(getattr(deskew, name)) for name in ("used", "heard", "told")]
        return m
