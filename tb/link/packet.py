"""Testbench of hw/link/packet.py."""

import cocotb
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import Timer

from tessera.hw.link.packet import FILL, Block, Form, Head, StatusHead, decode_form, form_code
from tessera.tb.bench import Bench, Dut, pack, unpack
from tessera.tb.link.model import FILL_WORD, form_of


class Decoder(wiring.Component):
    """A decoder of forms."""

    code: In(10)
    form: Out(Form)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.form.eq(decode_form(m, self.code))
        return m


DUTS = {"form": Dut(Decoder)}


@cocotb.test()
async def every_code_decodes_to_the_nearest_form(dut):
    bench = Bench(dut, DUTS)
    forms = {form_of(lines, body): (lines, body) for lines in range(16) for body in range(2)}
    assert {form_code(*form) for form in forms.values()} == set(forms)
    assert min((a ^ b).bit_count() for a in forms for b in forms if a != b) == 4
    for code in range(1024):
        dut.code.value = code
        await Timer(1, unit="ns")
        form = unpack(Form, bench.get("form"))
        near = [forms[other] for other in forms if (code ^ other).bit_count() <= 1]
        assert form.fill == (near == [(15, 1)]), f"{code:010b}"
        assert form.bad == (not near or (near[0][0] > 8 and not form.fill)), f"{code:010b}"
        if not form.fill and not form.bad:
            assert near == [(form.lines, form.body)], f"{code:010b}"


@cocotb.test()
async def shapes_are_as_on_the_wire(dut):
    places = {"form": 0, "kind": 10, "frame": 13, "cell": 21, "counted": 29, "count": 32, "source": 40, "target": 44}
    places |= {"tag": 48, "first": 56, "status": 60, "epoch": 62}
    for name, place in places.items():
        assert pack(Head, {name: 1}) == 1 << place, name
    assert pack(Head, {"epoch": 3}) == 3 << 62
    places = {"form": 0, "kind": 10, "frame": 13, "last_frame": 21, "counted": 29, "count": 32, "lost": 40}
    for name, place in places.items():
        assert pack(StatusHead, {name: 1}) == 1 << place, name
    assert pack(StatusHead, {"counts": [1, 2, 3, 4, 0x85]}) == 0x8504_0302_01 << 56
    assert pack(Block, {"start": 1, "words": [0, 0, 0, 0, 0, 0, 0, 1 << 31]}) == 1 | 1 << 256
    assert FILL == FILL_WORD
