"""Testbench of hw/master/allocation.py: random jobs on chips that are a model, which checks each thing that is done."""

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.engine import EngineKind
from tessera.hw.host.descriptor import COUNTERS
from tessera.hw.master.allocation import PLACED, Allocation, Reason, tag_of
from tessera.hw.master.frame_sync import AHEAD
from tessera.tb.bench import Bench, Dut, streams_of

DUTS = {"allocation": Dut(Allocation, watched=True)}
LOOK = 80
"""Cycles of a look, for each stage of a group."""
LATE = 1500
"""Cycles after which what should have been done at the next look is late."""


@dataclass
class Plan:
    """A stage, with what the model keeps of it."""

    engine: EngineKind
    frames: int
    source: int = 0
    numerator: int = 1
    denominator: int = 1
    slots: int = 3
    home: int = 0
    nodes: int = 1
    movable: bool = False
    follows: bool = False
    joined: bool = False
    cost: int = 10
    params: int = 0
    step: int = 0
    pool: dict = field(default_factory=dict)
    readers: list = field(default_factory=list)

    def reads(self, n, plans):
        """The frame of its source that task `n` reads."""
        frame = n * self.numerator // self.denominator if self.denominator else 0
        return min(frame, plans[self.source].frames - 1)


def stream(random, plans, chips, frames, home, **more):
    """Add a stream to `plans`: from the host, decoded, scaled; the number of its last stage."""

    def add(engine, source, count, **own):
        number = max(plans, default=0) + 1
        plans[number] = plan = Plan(engine, count, source, home=home, nodes=(1 << chips) - 1, **{**more, **own})
        plan.slots = random.randrange(1, 17) if random.random() < 0.3 else random.randrange(2, 5)
        plan.cost = random.randrange(1, 100)
        plan.params, plan.step = random.getrandbits(128), random.getrandbits(32)
        plan.pool = {name: random.getrandbits(20) for name in ("head", "head_step", "body", "body_step", "lines")}
        plan.pool |= {"window": random.randrange(64), "slots": plan.slots}
        if source:
            plans[source].readers.append(number)
        return number

    def rate():
        return random.choice([(1, 1), (1, 1), (1, 1), (2, 3), (3, 1), (0, 1), (24, 25), (5, 0)])

    ingest = add(EngineKind.Ingest, 0, frames, movable=False)
    decode = add(EngineKind.JpegDecode, ingest, frames)
    last = decode
    for _ in range(random.randrange(1, 3)):
        numerator, denominator = rate()
        scale = add(EngineKind.Compute, decode, random.randrange(1, frames + 4), numerator=numerator,
                    denominator=denominator)
        encode = add(EngineKind.JpegEncode, scale, plans[scale].frames)
        add(EngineKind.Egress, encode, plans[scale].frames, follows=True, movable=False)
        last = scale
    return last, add


def job(random, chips, streams, frames, movable=True, wall=True):
    """Some streams, and a picture of all of them."""
    plans = {}
    made = []
    for _ in range(streams):
        home = random.randrange(chips) if movable else 0
        last, add = stream(random, plans, chips, random.randrange(1, frames + 1), home, movable=movable)
        made.append(last)
    if wall:
        count = random.randrange(1, frames + 1)
        for source in made:
            add(EngineKind.Compose, source, count, joined=True, numerator=random.randrange(1, 4), denominator=2)
        compose = add(EngineKind.Compose, 0, count, movable=movable)
        encode = add(EngineKind.JpegEncode, compose, count)
        add(EngineKind.Egress, encode, count, follows=True, movable=False)
    return plans


class Chips(Bench):
    """Engines that do what they are given, in order, when what it waits for is done; all is checked on the way."""

    async def start(self, plans, chips, *, threshold=1 << 23, moves=True, work=None, stall=0.0, reset=True):
        dut = self.dut
        self.plans, self.chips, self.stall, self.threshold = plans, chips, stall, threshold
        self.moves = moves
        self.work = work or (lambda plan: self.random.randrange(1, 200))
        self.done = defaultdict(set)
        self.given = defaultdict(dict)
        self.given_to = Counter()
        self.load = Counter()
        self.where = {}
        self.next = Counter()
        self.order = []
        self.queues = defaultdict(deque)
        self.groups = {}
        self.moved = []
        self.late = Counter()
        self.ends = deque()
        self.tell = self.random.getrandbits(16)
        dut.run.value, dut.clear.value, dut.hold.value, dut.count.value = 0, 0, 0, 0
        dut.tell.value = self.tell
        dut.threshold.value, dut.moves.value = threshold, moves
        if reset:
            await self.reset()
        else:
            await self.forget()
        await self.load_stages()
        self.running = [cocotb.start_soon(each()) for each in (self._count, self._take, self._end, self._watch)]
        dut.run.value = 1

    async def forget(self):
        """Clear it."""
        for path, into in streams_of(self.component.signature):
            self.port(path + (".valid" if into else ".ready")).value = 0
        self.dut.clear.value = 1
        await self.cycles(1)
        self.dut.clear.value = 0

    async def load_stages(self):
        await self.cycles(270)
        assert not self.get("busy")
        for number, plan in self.plans.items():
            readers = [*plan.readers, 0]
            siblings = self.plans[plan.source].readers if plan.source else []
            after = siblings[siblings.index(number) + 1 :] if number in siblings else []
            stage = {name: getattr(plan, name) for name in ("engine", "frames", "source", "numerator", "denominator",
                     "home", "nodes", "movable", "follows", "joined", "cost", "params", "step", "pool")}  # fmt: skip
            stage |= {"readers": readers[0], "next_reader": after[0] if after else 0}
            stage["freed_by"] = self.last(number) if plan.joined else 0
            await self.within(100, self.send("stage", [{"number": number, "stage": stage}]))

    def count(self, stage):
        n = 0
        while n in self.done[stage]:
            n += 1
        return n

    async def _count(self):
        """The counters, one cycle after they are read."""
        counts = [0] * COUNTERS
        self.counts = counts
        while True:
            await ReadOnly()
            read = self.get("read")
            await RisingEdge(self.dut.clk)
            self.dut.count.value = counts[read]

    def free_at(self, stage, n):
        """Whether the slot of task `n` of a stage is free."""
        plan = self.plans[stage]
        old = n - plan.slots
        if old < 0:
            return True
        for reader in plan.readers:
            its, last = self.plans[reader], self.last(reader)
            for k in range(its.frames):
                if its.reads(k, self.plans) <= old and k not in self.done[last]:
                    return False
        return True

    def last(self, stage):
        """The last stage of its group: a layer is read by what composes it."""
        while self.plans[stage].joined:
            stage += 1
        return stage

    def is_due(self, stage):
        """Whether the next task of a stage could be given out."""
        plan, n = self.plans[stage], self.next[stage]
        if n == plan.frames or n - self.count(stage) > AHEAD:
            return False
        if plan.source and plan.reads(n, self.plans) not in self.given[plan.source]:
            return False
        return self.free_at(stage, n)

    def members(self, last):
        """The stages of the group that ends with `last`."""
        found = [last]
        while found[0] - 1 in self.plans and self.plans[found[0] - 1].joined:
            found.insert(0, found[0] - 1)
        return found

    async def _take(self):
        while True:
            (placed,) = await self.receive("task", 1, self.stall)
            self.check(placed.node, placed.descriptor)

    def check(self, node, descriptor):
        """A task comes: it has to be the next one of its stage, due, whole, and where it belongs."""
        stage = descriptor.signal
        plan, n = self.plans[stage], self.next[stage]
        what = f"task {n} of stage {stage}"
        assert descriptor.number == n and n < plan.frames, what
        assert self.is_due(stage), f"{what} is not due"
        task = descriptor.task
        assert (task.tag, task.timestamp) == (tag_of(stage, n), n), what
        assert (descriptor.engine, descriptor.tell) == (plan.engine, self.tell), what
        low = plan.params + n * plan.step & (1 << 64) - 1
        assert task.params == plan.params >> 64 << 64 | low, what
        self.is_slot(task.target, plan, n, node, what)
        waits = [(wait.counter, wait.value) for wait in descriptor.waits]
        if plan.source:
            frame = plan.reads(n, self.plans)
            self.is_slot(task.source, self.plans[plan.source], frame, self.given[plan.source][frame], what)
            assert waits == [(plan.source, frame + 1), (0, 0)], what
        else:
            assert waits == [(0, 0), (0, 0)] and task.source.as_bits() == 0, what
        key = node, plan.engine
        if key in self.groups:
            assert self.groups[key] == stage, f"{what} comes amid a group"
            del self.groups[key]
        else:
            assert stage == self.members(self.last(stage))[0], f"{what} is not its group's first"
            assert self.given_to[key] < PLACED, f"{what} is one too many"
        if plan.joined:
            self.groups[key] = stage + 1
        else:
            head = self.plans[stage]
            home = self.given[plan.source][plan.reads(n, self.plans)] if head.follows else head.home
            expected = self.where.pop(stage, home)
            assert node == expected, f"{what} goes to {node}, {expected} expected"
            assert node == home or (plan.nodes >> node & 1 and plan.movable and self.moves), what
            self.given_to[key] += 1
            self.load[key] += plan.cost
        self.given[stage][n] = node
        self.next[stage] += 1
        self.order.append((stage, n))
        self.queues[key].append((stage, n))
        if len(self.queues[key]) == 1:
            cocotb.start_soon(self._engine(key))

    def is_slot(self, slot, plan, n, node, what):
        pool, k = plan.pool, n % plan.slots
        found = slot.window, slot.head, slot.body, slot.lines
        head, body = pool["head"] + k * pool["head_step"], pool["body"] + k * pool["body_step"]
        wanted = node << 6 | pool["window"], head % (1 << 26), body % (1 << 26), pool["lines"]
        assert found == wanted, f"{what}: slot {found}, {wanted} expected"

    async def _engine(self, key):
        """Do what waits, in order, until nothing does."""
        queue = self.queues[key]
        while queue:
            stage, n = queue[0]
            plan = self.plans[stage]
            if plan.source:
                frame = plan.reads(n, self.plans)
                while self.counts[plan.source] < frame + 1:
                    await RisingEdge(self.dut.clk)
            assert self.free_at(stage, n), f"task {n} of stage {stage} fills a slot that is in use"
            for _ in range(self.work(plan)):
                await RisingEdge(self.dut.clk)
            queue.popleft()
            self.done[stage].add(n)
            self.counts[stage] = self.count(stage)
            self.ends.append((key, stage))

    async def _end(self):
        while True:
            while not self.ends:
                await RisingEdge(self.dut.clk)
            (node, engine), stage = self.ends.popleft()
            await self.send("ended", [{"node": node, "stage": stage}], self.stall)
            if not self.plans[stage].joined:
                self.given_to[node, engine] -= 1
                self.load[node, engine] -= self.plans[stage].cost

    async def _watch(self):
        """Moves, and what should have been moved."""
        shape = self.component.signature.members["move"].shape
        looked = 0
        while True:
            await ReadOnly()
            looked = looked + 1 if self.get("busy") else 0
            most = LOOK * max(len(self.members(stage)) for stage in self.plans)
            assert self.stall or looked < most, f"a look takes more than {most} cycles"
            move = shape.from_bits(self.port("move").value.to_unsigned())
            if move.valid:
                plan = self.plans[move.stage]
                assert move.number == self.next[move.stage] and plan.movable and self.moves
                assert move.source == self.where.get(move.stage, plan.home)
                assert plan.nodes >> move.target & 1 and move.target != move.source
                if move.reason is Reason.Idle:
                    assert self.given_to[move.source, plan.engine] == PLACED
                    assert self.given_to[move.target, plan.engine] == 0
                self.where[move.stage] = move.target
                self.moved.append((move.stage, move.number, move.reason))
            await RisingEdge(self.dut.clk)

    def wrong(self):
        """What should be done now, and is not: as (stage, what)."""
        waiting = []
        for stage, plan in self.plans.items():
            if not plan.joined and all(self.is_due(member) for member in self.members(stage)):
                home = plan.home
                if plan.follows:
                    home = self.given[plan.source][plan.reads(self.next[stage], self.plans)]
                waiting.append((stage, plan, self.where.get(stage, home)))
        load = self.load.copy()
        for _, plan, where in waiting:
            load[where, plan.engine] += plan.cost
        for stage, plan, where in waiting:
            if self.given_to[where, plan.engine] < PLACED:
                yield stage, self.next[stage], "is not given out"
            if plan.movable and self.moves:
                for node in range(16):
                    if plan.nodes >> node & 1 and node != where:
                        other = load[node, plan.engine]
                        if load[where, plan.engine] > self.threshold >= other + plan.cost:
                            yield stage, self.next[stage], f"is not moved from {where} to {node}: threshold"
                        if other == 0 and self.given_to[where, plan.engine] == PLACED:
                            yield stage, self.next[stage], f"is not moved from {where} to {node}: idle"

    async def finish(self, limit=400_000):
        """Until all is done; nothing may stay undone that could be done."""
        total, step = sum(plan.frames for plan in self.plans.values()), 100
        end = self.now() + limit
        while sum(len(done) for done in self.done.values()) < total:
            assert self.now() < end, f"{len(self.order)} of {total} tasks given out within {limit} cycles"
            await self.cycles(step)
            wrong = set(self.wrong())
            self.late = Counter({entry: self.late[entry] + step for entry in wrong})
            late = [(self.plans[stage], *what) for (stage, *what), age in self.late.items() if age >= LATE]
            assert not late, f"{late}"
        await self.cycles(200)
        for each in self.running:
            each.cancel()
        assert not self.ends and not any(self.given_to.values()) and not any(self.load.values())
        for stage, plan in self.plans.items():
            assert self.done[stage] == set(range(plan.frames)), stage


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def random_jobs(dut, stall):
    """Whatever the stages: each task once, after its source, into a free slot, to an engine that has room."""
    bench = Chips(dut, DUTS)
    for chips, threshold in ((1, 30), (2, 1 << 23), (4, 30), (4, 200), (16, 100)):
        plans = job(bench.random, chips, bench.random.randrange(1, 5), 12)
        await bench.start(plans, chips, threshold=threshold, stall=stall)
        await bench.finish()


@cocotb.test()
async def nothing_is_moved_unless_it_may_be(dut):
    """All goes to its home if moves are off, or to a node of the stage's."""
    bench = Chips(dut, DUTS)
    for moves in (False, True):
        plans = job(bench.random, 4, 3, 8)
        for plan in plans.values():
            plan.nodes = 1 << plan.home if moves else 15
        await bench.start(plans, 4, threshold=20, moves=moves)
        await bench.finish()
        assert not bench.moved


@cocotb.test()
@cocotb.parametrize(threshold=[100, 1 << 23])
async def moves_save_time(dut, threshold):
    """Three streams at home on one of two chips: the other one does half of it, for the reason that there is."""
    bench = Chips(dut, DUTS)
    took, plans = {}, {}

    def work(plan):
        return 600 if plan.movable else 100

    for _ in range(3):
        stream(bench.random, plans, 2, 24, 0, movable=True)
    for plan in plans.values():
        plan.cost, plan.slots = 60, 4
        plan.pool["slots"] = 4
    for moves in (False, True):
        await bench.start(plans, 2, threshold=threshold, moves=moves, work=work)
        began = bench.now()
        await bench.finish()
        took[moves] = bench.now() - began
    reasons = Counter(reason for _, _, reason in bench.moved)
    cocotb.log.info(f"{took[False]} cycles at home, {took[True]} with {dict(reasons)}")
    assert set(reasons) == {Reason.Threshold if threshold == 100 else Reason.Idle}
    assert took[True] < 0.8 * took[False]


@cocotb.test()
async def it_can_begin_again(dut):
    """Held amid a job, cleared, and given another one: nothing of the first one is left."""
    bench = Chips(dut, DUTS)
    for _ in range(3):
        plans = job(bench.random, 3, 2, 6)
        await bench.start(plans, 3)
        dut.hold.value = 1
        await bench.cycles(300)
        assert not bench.order and not bench.get("busy"), "it does not wait for the counters"
        dut.hold.value = 0
        while len(bench.order) < 12:
            await bench.cycles(10)
        dut.run.value = 0
        await bench.cycles(300)
        before = len(bench.order)
        await bench.cycles(1000)
        assert len(bench.order) == before and not bench.get("busy")
        for each in bench.running:
            each.cancel()
        plans = job(bench.random, 3, 2, 6)
        await bench.start(plans, 3, reset=False)
        await bench.finish()
