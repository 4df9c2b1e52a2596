"""What is simulated: chips in a full mesh of links, their DRAM devices, and the host."""

from itertools import combinations

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.config import SystemConfig
from tessera.hw.gpu import ENGINES, Gpu, TaskEvent
from tessera.hw.lib.repeated import repeated
from tessera.hw.master.allocation import Move
from tessera.hw.models.dram import DramDevices
from tessera.hw.models.host import HostKnobs, MmioRequest, MmioResponse, RootPort
from tessera.hw.models.storage import Backdoor, SharedStorage
from tessera.hw.models.wire import Wire

__all__ = ["System", "links_of", "port_to"]


def links_of(chips):
    """The links of a full mesh, in order: pairs of chips, the lower number first."""
    return [*combinations(range(chips), 2)]


def port_to(chip, other):
    """Which port of `chip` is linked to `other`."""
    return other - (other > chip)


class System(wiring.Component):
    """Chips, each with its memory, and a host to which each has a port of its own. Simulation only.

    All of it runs on one clock. A link's wires bring whole blocks, in step.

    Parameters
    ----------
    config : :class:`SystemConfig`

    Members
    -------
    mmio_request0 .., mmio_response0 ..
        The host's processor accesses each chip's registers.
    msi_count0 .. : :py:`Out(32)`
        Interrupts of each chip so far.
    knobs : :py:`In(HostKnobs)`
        How the host behaves.
    host, dram0 .. : :py:`In(Backdoor())`
        Files in and out of the host's memory (``host.load``, ``host.dump``) and each chip's (``dram0.load``, ..).
    violations : :py:`Out(32)`
        DRAM timing rules that were broken, by the checkers' counts.
    errors : :py:`In(32)`, cut : :py:`In(links)`
        Of all wires, how many bits are wrong (see :class:`Wire`); links, in the order of :func:`links_of`, that bring
        noise. There if there are links.
    began, ended, moved : Out
        As of each chip, an array.
    """

    def __init__(self, config=SystemConfig()):
        self.config = config
        self.chips = range(config.chips)
        self.links = links_of(config.chips)
        events = data.ArrayLayout(data.ArrayLayout(TaskEvent, len(ENGINES)), config.chips)
        members = {"knobs": In(HostKnobs), "host": In(Backdoor()), "violations": Out(32)}
        for n in self.chips:
            members |= {
                f"mmio_request{n}": In(stream.Signature(MmioRequest)),
                f"mmio_response{n}": Out(stream.Signature(MmioResponse)),
                f"msi_count{n}": Out(32),
                f"dram{n}": In(Backdoor()),
            }
        if self.links:
            members |= {"errors": In(32), "cut": In(len(self.links))}
        moves = Out(data.ArrayLayout(Move, config.chips))
        super().__init__({**members, "began": Out(events), "ended": Out(events), "moved": moves})

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lines = config.host_bytes // 64
        m.submodules.memory = memory = SharedStorage("host", ports=config.chips, depth=lines)
        wiring.connect(m, wiring.flipped(self.host), memory.backdoor)
        chips, violations = [], []
        for n in self.chips:
            chip = repeated(m, f"chip{n}", "chip", lambda: Gpu(config.chip, one_clock=True), key=config.chip)
            devices = DramDevices(config.chip.ddr, depth=config.chip.memory_lines, name=f"dram{n}", seed=n + 1)
            root = RootPort(size=config.host_bytes)
            m.submodules[f"devices{n}"], m.submodules[f"root{n}"] = devices, root
            wiring.connect(m, chip.pcie, root.pcie)
            wiring.connect(m, chip.dram, devices.bus)
            wiring.connect(m, root.storage, getattr(memory, f"port{n}"))
            wiring.connect(m, wiring.flipped(getattr(self, f"dram{n}")), devices.backdoor)
            wiring.connect(m, wiring.flipped(getattr(self, f"mmio_request{n}")), root.mmio_request)
            wiring.connect(m, root.mmio_response, wiring.flipped(getattr(self, f"mmio_response{n}")))
            m.d.comb += [
                root.knobs.eq(self.knobs),
                chip.node.eq(n),
                getattr(self, f"msi_count{n}").eq(root.msi_count),
                self.began[n].eq(chip.began),
                self.ended[n].eq(chip.ended),
                self.moved[n].eq(chip.moved),
            ]
            chips.append(chip)
            violations.append(devices.violations)
        m.d.comb += self.violations.eq(sum(violations))
        latencies = (config.wire,) * config.chip.lanes
        for number, pair in enumerate(self.links):
            for way, (a, b) in enumerate((pair, pair[::-1])):
                m.submodules[f"wire{a}_{b}"] = wire = Wire(latencies, seed=2 * number + way + 1)
                m.d.comb += [
                    wire.i.eq(chips[a].lanes_o[port_to(a, b)]),
                    wire.errors.eq(self.errors),
                    wire.cut.eq(self.cut[number].replicate(config.chip.lanes)),
                    chips[b].lanes_i[port_to(b, a)].eq(wire.o),
                ]
        return m
