"""Headers: what the functions say of a request is what cocotbext-pcie's own TLPs say."""

from __future__ import annotations

from random import Random

import cocotb
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import Timer
from cocotbext.pcie.core.tlp import Tlp, TlpType
from cocotbext.pcie.core.utils import PcieId

from tessera.hw.host.tlp import (
    PcieConfig,
    RequestHeader,
    memory_write_header,
    request_address,
    request_bytes,
    request_first_byte,
)
from tessera.tb.bench import Bench, Dut, pack


class Headers(wiring.Component):
    """Takes a header apart, and puts one together."""

    def __init__(self):
        super().__init__(
            {
                "header": In(RequestHeader),
                "address": Out(64),
                "bytes": Out(13),
                "first_byte": Out(2),
                "config": In(PcieConfig),
                "to_address": In(64),
                "length": In(10),
                "first_be": In(4),
                "last_be": In(4),
                "tag": In(8),
                "write": Out(128),
                "read": Out(128),
            }
        )

    def elaborate(self, platform):
        m = Module()
        parts = (self.config, self.to_address, self.length, self.first_be, self.last_be)
        m.d.comb += [
            self.address.eq(request_address(self.header)),
            self.bytes.eq(request_bytes(self.header)),
            self.first_byte.eq(request_first_byte(self.header)),
            self.write.eq(memory_write_header(*parts)),
            self.read.eq(memory_write_header(*parts, write=0, tag=self.tag)),
        ]
        return m


DUTS = {"headers": Dut(Headers)}


def bits_of(tlp):
    header = tlp.pack_header().ljust(16, b"\0")
    return sum(int.from_bytes(header[4 * n : 4 * n + 4], "big") << 32 * n for n in range(4))


@cocotb.test()
async def requests_are_read_as_they_were_made(dut):
    Bench(dut, DUTS)
    draw = Random(cocotb.RANDOM_SEED)
    sizes = [(offset, count) for offset in range(4) for count in range(1, 12)] + [(0, 4096), (3, 4093), (1, 4000)]
    sizes += [(offset, (4 << n) + more) for n in range(1, 10) for offset, more in ((0, 0), (0, 4), (1, 0), (2, -3))]
    for offset, count in sizes:
        for wide in (False, True):
            tlp = Tlp()
            tlp.fmt_type = TlpType.MEM_READ_64 if wide else TlpType.MEM_READ
            page = draw.getrandbits(52 if wide else 20) << 12
            # A request stays within its page.
            page += 4 * draw.randrange((4096 - offset - count) // 4 + 1)
            tlp.set_addr_be(page + offset, count)
            tlp.tag, tlp.requester_id = draw.getrandbits(8), PcieId.from_int(draw.getrandbits(16))
            dut.header.value = bits_of(tlp)
            await Timer(1, unit="ns")
            assert int(dut.address.value) == page, f"{tlp!r}"
            assert int(dut.bytes.value) == count, f"{tlp!r}"
            assert int(dut.first_byte.value) == offset, f"{tlp!r}"
    tlp.set_addr_be(page, 0)
    dut.header.value = bits_of(tlp)
    await Timer(1, unit="ns")
    assert int(dut.bytes.value) == 1, "a read of nothing counts as one byte"


@cocotb.test()
async def headers_are_those_of_the_standard(dut):
    Bench(dut, DUTS)
    draw = Random(cocotb.RANDOM_SEED)
    for n in range(200):
        number = draw.getrandbits(16)
        dut.config.value = pack(PcieConfig, {"id": number})
        for write in (False, True):
            wide = n % 2
            tlp = Tlp()
            kinds = (TlpType.MEM_READ, TlpType.MEM_READ_64, TlpType.MEM_WRITE, TlpType.MEM_WRITE_64)
            tlp.fmt_type = kinds[2 * write + wide]
            tlp.address = (draw.getrandbits(64) | 1 << 32 if wide else draw.getrandbits(32)) & ~3
            tlp.length, tlp.first_be, tlp.last_be = draw.randrange(1, 1024), draw.getrandbits(4), draw.getrandbits(4)
            tlp.requester_id, tlp.tag = PcieId.from_int(number), 0 if write else draw.getrandbits(8)
            dut.to_address.value, dut.length.value = tlp.address, tlp.length
            dut.first_be.value, dut.last_be.value, dut.tag.value = tlp.first_be, tlp.last_be, tlp.tag
            await Timer(1, unit="ns")
            found = int((dut.write if write else dut.read).value)
            assert found == bits_of(tlp), f"{found:#034x} instead of {bits_of(tlp):#034x}: {tlp!r}"
