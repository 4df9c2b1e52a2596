"""Planning: slots in the chip's memory, bytes and rings in the host's, and tasks with what they wait for.

Every task waits only for tasks before it, and an engine does its own in their order: so whatever the engines' speeds,
the first task that is not over can always go on, and no plan comes to a halt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from amaranth.hdl import Const

from tessera.golden.frames import ChromaFormat, Frame
from tessera.golden.transcoder import Composition, Placement, frames_shown
from tessera.hw.engine import EngineKind, Format, SlotHeader, SlotKind, Status
from tessera.hw.memory.layout import SurfaceLayout
from tessera.hw.memory.port import LINE_BYTES
from tessera.sim.memory import PlanError
from tessera.sim.plan import Plan
from tessera.sim.tasks import Builder, Held, Site, Turns, Whose, params_of

__all__ = ["Chain", "Leg", "Wall", "bitstream_lines", "plan_chains", "plan_encode"]

_JPEG_HEADER_BYTES = 2048


@dataclass(frozen=True)
class Leg:
    """What shall be made of surfaces: each scaled, encoded and sent to the host.

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

    `slots` and `surfaces` are the numbers of slots for its files and its surfaces, `rate` is its frames per second.
    """

    files: tuple[bytes, ...]
    surface_lines: int
    legs: tuple[Leg, ...] = ()
    slots: int = 4
    surfaces: int = 4
    rate: Fraction = Fraction(25)

    @property
    def keeps(self) -> bool:
        """There is a slot for each surface, so that all are there at the end."""
        return self.surfaces >= len(self.files)


@dataclass(frozen=True)
class Wall:
    """A composition of chains' surfaces, and what is made of those that it makes.

    `layer_slots` is the number of slots for each layer's scaled surfaces, `surfaces` that for what is composed.
    """

    composition: Composition
    legs: tuple[Leg, ...] = ()
    layer_slots: int = 4
    surfaces: int = 4

    @property
    def keeps(self) -> bool:
        """There is a slot for each surface, so that all are there at the end."""
        return self.surfaces >= self.composition.frames


def bitstream_lines(chroma_format: ChromaFormat, width: int, height: int, quality: int) -> int:
    """Room for a JPEG file that no picture fills but noise made for it, in lines."""
    blocks = 0
    for plane in range(chroma_format.planes):
        across, down = chroma_format.plane_size(plane, width, height)
        blocks += (-(-across // 8) + 1) * (-(-down // 8) + 1)
    each = 192 if quality > 90 else 128 if quality > 50 else 64
    return -(-(blocks * each + _JPEG_HEADER_BYTES) // LINE_BYTES)


def _limit(chains: Sequence[Chain], walls: Sequence[Wall]) -> int:
    """Cycles that no run comes near: as if nothing overlapped, one bit made a symbol and a sample took two cycles."""

    def legs(made_of: Sequence[Leg], surface: int) -> int:
        return sum(40_000 + 2 * surface + 8 * leg.width * leg.height for leg in made_of)

    total = 200_000
    for chain in chains:
        surface = chain.surface_lines * LINE_BYTES
        total += sum(20_000 + 8 * len(data) + 2 * surface + legs(chain.legs, surface) for data in chain.files)
    for wall in walls:
        canvas, layers = wall.composition, wall.composition.layers
        samples = canvas.width * canvas.height + sum(place.width * place.height for place in layers)
        surfaces = sum(chains[place.stream].surface_lines * LINE_BYTES for place in layers)
        total += canvas.frames * (20_000 + 8 * samples + 2 * surfaces + legs(wall.legs, canvas.width * canvas.height))
    return total


class _LegFeed:
    """One leg on its way into a plan, made of one of `frames` surfaces after the other."""

    def __init__(self, leg: Leg, output: int, frames: int, site: Site) -> None:
        self.leg, self.output, self.site = leg, output, site
        self.scaled: Turns | None = None
        if leg.scales:
            lines = SurfaceLayout(ChromaFormat.C420, leg.width, leg.height).lines
            self.scaled = site.surfaces("scaled", min(leg.scaled_slots, frames), lines)
            self.scales = site.builder.counter()
        lines = bitstream_lines(leg.format, leg.width, leg.height, leg.quality)
        self.coded = site.bitstreams("bitstream-out", min(leg.bitstream_slots, frames), lines)
        self.encodes, self.egresses = site.builder.counter(), site.builder.counter()

    @property
    def tasks(self) -> int:
        """Of a frame."""
        return 3 if self.leg.scales else 2

    def add(self, stream: int, frame: int, surface: Held) -> None:
        """Plan what is made of a surface."""
        leg, whose, builder = self.leg, Whose(stream, frame, self.output), self.site.builder
        image = surface
        if self.scaled is not None:
            image = _scale(builder, whose, self.scales, surface, self.scaled, leg)
        params = params_of(EngineKind.JpegEncode, quality=leg.quality, restart_interval=leg.restart_interval)
        coded, _ = builder.add(
            EngineKind.JpegEncode, whose, self.encodes, reads=image, fills=self.coded, params=params
        )
        assert coded is not None
        self.site.egress(whose, self.egresses, coded)


def _scale(
    builder: Builder, whose: Whose, signal: int, surface: Held, fills: Turns, size: Leg | Placement
) -> Held:
    params = params_of(EngineKind.Compute, width=size.width, height=size.height)
    scaled, _ = builder.add(EngineKind.Compute, whose, signal, reads=surface, fills=fills, params=params)
    assert scaled is not None
    return scaled


class _LayerFeed:
    """One layer of a wall on its way into a plan: the frames that it shows are scaled, the others are not."""

    def __init__(self, name: tuple[int, int], wall: Wall, place: Placement, chain: Chain, site: Site) -> None:
        self.name, self.place = name, place
        canvas = wall.composition
        self.shown = frames_shown(chain.rate, len(chain.files), canvas.rate, canvas.frames)
        self.wanted = set(self.shown)
        lines = SurfaceLayout(ChromaFormat.C420, place.width, place.height).lines
        self.scaled = site.surfaces("layer", min(wall.layer_slots, len(self.wanted)), lines)
        self.scales = site.builder.counter()
        self.surfaces: dict[int, Held] = {}

    def add(self, builder: Builder, frame: int, surface: Held) -> None:
        """Plan that a frame of the stream is scaled, if it is shown."""
        if frame in self.wanted:
            whose = Whose(self.place.stream, frame, layer=self.name)
            self.surfaces[frame] = _scale(builder, whose, self.scales, surface, self.scaled, self.place)

    def of(self, frame: int) -> Held:
        """The surface that a frame of the composition shows."""
        surface = self.surfaces[self.shown[frame]]
        assert self.scaled.holds(surface)
        return surface


class _WallFeed:
    """One wall on its way into a plan."""

    def __init__(self, index: int, number: int, wall: Wall, chains: Sequence[Chain], outputs: int, site: Site) -> None:
        self.number, self.wall, self.site = number, wall, site
        canvas = wall.composition
        if not wall.legs and not wall.keeps:
            raise PlanError(f"composition {index}: {canvas.frames} surfaces to keep in {wall.surfaces} slots")
        self.layers = [
            _LayerFeed((index, n), wall, place, chains[place.stream], site) for n, place in enumerate(canvas.layers)
        ]
        lines = SurfaceLayout(ChromaFormat.C420, canvas.width, canvas.height).lines
        self.composed = site.surfaces("composed", min(wall.surfaces, canvas.frames), lines)
        self.composes = site.builder.counter()
        self.legs = [_LegFeed(leg, outputs + n, canvas.frames, site) for n, leg in enumerate(wall.legs)]
        each = len(self.layers) + 1 + sum(leg.tasks for leg in self.legs)
        self.tasks = canvas.frames * each + sum(len(layer.wanted) for layer in self.layers)

    def add(self, frame: int) -> None:
        """Plan frame `frame`: its layers, the lowest one first, with nothing of another frame between them."""
        builder, canvas = self.site.builder, self.wall.composition
        surfaces = [layer.of(frame) for layer in self.layers]
        for layer, surface in zip(self.layers, surfaces):
            params = params_of(EngineKind.Compose, layer=1, x=layer.place.x, y=layer.place.y, alpha=layer.place.alpha)
            whose = Whose(self.number, frame, layer=layer.name)
            builder.add(EngineKind.Compose, whose, 0, reads=surface, reader=False, params=params)
        params = params_of(
            EngineKind.Compose, width=canvas.width, height=canvas.height, background=list(canvas.background)
        )
        composed, end = builder.add(
            EngineKind.Compose,
            Whose(self.number, frame),
            self.composes,
            fills=self.composed,
            timestamp=frame,
            params=params,
        )
        assert composed is not None
        # Only now they are read.
        for surface in surfaces:
            surface.readers[EngineKind.Compose] = end
        for leg in self.legs:
            leg.add(self.number, frame, composed)


class _Feed:
    """One chain on its way into a plan."""

    def __init__(self, number: int, chain: Chain, read: bool, outputs: int, site: Site) -> None:
        if not chain.legs and not read and not chain.keeps:
            raise PlanError(f"stream {number}: {len(chain.files)} surfaces to keep in {chain.surfaces} slots")
        self.number, self.chain, self.site = number, chain, site
        frames = len(chain.files)
        largest = max(len(data) for data in chain.files)
        self.inputs = site.bitstreams("bitstream-in", min(chain.slots, frames), largest // LINE_BYTES + 1)
        self.decoded = site.surfaces("decoded", min(chain.surfaces, frames), chain.surface_lines)
        self.ingests, self.decodes = site.builder.counter(), site.builder.counter()
        self.legs = [_LegFeed(leg, outputs + n, frames, site) for n, leg in enumerate(chain.legs)]
        self.tasks = frames * (2 + sum(leg.tasks for leg in self.legs))

    def add(self, n: int, address: int, layers: Sequence[_LayerFeed]) -> None:
        """Plan frame `n`, whose file is at `address`, and which `layers` may show."""
        builder, whose = self.site.builder, Whose(self.number, n)
        file, _ = builder.add(
            EngineKind.Ingest,
            whose,
            self.ingests,
            fills=self.inputs,
            timestamp=n,
            params=params_of(EngineKind.Ingest, address=address, bytes=len(self.chain.files[n])),
        )
        surface, _ = builder.add(EngineKind.JpegDecode, whose, self.decodes, reads=file, fills=self.decoded)
        assert surface is not None
        for leg in self.legs:
            leg.add(self.number, n, surface)
        for layer in layers:
            layer.add(builder, n, surface)


def plan_chains(
    chains: Sequence[Chain],
    walls: Sequence[Wall] = (),
    *,
    dram_lines: int,
    host_bytes: int,
    names: Sequence[str] = (),
    limit: int | None = None,
) -> Plan:
    """Plan streams of JPEG files: ingest, decode, and for each leg scale, encode and egress; and compositions of them.

    Frames of all streams and walls are planned in the order of their times. A chain without legs that no wall shows
    leaves its surfaces where they are, and has to have a slot for each, and so has a wall without legs. In the tasks of
    the plan, and in `names`, walls count on behind the chains.

    Raises
    ------
    PlanError
        It does not fit the chip's or the host's memory.
    """
    site = Site(dram_lines, host_bytes)
    outputs = 0
    feeds: list[_Feed] = []
    read = {place.stream for wall in walls for place in wall.composition.layers}
    for n, chain in enumerate(chains):
        feeds.append(_Feed(n, chain, n in read, outputs, site))
        outputs += len(chain.legs)
    composed: list[_WallFeed] = []
    for n, wall in enumerate(walls):
        composed.append(_WallFeed(n, len(chains) + n, wall, chains, outputs, site))
        outputs += len(wall.legs)
    layers: Mapping[int, list[_LayerFeed]] = {
        n: [layer for wall in composed for layer in wall.layers if layer.place.stream == n] for n in range(len(chains))
    }
    addresses = [[site.host.place(data, f"the input of stream {n}") for data in c.files] for n, c in enumerate(chains)]
    rings = site.rings(sum(feed.tasks for feed in (*feeds, *composed)))

    # What is shown at a time comes before the picture that shows it; and that one before what is shown next.
    times = [(n / chain.rate, 0, number, n) for number, chain in enumerate(chains) for n in range(len(chain.files))]
    for number, wall in enumerate(walls):
        times += [(n / wall.composition.rate, 1, number, n) for n in range(wall.composition.frames)]
    for _, kind, number, n in sorted(times):
        if kind:
            composed[number].add(n)
        else:
            feeds[number].add(n, addresses[number][n], layers[number])
    kept = {feed.number: feed.decoded.pool for feed in feeds if feed.chain.keeps}
    kept |= {feed.number: feed.composed.pool for feed in composed if feed.wall.keeps}
    return site.finish(rings, limit=limit or _limit(chains, walls), surfaces=kept, names=tuple(names))


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
    site = Site(dram_lines, host_bytes)
    layouts = [SurfaceLayout(frame.format, frame.width, frame.height) for frame in frames]
    surfaces = site.surfaces("surface", len(frames), max(layout.lines for layout in layouts))
    rooms = [bitstream_lines(frame.format, frame.width, frame.height, quality) for frame in frames]
    coded = site.bitstreams("bitstream-out", min(4, len(frames)), max(rooms))
    encodes, egresses = site.builder.counter(), site.builder.counter()
    rings = site.rings(2 * len(frames))
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
        loads.append((surfaces.pool.head_line(n), Const.cast(header).value.to_bytes(LINE_BYTES, "little")))
        loads.append((surfaces.pool.body_line(n), layout.pack(frame).tobytes()))
        whose = Whose(0, n)
        there, _ = surfaces.next()
        made, _ = site.builder.add(
            EngineKind.JpegEncode,
            whose,
            encodes,
            reads=there,
            fills=coded,
            params=params_of(EngineKind.JpegEncode, quality=quality, restart_interval=restart_interval),
        )
        assert made is not None
        site.egress(whose, egresses, made)
        limit += 40_000 + 16 * layout.lines * LINE_BYTES
    return site.finish(rings, limit=limit, loads=tuple(loads), names=tuple(names))
