"""Storage of simulated memories: one Verilog array, filled and dumped by file."""

from pathlib import Path

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["STORAGE_VERILOG", "Backdoor", "SharedStorage", "Storage", "StoragePort"]

STORAGE_VERILOG = Path(__file__).with_name("storage.v")


class Backdoor(wiring.Signature):
    """How a testbench fills and reads a storage, by file.

    A rising edge of ``load`` reads ``count`` words from ``NAME.load`` to word ``start`` and on; one of ``dump`` writes
    them to ``NAME.dump``. Both end within the cycle.
    """

    def __init__(self):
        super().__init__({"load": Out(1), "dump": Out(1), "start": Out(32), "count": Out(32)})


class StoragePort(wiring.Signature):
    """One read and one write port of a storage of ``depth`` words of ``width`` bits."""

    def __init__(self, *, width=512, depth):
        address = (depth - 1).bit_length()
        super().__init__(
            {
                "read": Out(1),
                "read_address": Out(address),
                "read_data": In(width),
                "write": Out(1),
                "write_address": Out(address),
                "write_data": Out(width),
            }
        )


class SharedStorage(wiring.Component):
    """``depth`` words of ``width`` bits with several ports.

    A read takes one cycle; of a word that is written in the same cycle it gives the old value. Of writes of one word
    in one cycle the last port's counts.

    Parameters
    ----------
    name, width, depth, seed
        As of :class:`Storage`.
    ports : int

    Members
    -------
    port0 .. : :py:`In(StoragePort(...))`
    backdoor : :py:`In(Backdoor())`
    """

    def __init__(self, name, *, ports, width=512, depth, seed=1):
        if width % 32 or width <= 0:
            raise ValueError(f"width is {width}; a multiple of 32 expected")
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth is {depth}; a power of two from 2 expected")
        self.name, self.ports, self.width, self.depth, self.seed = name, ports, width, depth, seed
        port = StoragePort(width=width, depth=depth)
        super().__init__({**{f"port{n}": In(port) for n in range(ports)}, "backdoor": In(Backdoor())})

    def elaborate(self, platform):
        m = Module()
        ports = [getattr(self, f"port{n}") for n in range(self.ports)]
        inputs = {name: Cat(getattr(port, name) for port in ports)
                  for name in ("read", "read_address", "write", "write_address", "write_data")}
        m.submodules.array = Instance(
            "tessera_storage",
            p_NAME=self.name,
            p_WIDTH=self.width,
            p_DEPTH=self.depth,
            p_ADDRESS=(self.depth - 1).bit_length(),
            p_PORTS=self.ports,
            p_SEED=self.seed,
            i_clk=ClockSignal(),
            **{f"i_{name}": value for name, value in inputs.items()},
            o_read_data=Cat(port.read_data for port in ports),
            i_load=self.backdoor.load,
            i_dump=self.backdoor.dump,
            i_start=self.backdoor.start,
            i_count=self.backdoor.count,
        )
        return m


class Storage(wiring.Component):
    """A :class:`SharedStorage` with one port, whose members are its own.

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
        self.shared = SharedStorage(name, ports=1, width=width, depth=depth, seed=seed)
        super().__init__({**StoragePort(width=width, depth=depth).flip().members, "backdoor": In(Backdoor())})

    def elaborate(self, platform):
        m = Module()
        m.submodules.shared = shared = self.shared
        port = shared.port0
        m.d.comb += [
            *(getattr(port, name).eq(getattr(self, name)) for name in ("read", "read_address")),
            *(getattr(port, name).eq(getattr(self, name)) for name in ("write", "write_address", "write_data")),
            self.read_data.eq(port.read_data),
        ]
        wiring.connect(m, wiring.flipped(self.backdoor), shared.backdoor)
        return m
