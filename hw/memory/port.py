"""The memory port: requests and responses of whole lines.

A line is 64 bytes: one tile of 8x8 samples, one DRAM burst, one beat. Byte ``n`` of a line is bits ``8n`` to ``8n+7``.

Rules of every port:

- A request names a window and a line offset in it; the owner of the memory checks it. A window's number is its
  owner's node times 64 and its number there: to an engine it is a number like any other.
- Each request gets one response: a read its line, a write its acknowledgement, after which any read sees the line.
- Responses of one ``id`` come in the order of their requests. Between ids there is no order, and none between a
  write and a later read whose acknowledgement was not awaited, even of one id.
- A requester reserves room for a response before it asks: it takes every response without waiting for
  anything that itself waits for memory.
"""

from amaranth.hdl import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = [
    "LINE_BYTES",
    "NODES",
    "WINDOWS",
    "Access",
    "LineRequest",
    "LineResponse",
    "MemoryPort",
    "MemoryStatus",
    "Op",
    "Refusal",
    "RemoteRequest",
    "RemoteResponse",
    "Request",
    "Response",
    "Rights",
    "Window",
    "WindowWrite",
    "line_port",
    "remote_port",
]

LINE_BYTES = 64
NODES = 16
"""Of a system, at the most."""
WINDOWS = 64
"""Of each node."""


class Op(enum.Enum, shape=1):
    """What a request asks for."""

    Read = 0
    Write = 1


class MemoryStatus(enum.Enum, shape=2):
    """How an access ended. Data that comes with anything but ``Ok`` means nothing."""

    Ok = 0
    Refused = 1
    """Outside its window, without the right, or the window is not set: nothing was touched."""
    Poison = 2
    """The memory knows that the data is bad."""
    Failed = 3
    """There is no way to the memory: it may have been touched or not."""


class Request(data.Struct):
    """One access, as an engine asks for it."""

    op: Op
    id: 3
    """Stream of requests within which order holds."""
    window: 10
    offset: 26
    """Line within the window."""
    data: 512
    """Line to write; of no meaning when reading."""


class Response(data.Struct):
    """The answer to one :class:`Request`."""

    op: Op
    id: 3
    status: MemoryStatus
    data: 512
    """Line read; of no meaning for a write."""


class Access(data.Struct):
    """A :class:`Request` of another chip, where it has come to the one that owns the memory."""

    op: Op
    id: 3
    window: 6
    offset: 26
    data: 512


class MemoryPort(wiring.Signature):
    """``request`` out, ``response`` in: what an engine has, or a link for :class:`Access`."""

    def __init__(self, request=Request):
        self.request = request
        super().__init__({"request": Out(stream.Signature(request)), "response": In(stream.Signature(Response))})

    def __eq__(self, other):
        return isinstance(other, MemoryPort) and self.request is other.request

    __hash__ = None


class LineRequest(data.Struct):
    """One access to the chip's own memory, behind the window check."""

    op: Op
    id: 8
    """Client (upper 5 bits) and its id (lower 3)."""
    address: 30
    """Line; 2**30 lines are 64 GiB. Beyond the memory's end it wraps: windows keep accesses inside."""
    data: 512


class LineResponse(data.Struct):
    """The answer to one :class:`LineRequest`."""

    op: Op
    id: 8
    status: MemoryStatus
    data: 512


def line_port():
    """Signature of what the fabric has towards a memory: ``request`` out, ``response`` in."""
    return wiring.Signature(
        {"request": Out(stream.Signature(LineRequest)), "response": In(stream.Signature(LineResponse))}
    )


class RemoteRequest(data.Struct):
    """One access to another node's memory."""

    op: Op
    id: 8
    """As of :class:`LineRequest`; comes back with the answer."""
    target: 4
    """The node."""
    window: 6
    offset: 26
    data: 512


class RemoteResponse(data.Struct):
    """The answer to one :class:`RemoteRequest`."""

    op: Op
    id: 8
    status: MemoryStatus
    data: 512


def remote_port():
    """Signature of what the fabric has towards a link: ``request`` out, ``response`` in."""
    return wiring.Signature(
        {"request": Out(stream.Signature(RemoteRequest)), "response": In(stream.Signature(RemoteResponse))}
    )


class Rights(data.Struct):
    """What a window allows its own chip, and what it allows others."""

    read: 1
    write: 1
    others_read: 1
    others_write: 1


class Window(data.Struct):
    """A grant: lines ``base`` to ``base + length - 1`` of its chip's memory. A window of length 0 is not set."""

    base: 30
    length: 27
    rights: Rights


class WindowWrite(data.Struct):
    """An entry for the window table."""

    index: 6
    window: Window


class Refusal(data.Struct):
    """An access that a window refused."""

    client: 5
    id: 3
    write: 1
    window: 6
    offset: 26
