"""Plans: slots that do not overlap, waits that keep them apart, descriptors that say so."""

import itertools

import pytest

from tessera.golden.frames import ChromaFormat
from tessera.hw.engine import EngineKind
from tessera.hw.host.descriptor import RECORD_BYTES
from tessera.sim.memory import PlanError
from tessera.sim.plan import Plan
from tessera.sim.planner import Chain, Leg, bitstream_lines, plan_chains

FILES = tuple(bytes([n]) * (100 + 70 * n) for n in range(7))


def plan(**changes):
    legs = (Leg(64, 48, 75, scaled_slots=2, bitstream_slots=3), Leg(200, 100, 90))
    chains = [Chain(FILES, 1536, legs, slots=2, surfaces=3), Chain(FILES[:3], 512 * 9, legs[:1])]
    return plan_chains(chains, **{"dram_lines": 1 << 20, "host_bytes": 1 << 24, "names": ("a", "b"), **changes})


def play(plan: Plan, choose):
    """Run a plan as the dispatcher would, `choose` picking the engine that goes on; checks every slot's turn."""
    queues = {kind: [t for t in plan.tasks if t.engine is kind] for kind in EngineKind}
    counters = dict.fromkeys(range(64), 0)
    holds = {}
    order = []
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
        if task.engine is not EngineKind.Ingest:
            # What is read is what this frame's task before has left there.
            assert holds[slots["i"]] == (task.stream, task.frame, task.source)
        if task.engine is not EngineKind.Egress:
            holds[slots["o"]] = (task.stream, task.frame, task.tag)
        counters[task.entry.signal] += 1
    assert sorted(order) == list(range(len(plan.tasks)))


@pytest.mark.parametrize("choose", [min, max], ids=["downstream last", "downstream first"])
def test_any_order_of_engines_keeps_slots_apart(choose):
    play(plan(), lambda ready: choose(ready, key=lambda kind: kind.value))


def test_slots_lie_apart_in_windows_that_lie_apart():
    made = plan()
    spans = []
    for pool in made.pools:
        window = pool.window
        for slot in pool.slots:
            assert slot.window == window.index
            spans += [(window.base + slot.head, 1), (window.base + slot.body, slot.lines)]
            assert 0 <= slot.head < window.length and slot.body + slot.lines <= window.length
        if pool.name in ("decoded", "scaled"):
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
    with pytest.raises(PlanError, match="7 surfaces to keep in 4 slots"):
        plan_chains([Chain(FILES, 512)], dram_lines=1 << 20, host_bytes=1 << 24)


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
