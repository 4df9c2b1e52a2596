"""Changes of order around the scaler's passes: rows and columns of tiles, tiles and rows of pictures.

All of them hand samples on as they are, one group of eight per cycle, and work on one plane at a time: the geometry
holds still from a plane's first group in to its last one out, and after that they are as after reset.
"""

from amaranth.hdl import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from tessera.hw.compute.passes import Samples
from tessera.hw.compute.stream import LANES

__all__ = ["Ring", "Turn"]


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


class _Place:
    """A place in the ring and the way on from there, in either order.

    The place of the group at (row, tile) is row * tiles + tile. Places are kept modulo four rings, to be compared.
    """

    def __init__(self, name, bits, tiles, rows):
        self.tiles, self.rows = tiles, rows
        self.at = Signal(bits, name=f"{name}_at")
        self.base = Signal(bits, name=f"{name}_base")
        """Of this row of tiles' first group."""
        self.first = Signal(bits, name=f"{name}_first")
        """By tiles: of this tile's first group."""
        self.tile = Signal(tiles.shape(), name=f"{name}_tile")
        self.row = Signal(3, name=f"{name}_row")
        self.start = Signal(17, name=f"{name}_start")
        """Number of the first row of this row of tiles."""
        self.done = Signal(name=f"{name}_done")
        """The plane is over."""
        self.right = self.tile + 1 == tiles
        self.bottom = self.start + self.row + 1 >= rows
        self.next_base = (self.base + (tiles << 3))[:bits]

    def _next_tiles(self, m):
        m.d.sync += [signal.eq(self.next_base) for signal in (self.base, self.at, self.first)]
        m.d.sync += self.start.eq(self.start + LANES)
        with m.If(self.start + LANES >= self.rows):
            m.d.sync += self.done.eq(1)

    def by_tiles(self, m, repeat):
        """To the next group, tile after tile. With `repeat`, rows below the plane have the place of the last one."""
        m.d.sync += self.row.eq(self.row + 1)
        with m.If(~(self.bottom & repeat)):
            m.d.sync += self.at.eq(self.at + self.tiles)
        with m.If(self.row == 7):
            m.d.sync += [self.tile.eq(self.tile + 1), self.at.eq(self.first + 1), self.first.eq(self.first + 1)]
            with m.If(self.right):
                m.d.sync += self.tile.eq(0)
                self._next_tiles(m)

    def by_rows(self, m):
        """To the next group, row after row."""
        m.d.sync += [self.tile.eq(self.tile + 1), self.at.eq(self.at + 1)]
        with m.If(self.right):
            m.d.sync += [self.tile.eq(0), self.row.eq(self.row + 1)]
            with m.If((self.row == 7) | self.bottom):
                self._next_tiles(m)

    def restart(self, m):
        """To the next plane's first group."""
        for signal in (self.at, self.base, self.first, self.tile, self.row, self.start, self.done):
            m.d.sync += signal.eq(0)


class Ring(wiring.Component):
    """Changes the order from tiles to rows of the picture, or back.

    A group per cycle without gaps while neither side is a row of tiles ahead. To rows: a tile's part of a row is
    offered two cycles after the tile's last row was taken, at the earliest, and rows below the plane are dropped. To
    tiles: a tile's first row is offered two cycles after its last one was taken, at the earliest, and rows below the
    plane repeat the plane's last.

    Memory: 16 x ``groups`` words of 8 samples of 14 bits; 26 block RAMs of 18 kbit for 256 groups.

    Parameters
    ----------
    into : "rows" or "tiles"
        What is given.
    groups : int
        Tiles across the widest plane; a power of two.

    Members
    -------
    tiles, rows : In
        Tiles across and rows of samples of the plane, 1 or more.
    i, o : streams of :data:`Samples`
    """

    def __init__(self, into, groups):
        if into not in ("rows", "tiles"):
            raise ValueError(f"into is {into!r}; 'rows' or 'tiles' expected")
        if groups < 1 or groups & (groups - 1):
            raise ValueError(f"groups is {groups}; a power of two expected")
        self.into, self._groups = into, groups
        super().__init__(
            {
                "tiles": In(range(groups + 1)),
                "rows": In(16),
                "i": In(stream.Signature(Samples)),
                "o": Out(stream.Signature(Samples)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth = 2 * LANES * self._groups
        m.submodules.ring = words = memory.Memory(shape=Samples, depth=depth, init=[])
        write, read = words.write_port(), words.read_port()
        bits = exact_log2(depth) + 2
        came = _Place("came", bits, self.tiles, self.rows)
        went = _Place("went", bits, self.tiles, self.rows)

        may_write, may_read = Signal(), Signal()
        over = came.start != went.start
        if self.into == "rows":
            # A row of tiles is taken when there is room for all of it.
            m.d.comb += may_write.eq((came.next_base - went.base)[:bits] <= depth)
            m.d.comb += may_read.eq(over | (went.tile < came.tile))
        else:
            m.d.comb += may_write.eq((came.at - went.base)[:bits] < depth)
            complete = (came.row == 7) | came.bottom
            m.d.comb += may_read.eq(over | (complete & (went.tile < came.tile)))

        wrote, moves, held = Signal(), Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(may_write & ~came.done),
            wrote.eq(self.i.valid & self.i.ready),
            write.en.eq(wrote),
            write.addr.eq(came.at),
            write.data.eq(self.i.payload),
            moves.eq(may_read & ~went.done & (~held | self.o.ready)),
            read.en.eq(moves),
            read.addr.eq(went.at),
            self.o.valid.eq(held),
            self.o.payload.eq(read.data),
        ]
        with m.If(~held | self.o.ready):
            m.d.sync += held.eq(moves)
        with m.If(wrote):
            if self.into == "rows":
                came.by_tiles(m, repeat=False)
            else:
                came.by_rows(m)
        with m.If(moves):
            if self.into == "rows":
                went.by_rows(m)
            else:
                went.by_tiles(m, repeat=True)
        with m.If(went.done & ~held):
            came.restart(m)
            went.restart(m)
        return m
