"""Plans: slots that do not overlap, waits that keep them apart, descriptors that say so."""

import itertools
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.golden.frames import ChromaFormat
from tessera.golden.transcoder import Composition, Placement
from tessera.hw.compute.compose import ComposeTask
from tessera.hw.engine import EngineKind
from tessera.hw.host.descriptor import RECORD_BYTES
from tessera.sim.memory import PlanError
from tessera.sim.plan import Plan
from tessera.sim.planner import Chain, Leg, Wall, bitstream_lines, plan_chains
from tessera.tb.bench import unpack

FILES = tuple(bytes([n]) * (100 + 70 * n) for n in range(7))


def plan(**changes):
    legs = (Leg(64, 48, 75, scaled_slots=2, bitstream_slots=3), Leg(200, 100, 90))
    chains = [Chain(FILES, 1536, legs, slots=2, surfaces=3), Chain(FILES[:3], 512 * 9, legs[:1])]
    return plan_chains(chains, **{"dram_lines": 1 << 20, "host_bytes": 1 << 24, "names": ("a", "b"), **changes})


def composition(rate, frames, *streams):
    layers = tuple(Placement(stream, 9 * n - 5, 7 * n, 30, 20, 200 + n) for n, stream in enumerate(streams))
    return Composition(64, 48, (16, 90, 240), Fraction(rate), frames, layers)


def walls(**changes):
    """Two walls of three streams; the first one has outputs with and without scaling, a stream has one of its own."""
    leg = Leg(64, 48, 75, scales=False, bitstream_slots=2)
    chains = [
        Chain(FILES, 1536, slots=2, surfaces=2, rate=Fraction(50)),
        Chain(FILES[:3], 512 * 9, (Leg(20, 20, 50),), surfaces=2, rate=Fraction(10)),
        Chain(FILES[:2], 1024, rate=Fraction(30000, 1001)),
    ]
    small = Leg(32, 24, 60, scaled_slots=2)
    made = [
        Wall(composition(25, 6, 0, 1, 0), (leg, small), layer_slots=2, surfaces=2),
        Wall(composition(10, 4, 2, 1), (leg,), layer_slots=1, surfaces=1),
    ]
    return plan_chains(chains, made, **{"dram_lines": 1 << 20, "host_bytes": 1 << 24, **changes})


def play(plan: Plan, choose):
    """Run a plan as the dispatcher would, `choose` picking the engine that goes on; checks every slot's turn."""
    queues = {kind: [t for t in plan.tasks if t.engine is kind] for kind in EngineKind}
    counters = dict.fromkeys(range(64), 0)
    holds = {}
    order, listed = [], []
    while any(queues.values()):
        ready = [
            kind
            for kind, queue in queues.items()
            if queue and all(counters[counter] >= value for counter, value in queue[0].entry.waits)
        ]
        assert ready, f"nothing can go on; next are {[plan.name(q[0].tag) for q in queues.values() if q]}"
        task = queues[choose(ready)].pop(0)
        order.append(task.tag)
        slots = {name: (slot.window, slot.head) for name, slot in (("i", task.entry.source), ("o", task.entry.target))}
        if task.engine is EngineKind.Compose and not task.lists:
            # All layers are read only now.
            assert [layer.layer[1] for layer in listed] == list(range(len(listed)))
            assert all((layer.stream, layer.frame) == (task.stream, task.frame) for layer in listed)
            for layer in listed:
                assert holds[layer.entry.source.window, layer.entry.source.head] == layer.source
            listed = []
        elif task.engine is not EngineKind.Ingest:
            # What is read is what the task before has left there.
            assert holds[slots["i"]] == task.source
            before = plan.tasks[task.source]
            assert task.lists or (before.stream, before.frame) == (task.stream, task.frame)
        if task.lists:
            listed.append(task)
        elif task.engine is not EngineKind.Egress:
            holds[slots["o"]] = task.tag
        counters[task.entry.signal] += 1
    assert sorted(order) == list(range(len(plan.tasks)))


@pytest.mark.parametrize("make", [plan, walls])
@pytest.mark.parametrize("choose", [min, max], ids=["downstream last", "downstream first"])
def test_any_order_of_engines_keeps_slots_apart(choose, make):
    play(make(), lambda ready: choose(ready, key=lambda kind: kind.value))


rates = st.sampled_from([Fraction(25), Fraction(50), Fraction(10), Fraction(30000, 1001), Fraction(1, 3)])
few = st.integers(1, 3)
sources = st.lists(st.tuples(st.integers(1, 7), rates, few, few), min_size=1, max_size=3)
pictures = st.lists(
    st.tuples(rates, st.integers(1, 6), st.lists(st.integers(0, 2), min_size=1, max_size=4), few, few),
    min_size=1,
    max_size=2,
)


@settings(max_examples=40, deadline=None)
@given(sources, pictures, st.integers(0, 3))
def test_any_wall(sources, pictures, seed):
    """Any lengths, rates and numbers of slots, engines of any speed: nothing halts, no slot is filled too early."""
    chains = [
        Chain(FILES[:frames], 512, (Leg(8, 8, 50),) * (n > 0), slots=slots, surfaces=surfaces, rate=rate)
        for n, (frames, rate, slots, surfaces) in enumerate(sources)
    ]
    legs = (Leg(64, 48, 75, scales=False, bitstream_slots=1), Leg(32, 24, 75, scaled_slots=1))
    made = [
        Wall(composition(rate, frames, 0, *(k % len(chains) for k in layers)), legs, layer_slots=slots, surfaces=count)
        for rate, frames, layers, slots, count in pictures
    ]
    result = plan_chains(chains, made, dram_lines=1 << 20, host_bytes=1 << 24)
    ends = []
    for task in result.tasks:
        # Each waits for tasks before it alone, which is why nothing halts.
        for counter, value in task.entry.waits:
            assert sum(signal == counter for signal in ends) >= value
        ends.append(task.entry.signal)
    choose = random.Random(seed)
    play(result, lambda ready: choose.choice(ready))


def test_a_wall_shows_what_is_there_at_its_time():
    made = walls()
    shown = {}
    for task in made.tasks:
        if task.lists:
            scaled = made.tasks[task.source]
            assert scaled.engine is EngineKind.Compute and scaled.layer == task.layer
            shown.setdefault(task.layer, []).append(scaled.frame)
    assert shown == {
        (0, 0): [0, 2, 4, 6, 6, 6],
        (0, 1): [0, 0, 0, 1, 1, 2],
        (0, 2): [0, 2, 4, 6, 6, 6],
        (1, 0): [0, 1, 1, 1],
        (1, 1): [0, 1, 2, 2],
    }
    # What nobody sees is not scaled, but it is decoded.
    ends = [(task.engine, task.stream, task.layer) for task in made.tasks]
    assert ends.count((EngineKind.Compute, 0, (0, 0))) == 4 and ends.count((EngineKind.JpegDecode, 0, None)) == 7


def test_a_wall_says_where_its_layers_lie():
    made = walls()
    first = [task for task in made.tasks if (task.engine, task.stream, task.frame) == (EngineKind.Compose, 3, 1)]
    params = [unpack(ComposeTask, task.entry.params) for task in first]
    assert [(p.layer, p.x, p.y, p.alpha) for p in params[:3]] == [(1, -5, 0, 200), (1, 4, 7, 201), (1, 13, 14, 202)]
    last = params[3]
    assert (last.layer, last.width, last.height, list(last.background)) == (0, 64, 48, [16, 90, 240])
    assert first[3].entry.timestamp == 1
    # Its surface is read by two engines; both have to be over before the slot's next turn.
    (third,) = (t for t in made.tasks if (t.engine, t.stream, t.frame, t.lists) == (EngineKind.Compose, 3, 2, False))
    readers = [made.tasks[tag] for tag in third.frees]
    assert {(t.engine, t.frame) for t in readers} == {(EngineKind.JpegEncode, 0), (EngineKind.Compute, 0)}


@pytest.mark.parametrize("make", [plan, walls])
def test_slots_lie_apart_in_windows_that_lie_apart(make):
    made = make()
    spans = []
    for pool in made.pools:
        window = pool.window
        for slot in pool.slots:
            assert slot.window == window.index
            spans += [(window.base + slot.head, 1), (window.base + slot.body, slot.lines)]
            assert 0 <= slot.head < window.length and slot.body + slot.lines <= window.length
        if pool.name in ("decoded", "scaled", "layer", "composed"):
            assert all((window.base + slot.body) % 512 == 0 for slot in pool.slots)
    spans.sort()
    assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(spans))


def test_host_memory():
    made = plan()
    spans = sorted(made.results.values())
    assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(spans))
    assert spans[0][0] >= len(made.image)
    base, size = made.submission
    assert base % 64 == 0 and size & (size - 1) == 0 and size >= len(made.tasks)
    assert all(made.image[base + RECORD_BYTES * n : base + RECORD_BYTES * (n + 1)].strip(b"\0") for n in range(14))
    assert all(file in made.image for file in FILES)


def test_what_does_not_fit_is_said():
    with pytest.raises(PlanError, match=r"decoded slots: .* bytes"):
        plan(dram_lines=1 << 12)
    with pytest.raises(PlanError, match="the host's memory of 65536"):
        plan(host_bytes=1 << 16)
    with pytest.raises(PlanError, match="2 layer slots: 1703936 bytes with those before, 1572864 at most expected"):
        walls(dram_lines=24 << 10)
    with pytest.raises(PlanError, match="2 composed slots: 2392064 bytes"):
        walls(dram_lines=34 << 10)
    room = {"dram_lines": 1 << 20, "host_bytes": 1 << 24}
    with pytest.raises(PlanError, match="7 surfaces to keep in 4 slots"):
        plan_chains([Chain(FILES, 512)], **room)
    with pytest.raises(PlanError, match="composition 0: 5 surfaces to keep in 4 slots"):
        plan_chains([Chain(FILES, 512)], [Wall(composition(25, 5, 0))], **room)
    with pytest.raises(PlanError, match="more than 63 counters needed: fewer streams, layers or outputs"):
        plan_chains([Chain(FILES, 512)] * 31, [Wall(composition(25, 4, *range(31)))], **room)
    legs = (Leg(8, 8, 75), Leg(8, 8, 75, scales=False))
    with pytest.raises(PlanError, match="JpegDecode would have 3 waits: what it fills is read by 2 engines"):
        plan_chains([Chain(FILES, 512, legs)], **room)


def test_room_for_files_covers_noise():
    import numpy as np

    from tessera.golden.frames import Frame
    from tessera.golden.jpeg.encoder import encode

    rng = np.random.default_rng(1)
    for kind in ChromaFormat:
        for quality in (1, 50, 51, 90, 91, 100):
            planes = tuple(
                rng.integers(0, 2, kind.plane_size(n, 50, 40)[::-1], np.uint8) * 255 for n in range(kind.planes)
            )
            file = encode(Frame(kind, planes), quality, 1)
            assert len(file) <= 64 * bitstream_lines(kind, 50, 40, quality), (kind, quality)
