"""Testbench of hw/link/crc.py."""

import cocotb

from tessera.hw.link.crc import PacketCrc
from tessera.hw.link.packet import Head, Part
from tessera.tb.bench import Bench, Dut, pack
from tessera.tb.link.model import Packet, crc32c

DUTS = {"crc": Dut(PacketCrc, watched=True)}


def with_noise(random, part):
    """`part`, with anything in what has no meaning."""
    fields = {
        "head": Head.from_bits(random.getrandbits(64)),
        "body": random.getrandbits(32),
        "line": random.getrandbits(512),
    }
    inner = fields | {"has_body": random.getrandbits(1)} | part["part"]
    if not inner["first"] or not inner["has_body"]:
        inner["body"] = fields["body"]
    return {"part": inner, "crc": part["crc"] if inner["last"] else random.getrandbits(32)}


async def check(bench, packets, stall_in, stall_out):
    """Send `packets` with 0, the right CRC and others beside them; the cycles that it took."""
    random = bench.random
    parts, expected = [], []
    for packet in packets:
        crc = random.choice([0, packet.crc, random.getrandbits(32)])
        parts += [with_noise(random, part) for part in packet.parts(crc)]
        expected += [None] * (max(len(packet.lines), 1) - 1) + [packet.crc ^ crc]
    began = bench.now()
    cocotb.start_soon(bench.send("i", parts, stall_in))
    got = await bench.within(100 + 20 * len(parts), bench.receive("o", len(parts), stall_out))
    cycles = bench.now() - began
    for n, (one, part, crc) in enumerate(zip(got, parts, expected)):
        assert one.part.as_bits() == pack(Part, part["part"]), f"part {n}"
        assert crc is None or one.crc == crc, f"part {n}: {crc:08x} expected, {one.crc:08x} found"
    return cycles - len(parts)


@cocotb.test()
async def the_model_is_the_standards(dut):
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.5], stall_out=[0.0, 0.5])
async def equals_the_model(dut, stall_in, stall_out):
    bench = Bench(dut, DUTS)
    await bench.reset()
    forms = [(lines, body) for lines in range(9) for body in (False, True)] * 4
    bench.random.shuffle(forms)
    packets = [Packet.random(bench.random, *form) for form in forms]
    cycles = await check(bench, packets, stall_in, stall_out)
    assert stall_in or stall_out or cycles == 2


@cocotb.test()
async def a_packet_that_was_broken_off_leaves_nothing(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    for lines in range(1, 4):
        broken, whole = (Packet.random(bench.random, n, n % 2 > 0) for n in (lines + 1, lines))
        parts = broken.parts()[:-1] + whole.parts()
        cocotb.start_soon(bench.send("i", parts))
        got = await bench.within(100, bench.receive("o", len(parts)))
        assert got[-1].crc == whole.crc


@cocotb.test()
async def two_parts_wait(dut):
    """They are taken one cycle after the other, though nobody takes them."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    parts = Packet.random(bench.random, 2, False).parts()
    began = bench.now()
    ended = await bench.within(10, bench.send("i", parts))
    assert ended - began == 2
