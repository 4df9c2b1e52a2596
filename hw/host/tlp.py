"""Transaction layer packets (TLPs): their headers, and the streams in which they pass between chip and PCIe core.

The chip ends at the transaction layer. What is below it (framing, retry, flow control, configuration space) is the
business of the PCIe core, a hard block on most devices.
"""

from amaranth.hdl import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = [
    "BEAT_DWS",
    "Beat",
    "CompletionHeader",
    "CompletionStatus",
    "Credit",
    "Fmt",
    "HeaderStart",
    "PcieConfig",
    "PciePort",
    "RequestHeader",
    "TlpType",
    "memory_write_header",
    "request_address",
    "request_bytes",
    "request_first_byte",
]

BEAT_DWS = 16
"""DWs (32-bit words) of payload in a beat."""


class Fmt(enum.Enum, shape=3):
    """Length of the header, and whether a payload follows. Ref: PCI Express Base 3.0, 2.2.1."""

    ThreeDw = 0
    FourDw = 1
    ThreeDwData = 2
    FourDwData = 3
    Prefix = 4


class TlpType(enum.Enum, shape=5):
    """What the packet is, together with :class:`Fmt`. Ref: PCI Express Base 3.0, table 2-3."""

    Memory = 0x00
    MemoryLocked = 0x01
    Io = 0x02
    Config0 = 0x04
    Config1 = 0x05
    Completion = 0x0A
    CompletionLocked = 0x0B
    FetchAdd = 0x0C
    Swap = 0x0D
    CompareSwap = 0x0E


class CompletionStatus(enum.Enum, shape=4):
    """How a read of host memory ended: the completion's status field, and what no completion can say."""

    Successful = 0
    UnsupportedRequest = 1
    ConfigurationRetry = 2
    CompleterAbort = 4
    Timeout = 8
    """No completion came."""
    Poisoned = 9
    """The completion's EP bit was set."""
    Malformed = 10
    """The completion had more data than were asked for, or none."""


class HeaderStart(data.Struct):
    """DW 0, which all headers have. Bit ``n`` of a DW is bit ``n`` of the standard's drawings (byte 0 is 31:24)."""

    length: 10
    """DWs of payload; 0 is 1024."""
    at: 2
    attr: 2
    ep: 1
    """The payload is known to be bad."""
    td: 1
    th: 1
    ln: 1
    attr_ido: 1
    tag_8: 1
    tc: 3
    tag_9: 1
    type: TlpType
    fmt: Fmt


class RequestHeader(data.Struct):
    """Of a memory, I/O or configuration request. Ref: PCI Express Base 3.0, 2.2.7."""

    start: HeaderStart
    first_be: 4
    last_be: 4
    tag: 8
    requester: 16
    dw2: 32
    """Address 31:2 in a header of three DWs, address 63:32 in one of four."""
    dw3: 32
    """Address 31:2 in a header of four DWs."""


class CompletionHeader(data.Struct):
    """Of a completion. Ref: PCI Express Base 3.0, 2.2.9."""

    start: HeaderStart
    byte_count: 12
    """Bytes still to come for the request, these included; 0 is 4096."""
    bcm: 1
    status: 3
    completer: 16
    lower_address: 7
    """Of the first byte."""
    reserved: 1
    tag: 8
    requester: 16
    dw3: 32


class Beat(data.Struct):
    """One step of a TLP.

    Byte ``n`` of the payload is bits ``8n`` to ``8n+7`` of ``data``, byte 0 having the lowest address: bytes are in the
    order of memory, DWs are not swapped. All beats but a packet's last are full.
    """

    data: 512
    header: 128
    """:class:`RequestHeader` or :class:`CompletionHeader`; means something where ``first`` is set."""
    count: 5
    """DWs of ``data`` that are payload: 0 (packet without payload) to 16."""
    first: 1
    last: 1


class PcieConfig(data.Struct):
    """What software set in the configuration space, as the PCIe core tells it. May change only while nothing runs."""

    id: 16
    """Bus, device and function number."""
    bus_master: 1
    """Requests are allowed."""
    extended_tag: 1
    """Tags of 8 bits instead of 5 are allowed."""
    max_payload: 3
    """A write's payload is at most ``128 << max_payload`` bytes; the chip makes none above 256."""
    max_read: 3
    """A read asks for at most ``128 << max_read`` bytes; the chip never asks for more than 512."""
    bar: 64
    """Address of BAR 0."""


class Credit(data.Struct):
    """Room that the PCIe core has for whole packets of the largest size. A completion always finds room."""

    posted: 1
    nonposted: 1


class PciePort(wiring.Signature):
    """The chip's end of a PCIe link: TLPs to and from the host.

    Packets are not interleaved within a stream. Once a packet's first beat was offered, the rest follows without a
    gap that the chip makes.
    """

    def __init__(self):
        super().__init__(
            {
                "to_host": Out(stream.Signature(Beat)),
                "from_host": In(stream.Signature(Beat)),
                "config": In(PcieConfig),
                "credit": In(Credit),
            }
        )

    def __eq__(self, other):
        return isinstance(other, PciePort)

    __hash__ = None


def request_address(header):
    """Address of a memory request's first DW, 64 bits."""
    four = header.start.fmt.as_value()[0]
    low = Mux(four, header.dw3, header.dw2)
    return Cat(C(0, 2), low[2:], Mux(four, header.dw2, 0))


def request_first_byte(header):
    """Which byte of a memory request's first DW is the first that is enabled; 0 if none is."""
    be = header.first_be
    return Mux(be[0] | (be == 0), 0, Mux(be[1], 1, Mux(be[2], 2, 3)))


def request_bytes(header):
    """Bytes from a read request's first enabled to its last, 13 bits; 1 if none is. Ref: table 2-39."""
    last = Mux(header.start.length == 1, header.first_be, header.last_be)
    unused = Mux(last[3] | (last == 0), 0, Mux(last[2], 1, Mux(last[1], 2, 3)))
    dws = Cat(header.start.length, header.start.length == 0)
    count = (dws << 2) - request_first_byte(header) - unused
    return Mux((header.start.length == 1) & (header.first_be == 0), 1, count)[:13]


def memory_write_header(config, address, length, first_be, last_be, *, write=1, tag=0):
    """A memory request's header as a value of 128 bits, in the short form where the address allows it.

    `address` is 64 bits, of which the two lowest do not count; `length` is in DWs.
    """
    four = address[32:64].any()
    low = Cat(C(0, 2), address[2:32])
    start = Cat(Cat(Value.cast(length), C(0, 10))[:10], C(0, 14), C(TlpType.Memory.value, 5))
    return Cat(
        start,
        four,
        C(write, 1),
        C(0, 1),
        first_be,
        last_be,
        C(tag, 8) if isinstance(tag, int) else tag,
        config.id,
        Mux(four, address[32:64], low),
        Mux(four, low, 0),
    )
