"""Testbench of hw/memory/ddr_queues.py."""

from collections import deque

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge

from tessera.hw.memory.ddr_queues import BankQueues, head_shape, push_shape
from tessera.hw.memory.dram import BANKS
from tessera.hw.memory.port import Op
from tessera.tb.bench import Bench, Dut, pack, unpack

DUTS = {"depth_4": Dut(lambda: BankQueues(4, 32)), "depth_16": Dut(lambda: BankQueues(16, 128))}


class Model:
    """Deques beside the queues."""

    def __init__(self, bench):
        self.bench = bench
        self.depth, self.tags = bench.component.depth, bench.component.tags
        self.queues = [deque() for _ in range(BANKS)]
        self.sequence = self.cycle = 0
        self.popped = {}
        self.packed = {}
        self.overdue = False
        self.head_ports = [bench.port(f"heads__{b}") for b in range(BANKS)]

    def heads(self):
        """By bank; None for none. Checks them, and their order of age."""
        bench, shown = self.bench, []
        for b, (port, queue) in enumerate(zip(self.head_ports, self.queues)):
            bits = int(port.value)
            if bits & 1:
                assert queue, f"cycle {self.cycle}: a head in bank {b}, whose queue is empty"
                # The same access, behind `valid` instead of the bank's four bits.
                if bits != self.push_bits((b, queue[0][1])) >> 4 << 1 | 1:
                    access = unpack(head_shape(self.tags), bits).access
                    got = (access.op, access.row, access.column, access.tag)
                    assert got == queue[0][1], f"cycle {self.cycle}, bank {b}: {got}, {queue[0][1]} expected"
            else:
                assert not queue or self.popped.get(b) == self.cycle - 1, f"cycle {self.cycle}: no head in bank {b}"
            shown.append(queue[0] if bits & 1 else None)
        younger = 0
        for _, b in sorted(((head[0], b) for b, head in enumerate(shown) if head), reverse=True):
            older = bench.get(f"older__{b}")
            for j in range(BANKS):
                if shown[j] and b != j:
                    assert older >> j & 1 == younger >> j & 1, f"cycle {self.cycle}: banks {b} and {j}"
            younger |= 1 << b
        return shown

    def push_bits(self, push):
        if push not in self.packed:
            bank, (op, row, column, tag) = push
            fields = {"bank": bank, "access": {"op": op, "row": row, "column": column, "tag": tag}}
            self.packed[push] = pack(push_shape(self.tags), fields)
        return self.packed[push]

    def has_room(self, bank, heads):
        """Whether `bank` takes an access: depth behind the head, no head 256 pushes old, which is seen a cycle late."""
        overdue, self.overdue = self.overdue, any(head and self.sequence - head[0] >= 256 for head in heads)
        return len(self.queues[bank]) <= self.depth and not overdue

    async def step(self, push=None, choose=lambda heads: None):
        """One cycle: `push` is (bank, access), `choose` says from the heads which bank to pop. Whether it was taken."""
        bench = self.bench
        bench.port("i.valid").value = push is not None
        if push is not None:
            bench.port("i.payload").value = self.push_bits(push)
        bench.port("pop").value = 0
        await ReadOnly()
        heads = self.heads()
        room = self.has_room(push[0] if push else 0, heads)
        taken = push is not None and bench.get("i.ready")
        assert push is None or taken == room, f"cycle {self.cycle}, bank {push[0]}: taken is {taken}, {room} expected"
        pop = choose(heads)
        await FallingEdge(bench.dut.clk)
        if pop is not None:
            bench.port("pop").value = 1
            bench.port("pop_bank").value = pop
        await RisingEdge(bench.dut.clk)
        if pop is not None:
            self.queues[pop].popleft()
            self.popped[pop] = self.cycle
        if taken:
            self.queues[push[0]].append((self.sequence, push[1]))
            self.sequence += 1
        self.cycle += 1
        return bool(taken)


def random_push(bench, model, banks):
    rng = bench.random
    access = (rng.choice((Op.Read, Op.Write)), rng.randrange(2**18), rng.randrange(128), rng.randrange(model.tags))
    return rng.choice(banks), access


@cocotb.test()
@cocotb.parametrize(banks=[[3], [0, 4, 9], list(range(BANKS))], pops=[0.3, 0.9, 1.0])
async def order_within_a_bank(dut, banks, pops):
    bench = Bench(dut, DUTS)
    rng = bench.random
    for _restart in range(2):
        model = Model(bench)
        await bench.reset()
        refused = 0
        for _ in range(350):
            push = random_push(bench, model, banks) if rng.random() < 0.9 else None

            def choose(heads):
                valid = [b for b, head in enumerate(heads) if head]
                return rng.choice(valid) if valid and rng.random() < pops else None

            refused += push is not None and not await model.step(push, choose)
        assert refused or pops > 0.5, "never full"
    for _ in range(BANKS * model.depth * 3):
        await model.step(None, lambda heads: next((b for b, head in enumerate(heads) if head), None))
    assert not any(model.queues)


@cocotb.test()
async def cycles(dut):
    """A push is a head in the next cycle; after a pop the next of the bank two cycles later; depth and one more fit."""
    bench = Bench(dut, DUTS)
    model = Model(bench)
    await bench.reset()
    taken = [await model.step(random_push(bench, model, [6])) for _ in range(model.depth + 3)]
    assert taken == [True] * (model.depth + 1) + [False] * 2
    await model.step()
    began, pops = model.cycle, []

    def choose(heads):
        if heads[6]:
            pops.append(model.cycle)
            return 6

    for _ in range(2 * model.depth + 4):
        await model.step(None, choose)
    assert pops == [began + 2 * n for n in range(model.depth + 1)]
    await model.step(random_push(bench, model, [6]))
    pushed = model.cycle
    pops.clear()
    await model.step(None, choose)
    assert pops == [pushed]


@cocotb.test()
async def waits_for_the_oldest(dut):
    """While an access is 256 pushes old nothing more enters."""
    bench = Bench(dut, DUTS)
    model = Model(bench)
    await bench.reset()
    await model.step(random_push(bench, model, [0]))
    others = list(range(1, BANKS))
    for _ in range(600):
        await model.step(random_push(bench, model, others), lambda heads: next((b for b in others if heads[b]), None))
    assert 256 <= model.sequence <= 258, model.sequence
    await model.step(None, lambda heads: 0)
    for _ in range(20):
        await model.step(random_push(bench, model, others), lambda heads: next((b for b in others if heads[b]), None))
    assert model.sequence > 265


@cocotb.test()
async def any_bank_is_filled(dut):
    bench = Bench(dut, DUTS)
    model = Model(bench)
    await bench.reset()
    for bank in bench.random.sample(range(BANKS), BANKS):
        taken = [await model.step(random_push(bench, model, [bank])) for _ in range(model.depth + 2)]
        assert taken == [True] * (model.depth + 1) + [False], f"bank {bank}"
        # Old heads are not what this is about.
        while any(model.queues):
            await model.step(None, lambda heads: next((b for b, head in enumerate(heads) if head), None))
            assert model.cycle < BANKS * 4 * (model.depth + 2), f"bank {bank} is never empty"


@cocotb.test()
async def any_bank_is_waited_for(dut):
    """Behind the oldest go 256 pushes, from any sequence number on, and no more until it has left."""
    bench = Bench(dut, DUTS)
    model = Model(bench)
    await bench.reset()
    pushes = [random_push(bench, model, [bank]) for bank in range(BANKS)]
    for bank in bench.random.sample(range(BANKS), BANKS):
        others = [b for b in range(BANKS) if b != bank]
        first = model.sequence
        assert await model.step(pushes[bank]), f"bank {bank}"
        for n in range(260):
            # Each is popped as the next one enters another bank, so that none is refused for want of room.
            await model.step(pushes[others[n % len(others)]], lambda heads: next((b for b in others if heads[b]), None))
        assert model.sequence - first == 257, f"bank {bank}: {model.sequence - first} taken"
        await model.step(None, lambda heads, bank=bank: bank)
        await model.step(None, lambda heads: next((b for b in others if heads[b]), None))
        assert not any(model.queues)
