"""DDR4 devices for simulation: what is behind the controller's bus."""

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.memory.dram import BANKS, SLOTS, Command, DramBus, line_of
from tessera.hw.models.dram_checker import DramChecker, Rule
from tessera.hw.models.storage import Backdoor, Storage

__all__ = ["DramDevices"]


class DramDevices(wiring.Component):
    """One rank of DDR4 devices with their storage, judged by a :class:`DramChecker`.

    A read or write goes to the row that is *open* in its bank. An access that the checker calls bad fails: a read
    brings the complement of the line with ``read_poison``, a write stores the complement. Read data is on the bus
    ``cl`` ticks after its command, write data is taken ``cwl`` ticks after.

    The storage is addressed by :func:`line_of`, so the backdoor sees lines by their addresses. It starts as garbage.

    Parameters
    ----------
    config : DdrConfig
        The timing.
    depth : int
        Lines; a power of two from 2**11. Higher address bits are not looked at.
    name : str
        Stem of the backdoor's files.
    seed : int
        Of the garbage.

    Members
    -------
    bus : :py:`In(DramBus())`
        The controller.
    backdoor : :py:`In(Backdoor())`
        The testbench.
    counts, violations, first_rule, first_tick
        Of the checker.
    """

    def __init__(self, config, *, depth=2**20, name="dram", seed=1):
        if depth < 2**11 or depth & (depth - 1):
            raise ValueError(f"depth is {depth}; a power of two from 2048 expected")
        self.config, self.depth, self.name, self.seed = config, depth, name, seed
        super().__init__(
            {
                "bus": In(DramBus()),
                "backdoor": In(Backdoor()),
                "counts": Out(data.ArrayLayout(16, len(Rule))),
                "violations": Out(32),
                "first_rule": Out(Rule),
                "first_tick": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.storage = storage = Storage(self.name, depth=self.depth, seed=self.seed)
        m.submodules.checker = checker = DramChecker(config)
        wiring.connect(m, wiring.flipped(self.backdoor), storage.backdoor)
        m.d.comb += [
            checker.command.eq(self.bus.command),
            checker.write_valid.eq(self.bus.write_valid),
            self.counts.eq(checker.counts),
            self.violations.eq(checker.violations),
            self.first_rule.eq(checker.first_rule),
            self.first_tick.eq(checker.first_tick),
        ]

        rows = Array(Signal(18, name=f"row{b}") for b in range(BANKS))
        address_bits = len(storage.read_address)
        line, bad, read, write = Signal(address_bits), Signal(), Signal(), Signal()
        for k in range(SLOTS):
            slot = self.bus.command[k]
            with m.Switch(slot.command):
                with m.Case(Command.Activate):
                    m.d.sync += rows[slot.bank].eq(slot.row)
                with m.Case(Command.Read, Command.Write):
                    m.d.comb += [
                        line.eq(line_of(slot.bank, rows[slot.bank], slot.column)),
                        bad.eq(checker.bad[k]),
                        read.eq(slot.command == Command.Read),
                        write.eq(slot.command == Command.Write),
                    ]

        def after(cycles, *values):
            for n in range(cycles):
                later = [Signal(len(value), name=f"after{n}_{k}") for k, value in enumerate(values)]
                m.d.sync += [signal.eq(value) for signal, value in zip(later, values)]
                values = later
            return values

        # The cycle whose burst a command's data is, if it stands in the slot that the bus asks for.
        read_cycles, write_cycles = -(-config.cl // SLOTS), -(-config.cwl // SLOTS)
        fetch, fetch_line, fetch_bad = after(read_cycles - 1, read, line, bad)
        store, store_line, store_bad = after(write_cycles, write, line, bad)
        shown, poison = after(1, fetch, fetch_bad)
        m.d.comb += [
            storage.read.eq(fetch),
            storage.read_address.eq(fetch_line),
            self.bus.read_valid.eq(shown),
            self.bus.read_poison.eq(shown & poison),
            self.bus.read_data.eq(Mux(poison, ~storage.read_data, storage.read_data)),
            storage.write.eq(store),
            storage.write_address.eq(store_line),
            storage.write_data.eq(Mux(store_bad, ~self.bus.write_data, self.bus.write_data)),
        ]
        return m
