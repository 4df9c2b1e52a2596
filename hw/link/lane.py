"""One lane: blocks to bits, and bits to blocks once its markers are found."""

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.link.block import BLOCK_BITS, DENSE, SPARSE, Block, Marker, marker_block, read_marker
from tessera.hw.link.scramble import Scrambler

__all__ = ["BAD_MARKERS", "SEARCH_BLOCKS", "BlockLock", "LaneReceiver", "LaneSender", "Received"]

SEARCH_BLOCKS = DENSE + 2
"""Blocks in which a marker is looked for before a slip."""
BAD_MARKERS = 4
"""In a row, they lose the lane."""


class LaneSender(wiring.Component):
    """Scrambles the blocks of a lane, and puts in its markers.

    Each cycle a block, one cycle later.

    Parameters
    ----------
    lane : int
        Its number, 0 to 3.

    Members
    -------
    block : :py:`In(Block)`
        Of no meaning with ``marker``.
    marker : :py:`In(1)`
        The block of this cycle is a marker.
    fields : :py:`In(Marker)`
        What it tells; ``lane`` is of no meaning.
    o : :py:`Out(257)`
        The first bit on the wire is bit 0.
    """

    block: In(Block)
    marker: In(1)
    fields: In(Marker)
    o: Out(BLOCK_BITS)

    def __init__(self, lane):
        if not 0 <= lane <= 3:
            raise ValueError(f"lane is {lane}; 0 to 3 expected")
        self.lane = lane
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.scrambler = scrambler = Scrambler()
        fields = Signal(Marker)
        m.d.comb += [
            scrambler.begin.eq(self.marker),
            scrambler.lane.eq(self.lane),
            fields.eq(self.fields),
            fields.lane.eq(self.lane),
        ]
        with m.If(self.marker):
            m.d.sync += self.o.eq(marker_block(fields))
        with m.Else():
            m.d.sync += self.o.eq(self.block.as_value() ^ scrambler.key)
        return m


class Received(data.Struct):
    """A block that is no marker, with what the marker before it told."""

    block: Block
    first: 1
    """It comes right behind a marker."""
    right: 1
    """That marker was right. If not, ``marker`` is of the last right one, but for its number."""
    marker: Marker


class BlockLock(wiring.Component):
    """Where a lane's blocks begin, by the markers that are found; it sees nothing else of the lane.

    Parameters
    ----------
    settle : int
        As of :class:`LaneReceiver`.

    Members
    -------
    right : :py:`In(1)`, fields : :py:`In(Marker)`
        The block of this cycle is a right marker, and what it tells.
    due : :py:`Out(1)`
        With ``locked`` or while it is confirmed: this block is taken for a marker.
    found : :py:`Out(1)`
        Of the block that is due: it is right, and the same lane's.
    slip, locked : :py:`Out(1)`
        As of :class:`LaneReceiver`.
    marker : :py:`Out(Marker)`
        What the last right one told, but for its number, which counts all.
    """

    def __init__(self, settle=4):
        if not 1 <= settle <= 256:
            raise ValueError(f"settle is {settle}; 1 to 256 expected")
        self.settle = settle
        super().__init__(
            {
                "right": In(1),
                "fields": In(Marker),
                "due": Out(1),
                "found": Out(1),
                "slip": Out(1),
                "locked": Out(1),
                "marker": Out(Marker),
            }
        )
        # Blocks before the one that is due, or the last one in which a marker is looked for, or to settle in.
        left, bad = Signal(range(SPARSE), init=SEARCH_BLOCKS - 1), Signal(range(BAD_MARKERS))
        self.left, self.bad = left, bad
        self.looking, self.confirming = Signal(), Signal()

    def elaborate(self, platform):
        m = Module()
        left, bad, looking, due, found = self.left, self.bad, self.looking, self.due, self.found
        right, fields, told = self.right, self.fields, self.marker
        m.d.comb += [due.eq(left == 0), found.eq(right & (looking | (fields.lane == told.lane)))]

        # Behind a marker that is not right, all goes on as the last one said.
        distance = Signal.like(left)
        m.d.comb += distance.eq(Mux(Mux(found, fields.dense, told.dense), DENSE - 1, SPARSE - 1))
        m.d.sync += [left.eq(left - 1), self.slip.eq(0)]
        with m.If(due):
            m.d.sync += told.number.eq(told.number + 1)
        with m.If(found & (due | looking)):
            m.d.sync += told.eq(fields)
        with m.FSM():
            with m.State("Look"):
                m.d.comb += looking.eq(1)
                with m.If(found):
                    m.d.sync += left.eq(distance)
                    m.next = "Confirm"
                with m.Elif(due):
                    m.d.sync += [self.slip.eq(1), left.eq(self.settle - 1)]
                    m.next = "Settle"
            with m.State("Settle"):
                with m.If(due):
                    m.d.sync += left.eq(SEARCH_BLOCKS - 1)
                    m.next = "Look"
            with m.State("Confirm"):
                m.d.comb += self.confirming.eq(1)
                with m.If(due):
                    m.d.sync += [left.eq(Mux(found, distance, SEARCH_BLOCKS - 1)), bad.eq(0)]
                    m.next = "Look"
                    with m.If(found):
                        m.next = "Locked"
            with m.State("Locked"):
                m.d.comb += self.locked.eq(1)
                with m.If(due):
                    m.d.sync += [left.eq(distance), bad.eq(Mux(found, 0, bad + 1))]
                    with m.If(~found & (bad == BAD_MARKERS - 1)):
                        m.d.sync += left.eq(SEARCH_BLOCKS - 1)
                        m.next = "Look"
        return m


class LaneReceiver(wiring.Component):
    """Finds a lane's markers, and unscrambles what is between them.

    Looks for a right marker in 18 blocks; if there is none, asks for a slip, and looks again. A second one of the same
    lane where it is due makes the lane locked; where the one due is none, it looks again. From then on the block that
    is due is taken for a marker whatever it holds; four in a row that are none, or another lane's, lose the lane.

    What is given is of the block of the same cycle; its marker was before.

    Parameters
    ----------
    settle : int
        A slip takes effect so many blocks after the cycle of ``slip``, or earlier; 1 to 256.

    Members
    -------
    i : :py:`In(257)`
        A block in each cycle, once the bits' phase is right. From a register.
    slip : :py:`Out(1)`
        High for one cycle: the blocks are to begin one bit later.
    locked : :py:`Out(1)`
    valid : :py:`Out(1)`
        The lane is locked, and this block no marker.
    o : :py:`Out(Received)`
    """

    def __init__(self, settle=4):
        self._lock = BlockLock(settle)
        self.settle = settle
        super().__init__(
            {"i": In(BLOCK_BITS), "slip": Out(1), "locked": Out(1), "valid": Out(1), "o": Out(Received)},
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.lock = lock = self._lock
        m.submodules.scrambler = scrambler = Scrambler()
        right, fields = read_marker(Block(self.i))
        m.d.comb += [
            lock.right.eq(right),
            lock.fields.eq(fields),
            scrambler.begin.eq(lock.due),
            scrambler.lane.eq(lock.marker.lane),
            self.slip.eq(lock.slip),
            self.locked.eq(lock.locked),
            self.valid.eq(lock.locked & ~lock.due),
            self.o.marker.eq(lock.marker),
            self.o.block.eq(self.i ^ scrambler.key),
        ]
        m.d.sync += self.o.first.eq(lock.due)
        with m.If(lock.due):
            m.d.sync += self.o.right.eq(lock.found)
        return m
