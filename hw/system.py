"""What is simulated: a chip, its DRAM devices, and the host."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.config import SystemConfig
from tessera.hw.gpu import ENGINES, Gpu, TaskEvent
from tessera.hw.models.dram import DramDevices
from tessera.hw.models.host import HostKnobs, HostModel, MmioRequest, MmioResponse
from tessera.hw.models.storage import Backdoor

__all__ = ["System"]


class System(wiring.Component):
    """A chip with its memory and a host. Simulation only.

    Parameters
    ----------
    config : :class:`SystemConfig`

    Members
    -------
    mmio_request, mmio_response
        The host's processor accesses the chip's registers.
    msi_count : :py:`Out(32)`
        Interrupts so far.
    knobs : :py:`In(HostKnobs)`
        How the host behaves.
    host, dram : :py:`In(Backdoor())`
        Files in and out of the host's memory (``host.load``, ``host.dump``) and the chip's (``dram.load``, ..).
    violations : :py:`Out(32)`
        DRAM timing rules that were broken, by the checker's count.
    began, ended : :py:`Out(array of TaskEvent)`
        As of the chip.
    """

    def __init__(self, config=SystemConfig()):
        self.config = config
        events = data.ArrayLayout(TaskEvent, len(ENGINES))
        super().__init__(
            {
                "mmio_request": In(stream.Signature(MmioRequest)),
                "mmio_response": Out(stream.Signature(MmioResponse)),
                "msi_count": Out(32),
                "knobs": In(HostKnobs),
                "host": In(Backdoor()),
                "dram": In(Backdoor()),
                "violations": Out(32),
                "began": Out(events),
                "ended": Out(events),
            }
        )

    def elaborate(self, platform):
        m = Module()
        chip = self.config.chip
        m.submodules.chip = gpu = Gpu(chip)
        m.submodules.devices = devices = DramDevices(chip.ddr, depth=chip.memory_lines)
        m.submodules.host_model = host = HostModel(size=self.config.host_bytes)
        wiring.connect(m, gpu.pcie, host.pcie)
        wiring.connect(m, gpu.dram, devices.bus)
        wiring.connect(m, wiring.flipped(self.mmio_request), host.mmio_request)
        wiring.connect(m, host.mmio_response, wiring.flipped(self.mmio_response))
        wiring.connect(m, wiring.flipped(self.host), host.backdoor)
        wiring.connect(m, wiring.flipped(self.dram), devices.backdoor)
        m.d.comb += [
            host.knobs.eq(self.knobs),
            self.msi_count.eq(host.msi_count),
            self.violations.eq(devices.violations),
            self.began.eq(gpu.began),
            self.ended.eq(gpu.ended),
        ]
        return m
