"""Huffman tables: canonical codes from BITS and HUFFVAL, and their lookup (Ref: ITU-T T.81 annexes C and F.2.2.3)."""

from amaranth.hdl import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tessera.golden.jpeg.tables import AC_CATEGORY_MAX, DC_CATEGORY_MAX

__all__ = ["LONG_CYCLES", "Entry", "HuffmanLoad", "HuffmanTables", "LoadKind"]

LONG_CYCLES = 3
"""Cycles from the one in which bits and table are set to the one in which ``long`` is valid."""


class LoadKind(enum.Enum, shape=2):
    """What a byte that is loaded means."""

    Table = 0
    """Bits 1:0 Th, bit 2 Tc: a new table begins."""
    Count = 1
    """One of the 16 of BITS."""
    Value = 2
    """One of HUFFVAL."""


class HuffmanLoad(data.Struct):
    """A byte of a table's definition."""

    kind: LoadKind
    byte: 8


class Entry(data.Struct):
    """What the next bits are."""

    valid: 1
    """There is such a code."""
    bad: 1
    """Its symbol has no meaning for 8-bit samples."""
    eob: 1
    """End of block (of AC tables only)."""
    total: 5
    """Bits of the code and of the magnitude, 1 to 27; of the code alone if ``bad``."""
    length: 4
    """Bits of the code, less 1."""
    run: 4
    size: 4


class HuffmanTables(wiring.Component):
    """Four DC and four AC tables.

    *Loading*. A table is loaded as one ``Table``, 16 ``Count``, then a ``Value`` for each code; it replaces the one of
    that number. The table takes 1 cycle, a count 2, a value 1 (if its code has n bits less than ``short_bits``, 2**n),
    and the walk over the 16 lengths a cycle for each, those after the last value included.

    *Lookup*. Codes of up to ``short_bits`` bits are found in the cycle after ``next_first`` was set, in both tables
    that the next symbol may be of; which of them it is, ``table`` says when it is known. Longer ones are found
    :data:`LONG_CYCLES` = 3 cycles after ``table`` and ``bits`` were set, if they still are the same then.

    Parameters
    ----------
    short_bits : int
        5 to 8.

    Members
    -------
    load : :py:`In(stream.Signature(HuffmanLoad))`
    bad : :py:`Out(1)`
        There are more codes of some length than it has, or an all-ones code. Valid when ``load`` is ready after a
        count; the table must then not be used.
    writing : :py:`Out(1)`
        The last value's entries are still being written: no lookup yet.
    codes : :py:`Out(12)`
        Sum of the counts, when ``load`` is ready after one. Above 256, no value may be loaded.
    table : :py:`In(3)`
        Bits 1:0 Td or Ta, bit 2 set for AC.
    bits : :py:`In(16)`
        The next bits, the first the highest.
    next_td, next_ta, next_first : :py:`In(2)`, :py:`In(2)`, :py:`In(short_bits)`
        What ``table`` will be in the next cycle if it is for DC and if it is for AC, and the highest of ``bits`` then.
    short : :py:`Out(array of 2 x Entry)`
        Of the table for DC and the one for AC.
    short_valid : :py:`Out(1)`
        The code in ``table`` has ``short_bits`` bits or less, so the entry is right.
    long : :py:`Out(Entry)`
        Meaningless if ``short_valid``. Not ``valid`` if there is no such code: then ``length`` and ``total`` are of
        16 bits.
    """

    def __init__(self, short_bits=6):
        if not 5 <= short_bits <= 8:
            raise ValueError(f"short_bits is {short_bits}; 5 to 8 expected")
        self.short_bits = short_bits
        super().__init__(
            {
                "load": In(stream.Signature(HuffmanLoad)),
                "bad": Out(1),
                "writing": Out(1),
                "codes": Out(12),
                "table": In(3),
                "bits": In(16),
                "next_td": In(2),
                "next_ta": In(2),
                "next_first": In(short_bits),
                "short": Out(data.ArrayLayout(Entry, 2)),
                "short_valid": Out(1),
                "long": Out(Entry),
            }
        )

    def elaborate(self, platform):
        m = Module()
        short_bits = self.short_bits
        # An entry for any short_bits bits of each DC and each AC table, and the end of the codes that have one.
        # Nothing is looked up while tables are loaded; Yosys heeds no_rw_check, and so spares the choice between old
        # and new data behind each block RAM, only where the read port's register stands outside.
        short, ends = [], []
        for name in ("dc", "ac"):
            memory = Memory(shape=Entry, depth=4 << short_bits, init=[], attrs={"no_rw_check": 1})
            m.submodules[name] = memory
            short.append((memory.write_port(), memory.read_port(domain="comb")))
            memory = Memory(shape=short_bits, depth=4, init=[])
            m.submodules[f"{name}_end"] = memory
            ends.append((memory.write_port(), memory.read_port(domain="comb")))
        # Of each longer length: the end of the codes of up to that length, and what makes an index of a code.
        lengths = range(short_bits + 1, 17)
        limits, offsets = [], []
        for length in lengths:
            for kept, name, width in ((limits, "limit", 16), (offsets, "offset", 8)):
                memory = Memory(shape=width, depth=8, init=[])
                m.submodules[f"{name}{length}"] = memory
                kept.append((memory.write_port(), memory.read_port(domain="comb")))
        values = Memory(shape=8, depth=2048, init=[])
        m.submodules.values = values
        value_write, value_read = values.write_port(), values.read_port()

        # Loading. Codes are kept left-aligned to 16 bits; ``unit`` is one code of the length at hand.
        table = Signal(3)
        length = Signal(range(18))
        unit = Signal(16)
        code = Signal(17)
        index = Signal(8)
        left = Signal(8)
        count = Signal(8)
        counts = Signal(data.ArrayLayout(8, 16))
        write_byte, write_length = Signal(8), Signal(5)
        place, last_place = Signal(short_bits), Signal(short_bits)
        counting = Signal()
        load = self.load.payload
        taken = self.load.valid & self.load.ready
        more = self.writing & (place != last_place)

        entry = Signal(Entry)
        run, size = write_byte[4:8], write_byte[0:4]
        is_ac = table[2]
        bad_ac = (size > AC_CATEGORY_MAX) | ((size == 0) & (run != 0) & (run != 15))
        bad_dc = (size > DC_CATEGORY_MAX) | (run != 0)
        m.d.comb += _describe(entry, 1, run, size, write_length, is_ac, Mux(is_ac, bad_ac, bad_dc))
        for ac, (write, _) in enumerate(short):
            m.d.comb += [
                write.en.eq(self.writing & (is_ac == ac)),
                write.addr.eq(Cat(place, table[:2])),
                write.data.eq(entry),
            ]
        m.d.comb += [value_write.addr.eq(Cat(index, table)), value_write.data.eq(load.byte)]

        limit, offset = Signal(24), Signal(8)
        with m.Switch(length):
            for n in range(1, 17):
                with m.Case(n):
                    m.d.comb += [limit.eq(code + (count << (16 - n))), offset.eq(index - (code >> (16 - n)))]
        for n, (limit_port, offset_port) in zip(lengths, zip(limits, offsets)):
            for (write, _), value in ((limit_port, limit), (offset_port, offset)):
                m.d.comb += [write.en.eq(counting & (length == n)), write.addr.eq(table), write.data.eq(value)]
        for ac, (write, _) in enumerate(ends):
            m.d.comb += [
                write.en.eq(counting & (length == short_bits) & (is_ac == ac)),
                write.addr.eq(table[:2]),
                write.data.eq(limit[16 - short_bits : 16]),
            ]

        m.d.sync += self.writing.eq(more)
        with m.If(more):
            m.d.sync += place.eq(place + 1)
        with m.FSM(name="load"):
            with m.State("Ready"):
                m.d.comb += self.load.ready.eq(~more)
                with m.If(taken):
                    with m.Switch(load.kind):
                        with m.Case(LoadKind.Table):
                            m.d.sync += [table.eq(load.byte), length.eq(1), code.eq(0), index.eq(0)]
                            m.d.sync += [self.codes.eq(0), self.bad.eq(0)]
                        with m.Case(LoadKind.Count):
                            m.d.sync += [count.eq(load.byte), counts.eq(Cat(Value.cast(counts)[8:], load.byte))]
                            m.next = "Count"
                        with m.Default():
                            m.d.comb += value_write.en.eq(1)
                            m.d.sync += [
                                self.writing.eq(length <= short_bits),
                                write_byte.eq(load.byte),
                                write_length.eq(length),
                                place.eq(code[-short_bits - 1 : 16]),
                                last_place.eq(code[-short_bits - 1 : 16] | (unit[-short_bits:] - 1)),
                                index.eq(index + 1),
                                code.eq(code + unit),
                                left.eq(left - 1),
                            ]
                            with m.If((left == 1) & (length != 16)):
                                m.next = "Length"
            with m.State("Count"):
                m.d.comb += counting.eq(1)
                m.d.sync += [
                    code.eq(limit),
                    index.eq(index + count),
                    self.codes.eq(self.codes + count),
                    length.eq(length + 1),
                    self.bad.eq(self.bad | (limit[16:] != 0)),
                ]
                m.next = "Ready"
                with m.If(length == 16):
                    # Back to the first code, for the values.
                    m.d.sync += [length.eq(0), unit.eq(0), left.eq(0), code.eq(0), index.eq(0)]
                    m.next = "First"
            with m.State("First"):
                m.d.sync += [unit.eq(0x8000), length.eq(1), left.eq(counts[0]), counts.eq(Value.cast(counts) >> 8)]
                m.next = "Length"
                with m.If(counts[0] != 0):
                    m.next = "Ready"
            with m.State("Length"):
                m.d.sync += [unit.eq(unit >> 1), length.eq(length + 1), left.eq(counts[0])]
                m.d.sync += counts.eq(Value.cast(counts) >> 8)
                with m.If((counts[0] != 0) | (length == 15)):
                    m.next = "Ready"

        # Lookup.
        first, has_short = Signal(short_bits), [Signal(name=f"has_short{n}") for n in range(2)]
        m.d.sync += first.eq(self.next_first)
        for n, number in enumerate((self.next_td, self.next_ta)):
            (_, entry_read), (_, end_read) = short[n], ends[n]
            found, end = Signal(Entry, name=f"found{n}", reset_less=True), Signal(short_bits, name=f"end{n}")
            m.d.comb += [entry_read.addr.eq(Cat(self.next_first, number)), end_read.addr.eq(number)]
            m.d.sync += [found.eq(entry_read.data), end.eq(end_read.data)]
            m.d.comb += [self.short[n].eq(found), has_short[n].eq(first < end)]
        m.d.comb += self.short_valid.eq(Mux(self.table[2], has_short[1], has_short[0]))

        bits, at = Signal(16), Signal(3)
        below = Signal(len(lengths))
        m.d.sync += [bits.eq(self.bits), at.eq(self.table)]
        for n, (_, read) in enumerate(limits):
            m.d.comb += read.addr.eq(self.table)
            m.d.sync += below[n].eq(self.bits < read.data)
        found_length, found_index = Signal(4), Signal(8)
        m.d.comb += [found_length.eq(15)]
        for _, read in offsets:
            m.d.comb += read.addr.eq(at)
        for n, length_ in reversed(list(enumerate(lengths))):
            with m.If(below[n]):
                m.d.comb += found_length.eq(length_ - 1)
                m.d.comb += found_index.eq((bits >> (16 - length_)) + offsets[n][1].data)
        kept_length, kept_found, kept_ac = Signal(4), Signal(), Signal()
        m.d.comb += [value_read.addr.eq(Cat(found_index, at)), value_read.en.eq(1)]
        m.d.sync += [kept_length.eq(found_length), kept_found.eq(below.any()), kept_ac.eq(at[2])]

        run, size = value_read.data[4:8], value_read.data[0:4]
        bad_ac = (size > AC_CATEGORY_MAX) | ((size == 0) & (run != 0) & (run != 15))
        bad_dc = (size > DC_CATEGORY_MAX) | (run != 0)
        bad = Mux(kept_ac, bad_ac, bad_dc) | ~kept_found
        m.d.sync += _describe(self.long, kept_found, run, size, kept_length + 1, kept_ac, bad)
        return m


def _describe(entry, valid, run, size, length, is_ac, bad):
    """Assignments of an entry's fields."""
    return [
        entry.valid.eq(valid),
        entry.bad.eq(bad),
        entry.eob.eq(is_ac & (run == 0) & (size == 0)),
        entry.total.eq(length + Mux(bad, 0, size)),
        entry.length.eq(length - 1),
        entry.run.eq(run),
        entry.size.eq(size),
    ]
