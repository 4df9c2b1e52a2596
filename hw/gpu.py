"""One chip: host port, dispatch, engines, fabric, memory controller, links."""

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.codec.jpeg.decoder import JpegDecoder
from tessera.hw.codec.jpeg.encoder import JpegEncoder
from tessera.hw.compute.compose import Compose, ComposeConfig
from tessera.hw.compute.engine import Compute
from tessera.hw.compute.scale import ScalerConfig
from tessera.hw.config import ChipConfig
from tessera.hw.engine import EngineKind
from tessera.hw.host.egress import Egress
from tessera.hw.host.ingest import Ingest
from tessera.hw.host.port import HostConfig, HostPort
from tessera.hw.host.registers import ChipParameters, LinkStatus
from tessera.hw.host.tlp import PciePort
from tessera.hw.lib.arbiter import RoundRobin
from tessera.hw.lib.counters import EventCounters
from tessera.hw.lib.repeated import repeated
from tessera.hw.lib.streams import connect
from tessera.hw.link.block import BLOCK_BITS
from tessera.hw.link.link import LinkCounts, LinkParameters
from tessera.hw.link.packet import CLASSES, Kind
from tessera.hw.link.port import LinkPort
from tessera.hw.link.relay import HOPS, Relay
from tessera.hw.link.routes import Routes
from tessera.hw.master.allocation import Move
from tessera.hw.master.dispatch import Dispatch
from tessera.hw.master.frame_sync import FrameSync
from tessera.hw.master.master import Master
from tessera.hw.master.messenger import Messenger
from tessera.hw.memory.ddr import DdrController
from tessera.hw.memory.dram import DramBus
from tessera.hw.memory.fabric import Fabric
from tessera.hw.memory.port import WindowWrite

__all__ = ["ENGINES", "Gpu", "TaskEvent", "counters_of"]

ENGINES = {
    EngineKind.Ingest: lambda config: Ingest(watchdog=config.watchdog),
    EngineKind.JpegDecode: lambda config: JpegDecoder(watchdog=config.watchdog),
    EngineKind.Compute: lambda config: Compute(ScalerConfig(config.max_width), watchdog=config.watchdog),
    EngineKind.JpegEncode: lambda config: JpegEncoder(watchdog=config.watchdog),
    EngineKind.Egress: lambda config: Egress(watchdog=config.watchdog),
    EngineKind.Compose: lambda config: Compose(
        ComposeConfig(config.max_width, config.layers), watchdog=config.watchdog
    ),
}
"""The chip's engines, in the order of their fabric clients: a new codec is a row here."""

_PER_ENGINE = ("busy", "waits_first", "waits_second", "held", "lines", "far")
_PER_MEMORY = ("read", "write", "refresh", "held")
_PER_LINK = tuple(
    (f"{name}.{n}" if isinstance(field.shape, data.ArrayLayout) else name)
    for name, field in LinkCounts.as_shape()
    for n in range(field.shape.length if isinstance(field.shape, data.ArrayLayout) else 1)
)
_EVENTS = (
    "cycles",
    *(f"{kind.name}.{event}" for kind in ENGINES for event in _PER_ENGINE),
    *(f"memory.{event}" for event in _PER_MEMORY),
)


def counters_of(config):
    """The performance counters of a chip: what each counts, and its number for ``COUNTER_SELECT``.

    Those of engines and memory count cycles. ``busy``: the engine works. ``waits_first``, ``waits_second``: its next
    task's first or second wait is not met. ``held``: the fabric holds a request of it back. ``lines``: lines that it
    read or wrote; ``far``: of these, over a link. For the memory: lines read and written, cycles given up to refresh,
    and cycles with work under way.

    Those of link n have the numbers 256 (n + 1) and on, and are fields of :class:`LinkCounts`; they have 32 bits, and
    nothing but a reset clears them.
    """
    links = {
        f"link{n}.{name}": (n + 1 << 8) + k for n in range(config.ports) for k, name in enumerate(_PER_LINK)
    }
    return {name: n for n, name in enumerate(_EVENTS)} | links


class TaskEvent(data.Struct):
    """A pulse with a task's tag."""

    valid: 1
    tag: 16


class Gpu(wiring.Component):
    """A chip. Every chip is the same.

    Parameters
    ----------
    config : :class:`ChipConfig`
    one_clock : bool
        Links receive in ``sync``: for the simulation of a system.

    Members
    -------
    pcie : :py:`Out(PciePort())`
        To the host.
    dram : :py:`Out(DramBus())`
        To the DRAM devices.
    node : :py:`In(4)`
        The chip's number, a strap.
    lanes_o : :py:`Out(array of as many arrays of 257 bits as there are links and lanes)`
        To the serializers of each link, if there are links.
    lanes_i, slip : In, Out
        From the deserializers, lane n of link k in clock domain ``receive<k>_<n>``.
    began, ended : :py:`Out(array of TaskEvent)`
        For waveforms: an engine, in the order of :data:`ENGINES`, took a task or said done.
    moved : :py:`Out(Move)`
        For waveforms: as master, it has moved a task.
    """

    def __init__(self, config=ChipConfig(), *, one_clock=False):
        self.config, self.one_clock = config, one_clock
        bits = data.ArrayLayout(data.ArrayLayout(BLOCK_BITS, config.lanes), config.ports)
        slips = data.ArrayLayout(config.lanes, config.ports)
        links = {"lanes_o": Out(bits), "lanes_i": In(bits), "slip": Out(slips)} if config.ports else {}
        super().__init__(
            {
                "pcie": Out(PciePort()),
                "dram": Out(DramBus()),
                "node": In(4),
                **links,
                "began": Out(data.ArrayLayout(TaskEvent, len(ENGINES))),
                "ended": Out(data.ArrayLayout(TaskEvent, len(ENGINES))),
                "moved": Out(Move),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        chip = ChipParameters(engines=tuple(ENGINES), memory_lines=config.memory_lines, links=config.ports)
        m.submodules.host = host = HostPort(HostConfig(chip=chip))
        # A master may give compose two groups: of layers and what composes them.
        groups = {EngineKind.Compose: max(config.queue, 2 * (config.layers + 1))}
        m.submodules.dispatch = dispatch = Dispatch(ENGINES, depth=config.queue, deeper=groups)
        m.submodules.frame_sync = frame_sync = FrameSync()
        m.submodules.master = master = Master()
        m.submodules.windows = windows = RoundRobin(WindowWrite, 2)
        m.submodules.fabric = fabric = Fabric(len(ENGINES), config.ports)
        m.submodules.ddr = ddr = DdrController(config.ddr)
        m.submodules.counters = counters = EventCounters(len(_EVENTS))

        wiring.connect(m, host.pcie, wiring.flipped(self.pcie))
        wiring.connect(m, ddr.dram, wiring.flipped(self.dram))
        connect(m, host.descriptors, master.entry)
        connect(m, master.task, dispatch.i)
        connect(m, dispatch.record, master.record)
        connect(m, master.records, host.records)
        connect(m, dispatch.signal, frame_sync.signal)
        connect(m, host.window, windows.i0)
        connect(m, master.window, windows.i1)
        connect(m, windows.o, fabric.window)
        connect(m, fabric.refused, host.refused)
        connect(m, fabric.lines.request, ddr.port.request)
        connect(m, ddr.port.response, fabric.lines.response)
        m.d.comb += [
            fabric.node.eq(self.node),
            dispatch.cycle.eq(host.cycle),
            dispatch.node.eq(self.node),
            dispatch.hold.eq(frame_sync.clearing),
            frame_sync.read0.eq(dispatch.read),
            dispatch.count.eq(frame_sync.count0),
            master.node.eq(self.node),
            master.hold.eq(frame_sync.clearing),
            frame_sync.read1.eq(master.read),
            master.count.eq(frame_sync.count1),
            master.clear.eq(host.restart),
            self.moved.eq(master.move),
            frame_sync.session.eq(host.session),
            frame_sync.clear.eq(host.restart),
            counters.clear.eq(host.reset_counters),
            counters.select.eq(host.counter_select),
            host.counter_value.eq(counters.value),
            host.node.eq(self.node),
        ]
        if config.ports:
            self._links(m, host, fabric, frame_sync, master)
        else:
            m.d.comb += [frame_sync.cast.ready.eq(1), master.letter.ready.eq(1)]

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
            events += [activity.busy, activity.waits_first, activity.waits_second, held]
            events += [fabric.served[n], fabric.far[n]]
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

    def _links(self, m, host, fabric, frame_sync, master):
        """The links, what goes on from one to another, what is told to other chips, and the table of routes."""
        config = self.config
        count = config.ports
        m.submodules.routes = routes = Routes(count)
        m.submodules.messenger = messenger = Messenger(count)
        connect(m, host.route, routes.set)
        connect(m, frame_sync.cast, messenger.cast)
        connect(m, messenger.come, frame_sync.come)
        connect(m, master.letter, messenger.letter)
        connect(m, messenger.came, master.came)
        m.d.comb += [
            fabric.routes.eq(routes.first),
            messenger.routes.eq(routes.first),
            messenger.node.eq(self.node),
            messenger.session.eq(host.session),
            messenger.lost.eq(routes.lost),
            frame_sync.again.eq(messenger.again),
        ]
        ports, counts, statuses = [], Array(), Array()
        for n in range(count):
            clocks = {
                f"receive{lane}": "sync" if self.one_clock else f"receive{n}_{lane}" for lane in range(config.lanes)
            }
            p = LinkParameters(lanes=config.lanes, give_up=config.give_up)
            key = p, self.one_clock or n
            port = repeated(m, f"link{n}", "link_port", lambda: LinkPort(p), key=key, domains=clocks)
            connect(m, getattr(fabric, f"port{n}").request, port.request)
            connect(m, port.response, getattr(fabric, f"port{n}").response)
            connect(m, port.memory.request, getattr(fabric, f"other{n}").request)
            connect(m, getattr(fabric, f"other{n}").response, port.memory.response)
            status = Signal(LinkStatus, name=f"status{n}")
            m.d.comb += [
                port.node.eq(self.node),
                port.o.ready.eq(1),
                routes.lost[n].eq(port.lost),
                self.lanes_o[n].eq(port.lanes_o),
                port.lanes_i.eq(self.lanes_i[n]),
                self.slip[n].eq(port.slip),
                status.state.eq(port.state),
                status.lost.eq(port.lost),
                status.peer.eq(port.peer),
            ]
            bits = Value.cast(port.counts)
            counts.append(Array(bits[k : k + 32] for k in range(0, len(bits), 32))[host.counter_select[:8]])
            statuses.append(status.as_value())
            ports.append(port)
        m.d.comb += host.link_status.eq(statuses[host.link_index])
        with m.If(host.counter_select[8:] != 0):
            m.d.comb += host.counter_value.eq(counts[(host.counter_select[8:] - 1)[:3]])

        for n, port in enumerate(ports):
            come, first = getattr(messenger, f"i{n}"), getattr(port, f"i{Kind.SyncFirst.value}")
            told = getattr(messenger, f"o{n}")
            room = getattr(messenger, f"room{n}")
            m.d.comb += [
                come.valid.eq(port.o.valid & port.o.payload.here),
                come.payload.eq(port.o.payload),
                first.valid.eq(told.valid),
                first.payload.eq(told.payload),
                told.ready.eq(first.ready),
                port.room.eq(~C(0, CLASSES)),
                *(port.room[kind.value].eq(room) for kind in (Kind.SyncFirst, Kind.SyncSecond)),
            ]

        # What comes for other chips goes on. What is lost on the way, who asked for it gives up.
        if count == 1:
            return
        m.submodules.relay = relay = Relay(count)
        m.d.comb += [relay.routes.eq(routes.direct), relay.lost.eq(routes.lost)]
        for n, port in enumerate(ports):
            come, room = getattr(relay, f"i{n}"), getattr(relay, f"room{n}")
            m.d.comb += [
                come.valid.eq(port.o.valid & ~port.o.payload.here),
                come.payload.eq(port.o.payload),
                *(port.room[first.value].eq(room[hop]) for hop, (first, _) in enumerate(HOPS[:-1])),
                port.room[Kind.SyncFirst.value].eq(room[-1] & getattr(messenger, f"room{n}")),
            ]
            for _, kind in HOPS:
                # No joint: they are withdrawn when the link is lost.
                source, sink = getattr(relay, f"o{n}_{kind.value}"), getattr(port, f"i{kind.value}")
                m.d.comb += [sink.valid.eq(source.valid), sink.payload.eq(source.payload), source.ready.eq(sink.ready)]
