"""The steps of a pass, against steps made from the golden's positions, which give the golden's samples."""

import cocotb
import numpy as np
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.golden.ops import Axis, axis_of, resample
from tessera.golden.ops_tables import CUBIC, POSITION_BITS
from tessera.hw.compute.steps import Steps
from tessera.tb.bench import Bench, Dut, unpack

DUTS = {"steps": Dut(Steps)}


def steps_of(axis: Axis):
    """The sequence as dicts of a :class:`Step`'s fields; None for what has no meaning."""
    steps = []
    common = {"grow": int(axis.grow), "shift": axis.shift, "last": 0}
    sums, taken, given = [0] * 4, 0, 0
    for n, (base, phase) in enumerate(zip(*axis.positions())):
        places = [base + tap for tap in range(-1, 3)]
        weights = [0] * 4
        for place, weight in zip(places, CUBIC[phase]):
            if axis.grow:
                weights[min(max(place, 0), axis.coarse - 1) % 4] += weight
            elif 0 <= place < axis.coarse:
                weights[place % 4] += weight
        if axis.grow:
            needed = min(base + 2, axis.coarse - 1)
            while taken < needed:
                steps.append({**common, "take": 1, "give": 0, "fresh": 0, "slot": taken % 4})
                taken += 1
            take = taken == needed
            steps.append({**common, "take": int(take), "give": 1, "fresh": 0, "weights": weights})
            if take:
                steps[-1]["slot"] = taken % 4
                taken += 1
        else:
            give = base - 1 > given and given < axis.coarse
            step = {**common, "take": 1, "give": int(give), "fresh": int(n == 0), "weights": weights}
            if give:
                step |= {"slot": given % 4, "reciprocal": (1 << 30) // (sums[given % 4] >> axis.shift)}
                sums[given % 4] = 0
                given += 1
            sums = [a + b for a, b in zip(sums, weights)]
            steps.append(step)
    if axis.grow:
        for place in range(taken, axis.coarse):
            steps.append({**common, "take": 1, "give": 0, "fresh": 0, "slot": place % 4})
    else:
        for place in range(given, axis.coarse):
            reciprocal = (1 << 30) // (sums[place % 4] >> axis.shift)
            steps.append({**common, "take": 0, "give": 1, "fresh": 0, "slot": place % 4, "reciprocal": reciprocal})
    steps[-1]["last"] = 1
    return steps


def run_steps(steps, samples, nudge=0):
    """What the steps make of the samples, as a pass does it, or would if each sum were wrong by `nudge`."""
    slots = np.zeros((4, samples.shape[1]), np.int64)
    source, results = iter(samples), []
    for step in steps:
        if step["grow"]:
            if step["take"]:
                slots[step["slot"]] = next(source)
            if step["give"]:
                total = sum((slots[k] * step["weights"][k]) >> 8 for k in range(4))
                results.append((total + nudge + 128) >> 8)
        else:
            if step["give"]:
                total = ((slots[step["slot"]] + nudge) >> (4 + step["shift"])) * step["reciprocal"]
                results.append((total + (1 << 17)) >> 18)
                slots[step["slot"]] = 0
            if step["fresh"]:
                slots[:] = 0
            if step["take"]:
                sample = next(source)
                for k in range(4):
                    slots[k] += (sample * step["weights"][k]) >> 8
    assert next(source, None) is None, "a sample was not taken"
    return np.array(results)


def axis_task(axis, source, target, plane, shift, repeats=1):
    """As an :class:`AxisTask`."""
    here = 2 * source if plane and not shift else source
    part, whole = (here, target) if axis.grow else (target, here)
    return {
        **{"grow": int(axis.grow), "fine": axis.fine, "coarse": axis.coarse, "part": part, "whole": whole},
        "repeats": repeats,
    }


def cases():
    rng = np.random.default_rng(1)
    sizes = [(1, 1), (1, 8), (8, 1), (2, 3), (3, 2), (16, 16), (17, 16), (16, 17), (33, 211), (131, 67), (97, 99),
             (101, 99), (64, 8), (8, 64), (2048, 2047), (640, 80), (31, 245)]  # fmt: skip
    sizes += [(int(n), int(rng.integers(-(-n // 8), 8 * n + 1))) for n in rng.integers(1, 50, 50)]
    for n, (source, target) in enumerate(sizes):
        plane, shift = ((0, 0), (1, 1), (1, 0))[n % 3]
        yield axis_of(source, target, plane=plane, shift=shift), (source, target, plane, shift)


def check(name, found, expected):
    for field, value in expected.items():
        actual = getattr(found, field)
        if field == "weights":
            relevant = expected["give"] if expected["grow"] else expected["take"]
            actual = [actual[k] for k in range(4)]
            if not relevant:
                continue
        elif field == "give" and value and not expected["grow"] and not expected["take"]:
            assert not any(found.weights[k] for k in range(4)), f"{name}: weights without a sample"
        assert actual == value, f"{name}: {field} {value} expected, {actual} found"


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.7], stall_out=[0.0, 0.5, 0.9])
async def matches_golden(dut, stall_in, stall_out):
    bench = Bench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(2)
    tasks, expected, phases = [], [], set()
    for axis, what in cases():
        if stall_out and axis.fine > 1000:
            continue
        steps = steps_of(axis)
        samples = rng.integers(0, 4081, (axis.coarse if axis.grow else axis.fine, 3))
        np.testing.assert_array_equal(run_steps(steps, samples), resample(samples, axis))
        extra = len(steps) - axis.fine
        assert extra <= (4 if axis.grow else 3), f"{what}: {len(steps)} steps for {axis.fine}"
        repeats = int(rng.integers(1, 4))
        tasks.append(axis_task(axis, *what, repeats))
        expected += [(f"{what}, repeat {r}, step {n}", step) for r in range(repeats) for n, step in enumerate(steps)]
        phases |= {(axis.grow, phase) for phase in axis.positions()[1]}
    assert len(phases) == 64, "a phase is missing"
    cocotb.start_soon(bench.send("i", tasks, stall_in))
    received = await bench.within(20 * len(expected) + 5000, bench.receive("o", len(expected), stall_out))
    for found, (name, step) in zip(received, expected):
        check(name, found, step)


@cocotb.test()
async def cycles(dut):
    """The first step's latency; then a step per cycle, from repeat to repeat too."""
    bench = Bench(dut, DUTS)
    for source, target in [(50, 80), (80, 50), (64, 64), (64, 8)]:
        await bench.reset()
        axis = axis_of(source, target)
        repeats = 6
        sent = await bench.send("i", [axis_task(axis, source, target, 0, 0, repeats)])
        await bench.within(200, bench.receive("o", 1))
        latency = bench.now() - sent
        assert latency == 32, f"{source} to {target}: first step after {latency} cycles"
        count = repeats * len(steps_of(axis)) - 1
        started = bench.now()
        await bench.within(2 * count, bench.receive("o", count))
        gap = bench.now() - started - count
        assert 0 <= gap <= (0 if axis.grow else 12), f"{source} to {target}: {gap} cycles more than {count} steps"


@cocotb.test()
async def long_sequences(dut):
    """The largest counts and repeats: some steps of each, the last ones among them, and nothing behind these."""
    bench = Bench(dut, DUTS)
    rng = np.random.default_rng(3)
    valid, ready, payload = (bench.port(f"o.{part}") for part in ("valid", "ready", "payload"))
    longest = [(43_690, 65_535, 1), (65_535, 21_845, 1), (8, 7, 8191), (7, 8, 5461), (1, 1, 4097), (1, 1, 512)]
    for source, target, repeats in longest:
        await bench.reset()
        axis = axis_of(source, target)
        steps = steps_of(axis)
        count = repeats * len(steps)
        await bench.send("i", [axis_task(axis, source, target, 0, 0, repeats)])
        # Behind the first ones a step is taken in each cycle.
        at = min(100, count)
        received = await bench.within(300, bench.receive("o", at))
        for n, found in enumerate(received):
            check(f"{source} to {target}, step {n}", found, steps[n % len(steps)])
        ready.value = 1
        chosen = {*rng.integers(at, count, 150).tolist(), *range(max(at, count - 50), count)}
        for n in sorted(chosen):
            if n > at:
                await bench.cycles(n - at)
            await ReadOnly()
            name = f"{source} to {target}, step {n} of {repeats} x {len(steps)}"
            assert valid.value, f"{name} is not there"
            check(name, unpack(bench.shape("o"), payload.value.to_unsigned()), steps[n % len(steps)])
            await RisingEdge(dut.clk)
            at = n + 1
        for _ in range(100):
            await ReadOnly()
            assert not valid.value, f"{source} to {target}: more than {repeats} x {len(steps)} steps"
            await RisingEdge(dut.clk)


NARROW = [
    (5, 3, 0), (9, 9, 1), (10, 9, 0), (19, 17, 0), (19, 17, 1), (23, 17, 1), (24, 5, 1), (25, 13, 1), (28, 25, 0),
    (30, 28, 0), (31, 19, 1), (32, 11, 1), (34, 25, 1), (38, 16, 0), (43, 41, 0), (43, 42, 0), (44, 29, 1), (45, 41, 1),
    (49, 40, 0), (52, 51, 1), (59, 11, 1), (59, 29, 1),
]  # fmt: skip
"""Source, target and plane of shrinking axes, with gains whose reciprocals are near things."""


def gains_of(axis):
    """What the weights of each output add up to, as the divisor."""
    gains = [0] * axis.coarse
    for base, phase in zip(*axis.positions()):
        for place, weight in zip(range(base - 1, base + 3), CUBIC[phase]):
            if 0 <= place < axis.coarse:
                gains[place] += weight
    return [gain >> axis.shift for gain in gains]


@cocotb.test()
async def narrow_divisions(dut):
    """Reciprocals of which each bit is a near thing: twice the remainder all but is, or just is, the divisor."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    axes = [axis_of(source, target, plane=plane) for source, target, plane in NARROW]
    tasks = [axis_task(axis, *what, 0) for what, axis in zip(NARROW, axes)]
    # No picture's axis: 2**26 is 5 short of a multiple of one of its gains, 41247.
    axes.append(Axis(False, 39, 4, 6626 << (POSITION_BITS - 16)))
    tasks.append({"grow": 0, "fine": 39, "coarse": 4, "part": 6626, "whole": 1 << 16, "repeats": 1})
    gains = {gain for axis in axes for gain in gains_of(axis)}
    near = {bit for gain in gains for bit in range(18) if abs(2 * ((1 << (bit + 12)) % gain) - gain) <= 8}
    # The first is 0 for all gains that there are.
    assert near == set(range(1, 18)), f"bits of the reciprocal that are a near thing: {near}"
    expected = [(axis, n, step) for axis in axes for n, step in enumerate(steps_of(axis))]
    cocotb.start_soon(bench.send("i", tasks))
    received = await bench.within(4 * len(expected), bench.receive("o", len(expected)))
    for found, (axis, n, step) in zip(received, expected):
        check(f"{axis}, step {n}", found, step)


@cocotb.test()
async def waits_with_32_steps(dut):
    """Steps are made ahead, 32 of them and no more, and the next task is taken when all were made."""
    bench = Bench(dut, DUTS)
    for repeats in (1, 2, 3, 4, 8):
        await bench.reset()
        axis = axis_of(8, 8)
        steps = steps_of(axis) * repeats
        tasks = [axis_task(axis, 8, 8, 0, 0, repeats)]
        await bench.send("i", tasks)
        second = cocotb.start_soon(bench.send("i", tasks))
        await bench.cycles(200)
        assert bench.port("o.valid").value, "no step is offered before one is asked for"
        assert second.done() == (len(steps) <= 32), f"{len(steps)} steps"
        received = await bench.within(300, bench.receive("o", 2 * len(steps)))
        for n, found in enumerate(received):
            check(f"{repeats} repeats, step {n}", found, steps[n % len(steps)])
