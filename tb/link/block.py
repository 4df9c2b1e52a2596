"""Testbench of hw/link/block.py."""

import cocotb
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import Timer

from tessera.hw.link.block import PATTERN, Block, Marker, marker_block, read_marker
from tessera.tb.bench import Bench, Dut, pack, unpack
from tessera.tb.link.lane_model import BITS, Fields, marker_bits

NAMES = tuple(Fields.__dataclass_fields__)


class Markers(wiring.Component):
    """Makes a marker of ``fields``, and reads ``block``."""

    fields: In(Marker)
    made: Out(Block)
    block: In(Block)
    right: Out(1)
    read: Out(Marker)

    def elaborate(self, platform):
        m = Module()
        right, read = read_marker(self.block)
        m.d.comb += [self.made.eq(marker_block(self.fields)), self.right.eq(right), self.read.eq(read)]
        return m


DUTS = {"markers": Dut(Markers)}


def some_fields(random):
    return Fields(*(random.randrange(n) for n in (4, 16, 16, 2, 16, 16, 256)))


def packed(fields):
    return pack(Marker, {name: getattr(fields, name) for name in NAMES})


def unpacked(bits):
    value = unpack(Marker, bits)
    return Fields(*(getattr(value, name) for name in NAMES))


async def reading(dut, bits):
    dut.block.value = bits
    await Timer(1, unit="ns")
    return int(dut.right.value), unpacked(dut.read.value.to_unsigned())


@cocotb.test()
async def marker_is_made_and_read(dut):
    bench = Bench(dut, DUTS)
    for _ in range(300):
        fields = some_fields(bench.random)
        dut.fields.value = packed(fields)
        await Timer(1, unit="ns")
        made = dut.made.value.to_unsigned()
        assert made == marker_bits(fields), f"{fields}: {made:x}"
        assert await reading(dut, made) == (1, fields)


@cocotb.test()
async def each_single_error_is_outlived_but_in_the_complement(dut):
    """Word 7 is the check of the other three; `start` means nothing in a marker."""
    bench = Bench(dut, DUTS)
    for _ in range(2):
        fields = some_fields(bench.random)
        for bit in range(BITS):
            right, read = await reading(dut, marker_bits(fields) ^ 1 << bit)
            assert (right, read) == (int(bit < 1 + 7 * 32), fields), f"bit {bit}: {right} {read}"


@cocotb.test()
async def each_bit_of_the_pattern_counts(dut):
    """With another word wrong as well, any one of them makes it no marker."""
    bench = Bench(dut, DUTS)
    random = bench.random
    for bit in range(128):
        other = random.choice([word for word in range(4) if word != bit // 32])
        bits = marker_bits(some_fields(random)) ^ 1 << 1 + bit ^ 1 << 1 + 32 * other + random.randrange(32)
        right, _ = await reading(dut, bits)
        assert not right, f"bit {bit % 32} of word {bit // 32} is wrong, and one of word {other}"


@cocotb.test()
async def majority_and_pattern_have_their_limits(dut):
    bench = Bench(dut, DUTS)
    random = bench.random
    for _ in range(1000):
        fields = some_fields(random)
        bits = marker_bits(fields)
        spoilt = random.sample(range(4), random.randrange(4))
        for word in spoilt:
            bits ^= random.choice([random.randrange(1, 2**32), 1 << random.randrange(32)]) << 1 + 32 * word
        # A bit wrong in one copy is not; in two, it is, which the complement shows, unless it is wrong there as well.
        bit = random.randrange(32)
        copies = random.sample(range(3), random.randrange(4))
        for word in copies:
            bits ^= 1 << 1 + 32 * (4 + word) + bit
        complement = random.randrange(2)
        bits ^= complement << 1 + 32 * 7 + bit
        right, read = await reading(dut, bits)
        assert right == (len(spoilt) <= 1 and (len(copies) >= 2) == complement), f"{spoilt} {copies} {complement}"
        changed = 1 << bit if len(copies) >= 2 else 0
        assert packed(read) == (packed(fields) ^ changed) & 0x7FFFFFF, f"{spoilt} {copies}"


@cocotb.test()
async def noise_and_shifted_markers_are_none(dut):
    bench = Bench(dut, DUTS)
    random = bench.random
    for _ in range(1000):
        assert not (await reading(dut, random.getrandbits(BITS)))[0]
    for shift in range(1, BITS):
        stream = (
            random.getrandbits(BITS) | marker_bits(some_fields(random)) << BITS | random.getrandbits(BITS) << 2 * BITS
        )
        for place in (BITS - shift, BITS + shift):
            assert not (await reading(dut, stream >> place & (1 << BITS) - 1))[0], f"{shift} bits off"


@cocotb.test()
async def pattern_is_sharp(dut):
    """Shifted against itself, it agrees in about as many bits as it does not."""
    signs = [1 - 2 * (PATTERN >> n & 1) for n in range(128)]
    sums = [sum(a * b for a, b in zip(signs, signs[n:])) for n in range(1, 128)]
    assert max(map(abs, sums)) == 9
