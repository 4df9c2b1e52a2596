"""Testbench of hw/gpu.py: chips that are linked, each asked by the host on its own to read another one's memory."""

from itertools import chain, product
from pathlib import Path

import cocotb
from amaranth.hdl import Shape
from cocotb.triggers import RisingEdge, ValueChange

from tessera.hw.config import ChipConfig, SystemConfig
from tessera.hw.engine import EngineKind, Status
from tessera.hw.gpu import ENGINES, TaskEvent
from tessera.hw.host.descriptor import RECORD_BYTES, Slot, TaskEntry, descriptor_bytes, record_of
from tessera.hw.host.egress import EgressParams
from tessera.hw.host.ingest import IngestParams
from tessera.hw.link.training import LinkState
from tessera.hw.master.master import StageEntry, StartEntry, WindowEntry, entry_bytes
from tessera.hw.models.host import MSI_ADDRESS
from tessera.hw.system import System, links_of, port_to
from tessera.tb.bench import Bench, Dut, pack
from tessera.tb.system import Host, cold_start

CONFIG = SystemConfig(chip=ChipConfig(memory_lines=1 << 14, max_width=64, give_up=3000), host_bytes=1 << 20, chips=3)
DUTS = {"three": Dut(lambda: System(CONFIG), soak=True)}

RING, DONE, INPUT, OUTPUT = (n << 16 for n in range(1, 5))
"""Where in the host's memory: of each chip, 16 KiB of each."""
SHARE = 1 << 14
SLOTS, LINES = 3, 600
"""Windows of each chip, each with one slot: 0 is its own, 1 others may read, 2 others may write as well."""
RIGHTS = (0b0011, 0b0111, 0b1111)


def slot(chip, window):
    """Of a chip, the slot in a window."""
    return Slot(window=chip * 64 + window, head=0, body=1, lines=LINES - 1)


class Chips(Bench):
    """Three chips under one host, which gives a task to any of them and awaits its end."""

    def __init__(self, dut):
        super().__init__(dut, DUTS)
        self.hosts = [Host(self, n) for n in range(CONFIG.chips)]
        self.done = [0] * CONFIG.chips

    async def begin(self, session):
        """All rings anew, of chips that work together."""
        self.done = [0] * CONFIG.chips
        for n, host in enumerate(self.hosts):
            base = n * SHARE
            registers = {
                "MSI_ADDRESS_LOW": MSI_ADDRESS, "MSI_ENABLE": 1, "SESSION": session,
                "SUBMIT_BASE_LOW": RING + base, "SUBMIT_SIZE": 64,
                "COMPLETE_BASE_LOW": DONE + base, "COMPLETE_SIZE": 64,
            }  # fmt: skip
            for name, value in registers.items():
                await host.write(name, value)

    async def start(self):
        await cold_start(self, {"latency": 20})
        await self.begin(9)
        for n, host in enumerate(self.hosts):
            for window in range(SLOTS):
                await host.write("WINDOW_INDEX", window)
                await host.write("WINDOW_RIGHTS", RIGHTS[window])
                await host.write("WINDOW_BASE", 1024 * window + 512 * n)
                await host.write("WINDOW_LENGTH", LINES)
            for other in range(CONFIG.chips):
                if other != n:
                    await self.route(n, other)

    async def route(self, chip, other, around=None):
        """Tell a chip the way to another one, and over which a detour goes."""
        await self.hosts[chip].write("ROUTE_NODE", other)
        detour = 0 if around is None else port_to(chip, around) << 4 | 1 << 7
        await self.hosts[chip].write("ROUTE", port_to(chip, other) | 1 << 3 | detour)

    async def states(self):
        """Of each chip and each of its links, the state, whether it is lost, and the other end's number."""
        found = {}
        for chip, host in enumerate(self.hosts):
            for other in range(CONFIG.chips):
                if other != chip:
                    await host.write("LINK_INDEX", port_to(chip, other))
                    word = await host.read("LINK_STATE")
                    found[chip, other] = LinkState(word & 3), word >> 4 & 1, word >> 8
        return found

    async def until(self, link, state, limit=60_000):
        """Wait until both ends of a link are in a state."""
        for _ in range(0, limit, 500):
            states = await self.states()
            if states[link][0] is states[link[::-1]][0] is state:
                return states
            await self.cycles(500)
        raise AssertionError(f"{link} is {states[link][0]} and {states[link[::-1]][0]}, {state} expected")

    async def put(self, address, data):
        """Bytes into the host's memory."""
        Path("bytes.image").write_bytes(data + bytes(-len(data) % 64))
        await self.hosts[0].backdoor("load", "host", "bytes.image", address // 64, -(-len(data) // 64))

    async def get(self, address, count):
        """Bytes of the host's memory."""
        await self.hosts[0].backdoor("dump", "host", "bytes.bin", address // 64, -(-count // 64))
        return Path("bytes.bin").read_bytes()[:count]

    async def do(self, chip, entry, limit=100_000):
        """Give a task to a chip; its record."""
        await self.give(chip, [entry])
        return (await self.records(chip, 1, limit))[0]

    async def give(self, chip, entries):
        """Give tasks to a chip, and ring once."""
        for n, entry in enumerate(entries, self.done[chip]):
            line = entry if isinstance(entry, bytes) else descriptor_bytes(entry)
            await self.put(RING + chip * SHARE + n % 64 * RECORD_BYTES, line)
        await self.hosts[chip].write("SUBMIT_TAIL", self.done[chip] + len(entries))

    async def records(self, chip, count, limit=100_000):
        """The next records of a chip, as they come; an interrupt tells of each that comes after the last was served."""
        host, interrupts, first = self.hosts[chip], self.port(f"msi_count{chip}"), self.done[chip]
        end = self.now() + limit
        while (there := await host.read("COMPLETE_TAIL") - first) < count:
            assert self.now() < end, f"chip {chip}: {there} of {count} tasks ended within {limit} cycles"
            before = interrupts.value.to_unsigned()
            await host.write("COMPLETE_HEAD", first + there)
            if interrupts.value.to_unsigned() == before and await host.read("COMPLETE_TAIL") == first + there:
                await self.within(limit, _change(interrupts), f"{count} records of chip {chip}")
        self.done[chip] = first + count
        await host.write("COMPLETE_HEAD", first + count)
        return [
            record_of(await self.get(DONE + chip * SHARE + n % 64 * RECORD_BYTES, RECORD_BYTES))
            for n in range(first, first + count)
        ]

    async def ingest(self, chip, target, data):
        """A chip takes bytes from the host's memory into a slot."""
        address = INPUT + chip * SHARE
        await self.put(address, data)
        params = pack(IngestParams, {"address": address, "bytes": len(data)})
        return await self.do(chip, TaskEntry(EngineKind.Ingest, target=target, params=params))

    async def egress(self, chip, source, limit=100_000):
        """A chip brings a slot's bytes into the host's memory; the record, and those bytes."""
        address = OUTPUT + chip * SHARE
        params = pack(EgressParams, {"address": address, "capacity": SHARE})
        record = await self.do(chip, TaskEntry(EngineKind.Egress, source=source, params=params), limit)
        return record, await self.get(address, record["bytes"])

    async def passes(self, owner, reader, size):
        """What a chip has taken from the host another one gives back to it."""
        data = self.random.randbytes(size)
        record = await self.ingest(owner, slot(owner, 1), data)
        assert record["status"] == Status.Ok.value, f"{Status(record['status'])}"
        record, got = await self.egress(reader, slot(owner, 1))
        assert record["status"] == Status.Ok.value, f"{reader} of {owner}: {Status(record['status'])}"
        assert got == data, f"{reader} of {owner}: {size} bytes differ"
        return record


async def _change(signal):
    await ValueChange(signal)


@cocotb.test()
async def each_reads_every_others_memory(dut):
    """All links come up by themselves and know who is there; what one chip has, any gives to the host."""
    bench = Chips(dut)
    await bench.start()
    for link in links_of(CONFIG.chips):
        states = await bench.until(link, LinkState.Active)
    assert states == {(a, b): (LinkState.Active, 0, b) for a, b in states}
    cycles = {}
    for owner in range(CONFIG.chips):
        for reader in range(CONFIG.chips):
            cycles[owner, reader] = (await bench.passes(owner, reader, 9000))["cycles"]
            await bench.passes(owner, reader, bench.random.randrange(1, 700))
    near, far = ([c for (a, b), c in cycles.items() if (a == b) is own] for own in (True, False))
    cocotb.log.info(f"9000 bytes to the host from its own memory in {near}, from another's in {far} cycles")
    assert max(near) < min(far) and max(far) < 3 * min(near)
    counts = await bench.hosts[1].counters()
    assert counts["Egress.far"] > 2 * 141 and counts["Egress.lines"] > counts["Egress.far"]
    assert all(counts[f"link{n}.right"] > 20 and counts[f"link{n}.wrong"] == 0 for n in range(2))


@cocotb.test()
async def the_owner_says_who_may(dut):
    """Another chip's window is read and written as its owner allows it; the owner tells what it refused."""
    bench = Chips(dut)
    await bench.start()
    data = bench.random.randbytes(3000)
    for window in range(SLOTS):
        record = await bench.ingest(2, slot(2, window), data)
        assert record["status"] == Status.Ok.value
        before = await bench.hosts[2].read("REFUSED")
        record, got = await bench.egress(0, slot(2, window))
        refused = await bench.hosts[2].read("REFUSED") - before
        if window == 0:
            assert record["status"] == Status.Refused.value and refused == 1
            # Behind the engines come the links, by their numbers; the first line that was asked for is the header.
            who, where = await bench.hosts[2].read("REFUSED_WHO"), await bench.hosts[2].read("REFUSED_WHERE")
            client, write, number = who & 31, who >> 8 & 1, who >> 16 & 63
            assert (client, write, number, where) == (len(ENGINES) + port_to(2, 0), 0, 0, 0)
        else:
            assert record["status"] == Status.Ok.value and got == data and refused == 0
        changed = bench.random.randbytes(2000)
        record = await bench.ingest(1, slot(2, window), changed)
        assert record["status"] == (Status.Ok if window == 2 else Status.Refused).value
        record, got = await bench.egress(2, slot(2, window))
        assert record["status"] == Status.Ok.value and got == (changed if window == 2 else data)
    # A number that no window has, and a node that there is no way to.
    record, _ = await bench.egress(0, slot(2, 9))
    assert record["status"] == Status.Refused.value
    record, _ = await bench.egress(0, slot(7, 1))
    assert record["status"] == Status.Refused.value
    assert await bench.hosts[0].read("REFUSED") == 0
    await bench.passes(1, 0, 500)


@cocotb.test()
async def a_detour_is_taken_while_a_link_is_lost(dut):
    """Cut amid a transfer, what failed is read over the third chip, as is all that follows, until the link is back."""
    bench = Chips(dut)
    await bench.start()
    for chip, other, around in ((0, 1, 2), (1, 0, 2)):
        await bench.route(chip, other, around)
    await bench.passes(0, 1, 2000)
    data = bench.random.randbytes(16000)
    await bench.ingest(0, slot(0, 1), data)
    before = [await host.counters() for host in bench.hosts]
    reading = cocotb.start_soon(bench.egress(1, slot(0, 1), 3_000_000))
    await bench.cycles(600)
    dut.cut.value = 1
    record, got = await reading
    assert record["status"] == Status.Ok.value and got == data
    states = await bench.states()
    assert states[0, 1][1] and states[1, 0][1] and not states[0, 2][1]
    record, got = await bench.egress(1, slot(0, 1))
    assert record["status"] == Status.Ok.value and got == data
    detour = record["cycles"]
    after = [await host.counters() for host in bench.hosts]
    sent = [after[2][f"link{n}.sent"] - before[2][f"link{n}.sent"] for n in range(2)]
    # Of 16 lines at most to ask for, and of 4 to answer.
    assert min(sent) >= 16 and max(sent) >= 63, f"{sent} packets went through chip 2"
    dut.cut.value = 0
    await bench.until((0, 1), LinkState.Active)
    record, got = await bench.egress(1, slot(0, 1))
    assert record["status"] == Status.Ok.value and got == data and record["cycles"] < detour
    await bench.passes(1, 0, 3000)


@cocotb.test()
async def wrong_bits_change_nothing(dut):
    """One in ten thousand bits on all wires is wrong."""
    bench = Chips(dut)
    await bench.start()
    dut.errors.value = round(1e-4 * 2**32)
    for owner, reader in ((0, 1), (1, 2), (2, 0)):
        await bench.passes(owner, reader, 12000)
    counts = [await host.counters() for host in bench.hosts]
    assert all(sum(count[f"link{n}.wrong"] for n in range(2)) > 3 for count in counts)


async def _watch(bench, events):
    """Write down (what, tag) and the cycle of each begin and end of a task, on all chips."""
    while True:
        await RisingEdge(bench.dut.clk)
        for what in ("began", "ended"):
            bits = bench.port(what).value.to_unsigned()
            while bits:
                if bits & 1:
                    events[what, bits >> 1 & 0xFFFF] = bench.now()
                bits >>= Shape.cast(TaskEvent).width


@cocotb.test()
async def frames_go_round(dut):
    """Each chip fills a slot again and again, and the other two bring it to the host: all is given at once.

    No task begins before what it waits for has ended, on whichever chip, and the next one begins soon.
    """
    bench = Chips(dut)
    await bench.start()
    for link in links_of(CONFIG.chips):
        await bench.until(link, LinkState.Active)
    frames, room, chips = 6, 2560, range(CONFIG.chips)
    events = {}
    cocotb.start_soon(_watch(bench, events))
    contents = {key: bench.random.randbytes(bench.random.randrange(100, room)) for key in product(chips, range(frames))}
    inputs = {key: INPUT + place * room for place, key in enumerate(contents)}
    outputs = {key: OUTPUT + place * room for place, key in enumerate(product(chips, chips, range(frames)))}
    for key, content in contents.items():
        await bench.put(inputs[key], content)

    def filled(chip):
        return 1 + chip

    def brought(chip, by):
        return 1 + CONFIG.chips * (1 + chip) + by

    given, tags = {chip: [] for chip in chips}, {}

    def add(chip, engine, counter, number, waits, params, **slots):
        tags[counter, number] = tag = len(tags)
        more = {"number": number, "tell": (1 << CONFIG.chips) - 1, "params": params, **slots}
        given[chip].append(TaskEntry(engine, tag=tag, waits=tuple(waits), signal=counter, **more))

    for n in range(frames):
        for chip in chips:
            others = [other for other in chips if other != chip]
            params = pack(IngestParams, {"address": inputs[chip, n], "bytes": len(contents[chip, n])})
            waits = [(brought(chip, other), n) for other in others]
            add(chip, EngineKind.Ingest, filled(chip), n, waits, params, target=slot(chip, 1))
            for other in others:
                params = pack(EgressParams, {"address": outputs[other, chip, n], "capacity": room})
                waits = [(filled(other), n + 1)]
                add(chip, EngineKind.Egress, brought(other, chip), n, waits, params, source=slot(other, 1))
    for chip in chips:
        await bench.give(chip, given[chip])
    for chip in chips:
        for record in await bench.records(chip, len(given[chip])):
            assert record["status"] == Status.Ok.value, f"{Status(record['status'])} of task {record['tag']}"
    delays = []
    for entry in chain(*given.values()):
        ends = [events["ended", tags[counter, n]] for counter, value in entry.waits for n in range(value)]
        if ends:
            delays.append(events["began", entry.tag] - max(ends))
    cocotb.log.info(f"from the last end that a task waits for to its begin: {sorted(delays)} cycles")
    assert 0 < min(delays) <= 64
    for (other, chip, n), address in outputs.items():
        if other != chip:
            assert await bench.get(address, len(contents[other, n])) == contents[other, n], (other, chip, n)


@cocotb.test()
@cocotb.parametrize(moves=[False, True])
async def a_master_runs_a_job(dut, moves):
    """The host gives windows, stages and the start to one chip, and rings once; then to another one, for another job.

    Chip 0 takes frames from the host, the two others bring each back, reading chip 0's memory. If tasks may be moved,
    those of a chip that has too many go to whichever has none.
    """
    bench = Chips(dut)
    await bench.start()
    for link in links_of(CONFIG.chips):
        await bench.until(link, LinkState.Active)
    frames, size, step, room = 10, 1900, 1920, 40
    everyone = (1 << CONFIG.chips) - 1
    pool = {"window": 5, "slots": 4, "head": 0, "head_step": room, "body": 1, "body_step": room, "lines": room - 1}
    for trial, master in enumerate((1, 0)):
        await bench.begin(10 + trial)
        content = bench.random.randbytes(step * frames)
        await bench.put(INPUT, content)
        outputs = {2: OUTPUT, 3: OUTPUT + step * frames}
        common = {"frames": frames, "numerator": 1, "denominator": 1, "nodes": everyone, "cost": 10, "step": step}
        taken = pack(IngestParams, {"address": INPUT, "bytes": size})
        brought = {n: pack(EgressParams, {"address": address, "capacity": step}) for n, address in outputs.items()}
        reader = {**common, "engine": EngineKind.Egress, "source": 1, "movable": 1}
        stages = {
            1: {**common, "engine": EngineKind.Ingest, "home": 0, "readers": 2, "pool": pool, "params": taken},
            2: {**reader, "home": 1, "next_reader": 3, "params": brought[2]},
            3: {**reader, "home": 1 if moves else 2, "params": brought[3]},
        }
        window = {"base": 4096, "length": 4 * room, "rights": {"read": 1, "write": 1, "others_read": 1}}
        writes = [entry_bytes(WindowEntry, write={"index": 5, "window": window}, node=n) for n in range(CONFIG.chips)]
        ring = [
            *writes,
            *(entry_bytes(StageEntry, write={"number": n, "stage": stage}) for n, stage in stages.items()),
            entry_bytes(StartEntry, threshold=1000, moves=moves, tell=everyone),
        ]
        await bench.give(master, ring)
        records = await bench.records(master, 3 * frames)
        assert all(record["status"] == Status.Ok.value for record in records), records
        found = {(record["tag"] & 63, record["tag"] >> 6): record["node"] for record in records}
        assert set(found) == {(stage, n) for stage in stages for n in range(frames)}
        for (stage, n), node in found.items():
            assert node == stages[stage]["home"] or (moves and stage > 1), (stage, n, node)
        assert {found[3, n] for n in range(frames)} != {1}
        for address in outputs.values():
            got = await bench.get(address, step * frames)
            for n in range(frames):
                assert got[n * step : n * step + size] == content[n * step : n * step + size], n
        for chip, host in enumerate(bench.hosts):
            assert await host.read("REFUSED") == 0 and (chip == master or await host.read("COMPLETE_TAIL") == 0)
