"""The two passes alone, with steps from the golden's positions."""

import cocotb
import numpy as np

from tessera.golden.ops import axis_of, resample
from tessera.hw.compute.passes import Across, Down
from tessera.tb.bench import Bench, Dut
from tessera.tb.compute.steps import cases, run_steps, steps_of

DUTS = {"across": Dut(Across, tests="across.*"), "down": Dut(lambda: Down(32), tests="down.*")}

LIMIT = 6375
"""What two passes make of 255, at the most, in sixteenths."""


def items_of(groups):
    """Groups of eight samples as items."""
    return [sum((int(v) & 0x3FFF) << 14 * n for n, v in enumerate(group)) for group in groups]


def groups_of(received):
    return np.array([[group[n] for n in range(8)] for group in received])


def steps_for(bench, steps):
    """Steps with anything where nothing is meant."""
    filled = []
    for step in steps:
        garbage = {"slot": bench.random.randrange(4), "reciprocal": bench.random.getrandbits(17)}
        weights = {"weights": [bench.random.randrange(-1 << 17, 1 << 17) for _ in range(4)]}
        if not step["take"]:
            garbage["weights"] = [0] * 4
        if step["grow"] and not step["give"]:
            garbage |= weights
        filled.append({**garbage, **step})
    return filled


def small_cases(seed, count):
    rng = np.random.default_rng(seed)
    chosen = [axis for axis, _ in cases() if axis.fine <= 250]
    picked = [chosen[n] for n in rng.permutation(len(chosen))[:count]]
    return rng, [axis_of(1, 1), axis_of(8, 8), axis_of(1, 8), axis_of(8, 1, plane=1), *picked]


def near_things():
    """Axes of all shifts, with lanes of samples: for each output eight whose sum, 1 less, and eight whose sum, 1 more,
    would make another output."""
    rng = np.random.default_rng(5)
    for axis in (axis_of(7, 8), axis_of(8, 5), axis_of(16, 5), axis_of(32, 5), axis_of(40, 8, plane=1)):
        steps = steps_of(axis)
        samples = rng.integers(-LIMIT // 8, LIMIT, (axis.coarse if axis.grow else axis.fine, 60_000))
        right = run_steps(steps, samples)
        differ = [run_steps(steps, samples, nudge) != right for nudge in (-1, 1)]
        lanes = [np.flatnonzero(output)[:8] for nudged in differ for output in nudged]
        assert all(len(chosen) == 8 for chosen in lanes), f"{axis}: too few near things"
        yield axis, samples[:, np.concatenate(lanes)]


@cocotb.test()
@cocotb.parametrize(stalls=[(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.9, 0.9), (0.3, 0.3)])
async def across_matches_golden(dut, stalls):
    """Columns of random samples, over all of their range."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    rng, axes = small_cases(int(sum(stalls) * 100), 10)
    steps, items, expected = [], [], []
    for axis in axes:
        for _ in range(2):
            samples = rng.integers(-LIMIT // 8, LIMIT, (axis.coarse if axis.grow else axis.fine, 8))
            steps += steps_for(bench, steps_of(axis))
            items += items_of(samples)
            expected.append(resample(samples, axis))
    expected = np.concatenate(expected)
    cocotb.start_soon(bench.send("i_step", steps, stalls[0] / 2))
    cocotb.start_soon(bench.send("i", items, stalls[0]))
    received = groups_of(await bench.within(60 * len(steps), bench.receive("o", len(expected), stalls[1])))
    np.testing.assert_array_equal(received, expected)


@cocotb.test()
async def across_to_the_last_bit(dut):
    """Sums whose last bit decides."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    for axis, samples in near_things():
        tiles = samples.reshape(len(samples), -1, 8).transpose(1, 0, 2)
        expected = np.concatenate([resample(tile, axis) for tile in tiles])
        steps = steps_for(bench, steps_of(axis) * len(tiles))
        cocotb.start_soon(bench.send("i_step", steps))
        cocotb.start_soon(bench.send("i", items_of(tiles.reshape(-1, 8))))
        received = groups_of(await bench.within(2 * len(steps), bench.receive("o", len(expected))))
        np.testing.assert_array_equal(received, expected, err_msg=f"{axis}")


@cocotb.test()
async def across_cycles(dut):
    """A step per cycle; the output after eight cycles."""
    bench = Bench(dut, DUTS)
    for axis in (axis_of(60, 64), axis_of(64, 60)):
        await bench.reset()
        steps = steps_for(bench, steps_of(axis)) * 3
        samples = np.zeros((3 * (axis.coarse if axis.grow else axis.fine), 8), int)
        started = bench.now()
        cocotb.start_soon(bench.send("i", items_of(samples)))
        sender = cocotb.start_soon(bench.send("i_step", steps))
        count = sum(step["give"] for step in steps)
        await bench.within(1000, bench.receive("o", count))
        ended, sent = bench.now(), await bench.within(100, sender)
        assert sent - started == len(steps), f"{sent - started} cycles for {len(steps)} steps"
        assert ended - sent == 8, f"the last output {ended - sent} cycles after its step"


@cocotb.test()
@cocotb.parametrize(stalls=[(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.9, 0.9), (0.3, 0.3)])
async def down_matches_golden(dut, stalls):
    """Rows of one to 32 groups, plane after plane."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    rng, axes = small_cases(int(sum(stalls) * 100) + 1, 5)
    for n, axis in enumerate(axes):
        groups = int((1, 2, 3, 32)[n]) if n < 4 else int(rng.integers(1, 6))
        await bench.cycles(20)
        bench.port("groups").value = groups
        samples = rng.integers(-LIMIT // 8, LIMIT, (axis.coarse if axis.grow else axis.fine, 8 * groups))
        expected = resample(samples, axis).reshape(-1, 8)
        steps = steps_for(bench, steps_of(axis))
        cocotb.start_soon(bench.send("i_step", steps, stalls[0] / 2))
        cocotb.start_soon(bench.send("i", items_of(samples.reshape(-1, 8)), stalls[0]))
        received = bench.receive("o", len(expected), stalls[1])
        received = groups_of(await bench.within(60 * len(steps) * max(groups, 2), received))
        np.testing.assert_array_equal(received, expected, err_msg=f"{axis}, {groups} groups")


@cocotb.test()
async def down_to_the_last_bit(dut):
    """Sums whose last bit decides."""
    bench = Bench(dut, DUTS)
    for axis, samples in near_things():
        await bench.reset()
        groups = samples.shape[1] // 8
        bench.port("groups").value = groups
        expected = resample(samples, axis).reshape(-1, 8)
        steps = steps_for(bench, steps_of(axis))
        cocotb.start_soon(bench.send("i_step", steps))
        cocotb.start_soon(bench.send("i", items_of(samples.reshape(-1, 8))))
        received = groups_of(await bench.within(2 * len(steps) * groups, bench.receive("o", len(expected))))
        np.testing.assert_array_equal(received, expected, err_msg=f"{axis}, {groups} groups")


@cocotb.test()
async def down_cycles(dut):
    """A row per max(groups, 2) cycles; the output after eight cycles."""
    bench = Bench(dut, DUTS)
    for axis in (axis_of(20, 24), axis_of(24, 20)):
        for groups in (1, 2, 5):
            await bench.reset()
            bench.port("groups").value = groups
            steps = steps_for(bench, steps_of(axis))
            samples = np.zeros(((axis.coarse if axis.grow else axis.fine) * groups, 8), int)
            started = bench.now()
            cocotb.start_soon(bench.send("i", items_of(samples)))
            sender = cocotb.start_soon(bench.send("i_step", steps))
            await bench.within(1000, bench.receive("o", groups * sum(step["give"] for step in steps)))
            ended, sent = bench.now(), await bench.within(100, sender)
            expected = len(steps) * max(groups, 2) - (groups == 1)
            assert sent - started == expected, f"{sent - started} cycles for {len(steps)} rows of {groups}"
            assert ended - sent == 8, f"the last output {ended - sent} cycles after its group"
