"""Testbench of hw/link/deskew.py."""

import itertools
from dataclasses import replace

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.deskew import PAUSE, SILENCE, WAIT, Deskew
from tessera.tb.bench import Bench, Dut
from tessera.tb.link.lane_model import BITS, Fields

DUTS = {f"lanes{lanes}": Dut(lambda lanes=lanes: Deskew(lanes), watched=True) for lanes in (1, 2, 4)}
SETS = {1: (1, 0), 2: (3, 1, 2, 0), 4: (15, 3, 5, 9, 6, 10, 12, 1, 2, 4, 8, 0)}
MASK = (1 << BITS) - 1


class Sender:
    """What the other end's lanes bring: markers and blocks of all lanes at once; each lane may be late or dead.

    `periods` has for each marker the set of lanes in use behind it.
    """

    def __init__(self, bench, periods, dense=1, distance=16, skews=None, first_number=None):
        self.random, self.lanes = bench.random, bench.component.lanes
        self.skews = skews or [0] * self.lanes
        number = self.random.randrange(256) if first_number is None else first_number
        self.slots = []
        for used in periods:
            fields = Fields(
                used=used, heard=self.random.randrange(16), dense=dense, session=self.random.randrange(16),
                node=self.random.randrange(16), number=number % 256,
            )  # fmt: skip
            number += 1
            self.slots.append((fields, None))
            for n in range(distance - 1):
                blocks = [self.random.getrandbits(BITS) for _ in range(self.lanes)]
                self.slots.append((fields, (blocks, n == 0)))
        self.distance = distance

    def arrives(self, lane, cycle):
        """Of the lane: bits of ``Received``, or None."""
        time = cycle - self.skews[lane]
        if not 0 <= time < len(self.slots) or self.slots[time][1] is None:
            return None
        fields, (blocks, first) = self.slots[time]
        return self.received(lane, time, replace(fields, lane=lane), blocks[lane], first)

    def received(self, lane, time, fields, block, first, right=True):
        return block | first << BITS | right << BITS + 1 | fields.word() << BITS + 2

    def stripe(self, time):
        """The blocks of those in use, or None, and what the marker told."""
        fields, content = self.slots[time]
        if content is None or not fields.used:
            return None
        return [block for n, block in enumerate(content[0]) if fields.used >> n & 1], fields

    def stripes(self, since=0):
        return [self.stripe(time) for time in range(since, len(self.slots)) if self.stripe(time)]


class Run:
    """Brings a sender's blocks to the component and notes what comes out, in which cycle."""

    def __init__(self, bench, sender, crossed=False, stall=0.0, drained=True):
        self.bench, self.sender, self.stall = bench, sender, stall
        self.lanes = sender.lanes
        self.wires = list(range(self.lanes))[:: -1 if crossed else 1]
        self.queues = [[] for _ in range(self.lanes)]
        self.stripes, self.heard, self.told, self.clears = [], [], [], []
        self.deaf = 0
        self.crowded = {}

    async def go(self, cycles):
        bench, dut = self.bench, self.bench.dut
        ports = [[bench.port(f"i{n}.{part}") for part in ("valid", "ready", "payload")] for n in range(self.lanes)]
        ready = 0
        for cycle in range(cycles):
            for lane, wire in enumerate(self.wires):
                bits = self.sender.arrives(lane, cycle)
                # Behind a clear, the writers' sides do not take anything yet.
                if bits is not None and not self.deaf:
                    self.queues[wire].append(bits)
            self.deaf = max(self.deaf - 1, 0)
            for queue, (valid, _, payload) in zip(self.queues, ports):
                valid.value = int(bool(queue))
                if queue:
                    payload.value = queue[0]
            ready = int(bench.random.random() >= self.stall)
            dut.o__ready.value = ready
            dut.crowded.value = self.crowded.get(cycle, 0)
            await ReadOnly()
            taken = [int(port[1].value) for port in ports]
            self.heard.append(int(dut.heard.value))
            self.told.append(dut.told.value.to_unsigned())
            if ready and int(dut.o__valid.value):
                count, bits = int(dut.used.value), dut.o__payload.value.to_unsigned()
                self.stripes.append((cycle, [bits >> BITS * n & MASK for n in range(count)], self.told[-1]))
            clear = int(dut.clear.value)
            await RisingEdge(dut.clk)
            for queue, gone in zip(self.queues, taken):
                if queue and gone:
                    queue.pop(0)
            if clear:
                self.clears.append(cycle)
                self.deaf = 3
                for queue in self.queues:
                    queue.clear()

    def check(self, expected):
        """All stripes that are expected came, and no others."""
        for n, ((cycle, blocks, told), (right, fields)) in enumerate(zip(self.stripes, expected)):
            assert blocks == right, f"stripe {n} in cycle {cycle}: {len(blocks)} blocks of {len(right)}, or others"
            assert told >> 2 == fields.word() >> 2, f"stripe {n} in cycle {cycle}: told {told:x} of {fields}"
        assert len(self.stripes) == len(expected), f"{len(self.stripes)} of {len(expected)} stripes came"

    def check_some(self, since):
        """All that came are right and in order, and from slot `since` on, all came; the slots of those that came."""
        slots = {tuple(blocks): time for time, (blocks, _) in self._all()}
        came = []
        for cycle, blocks, _ in self.stripes:
            assert tuple(blocks) in slots, f"stripe in cycle {cycle} of blocks that were not sent together"
            came.append(slots[tuple(blocks)])
        assert all(a < b for a, b in itertools.pairwise(came)), "stripes out of order"
        wanted = [time for time, _ in self._all() if time >= since]
        assert [time for time in came if time >= since] == wanted, f"from slot {since} on, some were lost"
        return came

    def _all(self):
        return [(t, self.sender.stripe(t)) for t in range(len(self.sender.slots)) if self.sender.stripe(t)]


def some_skews(random, lanes):
    return random.choice(
        [[0] * lanes, [7 * (n % 2) for n in range(lanes)], [random.randrange(8) for _ in range(lanes)]]
    )


@cocotb.test()
@cocotb.parametrize(crossed=[False, True], stall=[0.0, 0.05])
async def stripes_come_as_they_were_sent(dut, crossed, stall):
    """Any sets of lanes, any skew."""
    bench = Bench(dut, DUTS)
    random, lanes = bench.random, bench.component.lanes
    for _ in range(4):
        await bench.reset()
        sets = [0, 0] + [random.choice(SETS[lanes]) for _ in range(30)] + list(SETS[lanes])
        sender = Sender(bench, sets, skews=some_skews(random, lanes))
        run = Run(bench, sender, crossed, stall)
        await run.go(len(sender.slots) + 9 + int(2 * stall * len(sender.slots)))
        run.check(sender.stripes())
        assert not run.clears
        if not stall:
            check_cycles(sender, run)


def check_cycles(sender, run):
    """Each block leaves its lane as early as it may, those of a stripe together; the stripe comes in the next cycle."""
    lanes = range(sender.lanes)
    last, running, expected = [-1] * sender.lanes, [], []
    for time in range(len(sender.slots)):
        fields, content = sender.slots[time]
        if content is None:
            continue
        at = [max(time + sender.skews[n], last[n] + 1) for n in lanes]
        using = [n for n in lanes if fields.used >> n & 1]
        # Behind a marker, those that were in use before go first.
        ends = min((at[n] for n in running), default=0) if content[1] else 0
        together = max([at[n] for n in using] + [ends])
        last = [together if n in using else max(at[n], ends) if n in running and content[1] else at[n] for n in lanes]
        expected += [together + 1] if using else []
        running = using
    found = [cycle for cycle, _, _ in run.stripes]
    wrong = next((n for n, (a, b) in enumerate(zip(found, expected)) if a != b), None)
    assert wrong is None, f"stripe {wrong} in cycle {found[wrong]}, not {expected[wrong]}"


@cocotb.test()
async def hears_lanes_and_tells_what_they_tell(dut):
    bench = Bench(dut, DUTS)
    random, lanes = bench.random, bench.component.lanes
    for dead in range(1 << lanes):
        await bench.reset()
        sender = Sender(bench, [0] * 12, skews=some_skews(random, lanes))
        since, until = random.randrange(60, 80), random.randrange(110, 120)
        alive = sender.arrives

        def arrives(lane, cycle):
            if dead >> lane & 1 and since <= cycle < until:
                return None
            # What comes back does so behind a marker.
            comes = alive(lane, cycle)
            if dead >> lane & 1 and until <= cycle < 128 + sender.skews[lane]:
                return None
            return comes

        sender.arrives = arrives
        run = Run(bench, sender)
        await run.go(190)
        everyone = (1 << lanes) - 1
        for n in range(lanes):
            heard = [mask >> n & 1 for mask in run.heard]
            came = [cycle for cycle in range(190) if arrives(n, cycle) is not None]
            # It is heard from the cycle after its first block behind a marker on, until 16 cycles after a last one.
            expected = [
                int(any(cycle - SILENCE - 1 < c < cycle for c in came) and cycle > came[0]) for cycle in range(190)
            ]
            assert heard == expected, f"lane {n}, dead {dead:b}: {heard}, {expected}"
        assert run.heard[59] == everyone and run.heard[-1] == everyone
        assert run.heard[105] == everyone & ~dead
        # Each number is told, and nothing else, but what is told after a reset.
        if not dead:
            told = [bits >> 2 for bits, _ in itertools.groupby(run.told)][1:]
            assert [bits for bits, _ in itertools.groupby(told)] == [
                fields.word() >> 2 for fields, content in sender.slots if content and content[1]
            ]
        assert not run.stripes and not run.clears


@cocotb.test()
@cocotb.parametrize(crossed=[False, True])
async def bad_markers_tell_nothing(dut, crossed):
    """Where a marker was not right, ``told`` stays, and stripes go on if the lanes in use do."""
    bench = Bench(dut, DUTS)
    random, lanes = bench.random, bench.component.lanes
    for _ in range(4):
        await bench.reset()
        used = random.choice(SETS[lanes][:-1])
        sender = Sender(bench, [0, 0] + [used] * 20, skews=some_skews(random, lanes))
        bad = {(lane, number) for lane in range(lanes) for number in range(3, 22) if random.random() < 0.5}
        good = sender.received

        def received(lane, time, fields, block, first, right=True):
            number = time // 16
            right = (lane, number) not in bad
            while (lane, number) in bad:
                number -= 1
            kept = replace(sender.slots[16 * number][0], lane=lane, number=fields.number)
            return good(lane, time, kept, block, first, right)

        sender.received = received
        run = Run(bench, sender, crossed)
        await run.go(len(sender.slots) + 9)
        assert not run.clears
        run.check_some(0)
        # Of each marker that was right on a lane in use, all is told.
        for cycle, blocks, told in run.stripes:
            time = next(t for t in range(len(sender.slots)) if sender.stripe(t) and sender.stripe(t)[0] == blocks)
            number = newest = time // 16
            while all((lane, number) in bad for lane in range(lanes) if used >> lane & 1):
                number -= 1
            # A lane that is not in use may have told of a newer one, before the stripes behind that.
            right = [n for n in range(number, newest + 1) if any((lane, n) not in bad for lane in range(lanes))]
            assert told >> 2 in [sender.slots[16 * n][0].word() >> 2 for n in right], f"cycle {cycle}: told {told:x}"


@cocotb.test()
async def a_dead_lane_does_not_stop_the_others(dut):
    bench = Bench(dut, DUTS)
    random, lanes = bench.random, bench.component.lanes
    if lanes == 1:
        return
    for _ in range(15):
        await bench.reset()
        dead = random.randrange(lanes)
        others = [used for used in SETS[lanes] if not used >> dead & 1 and used]
        with_it = [used for used in SETS[lanes] if used >> dead & 1]
        before, after = random.randrange(3, 6), random.choice(others)
        using = random.choice(with_it)
        sets = [0, *[using] * before, *[after] * 8, *[using] * 5]
        sender = Sender(bench, sets, skews=some_skews(random, lanes))
        died = random.randrange(40, 16 * (1 + before))
        alive = sender.arrives

        def arrives(lane, cycle):
            back = cycle - sender.skews[lane] >= 16 * (7 + before)
            return alive(lane, cycle) if lane != dead or cycle < died or back else None

        sender.arrives = arrives
        run = Run(bench, sender, crossed=random.randrange(2))
        await run.go(len(sender.slots) + 9)
        came = run.check_some(16 * (1 + before + 4))
        assert any(time >= died - 20 for time in came)
        if died < 16 * before:
            assert run.clears, "lanes wait for a dead one for ever"
        # Waits are bounded, and there is a pause behind each.
        assert all(b - a >= WAIT + PAUSE for a, b in itertools.pairwise(run.clears))
        if run.clears:
            expected = died + WAIT + 1
            assert run.clears[0] <= expected + 16 + 7, f"cleared in cycle {run.clears[0]}, died in {died}"


@cocotb.test()
async def lanes_of_different_markers_are_no_stripe(dut):
    """Skewed by 16 blocks or more, lanes wait in vain: their numbers differ."""
    bench = Bench(dut, DUTS)
    random, lanes = bench.random, bench.component.lanes
    if lanes == 1:
        return
    for far in (16, 17, 32, 15):
        await bench.reset()
        skews = [0] * lanes
        skews[random.randrange(lanes)] = far
        sender = Sender(bench, [0] + [(1 << lanes) - 1] * 15, skews=skews)
        run = Run(bench, sender)
        await run.go(len(sender.slots))
        assert not run.stripes, f"skew {far}: a stripe in cycle {run.stripes[0][0]}"
        assert len(run.clears) >= 3


@cocotb.test()
async def waits_ten_cycles_and_then_pauses(dut):
    """To the cycle: 9 cycles are waited, 10 are not; a first block is looked at again 24 after the first wait."""
    bench = Bench(dut, DUTS)
    lanes = bench.component.lanes
    if lanes == 1:
        return
    all_of_them = (1 << lanes) - 1
    for skew in (9, 10):
        for late in range(lanes):
            await bench.reset()
            skews = [0] * lanes
            skews[late] = skew
            sender = Sender(bench, [0, 0] + [all_of_them] * 3, distance=64, skews=skews)
            run = Run(bench, sender)
            await run.go(len(sender.slots) + 10)
            if skew == 9:
                run.check(sender.stripes())
                assert not run.clears
            else:
                assert not run.stripes
                # The first waits in cycles 129 to 138, the queues are emptied in the next.
                assert run.clears == [64 * n + 1 + WAIT for n in (2, 3, 4)], run.clears
    # A lane that alone says so waits at any time; what waits within the pause is looked at no more.
    for gap in (WAIT + PAUSE - 1, WAIT + PAUSE):
        await bench.reset()
        sender = Sender(bench, [0, 0], skews=[0] * lanes)
        fields = Fields(used=all_of_them, dense=1)

        def arrives(lane, cycle):
            first = cycle == 20 if lane == 0 else False
            if cycle == 20 + gap:
                return sender.received(lane, 0, replace(fields, lane=lane, number=1), lane + 5, True)
            if first:
                return sender.received(lane, 0, replace(fields, lane=lane), 3, True)
            return None

        sender.arrives = arrives
        run = Run(bench, sender)
        await run.go(80)
        came = [(cycle, blocks) for cycle, blocks, _ in run.stripes]
        assert came == ([(20 + gap + 1, [n + 5 for n in range(lanes)])] if gap == WAIT + PAUSE else []), (gap, came)


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.9])
async def a_crowded_lane_ends_all_waiting(dut, stall):
    """In the next cycle, whatever waits or goes on, pauses too; then there is a whole pause. A lane alone goes on."""
    bench = Bench(dut, DUTS)
    random, lanes = bench.random, bench.component.lanes
    for again in (0, 1, PAUSE - 1, PAUSE + 3):
        await bench.reset()
        sender = Sender(bench, [0] + [(1 << lanes) - 1] * 12, skews=some_skews(random, lanes))
        run = Run(bench, sender, stall=stall)
        moment = random.randrange(40, 60)
        run.crowded = {moment: 1 << random.randrange(lanes), moment + again: 1 << random.randrange(lanes)}
        await run.go(moment + again + PAUSE)
        at = sorted({cycle + 1 for cycle in run.crowded})
        if lanes == 1:
            assert not run.clears
            continue
        assert run.clears == at, f"crowded in the cycles before {at}; emptied in {run.clears}"
        # Only a stripe that was offered already comes.
        late = [cycle for cycle, _, _ in run.stripes if cycle > at[-1]]
        assert len(late) <= (stall > 0), f"emptied in {at}; stripes in {late}"


@cocotb.test()
async def what_a_clear_cuts_heals(dut):
    """From any moment at which the queues were emptied, with any skew: the next markers but two are put together."""
    bench = Bench(dut, DUTS)
    random, lanes = bench.random, bench.component.lanes
    if lanes == 1:
        return
    for moment in range(16):
        await bench.reset()
        skews = [random.choice([0, 7, random.randrange(8)]) for _ in range(lanes)]
        sender = Sender(bench, [0] + [(1 << lanes) - 1] * 12, skews=skews)
        alive = sender.arrives
        start = 32 + moment

        def arrives(lane, cycle):
            return alive(lane, cycle) if cycle >= start else None

        sender.arrives = arrives
        run = Run(bench, sender)
        await run.go(len(sender.slots) + 9)
        run.check_some(32 + 16 * 5)


@cocotb.test()
async def one_lane_alone_tells_whether_they_are_crossed(dut):
    """What is behind the marker that tells it is dropped; one that says it is neither of the two changes nothing."""
    bench = Bench(dut, DUTS)
    lanes = bench.component.lanes
    if lanes == 1:
        return
    for wire in range(lanes):
        for says in range(4):
            await bench.reset()
            then = says if says == lanes - 1 - wire else wire
            sender = Sender(bench, [1 << then] * 4)
            good, alive = sender.received, sender.arrives

            def received(lane, time, fields, block, first, right=True):
                return good(lane, time, replace(fields, lane=says if time < 16 else then), block, first, right)

            sender.received = received
            sender.arrives = lambda lane, cycle: alive(lane, cycle) if lane == wire else None
            run = Run(bench, sender)
            await run.go(len(sender.slots) + 5)
            since = 0 if says == wire else 16
            run.check([([content[0][wire]], fields) for fields, content in sender.slots[since:] if content])
            assert run.heard[-1] == 1 << then, f"lane {says} on wire {wire}: {run.heard[-1]:b} heard"


@cocotb.test()
async def a_lane_that_is_another_is_not_used(dut):
    """Two lanes exchanged in no way that is known: what says so is neither heard nor used."""
    bench = Bench(dut, DUTS)
    lanes = bench.component.lanes
    await bench.reset()
    sender = Sender(bench, [1] * 12)
    good = sender.received

    def received(lane, time, fields, block, first, right=True):
        # Lane 0 is what it says; others say they are lane 0 as well, or one that there is not.
        said = (0, 3, 3, 1)[lane] if lane == 0 or time < 32 else (3 - lane if time % 64 < 32 else 0)
        return good(lane, time, replace(fields, lane=said if lanes > 1 else time // 16 % 2 * 3), block, first, right)

    sender.received = received
    run = Run(bench, sender)
    await run.go(len(sender.slots) + 5)
    if lanes > 1:
        assert set(run.heard[3:]) == {1}
        run.check(sender.stripes())
    else:
        assert {0, 1} == set(run.heard[10:])
        run.check_some(1 << 20)
        assert len(run.stripes) == 15 * 6
