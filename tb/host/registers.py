"""The register map: every row of the table, and the page that shows it."""

from __future__ import annotations

from pathlib import Path

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

import tessera.hw
from tessera.hw.engine import EngineKind
from tessera.hw.host.registers import (
    ADDRESS,
    BAR_BYTES,
    IDENTIFICATION,
    REGISTERS,
    VERSION,
    ChipParameters,
    LinkStatus,
    Registers,
    StatusBit,
    register_table,
)
from tessera.hw.link.routes import Route
from tessera.hw.link.training import LinkState
from tessera.hw.memory.port import Refusal, Rights
from tessera.tb.bench import Bench, Dut, pack

CHIP = ChipParameters(engines=(EngineKind.Ingest, EngineKind.JpegDecode, EngineKind.Egress), memory_lines=1 << 22,
                      links=3)

DUTS = {
    "registers": Dut(lambda: Registers(CHIP), tests=r"registers\.(?!without_links)"),
    "unlinked": Dut(Registers, tests="without_links"),
}

PLAIN = {
    "CONTROL": 0xFFFF,
    "MSI_ADDRESS_LOW": 0xFFFF_FFFC,
    "MSI_ADDRESS_HIGH": 0xFFFF_FFFF,
    "MSI_DATA": 0xFFFF_FFFF,
    "MSI_ENABLE": 1,
    "SUBMIT_BASE_LOW": 0xFFFF_FFFF,
    "SUBMIT_BASE_HIGH": 0xFFFF_FFFF,
    "SUBMIT_SIZE": 0xFFFF_FFFF,
    "COMPLETE_BASE_LOW": 0xFFFF_FFFF,
    "COMPLETE_BASE_HIGH": 0xFFFF_FFFF,
    "COMPLETE_SIZE": 0xFFFF_FFFF,
    "WINDOW_INDEX": 0x3F,
    "WINDOW_RIGHTS": 0xF,
    "WINDOW_BASE": 0x3FFF_FFFF,
    "ROUTE_NODE": 0xF,
    "LINK_INDEX": 7,
    "COUNTER_SELECT": 0xFFFF,
}
"""Registers that give back what was written to them, and which bits they have."""


class RegistersBench(Bench):
    def __init__(self, dut):
        super().__init__(dut, DUTS)

    async def start(self):
        await self.reset()
        for name in ("counter_value", "unsupported", "unexpected", "failed", "submission_failed", "msi_unserved",
                     "completion_full", "dma_idle", "node", "link_status"):
            getattr(self.dut, name).value = 0
        for ring in ("submission", "completion"):
            for name in ("head", "tail", "enabled", "bad", "refused"):
                getattr(self.dut, f"{ring}__{name}").value = 0

    async def send(self, path, values, stall=0.0, gaps=None):
        return await self.within(1_000, super().send(path, values, stall, gaps), path)

    async def access(self, write, address, value=0):
        # A register that does not hold its value must not look right by always being read in step with its changes.
        await self.cycles(self.random.randrange(1, 4))
        sender = cocotb.start_soon(
            self.send("port.request", [{"write": write, "address": address, "data": value}])
        )
        if self.random.random() < 0.3:
            # The answer waits.
            await sender
            await self.cycles(self.random.randrange(2, 6))
        (data,) = await self.within(100, self.receive("port.response", 1), f"register {address:#x}")
        await sender
        return data

    async def get(self, name):
        return await self.access(0, ADDRESS[name])

    async def put(self, name, value):
        await self.access(1, ADDRESS[name], value)


@cocotb.test()
async def constants(dut):
    bench = RegistersBench(dut)
    await bench.start()
    for name, wanted in (("IDENTIFICATION", IDENTIFICATION), ("VERSION", VERSION), ("PARAMETERS", CHIP.word)):
        await bench.put(name, 0xFFFF_FFFF)
        assert await bench.get(name) == wanted
    assert IDENTIFICATION.to_bytes(4, "little") == b"TESS"
    assert CHIP.word == 0b10011 | 22 << 16 | 64 << 24
    for node in (5, 15, 0):
        dut.node.value = node
        await bench.put("NODE", 0xFFFF_FFFF)
        assert await bench.get("NODE") == 3 << 8 | node


@cocotb.test()
async def what_is_written_is_read(dut):
    bench = RegistersBench(dut)
    await bench.start()
    values = dict.fromkeys(PLAIN, 0)
    for _ in range(4 * len(PLAIN)):
        name = bench.random.choice(list(PLAIN))
        value = bench.random.getrandbits(32)
        await bench.put(name, value)
        values[name] = value & PLAIN[name]
        for other, wanted in values.items():
            assert await bench.get(other) == wanted, f"{other} after a write of {value:#x} to {name}"
    assert dut.abort.value == values["CONTROL"] and dut.counter_select.value == values["COUNTER_SELECT"]
    assert int(dut.submission__base.value) == values["SUBMIT_BASE_LOW"] | values["SUBMIT_BASE_HIGH"] << 32
    assert int(dut.completion__base.value) == values["COMPLETE_BASE_LOW"] | values["COMPLETE_BASE_HIGH"] << 32
    assert int(dut.msi.value) == (
        values["MSI_ENABLE"] | (values["MSI_ADDRESS_LOW"] | values["MSI_ADDRESS_HIGH"] << 32) << 1
        | values["MSI_DATA"] << 65
    )


@cocotb.test()
async def each_bit_is_kept(dut):
    """Alone and when all others are set, while the registers beside it hold the contrary."""
    bench = RegistersBench(dut)
    await bench.start()
    for name, bits in PLAIN.items():
        for n in range(32):
            for value in (1 << n, 0xFFFF_FFFF ^ 1 << n):
                await bench.put(name, value)
                for _ in range(2):
                    assert await bench.get(name) == value & bits, f"{name} after a write of {value:#x}"
        await bench.put(name, bench.random.getrandbits(32))


@cocotb.test()
async def what_is_not_there_is_counted(dut):
    bench = RegistersBench(dut)
    await bench.start()
    unknown = 0
    for address in range(0, BAR_BYTES, 4):
        value = await bench.access(0, address)
        if address not in ADDRESS.values():
            unknown += 1
            assert value == 0
            await bench.access(1, address, 0xFFFF_FFFF)
            unknown += 1
    assert await bench.get("BUS_UNSUPPORTED") == unknown
    await bench.put("RESET_COUNTERS", 0)
    assert await bench.get("BUS_UNSUPPORTED") == unknown
    assert await bench.get("RESET_COUNTERS") == 0
    await bench.put("RESET_COUNTERS", 1)
    assert await bench.get("BUS_UNSUPPORTED") == 0


@cocotb.test()
async def what_the_table_has_is_not_counted(dut):
    """Neither a write of what may only be read, nor a reading of what may only be written."""
    bench = RegistersBench(dut)
    await bench.start()
    dut.window__ready.value = dut.route__ready.value = 1
    for register in REGISTERS:
        for write in (0, 1):
            await bench.access(write, register.address, 0)
            assert await bench.get("BUS_UNSUPPORTED") == 0, f"{'write' if write else 'reading'} of {register.name}"


@cocotb.test()
async def cycle_counts_each_cycle(dut):
    bench = RegistersBench(dut)
    await bench.start()
    first = int(dut.cycle.value)
    for n in range(1, 600):
        await RisingEdge(dut.clk)
        assert int(dut.cycle.value) == first + n, f"{int(dut.cycle.value)} after {first + n - 1}"


@cocotb.test()
async def idle_is_an_equal_count_in_all_bits(dut):
    """``SUBMISSION_IDLE`` falls by any bit in which head and tail differ."""
    bench = RegistersBench(dut)
    await bench.start()
    for bit in range(32):
        head = bench.random.getrandbits(32)
        for tail in (head, head ^ 1 << bit):
            dut.submission__head.value, dut.submission__tail.value = head, tail
            idle = await bench.get("STATUS") >> StatusBit.SUBMISSION_IDLE & 1
            assert idle == (head == tail), f"head {head:#x}, tail {tail:#x}"


@cocotb.test()
async def inputs_are_read(dut):
    bench = RegistersBench(dut)
    await bench.start()
    for name, port in (
        ("SUBMIT_HEAD", "submission__head"), ("SUBMIT_TAIL", "submission__tail"),
        ("COMPLETE_HEAD", "completion__head"), ("COMPLETE_TAIL", "completion__tail"),
    ):
        value = bench.random.getrandbits(32)
        getattr(dut, port).value = value
        assert await bench.get(name) == value, name
    dut.submission__tail.value = dut.submission__head.value
    await bench.cycles(1)
    bits = ["submission__enabled", "submission__bad", "submission_failed", None, "completion__enabled",
            "completion__bad", "completion_full", "msi_unserved", "dma_idle"]
    for n, name in enumerate(bits):
        if name:
            getattr(dut, name).value = 1
            assert await bench.get("STATUS") == 1 << n | 1 << 3, name
            getattr(dut, name).value = 0
    dut.submission__tail.value = ~int(dut.submission__head.value) & 0xFFFF_FFFF
    assert await bench.get("STATUS") == 0
    for name, port in (
        ("BUS_UNSUPPORTED", "unsupported"), ("BUS_UNEXPECTED", "unexpected"), ("BUS_FAILED", "failed"),
        ("RING_REFUSED", "submission__refused"), ("RING_REFUSED", "completion__refused"),
    ):
        before = await bench.get(name)
        getattr(dut, port).value = 1
        await bench.cycles(5)
        getattr(dut, port).value = 0
        assert await bench.get(name) == before + 5, name
    for value in [0x0123_4567_89AB_CDEF, *(bench.random.getrandbits(64) for _ in range(24))]:
        dut.counter_value.value = value
        assert await bench.get("COUNTER_LOW") == value & 0xFFFF_FFFF
        dut.counter_value.value = 0
        # It holds still while others are read and written.
        await bench.get("MSI_DATA")
        for _ in range(3):
            assert await bench.get("COUNTER_HIGH") == value >> 32


@cocotb.test()
async def refusals_are_told(dut):
    bench = RegistersBench(dut)
    await bench.start()
    for n in range(5):
        last = {"client": 7 + n, "id": n, "write": n & 1, "window": 40 + n, "offset": bench.random.getrandbits(26)}
        await bench.send("refused", [last])
        when = int(dut.cycle.value)
        assert await bench.get("REFUSED") == n + 1
        who = await bench.get("REFUSED_WHO")
        assert who == last["client"] | last["id"] << 5 | last["write"] << 8 | last["window"] << 16
        assert await bench.get("REFUSED_WHERE") == last["offset"]
        assert await bench.get("REFUSED_WHEN_LOW") == when and await bench.get("REFUSED_WHEN_HIGH") == 0
    assert pack(Refusal, last)


@cocotb.test()
async def rings_hear_of_writes(dut):
    bench = RegistersBench(dut)
    await bench.start()
    seen = []

    async def watch():
        while True:
            await RisingEdge(dut.clk)
            await ReadOnly()
            for ring in ("submission", "completion"):
                for pulse, value in (("set", "size"), ("move", "index")):
                    if getattr(dut, f"{ring}__{pulse}").value:
                        seen.append((ring, pulse, int(getattr(dut, f"{ring}__{value}").value)))

    cocotb.start_soon(watch())
    wanted = []
    for _ in range(16):
        for name, ring, pulse in (
            ("SUBMIT_SIZE", "submission", "set"), ("SUBMIT_TAIL", "submission", "move"),
            ("COMPLETE_SIZE", "completion", "set"), ("COMPLETE_HEAD", "completion", "move"),
        ):
            value = bench.random.getrandbits(32)
            await bench.put(name, value)
            wanted.append((ring, pulse, value))
    await bench.put("SUBMIT_HEAD", 9)
    await bench.cycles(3)
    assert seen == wanted


@cocotb.test()
async def a_window_waits_to_be_taken(dut):
    bench = RegistersBench(dut)
    await bench.start()
    await bench.put("WINDOW_INDEX", 9)
    await bench.put("WINDOW_RIGHTS", 5)
    await bench.put("WINDOW_BASE", 77)
    writing = cocotb.start_soon(bench.put("WINDOW_LENGTH", 100))
    await bench.cycles(40)
    assert not writing.done(), "the write has ended before the table has taken the window"
    (window,) = await bench.within(10, bench.receive("window", 1))
    entry = window.window
    assert (window.index, entry.base, entry.length) == (9, 77, 100)
    assert pack(Rights, entry.rights) == pack(Rights, {"read": 1, "others_read": 1})
    await writing
    assert await bench.get("WINDOW_LENGTH") == 100


@cocotb.test()
async def any_window_reaches_the_table(dut):
    bench = RegistersBench(dut)
    await bench.start()
    dut.window__ready.value = 0
    for _ in range(16):
        index, base, length, rights = (bench.random.getrandbits(bits) for bits in (6, 30, 27, 4))
        # Bits that a register does not have are written, too.
        await bench.put("WINDOW_INDEX", index | bench.random.getrandbits(26) << 6)
        await bench.put("WINDOW_RIGHTS", rights | bench.random.getrandbits(28) << 4)
        await bench.put("WINDOW_BASE", base | bench.random.getrandbits(2) << 30)
        writing = cocotb.start_soon(bench.put("WINDOW_LENGTH", length | bench.random.getrandbits(5) << 27))
        (window,) = await bench.within(100, bench.receive("window", 1))
        await writing
        entry = window.window
        assert (window.index, entry.base, entry.length) == (index, base, length)
        assert pack(Rights, entry.rights) == rights
        assert await bench.get("WINDOW_LENGTH") == length
        assert not dut.window__valid.value


@cocotb.test()
async def any_route_reaches_the_table(dut):
    """Like a window, when it is taken; the register keeps what was written."""
    bench = RegistersBench(dut)
    await bench.start()
    for _ in range(16):
        node, route, other = (bench.random.getrandbits(bits) for bits in (4, 8, 24))
        await bench.put("ROUTE_NODE", node | other << 4)
        writing = cocotb.start_soon(bench.put("ROUTE", route | other << 8))
        await bench.cycles(20)
        assert not writing.done(), "the write has ended before the table has taken the route"
        (entry,) = await bench.within(10, bench.receive("route", 1))
        await writing
        assert entry.node == node and pack(Route, entry.route) == route
        assert (entry.route.port, entry.route.known) == (route & 7, route >> 3 & 1)
        assert (entry.route.detour, entry.route.has_detour) == (route >> 4 & 7, route >> 7)
        assert await bench.get("ROUTE") == route
        assert not dut.route__valid.value


@cocotb.test()
async def without_links_a_route_goes_nowhere(dut):
    """Nobody is there to take it, and the next access is answered all the same."""
    bench = RegistersBench(dut)
    await bench.start()
    for route in (0x88, 0xFF):
        await bench.put("ROUTE", route)
        assert not dut.route__valid.value
        assert await bench.get("ROUTE") == route


@cocotb.test()
async def a_link_is_chosen_and_shown(dut):
    bench = RegistersBench(dut)
    await bench.start()
    for index in (3, 7, 0):
        await bench.put("LINK_INDEX", index)
        assert dut.link_index.value == index
        for state in LinkState:
            for lost in (0, 1):
                peer = bench.random.randrange(16)
                dut.link_status.value = pack(LinkStatus, {"state": state, "lost": lost, "peer": peer})
                assert await bench.get("LINK_STATE") == state.value | lost << 4 | peer << 8


@cocotb.test()
async def counts_for_long_and_clears(dut):
    """All counts grow by one in each cycle (those of the rings by two) and are cleared together."""
    bench = RegistersBench(dut)
    await bench.start()
    ones = {"client": 31, "id": 7, "write": 1, "window": 63, "offset": (1 << 26) - 1}
    dut.refused__payload.value = pack(Refusal, ones)
    events = ("refused__valid", "unsupported", "unexpected", "failed", "submission__refused", "completion__refused")
    # Most of its bits are set, so that a count of which one bit depends on another would not hold still.
    started, cycles = int(dut.cycle.value), (1 << 20) + (1 << 18) - 1 - bench.random.randrange(1 << 8)
    for name in events:
        getattr(dut, name).value = 1
    await bench.cycles(cycles)
    # Right behind the edge, a port still shows what it was in the last of these cycles.
    last = int(dut.cycle.value)
    for name in events:
        getattr(dut, name).value = 0
    assert last == started + cycles
    for _ in range(8):
        for name in ("REFUSED", "BUS_UNSUPPORTED", "BUS_UNEXPECTED", "BUS_FAILED"):
            assert await bench.get(name) == cycles, name
        assert await bench.get("RING_REFUSED") == 2 * cycles
    # Of the last one.
    assert await bench.get("REFUSED_WHO") == 31 | 7 << 5 | 1 << 8 | 63 << 16
    assert await bench.get("REFUSED_WHERE") == (1 << 26) - 1
    assert await bench.get("REFUSED_WHEN_LOW") == last
    await bench.put("RESET_COUNTERS", 1)
    for name in REGISTERS:
        if name.name.startswith(("REFUSED", "BUS_", "RING_")):
            assert await bench.get(name.name) == 0, name.name
    sender = cocotb.start_soon(bench.send("port.request", [{"write": 0, "address": ADDRESS["CYCLE_LOW"], "data": 0}]))
    await sender
    await ReadOnly()
    now = int(dut.cycle.value)
    await RisingEdge(dut.clk)
    assert (await bench.within(10, bench.receive("port.response", 1))) == [now]
    assert await bench.get("CYCLE_HIGH") == 0


@cocotb.test()
async def reset_clears_all(dut):
    bench = RegistersBench(dut)
    await bench.start()
    for name in PLAIN:
        await bench.put(name, 0xFFFF_FFFF)
    await bench.start()
    dut.window__ready.value = 1
    for register in REGISTERS:
        if register.name not in ("IDENTIFICATION", "VERSION", "PARAMETERS", "NODE", "STATUS", "CYCLE_LOW"):
            assert await bench.get(register.name) == 0, register.name
    for port in ("abort", "msi", "counter_select", "submission__base", "submission__size", "completion__base",
                 "completion__size", "reset_counters"):
        assert bench.port(port).value == 0, port


@cocotb.test()
async def an_access_takes_two_cycles(dut):
    bench = RegistersBench(dut)
    await bench.start()
    for write in (0, 1):
        cocotb.start_soon(bench.send("port.request", [{"write": write, "address": ADDRESS["MSI_DATA"], "data": 3}]))
        dut.port__response__ready.value = 1
        await ReadOnly()
        while not (dut.port__request__valid.value and dut.port__request__ready.value):
            await RisingEdge(dut.clk)
            await ReadOnly()
        taken = bench.now()
        while not dut.port__response__valid.value:
            await RisingEdge(dut.clk)
            await ReadOnly()
        assert bench.now() - taken == 2
        await bench.cycles(3)


@cocotb.test()
async def the_page_shows_the_table(dut):
    page = Path(tessera.hw.__file__).parent.parent / "docs" / "host.md"
    starts = ("| 0x", "| address", "|---|---|---|---|")
    shown = [line for line in page.read_text().splitlines() if line.startswith(starts)]
    assert shown == register_table(), "docs/host.md differs from REGISTERS: paste the lines of register_table()"
    assert len(set(ADDRESS.values())) == len(REGISTERS)
    assert all(register.address % 4 == 0 and register.address < BAR_BYTES for register in REGISTERS)


@cocotb.test()
async def constructor_says_what_is_wrong(dut):
    for wrong, text in (({"memory_lines": 3}, "memory_lines is 3"), ({"windows": 65}, "windows is 65")):
        try:
            ChipParameters(**wrong)
        except ValueError as error:
            assert text in str(error)
        else:
            raise AssertionError(f"{wrong} was accepted")
