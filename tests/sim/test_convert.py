"""What is converted without Amaranth's checks is what Amaranth itself writes, and Amaranth is left as it was."""

import gc

import pytest
from amaranth.back import rtlil, verilog
from amaranth.hdl import Elaboratable, _nir

from tessera.hw.lib.turns import Turns
from tessera.hw.link.pack import Packer
from tessera.sim.convert import to_rtlil, to_verilog


def test_the_text_is_the_same():
    assert to_rtlil(Packer(1), name="top") == rtlil.convert(Packer(1), name="top")
    assert to_verilog(_turns(), name="top") == verilog.convert(_turns(), name="top")


def test_amaranth_is_left_as_it_was():
    before, thresholds = dict(vars(_nir.Value)), gc.get_threshold()
    with pytest.raises(NameError):
        to_rtlil(_Wrong(), name="top", ports=[])
    to_rtlil(_turns(), name="top")
    assert dict(vars(_nir.Value)) == before and gc.get_threshold() == thresholds
    with pytest.raises(AssertionError):
        _nir.Value([0])


def _turns():
    return Turns(6, range(40))


class _Wrong(Elaboratable):
    """Ends while it is converted."""

    def elaborate(self, platform):
        raise NameError("wrong")
