"""The chip's registers, as the host sees them in BAR 0. One table says where they are."""

from dataclasses import dataclass

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.engine import EngineKind
from tessera.hw.lib.streams import observe
from tessera.hw.link.routes import MAX_PORTS, Route, RouteWrite
from tessera.hw.link.training import LinkState
from tessera.hw.memory.port import WINDOWS, Refusal, Rights, WindowWrite

__all__ = [
    "ADDRESS",
    "BAR_BYTES",
    "IDENTIFICATION",
    "REGISTERS",
    "VERSION",
    "ChipParameters",
    "MsiSetup",
    "Register",
    "RegisterPort",
    "RegisterRequest",
    "Registers",
    "RingControl",
    "StatusBit",
    "register_table",
]

BAR_BYTES = 4096
IDENTIFICATION = int.from_bytes(b"TESS", "little")
VERSION = 0x0002_0000


class StatusBit:
    """Bits of ``STATUS``."""

    SUBMISSION_ENABLED = 0
    SUBMISSION_BAD = 1
    SUBMISSION_FAILED = 2
    SUBMISSION_IDLE = 3
    COMPLETION_ENABLED = 4
    COMPLETION_BAD = 5
    COMPLETION_FULL = 6
    MSI_UNSERVED = 7
    DMA_IDLE = 8


@dataclass(frozen=True)
class Register:
    """One row of the register map.

    Parameters
    ----------
    address
        Bytes from the start of BAR 0.
    access
        "r", "rw" or "w"; what may not be written ignores it, what may not be read gives 0.
    """

    name: str
    address: int
    access: str
    meaning: str


REGISTERS = tuple(
    Register(*row)
    for row in (
        ("IDENTIFICATION", 0x000, "r", "the bytes `TESS`"),
        ("VERSION", 0x004, "r", "major version in bits 31:16, minor in 15:0"),
        ("PARAMETERS", 0x008, "r", "bit n of 15:0: the chip has engine kind n; 23:16: log2 of its memory's lines; "
         "31:24: windows"),
        ("NODE", 0x00C, "r", "3:0 the chip's number; 11:8 how many links it has"),
        ("CONTROL", 0x010, "rw", "bit n of 15:0: while set, engine kind n ends its task as `Aborted`"),
        ("RESET_COUNTERS", 0x014, "w", "writing 1 clears all error and performance counters"),
        ("STATUS", 0x018, "r", "0 submission ring enabled, 1 its base or size is bad, 2 it stopped since a descriptor "
         "could not be read, 3 all its descriptors are taken, 4 completion ring enabled, 5 its base or size is bad, "
         "6 it is full, 7 an MSI was sent and not served, 8 no read of host memory is under way"),
        ("CYCLE_LOW", 0x020, "r", "cycles since reset, 31:0; reading it keeps 63:32 for the next register"),
        ("CYCLE_HIGH", 0x024, "r", "63:32 as of the last reading of `CYCLE_LOW`"),
        ("REFUSED", 0x030, "r", "accesses that a window refused"),
        ("REFUSED_WHO", 0x034, "r", "the last of them: 4:0 client, 7:5 id, 8 a write, 21:16 window"),
        ("REFUSED_WHERE", 0x038, "r", "its line offset"),
        ("REFUSED_WHEN_LOW", 0x03C, "r", "its cycle, 31:0"),
        ("REFUSED_WHEN_HIGH", 0x040, "r", "its cycle, 63:32"),
        ("BUS_UNSUPPORTED", 0x050, "r", "packets from the host that the chip does not support: answered so, or dropped "
         "if nothing is to be answered; accesses to registers that are not in this table count too"),
        ("BUS_UNEXPECTED", 0x054, "r", "completions that no read waited for, dropped"),
        ("BUS_FAILED", 0x058, "r", "reads of host memory that failed"),
        ("RING_REFUSED", 0x05C, "r", "writes of `SUBMIT_TAIL` and `COMPLETE_HEAD` that were out of range, ignored"),
        ("MSI_ADDRESS_LOW", 0x060, "rw", "where an MSI is written, 31:0; a multiple of 4"),
        ("MSI_ADDRESS_HIGH", 0x064, "rw", "where an MSI is written, 63:32"),
        ("MSI_DATA", 0x068, "rw", "what it says"),
        ("MSI_ENABLE", 0x06C, "rw", "bit 0: send MSIs"),
        ("SESSION", 0x074, "rw", "5:0 number of what begins when the submission ring is set: chips that work together "
         "are given the same one, each time another, and hear of frames from those alone that have it"),
        ("SUBMIT_BASE_LOW", 0x080, "rw", "address of the submission ring, 31:0; a multiple of 64"),
        ("SUBMIT_BASE_HIGH", 0x084, "rw", "address of the submission ring, 63:32"),
        ("SUBMIT_SIZE", 0x088, "rw", "its descriptors: a power of two to 65536, or 0 for none. Writing it sets the "
         "ring: both counts start from 0"),
        ("SUBMIT_TAIL", 0x08C, "rw", "the doorbell: descriptors that the host has written since the ring was set, "
         "modulo 2**32; at most size more than `SUBMIT_HEAD`"),
        ("SUBMIT_HEAD", 0x090, "r", "descriptors that the chip has read"),
        ("COMPLETE_BASE_LOW", 0x0A0, "rw", "address of the completion ring, 31:0; a multiple of 64"),
        ("COMPLETE_BASE_HIGH", 0x0A4, "rw", "address of the completion ring, 63:32"),
        ("COMPLETE_SIZE", 0x0A8, "rw", "its records: a power of two to 65536, or 0 for none. Writing it sets the "
         "ring: both counts start from 0"),
        ("COMPLETE_HEAD", 0x0AC, "rw", "records that the host has taken since the ring was set, modulo 2**32; "
         "from its last value to `COMPLETE_TAIL`. Writing it serves the MSI"),
        ("COMPLETE_TAIL", 0x0B0, "r", "records that the chip has written"),
        ("WINDOW_INDEX", 0x0C0, "rw", "window that the next three set"),
        ("WINDOW_RIGHTS", 0x0C4, "rw", "0 this chip may read, 1 write; 2 other chips may read, 3 write"),
        ("WINDOW_BASE", 0x0C8, "rw", "first line"),
        ("WINDOW_LENGTH", 0x0CC, "rw", "lines; writing it sets the window"),
        ("ROUTE_NODE", 0x0D0, "rw", "3:0 node that the next one is of"),
        ("ROUTE", 0x0D4, "rw", "2:0 link behind which it is, 3 it is behind one; 6:4 link for a detour while that one "
         "is lost, 7 there is one. Writing it sets the route"),
        ("LINK_INDEX", 0x0D8, "rw", "2:0 link that the next one is of"),
        ("LINK_STATE", 0x0DC, "r", "1:0 state: 0 training, 1 active, 2 dead; 4 it is lost; 11:8 node at the other end, "
         "by what it says"),
        ("COUNTER_SELECT", 0x0E0, "rw", "performance counter that the next two show"),
        ("COUNTER_LOW", 0x0E4, "r", "its value, 31:0; reading it keeps 63:32 for the next register"),
        ("COUNTER_HIGH", 0x0E8, "r", "63:32 as of the last reading of `COUNTER_LOW`"),
    )
)
"""The register map: docs and driver take it from here."""

ADDRESS = {register.name: register.address for register in REGISTERS}
"""Address of each register by its name."""


def register_table():
    """The register map as lines of a Markdown table."""
    rows = [f"| 0x{r.address:03X} | {r.name} | {r.access} | {r.meaning} |" for r in REGISTERS]
    return ["| address | register | access | meaning |", "|---|---|---|---|", *rows]


@dataclass(frozen=True)
class ChipParameters:
    """What ``PARAMETERS`` tells.

    Parameters
    ----------
    engines
        Kinds of engines that the chip has.
    memory_lines
        Of the chip's memory; a power of two.
    windows
        Entries of its window table.
    links
        How many it has.
    """

    engines: tuple[EngineKind, ...] = tuple(EngineKind)
    memory_lines: int = 1 << 20
    windows: int = WINDOWS
    links: int = 0

    def __post_init__(self):
        if self.memory_lines < 1 or self.memory_lines & (self.memory_lines - 1):
            raise ValueError(f"memory_lines is {self.memory_lines}; a power of two expected")
        if not 1 <= self.windows <= 64:
            raise ValueError(f"windows is {self.windows}; 1 to 64 expected")
        if not 0 <= self.links <= MAX_PORTS:
            raise ValueError(f"links is {self.links}; 0 to {MAX_PORTS} expected")

    @property
    def word(self):
        """The register's value."""
        engines = sum(1 << kind.value for kind in self.engines)
        return engines | (self.memory_lines.bit_length() - 1) << 16 | self.windows << 24


class RegisterRequest(data.Struct):
    """One access of 32 bits."""

    write: 1
    address: 12
    data: 32


class RegisterPort(wiring.Signature):
    """``request`` out; for each, ``response`` in, of which the data mean something for reads."""

    def __init__(self):
        super().__init__(
            {"request": Out(stream.Signature(RegisterRequest)), "response": In(stream.Signature(unsigned(32)))}
        )

    def __eq__(self, other):
        return isinstance(other, RegisterPort)

    __hash__ = None


class LinkStatus(data.Struct):
    """What ``LINK_STATE`` tells of a link."""

    state: LinkState
    reserved_0: 2
    lost: 1
    reserved_1: 3
    peer: 4


class MsiSetup(data.Struct):
    """What the host wants to be told, and where."""

    enable: 1
    address: 64
    data: 32


class RingControl(wiring.Signature):
    """What the registers tell a ring, and what it tells them."""

    def __init__(self):
        super().__init__(
            {
                "base": Out(64),
                "size": Out(32),
                "set": Out(1),
                "index": Out(32),
                "move": Out(1),
                "head": In(32),
                "tail": In(32),
                "enabled": In(1),
                "bad": In(1),
                "refused": In(1),
            }
        )


class Registers(wiring.Component):
    """The registers of :data:`REGISTERS`.

    An access takes 2 cycles from its request to its response; one is in work at a time. A write has taken effect when
    its response is offered, but for a window's or a route's, whose response comes when its table has taken the entry.
    A register that is not in the table reads as 0, ignores writes, and is counted.

    Parameters
    ----------
    chip : :class:`ChipParameters`

    Members
    -------
    port : :py:`In(RegisterPort())`
    submission, completion : :py:`Out(RingControl())`
        ``base`` and ``size`` hold from a pulse of ``set``, ``index`` from one of ``move``.
    msi : :py:`Out(MsiSetup)`
    window : :py:`Out(stream.Signature(WindowWrite))`
    route : :py:`Out(stream.Signature(RouteWrite))`
        Never valid without links.
    refused : :py:`In(stream.Signature(Refusal))`
        Always ready.
    node : :py:`In(4)`
        The chip's number.
    session : :py:`Out(6)`
    link_index : :py:`Out(3)`, link_status : :py:`In(LinkStatus)`
        The link chosen, and that one's.
    abort : :py:`Out(16)`
        Bit n is for engine kind n.
    reset_counters : :py:`Out(1)`
        A pulse.
    cycle : :py:`Out(64)`
        Cycles since reset.
    counter_select : :py:`Out(16)`
    counter_value : :py:`In(64)`
        The counter selected, at the latest 4 cycles after ``counter_select`` has changed.
    unsupported, unexpected, failed : :py:`In(1)`
        Pulses to be counted.
    submission_failed, msi_unserved, completion_full, dma_idle : :py:`In(1)`
        For ``STATUS``.
    """

    def __init__(self, chip=ChipParameters()):
        self.chip = chip
        super().__init__(
            {
                "port": In(RegisterPort()),
                "submission": Out(RingControl()),
                "completion": Out(RingControl()),
                "msi": Out(MsiSetup),
                "window": Out(stream.Signature(WindowWrite)),
                "route": Out(stream.Signature(RouteWrite)),
                "refused": In(stream.Signature(Refusal)),
                "node": In(4),
                "session": Out(6),
                "link_index": Out(3),
                "link_status": In(LinkStatus),
                "abort": Out(16),
                "reset_counters": Out(1),
                "cycle": Out(64),
                "counter_select": Out(16),
                "counter_value": In(64),
                "unsupported": In(1),
                "unexpected": In(1),
                "failed": In(1),
                "submission_failed": In(1),
                "msi_unserved": In(1),
                "completion_full": In(1),
                "dma_idle": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        cycle_high, counter_high = Signal(32), Signal(32)
        rights, base = Signal(Rights), Signal(30)
        index, length = Signal(6), Signal(27)
        m.d.sync += self.cycle.eq(self.cycle + 1)

        counts = {
            name: Signal(32, name=name.lower())
            for name in ("REFUSED", "BUS_UNSUPPORTED", "BUS_UNEXPECTED", "BUS_FAILED", "RING_REFUSED")
        }
        unknown = Signal()
        last = Signal(Refusal)
        last_cycle = Signal(64)
        m.d.comb += self.refused.ready.eq(1)
        events = {
            "REFUSED": self.refused.valid,
            "BUS_UNSUPPORTED": self.unsupported + unknown,
            "BUS_UNEXPECTED": self.unexpected,
            "BUS_FAILED": self.failed,
            "RING_REFUSED": self.submission.refused + self.completion.refused,
        }
        for name, count in counts.items():
            m.d.sync += count.eq(count + events[name])
        with m.If(self.refused.valid):
            m.d.sync += [last.eq(self.refused.payload), last_cycle.eq(self.cycle)]
        with m.If(self.reset_counters):
            m.d.sync += [*(count.eq(0) for count in counts.values()), last.eq(0), last_cycle.eq(0)]

        status = Signal(9)
        bits = {
            StatusBit.SUBMISSION_ENABLED: self.submission.enabled,
            StatusBit.SUBMISSION_BAD: self.submission.bad,
            StatusBit.SUBMISSION_FAILED: self.submission_failed,
            StatusBit.SUBMISSION_IDLE: self.submission.head == self.submission.tail,
            StatusBit.COMPLETION_ENABLED: self.completion.enabled,
            StatusBit.COMPLETION_BAD: self.completion.bad,
            StatusBit.COMPLETION_FULL: self.completion_full,
            StatusBit.MSI_UNSERVED: self.msi_unserved,
            StatusBit.DMA_IDLE: self.dma_idle,
        }
        m.d.comb += [status[n].eq(value) for n, value in bits.items()]

        readable = {
            "IDENTIFICATION": IDENTIFICATION,
            "VERSION": VERSION,
            "PARAMETERS": self.chip.word,
            "NODE": Cat(self.node, C(self.chip.links << 4, 8)),
            "CONTROL": self.abort,
            "STATUS": status,
            "CYCLE_LOW": self.cycle[:32],
            "CYCLE_HIGH": cycle_high,
            **counts,
            "REFUSED_WHO": Cat(last.client, last.id, last.write, C(0, 7), last.window),
            "REFUSED_WHERE": last.offset,
            "REFUSED_WHEN_LOW": last_cycle[:32],
            "REFUSED_WHEN_HIGH": last_cycle[32:],
            "MSI_ADDRESS_LOW": self.msi.address[:32],
            "MSI_ADDRESS_HIGH": self.msi.address[32:],
            "MSI_DATA": self.msi.data,
            "MSI_ENABLE": self.msi.enable,
            "SESSION": self.session,
            "SUBMIT_BASE_LOW": self.submission.base[:32],
            "SUBMIT_BASE_HIGH": self.submission.base[32:],
            "SUBMIT_SIZE": self.submission.size,
            "SUBMIT_TAIL": self.submission.tail,
            "SUBMIT_HEAD": self.submission.head,
            "COMPLETE_BASE_LOW": self.completion.base[:32],
            "COMPLETE_BASE_HIGH": self.completion.base[32:],
            "COMPLETE_SIZE": self.completion.size,
            "COMPLETE_HEAD": self.completion.head,
            "COMPLETE_TAIL": self.completion.tail,
            "WINDOW_INDEX": index,
            "WINDOW_RIGHTS": rights.as_value(),
            "WINDOW_BASE": base,
            "WINDOW_LENGTH": length,
            "ROUTE_NODE": self.route.payload.node,
            "ROUTE": self.route.payload.route.as_value(),
            "LINK_INDEX": self.link_index,
            "LINK_STATE": self.link_status.as_value(),
            "COUNTER_SELECT": self.counter_select,
            "COUNTER_LOW": self.counter_value[:32],
            "COUNTER_HIGH": counter_high,
        }
        assert set(readable) == {r.name for r in REGISTERS if "r" in r.access}
        write = Signal(32)
        writable = {
            "CONTROL": self.abort.eq(write),
            "RESET_COUNTERS": self.reset_counters.eq(write[0]),
            "MSI_ADDRESS_LOW": self.msi.address[:32].eq(Cat(C(0, 2), write[2:])),
            "MSI_ADDRESS_HIGH": self.msi.address[32:].eq(write),
            "MSI_DATA": self.msi.data.eq(write),
            "MSI_ENABLE": self.msi.enable.eq(write),
            "SESSION": self.session.eq(write),
            "SUBMIT_BASE_LOW": self.submission.base[:32].eq(write),
            "SUBMIT_BASE_HIGH": self.submission.base[32:].eq(write),
            "SUBMIT_SIZE": [self.submission.size.eq(write), self.submission.set.eq(1)],
            "SUBMIT_TAIL": [self.submission.index.eq(write), self.submission.move.eq(1)],
            "COMPLETE_BASE_LOW": self.completion.base[:32].eq(write),
            "COMPLETE_BASE_HIGH": self.completion.base[32:].eq(write),
            "COMPLETE_SIZE": [self.completion.size.eq(write), self.completion.set.eq(1)],
            "COMPLETE_HEAD": [self.completion.index.eq(write), self.completion.move.eq(1)],
            "WINDOW_INDEX": index.eq(write),
            "WINDOW_RIGHTS": rights.eq(write[: Rights.as_shape().size]),
            "WINDOW_BASE": base.eq(write),
            "WINDOW_LENGTH": [length.eq(write), self.window.valid.eq(1)],
            "ROUTE_NODE": self.route.payload.node.eq(write),
            # Without links nobody would take it.
            "ROUTE": [
                self.route.payload.route.eq(write[: Route.as_shape().size]),
                self.route.valid.eq(self.chip.links != 0),
            ],
            "LINK_INDEX": self.link_index.eq(write),
            "COUNTER_SELECT": self.counter_select.eq(write),
        }
        assert set(writable) == {r.name for r in REGISTERS if "w" in r.access}

        request, response = self.port.request, self.port.response
        asked = Signal(RegisterRequest)
        m.d.comb += write.eq(asked.data)
        m.d.sync += [
            self.submission.set.eq(0),
            self.submission.move.eq(0),
            self.completion.set.eq(0),
            self.completion.move.eq(0),
            self.reset_counters.eq(0),
        ]
        for table in (self.window, self.route):
            with m.If(table.ready):
                m.d.sync += table.valid.eq(0)
        with m.FSM(name="registers"):
            with m.State("TakeRequest"):
                m.d.comb += request.ready.eq(1)
                m.d.sync += asked.eq(request.payload)
                with m.If(request.valid):
                    m.next = "Access"
            with m.State("Access"):
                with m.Switch(Cat(asked.address[2:], asked.write)):
                    for register in REGISTERS:
                        if "r" in register.access:
                            with m.Case(register.address >> 2):
                                m.d.sync += response.payload.eq(readable[register.name])
                        if "w" in register.access:
                            with m.Case(1 << 10 | register.address >> 2):
                                m.d.sync += writable[register.name]
                    with m.Default():
                        m.d.sync += response.payload.eq(0)
                        # Those of both kinds of access are cases of their own.
                        known = Cat(
                            asked.address[2:] == register.address >> 2
                            for register in REGISTERS
                            if register.access != "rw"
                        ).any()
                        m.d.comb += unknown.eq(~known)
                with m.If(~asked.write & (asked.address[2:] == ADDRESS["CYCLE_LOW"] >> 2)):
                    m.d.sync += cycle_high.eq(self.cycle[32:])
                with m.If(~asked.write & (asked.address[2:] == ADDRESS["COUNTER_LOW"] >> 2)):
                    m.d.sync += counter_high.eq(self.counter_value[32:])
                m.next = "Answer"
            with m.State("Answer"):
                m.d.comb += response.valid.eq(~(self.window.valid | self.route.valid))
                with m.If(response.valid & response.ready):
                    m.next = "TakeRequest"
        m.d.comb += [
            self.window.payload.index.eq(index),
            self.window.payload.window.base.eq(base),
            self.window.payload.window.length.eq(length),
            self.window.payload.window.rights.eq(rights),
        ]
        for interface in (request, response, self.window, self.route, self.refused):
            observe(m, interface)
        return m
