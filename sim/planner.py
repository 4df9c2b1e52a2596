"""Planning: slots in the chip's memory, bytes and rings in the host's, and tasks with what they wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Const

from tessera.golden.frames import ChromaFormat, Frame
from tessera.hw.codec.jpeg.encoder import JpegEncodeParams
from tessera.hw.compute.engine import ComputeTask
from tessera.hw.engine import EngineKind, Format, SlotHeader, SlotKind, Status
from tessera.hw.host.descriptor import COUNTERS, RECORD_BYTES, Slot, TaskEntry, descriptor_bytes
from tessera.hw.host.egress import EgressParams
from tessera.hw.host.ingest import IngestParams
from tessera.hw.memory.layout import SurfaceLayout
from tessera.hw.memory.port import LINE_BYTES
from tessera.sim.memory import ChipMemory, HostMemory, PlanError, Pool
from tessera.sim.plan import Plan, PlannedTask

__all__ = ["MAX_TASKS", "Chain", "Leg", "bitstream_lines", "plan_chains", "plan_encode"]

MAX_TASKS = 1 << 16
"""Of one plan: as many as a ring or a task's tag can tell apart."""
_JPEG_HEADER_BYTES = 2048
_RING_ALIGNMENT = 4096


@dataclass(frozen=True)
class Leg:
    """What shall be made of a stream's surfaces: each scaled, encoded and sent to the host.

    Without `scales` it is encoded as it is; `format`, `width` and `height` then only bound its file's size.
    """

    width: int
    height: int
    quality: int
    restart_interval: int = 0
    scales: bool = True
    format: ChromaFormat = ChromaFormat.C420
    scaled_slots: int = 4
    bitstream_slots: int = 4


@dataclass(frozen=True)
class Chain:
    """A stream: JPEG `files` to be decoded to surfaces of at most `surface_lines` lines, and what is made of those.

    `slots` and `surfaces` are the numbers of slots for its files and its surfaces.
    """

    files: tuple[bytes, ...]
    surface_lines: int
    legs: tuple[Leg, ...] = ()
    slots: int = 4
    surfaces: int = 4

    @property
    def keeps(self) -> bool:
        """There is a slot for each surface, so that all are there at the end."""
        return self.surfaces >= len(self.files)


def bitstream_lines(chroma_format: ChromaFormat, width: int, height: int, quality: int) -> int:
    """Room for a JPEG file that no picture fills but noise made for it, in lines."""
    blocks = 0
    for plane in range(chroma_format.planes):
        across, down = chroma_format.plane_size(plane, width, height)
        blocks += (-(-across // 8) + 1) * (-(-down // 8) + 1)
    each = 192 if quality > 90 else 128 if quality > 50 else 64
    return -(-(blocks * each + _JPEG_HEADER_BYTES) // LINE_BYTES)


def _limit(chains: Sequence[Chain]) -> int:
    """Cycles that no run comes near: as if nothing overlapped, one bit made a symbol and a sample took two cycles."""
    total = 200_000
    for chain in chains:
        surface = chain.surface_lines * LINE_BYTES
        for data in chain.files:
            total += 20_000 + 8 * len(data) + 2 * surface
            total += sum(40_000 + 2 * surface + 8 * leg.width * leg.height for leg in chain.legs)
    return total


_PARAMS: dict[EngineKind, Any] = {
    EngineKind.Ingest: IngestParams,
    EngineKind.Compute: ComputeTask,
    EngineKind.JpegEncode: JpegEncodeParams,
    EngineKind.Egress: EgressParams,
}


def _params(kind: EngineKind, **values: int) -> int:
    """The engine's own parameters as the number that a descriptor carries."""
    return Const.cast(_PARAMS[kind].const(values)).value


class _Builder:
    """Tasks in the order of their descriptors, and the counters that they signal."""

    def __init__(self) -> None:
        self.tasks: list[PlannedTask] = []
        self._signalled: dict[int, list[int]] = {}

    def counter(self) -> int:
        number = len(self._signalled) + 1
        if number >= COUNTERS:
            raise PlanError(f"more than {COUNTERS - 1} counters needed: fewer streams or outputs expected")
        self._signalled[number] = []
        return number

    def add(
        self,
        kind: EngineKind,
        whose: tuple[int, int | None, int],
        signal: int,
        *,
        after: tuple[int, int] | None = None,
        frees: tuple[int, int] | None = None,
        **entry: Any,
    ) -> int:
        """A task's tag. It waits for `after`, which fills its source, and `frees`, which used its target before.

        Each is (counter, number of the task among those that signal it); a negative number waits for nothing.
        """
        tag = len(self.tasks)
        waits = [wait for wait in (after, frees) if wait is not None and wait[1] >= 0]
        task = TaskEntry(
            engine=kind,
            tag=tag,
            waits=tuple((counter, n + 1) for counter, n in waits),
            signal=signal,
            number=len(self._signalled[signal]),
            **entry,
        )
        stream, output, frame = whose
        self.tasks.append(PlannedTask(tag, task, stream, output, frame, self._task(after), self._task(frees)))
        self._signalled[signal].append(tag)
        return tag

    def _task(self, wait: tuple[int, int] | None) -> int | None:
        return None if wait is None or wait[1] < 0 else self._signalled[wait[0]][wait[1]]


class _LegFeed:
    """One leg of a chain on its way into a plan."""

    def __init__(self, leg: Leg, output: int, frames: int, memory: ChipMemory, builder: _Builder) -> None:
        self.leg, self.output = leg, output
        self.scaled: Pool | None = None
        if leg.scales:
            lines = SurfaceLayout(ChromaFormat.C420, leg.width, leg.height).lines
            self.scaled = memory.surfaces("scaled", min(leg.scaled_slots, frames), lines)
            self.scales = builder.counter()
        self.lines = bitstream_lines(leg.format, leg.width, leg.height, leg.quality)
        self.coded = memory.bitstreams("bitstream-out", min(leg.bitstream_slots, frames), self.lines)
        self.encodes, self.egresses = builder.counter(), builder.counter()

    @property
    def surface_read(self) -> int:
        """The counter that tells how many of the chain's surfaces this leg has read."""
        return self.scales if self.scaled else self.encodes


class _Feed:
    """One chain on its way into a plan."""

    def __init__(self, number: int, chain: Chain, outputs: int, memory: ChipMemory, builder: _Builder) -> None:
        if not chain.legs and not chain.keeps:
            raise PlanError(f"stream {number}: {len(chain.files)} surfaces to keep in {chain.surfaces} slots")
        self.number, self.chain = number, chain
        frames = len(chain.files)
        largest = max(len(data) for data in chain.files)
        self.inputs = memory.bitstreams("bitstream-in", min(chain.slots, frames), largest // LINE_BYTES + 1)
        self.decoded = memory.surfaces("decoded", min(chain.surfaces, frames), chain.surface_lines)
        self.ingests, self.decodes = builder.counter(), builder.counter()
        self.legs = [_LegFeed(leg, outputs + n, frames, memory, builder) for n, leg in enumerate(chain.legs)]

    def add(
        self, n: int, address: int, host: HostMemory, builder: _Builder, results: dict[int, tuple[int, int]]
    ) -> None:
        """Plan frame `n`, whose file is at `address`."""
        shared = (self.number, None, n)
        source, surface = self.inputs.turn(n), self.decoded.turn(n)
        builder.add(
            EngineKind.Ingest,
            shared,
            self.ingests,
            frees=(self.decodes, n - len(self.inputs.slots)),
            target=source,
            timestamp=n,
            params=_params(EngineKind.Ingest, address=address, bytes=len(self.chain.files[n])),
        )
        # Legs take turns in one order, so a surface's last reader is always the last leg's task.
        last = [(self.legs[-1].surface_read, n - len(self.decoded.slots))] if self.legs else [None]
        builder.add(
            EngineKind.JpegDecode,
            shared,
            self.decodes,
            after=(self.ingests, n),
            frees=last[0],
            source=source,
            target=surface,
        )
        for feed in self.legs:
            leg, whose = feed.leg, (self.number, feed.output, n)
            image, ready = surface, (self.decodes, n)
            if feed.scaled is not None:
                image = feed.scaled.turn(n)
                builder.add(
                    EngineKind.Compute,
                    whose,
                    feed.scales,
                    after=ready,
                    frees=(feed.encodes, n - len(feed.scaled.slots)),
                    source=surface,
                    target=image,
                    params=_params(EngineKind.Compute, width=leg.width, height=leg.height),
                )
                ready = (feed.scales, n)
            coded = feed.coded.turn(n)
            builder.add(
                EngineKind.JpegEncode,
                whose,
                feed.encodes,
                after=ready,
                frees=(feed.egresses, n - len(feed.coded.slots)),
                source=image,
                target=coded,
                params=_params(EngineKind.JpegEncode, quality=leg.quality, restart_interval=leg.restart_interval),
            )
            _egress(builder, host, results, whose, feed.egresses, (feed.encodes, n), coded)


def _egress(
    builder: _Builder,
    host: HostMemory,
    results: dict[int, tuple[int, int]],
    whose: tuple[int, int | None, int],
    signal: int,
    after: tuple[int, int],
    coded: Slot,
) -> None:
    room = coded.lines * LINE_BYTES
    address = host.reserve(room, "the results")
    params = _params(EngineKind.Egress, address=address, capacity=room)
    results[builder.add(EngineKind.Egress, whose, signal, after=after, source=coded, params=params)] = (address, room)


def _rings(host: HostMemory, tasks: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Address and entries of the submission and the completion ring for so many tasks."""
    if tasks > MAX_TASKS:
        raise PlanError(f"{tasks} tasks, {MAX_TASKS} at most expected: fewer frames")
    size = 1 << max(1, (tasks - 1).bit_length())
    submission = host.place(size * RECORD_BYTES, "the submission ring", _RING_ALIGNMENT)
    completion = host.place(size * RECORD_BYTES, "the completion ring", _RING_ALIGNMENT)
    return (submission, size), (completion, size)


def _finish(
    builder: _Builder,
    memory: ChipMemory,
    host: HostMemory,
    rings: tuple[tuple[int, int], tuple[int, int]],
    results: dict[int, tuple[int, int]],
    **more: Any,
) -> Plan:
    """The plan of all tasks, whose descriptors go into the submission ring."""
    (submission, size), (completion, _) = rings
    assert len(builder.tasks) <= size
    host.patch(submission, b"".join(descriptor_bytes(task.entry) for task in builder.tasks))
    return Plan(
        tasks=tuple(builder.tasks),
        pools=tuple(memory.pools),
        image=host.image,
        submission=(submission, size),
        completion=(completion, size),
        results=results,
        **more,
    )


def plan_chains(
    chains: Sequence[Chain], *, dram_lines: int, host_bytes: int, names: Sequence[str] = (), limit: int | None = None
) -> Plan:
    """Plan streams of JPEG files: ingest, decode, and for each leg scale, encode and egress, frame by frame.

    Tasks of all streams take turns. A chain without legs leaves its surfaces where they are, and has to have a slot
    for each.

    Raises
    ------
    PlanError
        It does not fit the chip's or the host's memory.
    """
    memory, host, builder = ChipMemory(dram_lines), HostMemory(host_bytes), _Builder()
    results: dict[int, tuple[int, int]] = {}
    feeds: list[_Feed] = []
    for n, chain in enumerate(chains):
        feeds.append(_Feed(n, chain, sum(len(feed.legs) for feed in feeds), memory, builder))
    addresses = [[host.place(data, f"the input of stream {n}") for data in c.files] for n, c in enumerate(chains)]
    rings = _rings(host, sum(len(chain.files) * (2 + 3 * len(chain.legs)) for chain in chains))
    for frame in range(max(len(chain.files) for chain in chains)):
        for feed in feeds:
            if frame < len(feed.chain.files):
                feed.add(frame, addresses[feed.number][frame], host, builder, results)
    kept = {feed.number: feed.decoded for feed in feeds if feed.chain.keeps}
    return _finish(
        builder, memory, host, rings, results, limit=limit or _limit(chains), surfaces=kept, names=tuple(names)
    )


def plan_encode(
    frames: Sequence[Frame],
    *,
    quality: int,
    restart_interval: int,
    dram_lines: int,
    host_bytes: int,
    names: Sequence[str] = (),
) -> Plan:
    """Plan the encode of frames that lie in the chip's memory before it starts.

    Raises
    ------
    PlanError
        It does not fit the chip's or the host's memory.
    """
    memory, host, builder = ChipMemory(dram_lines), HostMemory(host_bytes), _Builder()
    results: dict[int, tuple[int, int]] = {}
    layouts = [SurfaceLayout(frame.format, frame.width, frame.height) for frame in frames]
    surfaces = memory.surfaces("surface", len(frames), max(layout.lines for layout in layouts))
    rooms = [bitstream_lines(frame.format, frame.width, frame.height, quality) for frame in frames]
    coded = memory.bitstreams("bitstream-out", min(4, len(frames)), max(rooms))
    encodes, egresses = builder.counter(), builder.counter()
    rings = _rings(host, 2 * len(frames))
    loads: list[tuple[int, bytes]] = []
    limit = 200_000
    for n, (frame, layout) in enumerate(zip(frames, layouts)):
        header = SlotHeader.const(
            {
                "kind": SlotKind.Surface,
                "status": Status.Ok,
                "chroma_format": Format(int(frame.format)),
                "width": frame.width,
                "height": frame.height,
                "timestamp": n,
            }
        )
        loads.append((surfaces.head_line(n), Const.cast(header).value.to_bytes(LINE_BYTES, "little")))
        loads.append((surfaces.body_line(n), layout.pack(frame).tobytes()))
        whose, slot = (0, None, n), coded.turn(n)
        builder.add(
            EngineKind.JpegEncode,
            whose,
            encodes,
            frees=(egresses, n - len(coded.slots)),
            source=surfaces.slots[n],
            target=slot,
            params=_params(EngineKind.JpegEncode, quality=quality, restart_interval=restart_interval),
        )
        _egress(builder, host, results, whose, egresses, (encodes, n), slot)
        limit += 40_000 + 16 * layout.lines * LINE_BYTES
    return _finish(builder, memory, host, rings, results, limit=limit, loads=tuple(loads), names=tuple(names))
