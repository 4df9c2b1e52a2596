"""One chip: host port, dispatch, engines, fabric, memory controller."""

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.codec.jpeg.decoder import JpegDecoder
from tessera.hw.codec.jpeg.encoder import JpegEncoder
from tessera.hw.compute.engine import Compute
from tessera.hw.compute.scale import ScalerConfig
from tessera.hw.config import ChipConfig
from tessera.hw.engine import EngineKind
from tessera.hw.host.egress import Egress
from tessera.hw.host.ingest import Ingest
from tessera.hw.host.port import HostConfig, HostPort
from tessera.hw.host.registers import ChipParameters
from tessera.hw.host.tlp import PciePort
from tessera.hw.lib.counters import EventCounters
from tessera.hw.lib.streams import connect
from tessera.hw.master.dispatch import Dispatch
from tessera.hw.memory.ddr import DdrController
from tessera.hw.memory.dram import DramBus
from tessera.hw.memory.fabric import Fabric

__all__ = ["COUNTER_NAMES", "ENGINES", "Gpu", "TaskEvent"]

ENGINES = {
    EngineKind.Ingest: lambda config: Ingest(watchdog=config.watchdog),
    EngineKind.JpegDecode: lambda config: JpegDecoder(watchdog=config.watchdog),
    EngineKind.Compute: lambda config: Compute(ScalerConfig(config.max_width), watchdog=config.watchdog),
    EngineKind.JpegEncode: lambda config: JpegEncoder(watchdog=config.watchdog),
    EngineKind.Egress: lambda config: Egress(watchdog=config.watchdog),
}
"""The chip's engines, in the order of their fabric clients: a new codec is a row here."""

_PER_ENGINE = ("busy", "waits_first", "waits_second", "held", "lines")
_PER_MEMORY = ("read", "write", "refresh", "held")
COUNTER_NAMES = (
    "cycles",
    *(f"{kind.name}.{event}" for kind in ENGINES for event in _PER_ENGINE),
    *(f"memory.{event}" for event in _PER_MEMORY),
)
"""What each performance counter counts, in the order of ``COUNTER_SELECT``, in cycles.

``busy``: the engine works. ``waits_first``, ``waits_second``: its next task's first or second wait is not met.
``held``: the fabric holds a request of it back. ``lines``: lines that it read or wrote. For the memory: lines read and
written, cycles given up to refresh, and cycles with work under way.
"""


class TaskEvent(data.Struct):
    """A pulse with a task's tag."""

    valid: 1
    tag: 16


class Gpu(wiring.Component):
    """A chip. Every chip is the same.

    Parameters
    ----------
    config : :class:`ChipConfig`

    Members
    -------
    pcie : :py:`Out(PciePort())`
        To the host.
    dram : :py:`Out(DramBus())`
        To the DRAM devices.
    node : :py:`In(6)`
        The chip's number, a strap.
    began, ended : :py:`Out(array of TaskEvent)`
        For waveforms: an engine, in the order of :data:`ENGINES`, took a task or said done.
    """

    def __init__(self, config=ChipConfig()):
        self.config = config
        super().__init__(
            {
                "pcie": Out(PciePort()),
                "dram": Out(DramBus()),
                "node": In(6),
                "began": Out(data.ArrayLayout(TaskEvent, len(ENGINES))),
                "ended": Out(data.ArrayLayout(TaskEvent, len(ENGINES))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        chip = ChipParameters(engines=tuple(ENGINES), memory_lines=config.memory_lines, windows=WINDOWS)
        m.submodules.host = host = HostPort(HostConfig(chip=chip))
        m.submodules.dispatch = dispatch = Dispatch(ENGINES, depth=config.queue)
        m.submodules.fabric = fabric = Fabric(len(ENGINES))
        m.submodules.ddr = ddr = DdrController(config.ddr)
        m.submodules.counters = counters = EventCounters(len(COUNTER_NAMES))

        wiring.connect(m, host.pcie, wiring.flipped(self.pcie))
        wiring.connect(m, ddr.dram, wiring.flipped(self.dram))
        connect(m, host.descriptors, dispatch.i)
        connect(m, dispatch.record, host.records)
        connect(m, host.window, fabric.window)
        connect(m, fabric.refused, host.refused)
        connect(m, fabric.lines.request, ddr.port.request)
        connect(m, ddr.port.response, fabric.lines.response)
        m.d.comb += [
            fabric.node.eq(self.node),
            dispatch.cycle.eq(host.cycle),
            dispatch.clear.eq(host.restart),
            counters.clear.eq(host.reset_counters),
            counters.select.eq(host.counter_select),
            host.counter_value.eq(counters.value),
        ]

        events = [C(1)]
        for n, (kind, make) in enumerate(ENGINES.items()):
            m.submodules[kind.name.lower()] = engine = make(config)
            client = getattr(fabric, f"client{n}")
            task, done, activity = (getattr(dispatch, f"{name}{n}") for name in ("task", "done", "activity"))
            connect(m, task, engine.task)
            connect(m, engine.done, done)
            connect(m, engine.memory.request, client.request)
            connect(m, client.response, engine.memory.response)
            m.d.comb += [
                engine.abort.eq(host.abort[kind.value]),
                self.began[n].valid.eq(engine.task.valid & engine.task.ready),
                self.began[n].tag.eq(engine.task.payload.tag),
                self.ended[n].valid.eq(engine.done.valid & engine.done.ready),
                self.ended[n].tag.eq(engine.done.payload.tag),
            ]
            held = engine.memory.request.valid & ~engine.memory.request.ready
            events += [activity.busy, activity.waits_first, activity.waits_second, held, fabric.served[n]]
            if kind is EngineKind.Ingest:
                connect(m, engine.host.request, host.ingest.request)
                connect(m, host.ingest.line, engine.host.line)
            elif kind is EngineKind.Egress:
                connect(m, engine.host.request, host.egress.request)
                connect(m, engine.host.line, host.egress.line)
                m.d.comb += engine.host.done.eq(host.egress.done)
        events += [getattr(ddr.activity, event) for event in _PER_MEMORY]
        m.d.comb += counters.events.eq(Cat(events))
        return m
