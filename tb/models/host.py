"""The model of the host and the real host port, against each other: registers, rings, DMA both ways."""

from __future__ import annotations

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge, ValueChange

from tessera.hw.engine import EngineKind, Status
from tessera.hw.host.descriptor import RECORD_BYTES, Slot, TaskEntry, descriptor_bytes, record_of
from tessera.hw.host.registers import BAR_BYTES, IDENTIFICATION, REGISTERS, VERSION, StatusBit
from tessera.hw.host.tlp import CompletionStatus
from tessera.hw.models.host import MSI_ADDRESS
from tessera.tb.bench import Dut
from tessera.tb.host.harness import KNOBS, SIZE, HostBench, Pair

DUTS = {"pair": Dut(Pair, stalls=True)}


def spread(generator):
    """Sizes and alignments at all the edges, and some others."""
    for address in (0, 1, 3, 61, 63, 64, 255, 511, 513, 4095):
        for count in (1, 2, 4, 63, 64, 65, 257, 1024):
            if generator.random() < 0.35:
                yield address, count
    for _ in range(12):
        yield generator.randrange(4096), generator.randrange(1, 6000)


@cocotb.test()
async def registers(dut):
    host = HostBench(dut, DUTS)
    await host.start(stall=3)
    assert await host.get("IDENTIFICATION") == IDENTIFICATION
    assert await host.get("VERSION") == VERSION
    assert await host.get("PARAMETERS") == host.component.port.parameters.chip.word
    for register in REGISTERS:
        await host.get(register.name)
    before = await host.get("BUS_UNSUPPORTED")
    assert await host.access(0, BAR_BYTES - 4) == (0, 0)
    assert await host.access(0, BAR_BYTES) == (0, 1), "beyond the BAR: unsupported request expected"
    await host.access(1, BAR_BYTES, 1)
    assert await host.get("BUS_UNSUPPORTED") == before + 3
    low = await host.get("CYCLE_LOW")
    assert await host.get("CYCLE_HIGH") == 0
    assert low < host.now() and await host.get("CYCLE_LOW") > low


@cocotb.test()
@cocotb.parametrize(knobs=list(KNOBS))
async def reads_any_range(dut, knobs):
    host = HostBench(dut, DUTS)
    await host.start(**KNOBS[knobs])
    for address, count in spread(host.random):
        base = host.random.randrange(SIZE - 16384) & ~0xFFF
        got, status = await host.read_range(base + address, count, host.random.choice((0, 0.5)))
        assert status == CompletionStatus.Successful
        wanted = host.memory[base + address : base + address + count].tobytes()
        assert got == wanted.ljust((count + 63) // 64 * 64, b"\0"), f"{count} bytes from {base + address:#x}"


@cocotb.test()
@cocotb.parametrize(knobs=list(KNOBS))
async def writes_any_range(dut, knobs):
    host = HostBench(dut, DUTS)
    await host.start(**KNOBS[knobs])
    for address, count in spread(host.random):
        at = (host.random.randrange(SIZE - 16384) & ~0xFFF) + address
        payload = host.random.randbytes(count)
        await host.write_range(at, payload, host.random.choice((0, 0.5)))
        host.memory[at : at + count] = np.frombuffer(payload, np.uint8)
    # A register's completion pushes the writes before it.
    await host.get("STATUS")
    await host.expect_memory()
    assert dut.dropped.value == 0


@cocotb.test()
async def both_ways_at_once(dut):
    host = HostBench(dut, DUTS)
    await host.start(**KNOBS["wild"])
    writes = []

    async def write():
        for _ in range(10):
            at = SIZE // 2 + host.random.randrange(SIZE // 2 - 4096)
            payload = host.random.randbytes(host.random.randrange(1, 3000))
            await host.write_range(at, payload)
            writes.append((at, payload))

    task = cocotb.start_soon(write())
    for _ in range(10):
        at, count = host.random.randrange(SIZE // 2 - 4096), host.random.randrange(1, 3000)
        got, status = await host.read_range(at, count)
        assert status == CompletionStatus.Successful
        assert got[:count] == host.memory[at : at + count].tobytes()
        await host.get("STATUS")
    await host.within(20000, task)
    for at, payload in writes:
        host.memory[at : at + len(payload)] = np.frombuffer(payload, np.uint8)
    await host.get("STATUS")
    await host.expect_memory()


@cocotb.test()
async def a_void_line_ends_its_range(dut):
    host = HostBench(dut, DUTS)
    await host.start()
    payload = host.random.randbytes(1000)
    at = 0x1003
    await host.write_range(at, payload, void=8)
    # Lines 0 to 7 reach byte 512 of the range; packets end at multiples of 256 of the address.
    host.memory[at : at + 509] = np.frombuffer(payload[:509], np.uint8)
    await host.get("STATUS")
    await host.expect_memory()
    await host.write_range(at, payload)
    host.memory[at : at + 1000] = np.frombuffer(payload, np.uint8)
    await host.get("STATUS")
    await host.expect_memory()


@cocotb.test()
async def failed_reads_end_with_their_status(dut):
    host = HostBench(dut, DUTS)
    await host.start(**KNOBS["wild"])
    _, status = await host.read_range(SIZE - 1000, 5000)
    assert status == CompletionStatus.UnsupportedRequest
    _, status = await host.read_range(MSI_ADDRESS, 64)
    assert status == CompletionStatus.CompleterAbort
    got, status = await host.read_range(77, 300)
    assert status == CompletionStatus.Successful and got[:300] == host.memory[77:377].tobytes()
    assert await host.get("BUS_FAILED") >= 2
    await host.put("RESET_COUNTERS", 1)
    assert await host.get("BUS_FAILED") == 0


@cocotb.test()
@cocotb.parametrize(knobs=["tidy", "wild"], size=[1, 8])
async def rings_carry_tasks_and_records(dut, knobs, size):
    host = HostBench(dut, DUTS)
    await host.start(**KNOBS[knobs])
    await host.rings(size)
    entries = [
        TaskEntry(
            EngineKind(n % 5),
            tag=n,
            target=Slot(n % 64, n * 1000, n, 2 * n),
            timestamp=n << 40,
            params=host.random.getrandbits(128),
            waits=((1 + n % 63, n),),
            signal=n % 64,
        )
        for n in range(3 * size + 2)
    ]
    given, taken, seen = 0, 0, []
    collector = cocotb.start_soon(host.receive("descriptors", len(entries), 0.3))
    while taken < len(entries):
        head = await host.get("SUBMIT_HEAD")
        batch = entries[given : head + size]
        for n, entry in enumerate(batch, given):
            at = 0x8000 + n % size * RECORD_BYTES
            host.memory[at : at + RECORD_BYTES] = np.frombuffer(descriptor_bytes(entry), np.uint8)
        if batch:
            host.memory[0x10000 : 0x10000 + size * RECORD_BYTES] = (await host.dump())[
                0x10000 : 0x10000 + size * RECORD_BYTES
            ]
            await host.load()
            given += len(batch)
            await host.put("SUBMIT_TAIL", given)
        for _ in range(50):
            if await host.get("SUBMIT_HEAD") == given:
                break
        else:
            raise AssertionError("the chip did not read its descriptors")
        before = int(dut.msi_count.value)
        batch_done = min(size, given - taken)
        await host.within(
            3000,
            host.send(
                "records",
                [
                    {"tag": taken + n, "status": Status.Ok, "cycles": 7 * n, "where": 5, "engine": EngineKind.Compute}
                    for n in range(batch_done)
                ],
                0.3,
            ),
        )
        if dut.msi_count.value == before:
            await host.within(3000, _change(dut.msi_count), "an MSI")
        assert dut.msi_data.value == 0x1234
        for _ in range(50):
            tail = await host.get("COMPLETE_TAIL")
            if tail == taken + batch_done:
                break
        assert tail == taken + batch_done
        found = await host.dump()
        for n in range(taken, tail):
            at = 0x10000 + n % size * RECORD_BYTES
            record = record_of(found[at : at + RECORD_BYTES].tobytes())
            assert (record["sequence"], record["tag"], record["where"]) == (n, n, 5)
            seen.append(record["tag"])
        assert int(dut.msi_count.value) == before + 1, "one MSI for a batch that is not served"
        taken = tail
        await host.put("COMPLETE_HEAD", taken)
    for entry, got in zip(entries, await host.within(3000, collector)):
        assert got.as_bits() == int.from_bytes(descriptor_bytes(entry), "little"), f"descriptor {entry.tag}"
    assert seen == list(range(len(entries)))


async def _change(handle):
    await ValueChange(handle)


@cocotb.test()
async def full_completion_ring_holds_records(dut):
    host = HostBench(dut, DUTS)
    await host.start()
    await host.rings(4, msi=False)
    sender = cocotb.start_soon(host.send("records", [{"tag": n} for n in range(10)]))
    await host.cycles(300)
    assert await host.get("COMPLETE_TAIL") == 4
    assert await host.get("STATUS") >> StatusBit.COMPLETION_FULL & 1
    await host.put("COMPLETE_HEAD", 3)
    await host.cycles(100)
    assert await host.get("COMPLETE_TAIL") == 7
    await host.put("COMPLETE_HEAD", 7)
    await host.within(1000, sender)
    assert await host.get("COMPLETE_TAIL") == 10
    assert dut.msi_count.value == 0


@cocotb.test()
async def nonsense_has_its_outcome(dut):
    host = HostBench(dut, DUTS)
    await host.start()
    bad = 1 << StatusBit.SUBMISSION_BAD | 1 << StatusBit.COMPLETION_BAD
    on = 1 << StatusBit.SUBMISSION_ENABLED | 1 << StatusBit.COMPLETION_ENABLED
    for size, base, wanted in (
        (0, 0x8000, 0), (3, 0x8000, bad), (1 << 17, 0x8000, bad), (8, 0x8020, bad), (8, 0x8000, on),
    ):
        await host.rings(size, base, base + 0x8000)
        assert await host.get("STATUS") & (bad | on) == wanted, f"size {size}, base {base:#x}"
        refused = await host.get("RING_REFUSED")
        await host.put("SUBMIT_TAIL", 9)
        await host.put("COMPLETE_HEAD", 1)
        assert await host.get("RING_REFUSED") == refused + 2
        assert (await host.get("SUBMIT_TAIL"), await host.get("COMPLETE_HEAD")) == (0, 0)
    # A ring that cannot be read stops, and works again when it is set anew.
    await host.put("SUBMIT_BASE_LOW", SIZE)
    await host.put("SUBMIT_SIZE", 8)
    await host.put("SUBMIT_TAIL", 2)
    await host.cycles(300)
    assert await host.get("STATUS") >> StatusBit.SUBMISSION_FAILED & 1
    assert await host.get("SUBMIT_HEAD") == 0
    await host.put("SUBMIT_BASE_LOW", 0x8000)
    await host.put("SUBMIT_SIZE", 8)
    await host.put("SUBMIT_TAIL", 1)
    (got,) = await host.within(2000, host.receive("descriptors", 1))
    assert got.as_bits() == int.from_bytes(host.memory[0x8000:0x8040].tobytes(), "little")


@cocotb.test()
async def moves_32_bytes_a_cycle(dut):
    host = HostBench(dut, DUTS)
    if host.stalled:
        return
    await host.start(latency=90)
    for address in (0x2000, 0x3001):
        count = 16384
        dut.ingest__line__ready.value = 1
        sender = cocotb.start_soon(
            host.send("ingest.request", [{"address": address + n, "bytes": 4096} for n in range(0, count, 4096)])
        )
        start, ends = host.now(), 0
        while ends < count // 4096:
            await RisingEdge(dut.clk)
            if dut.ingest__line__valid.value and int(dut.ingest__line__payload.value) >> 516 & 1:
                ends += 1
        await sender
        cycles = host.now() - start
        host.dut._log.info("read %d bytes from %#x in %d cycles: %.1f a cycle", count, address, cycles, count / cycles)
        assert count / cycles >= 32
        dut.ingest__line__ready.value = 0
        payload = host.random.randbytes(count)
        start = host.now()
        await host.write_range(address, payload)
        cycles = host.now() - start
        host.dut._log.info("wrote %d bytes to %#x in %d cycles: %.1f a cycle", count, address, cycles, count / cycles)
        assert count / cycles >= 32
        host.memory[address : address + count] = np.frombuffer(payload, np.uint8)
    await host.get("STATUS")
    await host.expect_memory()

