"""Storage of simulated memories: one Verilog array, filled and dumped by file."""

from pathlib import Path

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["STORAGE_VERILOG", "Backdoor", "Storage"]

STORAGE_VERILOG = Path(__file__).with_name("storage.v")


class Backdoor(wiring.Signature):
    """How a testbench fills and reads a storage, by file.

    A rising edge of ``load`` reads ``count`` words from ``NAME.load`` to word ``start`` and on; one of ``dump`` writes
    them to ``NAME.dump``. Both end within the cycle.
    """

    def __init__(self):
        super().__init__({"load": Out(1), "dump": Out(1), "start": Out(32), "count": Out(32)})


class Storage(wiring.Component):
    """``depth`` words of ``width`` bits with one read and one write port.

    A read takes one cycle; of a word that is written in the same cycle it gives the old value.

    Parameters
    ----------
    name : str
        Stem of the files that the backdoor reads and writes.
    width : int
        Bits of a word, a multiple of 32.
    depth : int
        Words; a power of two.
    seed : int
        Of the garbage that it starts with; 0 starts with zeros.
    """

    def __init__(self, name, *, width=512, depth, seed=1):
        if width % 32 or width <= 0:
            raise ValueError(f"width is {width}; a multiple of 32 expected")
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth is {depth}; a power of two from 2 expected")
        self.name, self.width, self.depth, self.seed = name, width, depth, seed
        address = (depth - 1).bit_length()
        super().__init__(
            {
                "read": In(1),
                "read_address": In(address),
                "read_data": Out(width),
                "write": In(1),
                "write_address": In(address),
                "write_data": In(width),
                "backdoor": In(Backdoor()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.array = Instance(
            "tessera_storage",
            p_NAME=self.name,
            p_WIDTH=self.width,
            p_DEPTH=self.depth,
            p_ADDRESS=(self.depth - 1).bit_length(),
            p_SEED=self.seed,
            i_clk=ClockSignal(),
            i_read=self.read,
            i_read_address=self.read_address,
            o_read_data=self.read_data,
            i_write=self.write,
            i_write_address=self.write_address,
            i_write_data=self.write_data,
            i_load=self.backdoor.load,
            i_dump=self.backdoor.dump,
            i_start=self.backdoor.start,
            i_count=self.backdoor.count,
        )
        return m
