"""The compose engine with an ideal memory: layers in, a picture out, nonsense refused."""

from collections import Counter

import cocotb
import numpy as np
from amaranth.hdl import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.golden.frames import ChromaFormat
from tessera.golden.ops import Layer, compose
from tessera.hw.compute.compose import Compose, ComposeConfig, ComposeParameter, ComposeTask
from tessera.hw.engine import EngineSignature, SlotHeader, SlotKind, Status
from tessera.hw.memory.layout import SurfaceLayout
from tessera.hw.memory.port import Op
from tessera.hw.models.memory import IdealMemory, Knobs
from tessera.hw.models.storage import Backdoor
from tessera.tb.bench import Dut, pack
from tessera.tb.compute import canvas
from tessera.tb.compute.pieces import bands_of, wanted
from tessera.tb.compute.scale import picture
from tessera.tb.engine import EngineBench, Slot

WINDOW_LINES = 1 << 15
_Asked = data.StructLayout({"op": Op, "window": 6, "offset": 26})
_SEEN = {"took": Out(1), "asked": Out(_Asked)}


class Harness(wiring.Component):
    """An engine with an ideal memory, and every access that the memory took to be seen."""

    def __init__(self, engine, **memory):
        self.engine, self.memory = engine, IdealMemory(**memory)
        members = dict(EngineSignature().members)
        del members["memory"]
        super().__init__({**members, "knobs": In(Knobs), "backdoor": In(Backdoor()), **_SEEN})

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine = engine = self.engine
        m.submodules.memory = ideal = self.memory
        wiring.connect(m, engine.memory, ideal.port)
        wiring.connect(m, wiring.flipped(self.task), engine.task)
        wiring.connect(m, engine.done, wiring.flipped(self.done))
        wiring.connect(m, wiring.flipped(self.backdoor), ideal.backdoor)
        request = engine.memory.request
        m.d.comb += [
            ideal.knobs.eq(self.knobs),
            engine.abort.eq(self.abort),
            self.took.eq(request.valid & request.ready),
            self.asked.op.eq(request.payload.op),
            self.asked.window.eq(request.payload.window),
            self.asked.offset.eq(request.payload.offset),
        ]
        return m


DUTS = {
    "small": Dut(
        lambda: Harness(Compose(ComposeConfig(max_width=64, layers=4)), window_lines=WINDOW_LINES),
        stalls=True,
        tests=r"compose\.(?!cycles|wide)",
        watched=True,
    ),
    "full": Dut(
        lambda: Harness(Compose(ComposeConfig()), window_lines=WINDOW_LINES),
        tests="anywhere|overlapping|full|wide|cycles|sizes",
    ),
}

COLOUR, GRAY = ChromaFormat.C420, ChromaFormat.Gray
TARGET = Slot(7, lines=WINDOW_LINES - 512)
BACKGROUND = (16, 90, 240)


def slot_of(number):
    """Where layer `number` lies: in windows 0 to 3, at four places of each."""
    at = (number >> 2) * (WINDOW_LINES // 4)
    return Slot(number & 3, lines=WINDOW_LINES // 4 - 512, head=at, body=at + 512)


def params(extra=0, **fields):
    """The number that a task carries."""
    return pack(ComposeTask, fields) | extra << ComposeTask.as_shape().size


def layer_task(slot, x, y, alpha=255, *, tag=3, extra=0):
    fields = params(extra, layer=1, x=x, y=y, alpha=alpha)
    return {"tag": tag, "source": slot.fields(), "params": fields}


def compose_task(width, height, background=BACKGROUND, *, tag=7, target=TARGET, timestamp=0, extra=0):
    fields = params(extra, width=width, height=height, background=list(background))
    return {"tag": tag, "target": target.fields(), "timestamp": timestamp, "params": fields}


class ComposeBench(EngineBench):
    """Layers in, pictures out."""

    watching = None

    async def reset(self, cycles=4, **memory):
        await super().reset(cycles, **memory)
        self.accesses = []
        if self.watching is None:
            self.watching = cocotb.start_soon(self.watch())

    async def watch(self):
        """Keep every access that the memory takes."""
        clk, took, asked = self.dut.clk, self.port("took"), self.port("asked")
        while True:
            await ReadOnly()
            if took.value:
                access = _Asked.from_bits(asked.value.to_unsigned())
                self.accesses.append((access.op, access.window, access.offset))
                await RisingEdge(clk)
            else:
                await RisingEdge(took)

    async def list(self, layers, slots=None):
        """Do the layer tasks of `layers`, whose surfaces are there."""
        for n, layer in enumerate(layers):
            slot = slots[n] if slots else slot_of(n)
            before = len(self.accesses)
            done = await self.run(layer_task(slot, layer.x, layer.y, layer.alpha, tag=100 + n), timeout=20)
            assert (Status(done.status), done.where, done.tag, done.last) == (Status.Ok, 0, 100 + n, 1), f"layer {n}"
            assert (done.cycles, done.stalled, done.bytes, done.width, done.height) == (1, 0, 0, 0, 0), f"layer {n}"
            assert len(self.accesses) == before, f"layer {n}: memory was touched"

    async def put(self, layers):
        """Write the layers' surfaces."""
        for n, layer in enumerate(layers):
            await self.write_surface(slot_of(n), layer.frame, timestamp=99)

    async def draw(self, layers, width, height, background=BACKGROUND, *, missing=(), put=True, tag=7, target=TARGET):
        """Compose `layers`, those whose numbers are `missing` left out; compare all that is left. The done message."""
        if put:
            await self.put(layers)
        for n, header in dict(missing).items():
            bits = header if isinstance(header, int) else pack(SlotHeader, header)
            await self.write_lines(slot_of(n).window, slot_of(n).head, bits.to_bytes(64, "little"))
        await self.list(layers)
        layout = SurfaceLayout(COLOUR, width, height)
        guard = min(128, target.lines - layout.lines)
        await self.write_lines(target.window, target.body, b"\x5a" * 64 * (layout.lines + guard))
        self.accesses.clear()
        task = compose_task(width, height, background, tag=tag, target=target, timestamp=tag * 12345)
        done = await self.run(task, timeout=2_000_000)
        drawn = [layer for n, layer in enumerate(layers) if n not in dict(missing)]
        what = f"{width}x{height} of {', '.join(map(in_words, drawn))}"
        left_out = sum(1 << n for n in dict(missing))
        header = await self.read_header(target)
        for found in (done, header):
            assert (Status(found.status), found.where) == (Status.Ok, left_out), f"{what}: {Status(found.status)}"
            assert (found.chroma_format.value, found.width, found.height) == (COLOUR, width, height), what
            assert found.tag == tag, what
        assert done.last and done.bytes == 0 and header.kind == SlotKind.Surface, what
        assert header.timestamp == tag * 12345, what
        expected = compose(drawn, width, height, background)
        difference = expected.first_difference(await self.read_surface(target, layout))
        assert difference is None, f"{what}: {difference}"
        self.compare_accesses(what, layers, width, height, dict(missing), target)
        body = await self.read_lines(target.window, target.body, layout.lines + guard)
        written = {offset - target.body for op, _, offset in self.accesses if op == Op.Write}
        untouched = [n for n in range(layout.lines + guard) if n not in written]
        assert (body[untouched] == 0x5A).all(), f"{what}: written beside the tiles"
        return done

    def compare_accesses(self, what, layers, width, height, missing, target):
        """Each header and each tile that is needed was read, in order; each tile of the target was written once."""
        reads = [(slot_of(n).window, slot_of(n).head) for n in range(len(layers))]
        for piece in pieces_of(layers, width, height, missing):
            if not piece.flat:
                frame, slot = layers[piece.number].frame, slot_of(piece.number)
                line = SurfaceLayout(frame.format, frame.width, frame.height).line(piece.plane, *piece.tile)
                reads.append((slot.window, slot.body + int(line)))
        layout = SurfaceLayout(COLOUR, width, height)
        bands = bands_of(width, height)
        tiles = [target.body + int(layout.line(plane, x, row)) for plane, row, across in bands for x in range(across)]
        found = [(window, offset) for op, window, offset in self.accesses if op == Op.Read]
        assert found == reads, f"{what}: other lines were read"
        written = [(window, offset) for op, window, offset in self.accesses if op == Op.Write]
        more = Counter(written) - Counter((target.window, line) for line in [*tiles, target.head])
        assert not more, f"{what}: written that is no tile, or again: {more}"
        assert written == [(target.window, line) for line in [*tiles, target.head]], f"{what}: tiles are missing"


def in_words(layer):
    """A layer, for a message."""
    frame = layer.frame
    return f"{frame.format} {frame.width}x{frame.height} at {layer.x}, {layer.y} alpha {layer.alpha}"


def pieces_of(layers, width, height, missing=()):
    """What is drawn of `layers`."""
    shapes = [(la.frame.format, la.frame.width, la.frame.height, la.x, la.y, la.alpha) for la in layers]
    return wanted([None if n in missing else shape for n, shape in enumerate(shapes)], width, height)


def bound(layers, width, height, latency):
    """Cycles that the docstring allows."""
    target = sum(max(8 * across, len(layers)) for *_, across in bands_of(width, height))
    return 8 * len(pieces_of(layers, width, height)) + target + 6 * latency + 100


def quick_bound(layers, width, height, latency):
    """And if tiles always come in time."""
    places = bands_of(width, height)
    bands = {place[:2]: [({"draws": 0}, None)] for place in places}
    for piece in pieces_of(layers, width, height):
        bands[piece.plane, piece.band].append(({"draws": 1, "top": piece.rows[0], "bottom": piece.rows[1]}, None))
    drawing = canvas.bound(places, list(bands.values()))
    return max(drawing, len(layers) * len(places)) + 4 * latency + 3 * len(layers) + 60


def layers_of(rng, count, width, height, largest=40):
    """Random layers about a canvas, some of them fully outside."""
    layers = []
    for _ in range(count):
        w, h = (int(n) for n in rng.integers(1, largest + 1, 2))
        x, y = int(rng.integers(-w - 2, width + 3)), int(rng.integers(-h - 2, height + 3))
        format = COLOUR if rng.random() < 0.7 else GRAY
        alpha = int(rng.choice([255, 255, 128, 0, 1, rng.integers(0, 256)]))
        layers.append(Layer(picture(rng, format, w, h), x, y, alpha))
    return layers


def background_of(rng):
    return tuple(int(n) for n in rng.integers(0, 256, 3))


@cocotb.test()
@cocotb.parametrize(memory=[(4, 0), (20, 0), (60, 4), (10, 12), (150, 1)])
async def anywhere(dut, memory):
    """Random sizes, places and alphas, from the quickest memory to one that holds back three quarters of the time."""
    bench = ComposeBench(dut, DUTS)
    await bench.reset(latency=memory[0], stall=memory[1])
    rng = np.random.default_rng(memory)
    most = bench.component.engine.config.layers
    for n in range(8):
        width, height = (int(s) for s in rng.integers(1, 65, 2))
        layers = layers_of(rng, n * most // 7, width, height)
        done = await bench.draw(layers, width, height, background_of(rng), tag=n)
        if not memory[1] and not bench.stalled:
            allowed = bound(layers, width, height, memory[0])
            assert done.cycles <= allowed, f"{done.cycles} cycles, {allowed} allowed"


@cocotb.test()
async def overlapping(dut):
    """Layers of a few samples, all on one another: each is blended over what the one before has left."""
    bench = ComposeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(1)
    most = bench.component.engine.config.layers
    for size in (1, 2, 3, 8, 9):
        frames = [picture(rng, COLOUR, *(int(n) for n in rng.integers(1, size + 1, 2))) for _ in range(most)]
        layers = [Layer(frame, *(int(n) for n in rng.integers(5, 8, 2)), 100) for frame in frames]
        await bench.draw(layers, 17, 17)
        await bench.draw(layers, 8, 8)


@cocotb.test()
async def every_shift(dut):
    """Each place within a tile, on the canvas and across its edges."""
    bench = ComposeBench(dut, DUTS)
    await bench.reset(latency=8)
    rng = np.random.default_rng(2)
    layers = [Layer(picture(rng, format, 19, 18), 0, 0, 200) for format in (COLOUR, GRAY, COLOUR)]
    await bench.put(layers)
    for n in range(16):
        places = ((n, 15 - n), (-n, n - 20), (30 - n, 15 + n))
        moved = [layer._replace(x=x, y=y) for layer, (x, y) in zip(layers, places)]
        await bench.draw(moved, 33, 31, put=False)


@cocotb.test()
async def nothing_to_draw(dut):
    """No layer, layers outside or fully transparent: the background alone. The smallest canvas, and a tall one."""
    bench = ComposeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(3)
    for width, height in ((1, 1), (2, 2), (64, 8), (5, 300), (33, 17)):
        await bench.draw([], width, height, background_of(rng))
        frame = picture(rng, COLOUR, 20, 10)
        outside = [(-20, 0, 255), (width, 0, 255), (0, -10, 255), (0, 0, 0)]
        done = await bench.draw([Layer(frame, *place) for place in outside], width, height)
        if not bench.stalled:
            assert done.cycles <= bound([Layer(frame, *place) for place in outside], width, height, 20)


@cocotb.test()
async def far_away(dut):
    """Places at their limits."""
    bench = ComposeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(4)
    low, high = -(1 << 16), (1 << 16) - 1
    for places in (((low, 0), (0, low), (low, low)), ((high, 0), (0, high), (high, high), (3, 2))):
        await bench.draw([Layer(picture(rng, COLOUR, 40, 40), *place, 255) for place in places], 33, 20)


@cocotb.test()
async def full_slots(dut):
    """A target that holds the picture to the line, in a window that does."""
    bench = ComposeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(5)
    for width, height in ((64, 64), (9, 2048), (33, 129)):
        lines = SurfaceLayout(COLOUR, width, height).lines
        bench.set_memory(latency=4, window=TARGET.window, limit=TARGET.body + lines)
        await bench.draw(layers_of(rng, 3, width, height), width, height, target=Slot(7, lines=lines))


@cocotb.test()
async def left_out(dut):
    """Layers that failed, or are no surface, are not drawn and reported; the others are."""
    bench = ComposeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(6)
    headers = [
        {"kind": SlotKind.Surface, "status": Status.Poison, "chroma_format": 1, "width": 20, "height": 20},
        {"kind": SlotKind.Surface, "status": Status.SourceFailed, "where": 3, "chroma_format": 3, "width": 9},
        {"kind": SlotKind.Bitstream, "bytes": 100, "chroma_format": 1, "width": 20, "height": 20},
        {"kind": SlotKind.Empty, "chroma_format": 1, "width": 20, "height": 20},
        {"kind": SlotKind.Surface, "chroma_format": 1, "width": 0, "height": 20},
        {"kind": SlotKind.Surface, "chroma_format": 1, "width": 20, "height": 0},
    ]
    # Each bit of kind and status.
    good = pack(SlotHeader, {"kind": SlotKind.Surface, "chroma_format": 1, "width": 20, "height": 20})
    headers += [good ^ 1 << n for n in range(12)]
    for n, header in enumerate(headers):
        layers = [la._replace(alpha=255 - 9 * k) for k, la in enumerate(layers_of(rng, 4, 40, 30))]
        await bench.draw(layers, 40, 30, missing={n % 4: header})
        other = headers[(n + 3) % len(headers)]
        await bench.draw(layers, 40, 30, missing={(n + 1) % 4: header, (n + 3) % 4: other})
    await bench.draw(layers, 40, 30, missing=dict(enumerate(headers[:4])))
    await bench.draw(layers, 40, 30)


@cocotb.test()
async def nonsense(dut):
    """Each way in which a task makes no sense; the next one is as good, and as quick, as ever."""
    bench = ComposeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(7)
    layers = layers_of(rng, 3, 40, 30)
    widest = bench.component.engine.config.max_width
    cycles = (await bench.draw(layers, 40, 30)).cycles
    lines = SurfaceLayout(COLOUR, 40, 30).lines
    bad, refused, parameter = Status.BadTask, Status.Refused, ComposeParameter
    wrong = {"chroma_format": 2, "width": 20, "height": 20}
    cases = [
        ({}, compose_task(0, 30), bad, parameter.Width),
        ({}, compose_task(widest + 1, 30), bad, parameter.Width),
        ({}, compose_task(65535, 30), bad, parameter.Width),
        ({}, compose_task(40, 0), bad, parameter.Height),
        ({}, compose_task(0, 0), bad, parameter.Width),
        ({}, compose_task(0, 0, extra=1), bad, parameter.Extra),
        *(({}, compose_task(40, 30, extra=1 << n), bad, parameter.Extra) for n in (0, 13, 28)),
        ({0: wrong}, compose_task(40, 30), bad, parameter.Format),
        ({2: {**wrong, "chroma_format": 3}}, compose_task(40, 30), bad, parameter.Format),
        ({1: wrong, 2: {**wrong, "kind": SlotKind.Empty}}, compose_task(40, 30), bad, parameter.Format),
        ({}, compose_task(40, 30, target=Slot(7, lines=lines - 1)), Status.TargetTooSmall, lines),
        ({}, compose_task(40, 30, target=Slot(7, lines=0)), Status.TargetTooSmall, lines),
        ({0: wrong}, compose_task(40, 30, target=Slot(7, lines=511)), Status.TargetTooSmall, lines),
        # Beyond the window: the memory refuses.
        ({}, compose_task(40, 30, target=Slot(7, body=1 << 20)), refused, 9),
        ({}, compose_task(40, 30, target=Slot(9)), refused, None),
    ]
    for headers, task, status, where in cases:
        await bench.put(layers)
        for n, header in headers.items():
            await bench.write_header(slot_of(n), **{"kind": SlotKind.Surface, **header})
        await bench.list(layers)
        await bench.write_lines(TARGET.window, TARGET.body, b"\x5a" * 64 * lines)
        done = await bench.run(task)
        where = done.where if where is None else where if isinstance(where, int) else where.value
        name = f"{headers} {task}"
        assert (Status(done.status), done.where) == (status, where), f"{name}: {Status(done.status)} {done.where}"
        assert (done.width, done.height, done.tag) == (0, 0, 7), name
        if status is not refused:
            header = await bench.read_header(TARGET)
            assert (Status(header.status), header.where) == (status, where), name
            body = await bench.read_lines(TARGET.window, TARGET.body, lines)
            assert (body == 0x5A).all(), f"{name}: the target was written to"
        # The list is empty again.
        good = await bench.draw(layers, 40, 30)
        assert good.cycles == cycles or bench.stalled, f"after {name}: {good.cycles} cycles, {cycles} at first"


@cocotb.test()
async def nonsense_among_the_layers(dut):
    """A layer that is one too many, or has bits that mean nothing, is not in the list; the others are drawn."""
    bench = ComposeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(8)
    most = bench.component.engine.config.layers
    layers = layers_of(rng, most, 40, 30)
    await bench.put(layers)
    above = 128 - ComposeTask.as_shape().size
    for n in (*range(above), None):
        if n is not None:
            done = await bench.run(layer_task(slot_of(n % most), 1, 1, extra=1 << n), timeout=20)
            expected = Status.BadTask, ComposeParameter.Extra.value
            assert (Status(done.status), done.where, done.tag, done.last) == (*expected, 3, 1), f"bit {n} above"
    await bench.draw(layers, 40, 30, put=False)
    await bench.list(layers)
    for n in range(2 * most + 1):
        done = await bench.run(layer_task(slot_of(n % most), n, n), timeout=20)
        found = Status(done.status), done.where
        assert found == (Status.BadTask, ComposeParameter.Layers.value), f"layer {most + n}: {found}"
    # What was listed before is drawn; the bench's `draw` would list it again.
    done = await bench.run(compose_task(40, 30))
    assert Status(done.status) == Status.Ok
    difference = compose(layers, 40, 30, BACKGROUND).first_difference(
        await bench.read_surface(TARGET, SurfaceLayout(COLOUR, 40, 30))
    )
    assert difference is None, difference
    await bench.draw(layers[:1], 40, 30)


@cocotb.test()
async def sizes_of_each_bit(dut):
    """Sizes of each bit, and just beyond the widest. There is no room, so that none of the tasks is begun."""
    bench = ComposeBench(dut, DUTS)
    await bench.reset()
    widest = bench.component.engine.config.max_width
    sizes = [(w, 16) for n in range(16) for w in (1 << n, (1 << n) + 1, 0xFFFF ^ 1 << n)] + [(widest - 1, 9)]
    sizes += [(16, h) for n in range(16) for h in (1 << n, (1 << n) + 1, 0xFFFF ^ 1 << n)]
    for width, height in sizes:
        done = await bench.run(compose_task(width, height, target=Slot(7, lines=0)))
        found = Status(done.status), done.where
        expected = Status.TargetTooSmall, SurfaceLayout(COLOUR, width, height).lines
        if width > widest:
            expected = Status.BadTask, ComposeParameter.Width.value
        assert found == expected, f"{width}x{height}: {expected} expected, {found} found"
    random = np.random.default_rng(9)
    for _ in range(40):
        size = int(random.integers(1, widest + 1)), int(2 ** random.uniform(0, 16))
        lines = SurfaceLayout(COLOUR, *size).lines
        done = await bench.run(compose_task(*size, target=Slot(7, lines=lines - 1)))
        found = Status(done.status), done.where
        assert found == (Status.TargetTooSmall, lines), f"{size}: {lines} lines expected, {found} found"


@cocotb.test()
async def refused(dut):
    """Headers and tiles that the memory refuses; nothing else is said, and the next task is as ever."""
    bench = ComposeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(10)
    layers = [Layer(picture(rng, COLOUR, 40, 30), 0, 0, 99) for _ in range(3)]
    cycles = (await bench.draw(layers, 40, 30)).cycles
    for n, slot, where in (
        (1, Slot(9), 2),
        (2, Slot(2, head=1 << 20), 2),
        (0, Slot(0, body=1 << 20), 0),
        (2, Slot(2, body=WINDOW_LINES - 512), 0),
    ):
        slots = [slot if k == n else slot_of(k) for k in range(3)]
        await bench.list(layers, slots)
        done = await bench.run(compose_task(40, 30))
        found = Status(done.status), done.where
        assert found == (Status.Refused, where), f"layer {n} in {slot}: {found}"
        header = await bench.read_header(TARGET)
        assert (Status(header.status), header.where) == found, f"layer {n} in {slot}"
        good = await bench.draw(layers, 40, 30)
        assert good.cycles == cycles or bench.stalled, f"after {slot}: {good.cycles} cycles, {cycles} at first"


@cocotb.test()
async def aborted(dut):
    """Aborted anywhere in the task: it ends with an empty list, and the next one is as on a cold chip."""
    bench = ComposeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(11)
    big, small = layers_of(rng, 4, 64, 60, largest=64), layers_of(rng, 2, 33, 20)
    cycles = (await bench.draw(small, 33, 20)).cycles
    whole = bound(big, 64, 60, 20) // 2
    for wait in (3, 9, 27, 35, 60, 90, 150, 300, 500, whole * 2 // 3):
        await bench.put(big)
        await bench.list(big)
        await bench.send("task", [compose_task(64, 60)])
        await bench.cycles(wait)
        dut.abort.value = 1
        (done,) = await bench.within(2000, bench.receive("done", 1), f"abort after {wait} cycles")
        # Too late for what is over at once.
        await bench.put(small)
        await bench.list(small[:1])
        dut.abort.value = 0
        assert Status(done.status) == Status.Aborted, f"after {wait} cycles: {Status(done.status)}"
        assert (await bench.run(compose_task(1, 1))).where == 0
        good = await bench.draw(small, 33, 20)
        assert good.cycles == cycles or bench.stalled, f"abort after {wait}: {good.cycles} cycles, {cycles} at first"


@cocotb.test()
async def dirty_restart(dut):
    """Reset anywhere in a task: the list is empty, and the next one is as on a cold chip."""
    bench = ComposeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(12)
    layers = layers_of(rng, 4, 50, 40)
    cycles = (await bench.draw(layers, 50, 40)).cycles
    for wait in (1, 20, 77, 200, 444):
        await bench.list(layers)
        await bench.send("task", [compose_task(50, 40)])
        await bench.cycles(wait)
        await bench.reset()
        good = await bench.draw(layers, 50, 40)
        assert good.cycles == cycles or bench.stalled, f"reset after {wait}: {good.cycles} cycles, {cycles} at first"


@cocotb.test()
async def done_may_wait(dut):
    """The done messages of both kinds hold still until they are taken; only then the next task is."""
    bench = ComposeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(13)
    layers = layers_of(rng, 2, 20, 20)
    await bench.put(layers)
    tasks = [layer_task(slot_of(n), la.x, la.y, la.alpha, tag=n) for n, la in enumerate(layers)]
    tasks = [*tasks, compose_task(20, 20, tag=2)] * 3
    sending = cocotb.start_soon(bench.send("task", tasks, 0.3))
    found = await bench.within(100_000, bench.receive("done", len(tasks), 0.9), "the tasks")
    assert [done.tag for done in found] == [0, 1, 2] * 3 and all(Status(d.status) == Status.Ok for d in found)
    assert sending.done()
    difference = compose(layers, 20, 20, BACKGROUND).first_difference(
        await bench.read_surface(TARGET, SurfaceLayout(COLOUR, 20, 20))
    )
    assert difference is None, difference


def wall(rng, across, down, width, height, format=COLOUR, shift=(0, 0), alpha=255):
    """Layers side by side that cover a canvas."""
    w, h = width // across, height // down
    return [
        Layer(picture(rng, format, w, h), x * w + shift[0], y * h + shift[1], alpha)
        for y in range(down)
        for x in range(across)
    ]


@cocotb.test()
async def wide(dut):
    """The widest canvas, more than a block of tiles across and down, and layers larger than the canvas."""
    bench = ComposeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(14)
    await bench.draw(wall(rng, 4, 2, 2048, 20, shift=(5, -3)), 2048, 20)
    await bench.draw([Layer(picture(rng, COLOUR, 400, 200), -37, -15, 255)], 270, 150)
    await bench.draw(layers_of(rng, 16, 300, 140, largest=150), 300, 140)


@cocotb.test()
@cocotb.parametrize(latency=[20, 150])
async def cycles(dut, latency):
    """Cycles from task to done, at most what the docstring says; and again the same."""
    bench = ComposeBench(dut, DUTS)
    await bench.reset(latency=latency)
    rng = np.random.default_rng(15)
    tiny = [Layer(picture(rng, COLOUR, 8, 8), 8 * (n % 3), 0, 99) for n in range(16)]
    cases = {
        "wall of 4": (wall(rng, 2, 2, 352, 288), 352, 288),
        "wall of 4, shifted": (wall(rng, 2, 2, 176, 144, shift=(3, 5)), 176, 144),
        "wall of 16": (wall(rng, 4, 4, 192, 128), 192, 128),
        "wall of 16, gray and shifted": (wall(rng, 4, 4, 160, 120, format=GRAY, shift=(-1, 1), alpha=128), 160, 120),
        "one row of each tile": (wall(rng, 2, 2, 256, 64, shift=(0, 7)), 256, 64),
        "on one another": ([Layer(picture(rng, COLOUR, 64, 48), n, 2 * n, 50) for n in range(16)], 80, 80),
        "nothing": ([], 176, 144),
        "all outside": ([layer._replace(x=-100) for layer in tiny], 100, 120),
        "narrow": ([Layer(picture(rng, COLOUR, 8, 200), 0, 0, 255)], 8, 200),
        "narrow, 16 layers": ([Layer(picture(rng, COLOUR, 8, 16), 0, 16 * n, 255) for n in range(16)], 8, 400),
        "tiny": (tiny, 24, 8),
        "tiny, shifted": ([layer._replace(x=layer.x - 3, y=5) for layer in tiny], 24, 16),
        "single rows": ([Layer(picture(rng, COLOUR, 8, 1), 3, 7 + 8 * n, 99) for n in range(16)], 16, 160),
        "1x1": (tiny[:1], 1, 1),
        "wide and low": (wall(rng, 8, 1, 2048, 8), 2048, 8),
    }
    for name, (layers, width, height) in cases.items():
        done = await bench.draw(layers, width, height)
        tiles, allowed = len(pieces_of(layers, width, height)), bound(layers, width, height, latency)
        if latency == 20:
            allowed = min(allowed, quick_bound(layers, width, height, latency))
        dut._log.info(f"{name}, latency {latency}: {done.cycles} cycles for {tiles} tiles, {allowed} allowed")
        assert done.cycles <= allowed, f"{name}, latency {latency}: {done.cycles} cycles, {allowed} allowed"
        if tiles < 500:
            again = await bench.draw(layers, width, height, put=False)
            assert again.cycles == done.cycles, f"{name}: {again.cycles} cycles, {done.cycles} at first"


@cocotb.test()
async def constructors(dut):
    cases = [({"max_width": n}, "max_width") for n in (0, 8, 24, 32768)]
    for fields, name in [*cases, *(({"layers": n}, "layers") for n in (0, 1, 3, 32))]:
        try:
            ComposeConfig(**fields)
        except ValueError as error:
            assert f"{name} is {fields[name]}" in str(error)
        else:
            raise AssertionError(f"{fields} was accepted")
    try:
        Compose(watchdog=100)
    except ValueError as error:
        assert "watchdog is 100" in str(error)
    else:
        raise AssertionError("a watchdog of 100 cycles was accepted")
