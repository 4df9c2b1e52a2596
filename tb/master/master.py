"""Testbench of hw/master/master.py: what comes goes where it belongs, and a small job runs on a model of chips."""

from collections import Counter, defaultdict

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.engine import EngineKind
from tessera.hw.host.descriptor import COUNTERS, Descriptor, DoneRecord, Entry
from tessera.hw.master.allocation import StageWrite
from tessera.hw.master.master import Master, StageEntry, StartEntry, WindowEntry, entry_bytes
from tessera.hw.master.messenger import LetterKind
from tessera.hw.memory.port import WindowWrite
from tessera.tb.bench import Bench, Dut, pack

DUTS = {"master": Dut(Master, watched=True)}
NODE = 2


def entry(shape, **fields):
    """An entry of the ring, as a number."""
    return int.from_bytes(entry_bytes(shape, **fields), "little")


class MasterBench(Bench):
    """Writes down all that comes out; counters are a model's."""

    async def start(self, stall=0.0):
        dut = self.dut
        dut.node.value, dut.clear.value, dut.hold.value, dut.count.value = NODE, 0, 0, 0
        await self.reset()
        self.counts = [0] * COUNTERS
        self.out = {path: [] for path in ("records", "task", "window", "letter")}
        for path in self.out:
            cocotb.start_soon(self._take(path, stall))
        cocotb.start_soon(self._count())

    async def _take(self, path, stall):
        while True:
            self.out[path].extend(await self.receive(path, 1, stall))

    async def _count(self):
        while True:
            await ReadOnly()
            read = self.get("read")
            await RisingEdge(self.dut.clk)
            self.dut.count.value = self.counts[read]

    def task(self, tag, managed=0, owner=0):
        """A descriptor at random but for this."""
        bits = self.random.getrandbits(512)
        for name, value in (("managed", managed), ("owner", owner), ("entry", Entry.Task.value)):
            field = Descriptor.as_shape()[name]
            mask = (1 << self.width(field.shape)) - 1 << field.offset
            bits = bits & ~mask | value << field.offset
        # The tag is the lowest field of all.
        return bits >> 16 << 16 | tag

    @staticmethod
    def width(shape):
        return shape if isinstance(shape, int) else shape.as_shape().width

    def window(self):
        """A window at random."""
        return WindowWrite.from_bits(self.random.getrandbits(WindowWrite.as_shape().size))


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.6])
async def all_goes_where_it_belongs(dut, stall):
    """Entries, letters and records, all at once: none is lost, and those of one way stay in order."""
    bench = MasterBench(dut, DUTS)
    await bench.start(stall)
    wanted = {path: defaultdict(list) for path in bench.out}
    count = 120

    async def entries():
        for n in range(count):
            if bench.random.random() < 0.5:
                bits = bench.task(n, bench.random.randrange(2), bench.random.randrange(16))
                # What the host says of these two is not believed.
                known = Descriptor.as_shape()
                own = bits & ~(1 << known["managed"].offset) & ~(15 << known["owner"].offset)
                wanted["task"]["host"].append(own | NODE << known["owner"].offset)
            else:
                node, write = bench.random.choice([NODE, 0, 5]), bench.window()
                bits = entry(WindowEntry, write=write, node=node)
                if node == NODE:
                    wanted["window"]["host"].append(write.as_bits())
                else:
                    wanted["letter"]["window"].append((node, LetterKind.Window, write.as_bits()))
            await bench.send("entry", [bits], stall)

    async def letters():
        for n in range(count):
            kind = bench.random.choice(list(LetterKind))
            line = {
                LetterKind.Task: bench.task(1000 + n, 1, 7),
                LetterKind.Record: pack(DoneRecord, {"tag": n, "managed": 0, "node": 7, "owner": NODE}),
                LetterKind.Window: bench.window().as_bits(),
            }[kind]
            path = {LetterKind.Task: "task", LetterKind.Record: "records", LetterKind.Window: "window"}[kind]
            wanted[path]["letters"].append(line)
            await bench.send("came", [{"node": 7, "kind": kind, "line": line}], stall)

    async def records():
        for n in range(count):
            managed, owner = bench.random.randrange(2), bench.random.choice([0, 7, 9])
            owner = owner if managed else NODE
            record = {"tag": n, "managed": managed, "owner": owner, "node": NODE, "bytes": bench.random.getrandbits(32)}
            line = pack(DoneRecord, record)
            if managed:
                wanted["letter"]["records"].append((owner, LetterKind.Record, line))
            else:
                wanted["records"]["own"].append(line)
            await bench.send("record", [record], stall)

    for each in [cocotb.start_soon(work()) for work in (entries, letters, records)]:
        await bench.within(30_000, each)
    await bench.cycles(300)
    found = {path: [one.as_bits() for one in values] for path, values in bench.out.items() if path != "letter"}
    found["letter"] = [(one.node, one.kind, one.line) for one in bench.out["letter"]]
    for path, ways in wanted.items():
        assert Counter(found[path]) == Counter(one for values in ways.values() for one in values), path
        for values in ways.values():
            mine = set(values)
            assert [one for one in found[path] if one in mine] == values, path


@cocotb.test()
async def a_job_runs_on_all_chips(dut):
    """Ingest at home, decode where there is room, egress where that was: records come back, and then it is over."""
    bench = MasterBench(dut, DUTS)
    frames, nodes = 12, (0, NODE, 3)
    pool = {"window": 1, "slots": 4, "head": 0, "head_step": 10, "body": 1, "body_step": 10, "lines": 9}
    common = {"frames": frames, "home": NODE, "nodes": sum(1 << node for node in nodes), "cost": 5, "pool": pool,
              "numerator": 1, "denominator": 1}
    stages = {
        1: {"engine": EngineKind.Ingest, "readers": 2},
        2: {"engine": EngineKind.JpegDecode, "source": 1, "readers": 3, "movable": 1},
        3: {"engine": EngineKind.Egress, "source": 2, "follows": 1},
    }
    await bench.start(0.2)
    writes = [{"number": number, "stage": {**common, **own}} for number, own in stages.items()]
    ring = [entry(StageEntry, write=write) for write in writes]
    await bench.send("entry", ring)
    await bench.cycles(400)
    assert not bench.out["task"] and not bench.out["letter"], "it has begun before the start"
    start = entry(StartEntry, threshold=1 << 20, moves=1, tell=common["nodes"])
    # What comes while it runs is dropped: a stage, and another start.
    late = entry(StageEntry, write=StageWrite.const({"number": 1, "stage": {**common, **stages[1], "frames": 1}}))
    await bench.send("entry", [start, late, entry(StartEntry)])
    done, seen, given, where = defaultdict(set), Counter(), Counter(), {}
    while seen["records"] < 3 * frames:
        await bench.cycles(10)
        assert bench.now() < 1_000_000
        for path in ("task", "letter"):
            for one in bench.out[path][seen[path] :]:
                seen[path] += 1
                node = NODE if path == "task" else one.node
                line = one.as_bits() if path == "task" else one.line
                assert path == "task" or one.kind is LetterKind.Task
                descriptor = Descriptor.from_bits(line)
                assert (descriptor.managed, descriptor.owner, descriptor.tell) == (1, NODE, common["nodes"])
                stage, number = descriptor.signal, descriptor.number
                where[stage, number] = node
                given[node] += 1
                await bench.cycles(bench.random.randrange(1, 60))
                record = {"tag": descriptor.task.tag, "managed": 1, "owner": NODE, "node": node}
                for last in (0, 1) if stage == 2 else (1,):
                    message = {**record, "last": last}
                    if node == NODE:
                        await bench.send("record", [message])
                    else:
                        line = pack(DoneRecord, message)
                        await bench.send("came", [{"node": node, "kind": LetterKind.Record, "line": line}])
                done[stage].add(number)
                while bench.counts[stage] in done[stage]:
                    bench.counts[stage] += 1
        seen["records"] = sum(record.last for record in bench.out["records"])
    assert len(bench.out["records"]) == 4 * frames
    assert all(done[stage] == set(range(frames)) for stage in stages)
    assert all(where[1, n] == NODE and where[3, n] == where[2, n] for n in range(frames))
    assert {record.node for record in bench.out["records"]} == set(given)
