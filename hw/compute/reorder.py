"""Changes of order around the scaler's passes: rows and columns of tiles, tiles and rows of pictures.

All of them hand samples on as they are, one group of eight per cycle, and work on one plane at a time: the geometry holds
still from a plane's first group in to its last one out, and after that they are as after reset.
"""

from amaranth.hdl import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.compute.passes import Samples
from tessera.hw.compute.stream import LANES

__all__ = ["Turn", "ToPicture", "ToTiles"]


class _Counter:
    """Counts the groups of the tiles along a row of tiles: eight each, or as many as the last tile has columns."""

    def __init__(self, m, name, width, short):
        self.left = Signal(16, name=f"{name}_left")
        self.group = Signal(3, name=f"{name}_group")
        self.started = Signal(name=f"{name}_started")
        # Columns from this tile's first to the edge.
        self.columns = Mux(self.started, self.left, width)
        self.end = self.group == 7
        if short:
            self.end = self.end | (self.group + 1 == self.columns)

    def advance(self, m):
        m.d.sync += self.group.eq(self.group + 1)
        with m.If(self.end):
            m.d.sync += self.group.eq(0)
            with m.If(self.columns <= LANES):
                m.d.sync += self.started.eq(0)
            with m.Else():
                m.d.sync += [self.started.eq(1), self.left.eq(self.columns - LANES)]


class Turn(wiring.Component):
    """Turns tiles: rows in, columns out, or columns in, rows out.

    Rows are eight in each tile. Columns are those of the plane alone: fewer than eight in the last tile of a row if the
    width is no multiple of eight; rows that are made of fewer columns hold anything behind them.

    Two tiles are held, so that one is taken while one leaves: a group per cycle without gaps, if all tiles have eight
    columns. A tile's first group is offered one cycle after its last one was taken.

    Parameters
    ----------
    into : "columns" or "rows"
        What is given.

    Members
    -------
    width : In(16)
        Columns of the plane, 1 or more.
    i, o : streams of :data:`Samples`
    """

    def __init__(self, into):
        if into not in ("columns", "rows"):
            raise ValueError(f"into is {into!r}; 'columns' or 'rows' expected")
        self.into = into
        super().__init__({"width": In(16), "i": In(stream.Signature(Samples)), "o": Out(stream.Signature(Samples))})

    def elaborate(self, platform):
        m = Module()
        banks = [Signal(data.ArrayLayout(Samples, LANES), name=f"bank{n}") for n in range(2)]
        full = Signal(2)
        into_bank, from_bank = Signal(), Signal()
        come = _Counter(m, "come", self.width, short=self.into == "rows")
        go = _Counter(m, "go", self.width, short=self.into == "columns")
        m.d.comb += [
            self.i.ready.eq(~full.bit_select(into_bank, 1)),
            self.o.valid.eq(full.bit_select(from_bank, 1)),
        ]
        with m.If(self.i.valid & self.i.ready):
            come.advance(m)
            for n, bank in enumerate(banks):
                for k in range(LANES):
                    with m.If((into_bank == n) & (come.group == k)):
                        m.d.sync += bank[k].eq(self.i.payload)
            with m.If(come.end):
                m.d.sync += [full.bit_select(into_bank, 1).eq(1), into_bank.eq(~into_bank)]
        for n, bank in enumerate(banks):
            with m.If(from_bank == n):
                for k in range(LANES):
                    m.d.comb += self.o.payload[k].eq(bank[k][go.group])
        with m.If(self.o.valid & self.o.ready):
            go.advance(m)
            with m.If(go.end):
                m.d.sync += [full.bit_select(from_bank, 1).eq(0), from_bank.eq(~from_bank)]
        return m


class _Ring(wiring.Component):
    """What both below are: a ring of groups, as in a picture, between an order of tiles and one of rows.

    The place of the group at (row, tile) is row * tiles + tile, modulo the ring's size.
    """

    def __init__(self, groups):
        if groups < 1 or groups & (groups - 1):
            raise ValueError(f"groups is {groups}; a power of two expected")
        self._groups = groups
        super().__init__(
            {
                "tiles": In(range(groups + 1)),
                "rows": In(16),
                "i": In(stream.Signature(Samples)),
                "o": Out(stream.Signature(Samples)),
            }
        )

    def _ring(self, m, wraps):
        """Two rows of tiles; its ports' streams are joined to `i` and `o`."""
        depth = 2 * LANES * self._groups
        m.submodules.ring = words = memory.Memory(shape=Samples, depth=depth, init=[])
        write, read = words.write_port(), words.read_port()
        may_write, may_read = Signal(), Signal()
        wrote, moves = Signal(), Signal()
        held = Signal()
        m.d.comb += [
            wrote.eq(self.i.valid & self.i.ready),
            self.i.ready.eq(may_write),
            write.en.eq(wrote),
            write.data.eq(self.i.payload),
            moves.eq(may_read & (~held | self.o.ready)),
            read.en.eq(moves),
            self.o.valid.eq(held),
            self.o.payload.eq(read.data),
        ]
        with m.If(~held | self.o.ready):
            m.d.sync += held.eq(may_read)
        return write.addr, read.addr, wrote, moves, may_write, may_read


class _Place:
    """A place in the ring, in either order. Numbers of places run on and are compared modulo four rings."""

    def __init__(self, name, bits, tiles, rows):
        self.tiles, self.rows = tiles, rows
        self.at = Signal(bits, name=f"{name}_at")
        self.base = Signal(bits, name=f"{name}_base")
        """Place of the first group of this row of tiles."""
        self.first = Signal(bits, name=f"{name}_first")
        """Tiles: place of this tile's first group."""
        self.tile = Signal(tiles.shape(), name=f"{name}_tile")
        self.row = Signal(3, name=f"{name}_row")
        self.row_start = Signal(16, name=f"{name}_row_start")
        """Number of the first row of this row of tiles."""
        self.right = self.tile + 1 == tiles
        self.bottom = self.row_start + self.row + 1 == rows
        self.last_tiles = self.row_start + LANES >= rows
        self.next_base = (self.base + (tiles << 3))[:bits]

    def _restart(self, m):
        m.d.sync += [signal.eq(0) for signal in (self.at, self.base, self.first, self.tile, self.row, self.row_start)]

    def _next_tiles(self, m):
        base = self.next_base
        m.d.sync += [self.base.eq(base), self.at.eq(base), self.first.eq(base), self.row_start.eq(self.row_start + LANES)]

    def by_tiles(self, m, done):
        """To the next group, tile after tile; `done` goes up at the plane's end. Rows below the plane are its last."""
        below = self.row_start + self.row + 1 >= self.rows
        m.d.sync += self.row.eq(self.row + 1)
        with m.If(~below):
            m.d.sync += self.at.eq(self.at + self.tiles)
        with m.If(self.row == 7):
            m.d.sync += [self.tile.eq(self.tile + 1), self.at.eq(self.first + 1), self.first.eq(self.first + 1)]
            with m.If(self.right):
                m.d.sync += self.tile.eq(0)
                self._next_tiles(m)
                with m.If(self.last_tiles):
                    m.d.comb += done.eq(1)

    def by_rows(self, m, done):
        """To the next group, row after row."""
        m.d.sync += [self.tile.eq(self.tile + 1), self.at.eq(self.at + 1)]
        with m.If(self.right):
            m.d.sync += [self.tile.eq(0), self.row.eq(self.row + 1)]
            with m.If(self.row == 7):
                self._next_tiles(m)
            with m.If(self.bottom):
                m.d.comb += done.eq(1)


class ToPicture(_Ring):
    """Tiles in, rows of the picture out.

    A group per cycle without gaps while neither side is a row of tiles ahead; a tile's groups of a row are offered two
    cycles after the tile's last row was taken, at the earliest. Rows below the plane are dropped.

    Memory: 16 x ``groups`` words of 8 samples of 14 bits; 28 block RAMs of 18 kbit for 256 groups.

    Parameters
    ----------
    groups : int
        Tiles across the widest plane; a power of two.

    Members
    -------
    tiles, rows : In
        Tiles across and rows of samples of the plane, 1 or more.
    i, o : streams of :data:`Samples`
    """

    def elaborate(self, platform):
        m = Module()
        write_at, read_at, wrote, moves, may_write, may_read = self._ring(m, True)
        bits = exact_log2(2 * LANES * self._groups) + 2
        came = _Place("came", bits, self.tiles, self.rows)
        went = _Place("went", bits, self.tiles, self.rows)
        came_all, went_all, done, left = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [write_at.eq(came.at), read_at.eq(went.at)]
        # All of a row of tiles has room, or none of it is taken.
        behind = (came.next_base - went.base)[:bits]
        m.d.comb += may_write.eq(~done & (behind <= 2 * LANES * self._groups))
        ahead = came.row_start != went.row_start
        m.d.comb += may_read.eq(~left & (done | ahead | (went.tile < came.tile)))
        with m.If(wrote):
            # Every tile's eight groups have their places, those below the plane too.
            m.d.sync += [came.row.eq(came.row + 1), came.at.eq(came.at + self.tiles)]
            with m.If(came.row == 7):
                m.d.sync += [came.tile.eq(came.tile + 1), came.at.eq(came.first + 1), came.first.eq(came.first + 1)]
                with m.If(came.right):
                    m.d.sync += came.tile.eq(0)
                    came._next_tiles(m)
                    with m.If(came.last_tiles):
                        m.d.comb += came_all.eq(1)
        with m.If(moves):
            went.by_rows(m, went_all)
        m.d.sync += [done.eq(done | came_all), left.eq(left | went_all)]
        with m.If(left & ~self.o.valid):
            came._restart(m)
            went._restart(m)
            m.d.sync += [done.eq(0), left.eq(0)]
        return m


class ToTiles(_Ring):
    """Rows of the picture in, tiles out.

    A group per cycle without gaps while neither side is a row of tiles ahead; a tile's first row is offered two cycles
    after its last row was taken, at the earliest. Rows of a tile below the plane repeat the plane's last.

    Memory, parameters and members are those of :class:`ToPicture`.
    """

    def elaborate(self, platform):
        m = Module()
        write_at, read_at, wrote, moves, may_write, may_read = self._ring(m, False)
        bits = exact_log2(2 * LANES * self._groups) + 2
        came = _Place("came", bits, self.tiles, self.rows)
        went = _Place("went", bits, self.tiles, self.rows)
        came_all, went_all, done, left = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [write_at.eq(came.at), read_at.eq(went.at)]
        behind = (came.at - went.base)[:bits]
        m.d.comb += may_write.eq(~done & (behind < 2 * LANES * self._groups))
        ahead = came.row_start != went.row_start
        bottom = (came.row == 7) | came.bottom
        m.d.comb += may_read.eq(~left & (done | ahead | (bottom & (went.tile < came.tile))))
        with m.If(wrote):
            came.by_rows(m, came_all)
        with m.If(moves):
            went.by_tiles(m, went_all)
        m.d.sync += [done.eq(done | came_all), left.eq(left | went_all)]
        with m.If(left & ~self.o.valid):
            came._restart(m)
            went._restart(m)
            m.d.sync += [done.eq(0), left.eq(0)]
        return m
