"""The engine contract: what every decoder, encoder and filter looks like to the chip.

An engine has a stream of tasks in, a stream of done messages out and one memory port::

              .---------.
    task  --->| engine  |---> done
              |         |<==> memory
              '---------'

It takes one task at a time, reads the header of the task's source slot, works, writes the header of the target slot
when the memory has acknowledged everything else, and says done when that is acknowledged too.
"""

from amaranth.hdl import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.golden.jpeg.status import JpegStatus
from tessera.hw.memory.port import MemoryPort

__all__ = ["Done", "EngineKind", "EngineSignature", "Format", "SlotHeader", "SlotKind", "SlotRef", "Status", "Task"]


class EngineKind(enum.Enum, shape=4):
    """Engines of a chip; the number is the one in a task's descriptor."""

    Ingest = 0
    """Host memory to a bitstream slot."""
    JpegDecode = 1
    """Bitstream slot to surface slot."""
    Compute = 2
    """Surface slot to surface slot."""
    JpegEncode = 3
    """Surface slot to bitstream slot."""
    Egress = 4
    """Bitstream slot to host memory."""
    Compose = 5
    """Surface slots to one surface slot."""


class Format(enum.Enum, shape=2):
    """Chroma format of a surface; values as in H.264's `chroma_format_idc`."""

    Gray = 0
    C420 = 1
    C422 = 2
    C444 = 3


class Status(enum.Enum, shape=8):
    """How a task ended, and what ``where`` then tells.

    ========================  =====================================================================
    ``Ok``                    0; of a compose task, a bit for each layer that was left out
    ``Jpeg...``               the golden decoder's :class:`JpegStatus` and its ``where``
    ``Refused``               the memory refused an access: id of the port (bits 2:0), write (bit 3)
    ``Poison``                a read gave data known to be bad: as ``Refused``
    ``SourceFailed``          the task that filled the source slot failed: its status
    ``WrongSource``           the source slot holds another kind of thing: its kind
    ``TargetTooSmall``        lines that the target would need, as far as known
    ``BadTask``               index of the parameter that makes no sense
    ``Aborted``               0
    ``Timeout``               1 waiting for memory, 2 waiting within the engine
    ``HostError``             a completion of the host bus that failed: its PCIe status
    ========================  =====================================================================
    """

    _ignore_ = "jpeg"

    Ok = 0
    for jpeg in JpegStatus:
        if jpeg:
            vars()[f"Jpeg{jpeg.name}"] = jpeg.value
    Refused = 0x40
    Poison = 0x41
    SourceFailed = 0x42
    WrongSource = 0x43
    TargetTooSmall = 0x44
    BadTask = 0x45
    Aborted = 0x46
    Timeout = 0x47
    HostError = 0x48


class SlotKind(enum.Enum, shape=4):
    """What a slot holds."""

    Empty = 0
    Surface = 1
    Bitstream = 2


class SlotRef(data.Struct):
    """Where a slot is: a header line and a body, both in one window.

    A surface's body starts on a multiple of 512 lines, so that its blocks are sets of open DRAM pages.
    """

    window: 10
    head: 26
    """Line of the header."""
    body: 26
    """First line of the body."""
    lines: 24
    """Room of the body, in lines."""


class SlotHeader(data.Struct):
    """The line at a slot's ``head``: what the body holds. Travels with the data, so no one has to be told."""

    kind: SlotKind
    status: Status
    """Of the task that filled the slot; anything but ``Ok`` means that the body means nothing."""
    where: 32
    chroma_format: Format
    """Of a surface."""
    width: 16
    """Luma samples of a surface."""
    height: 16
    bytes: 32
    """Of a bitstream."""
    timestamp: 64
    """Presentation time; engines copy it from source to target."""
    tag: 16
    """Of the task that filled the slot."""


class Task(data.Struct):
    """What an engine is asked to do."""

    tag: 16
    """Comes back in the done message."""
    context: 6
    """Window of the stream's context; of no meaning to an engine without one."""
    source: SlotRef
    target: SlotRef
    timestamp: 64
    """Ingest and compose only: what the slot's header shall say."""
    params: 128
    """The engine's own; each engine declares a struct for it."""


class Done(data.Struct):
    """One message about a task. A task that outputs several surfaces sends one message for each."""

    tag: 16
    last: 1
    """The task is over."""
    status: Status
    where: 32
    cycles: 32
    """From the task's start to this message."""
    stalled: 32
    """Of these, the cycles in which the memory held a request back."""
    bytes: 32
    """Of the bitstream that was read (decoders) or written (encoders)."""
    chroma_format: Format
    width: 16
    height: 16


class EngineSignature(wiring.Signature):
    """``task`` in, ``done`` out, ``memory`` out, and ``abort``: while high, the task in work ends as ``Aborted``."""

    def __init__(self):
        super().__init__(
            {
                "task": In(stream.Signature(Task)),
                "done": Out(stream.Signature(Done)),
                "memory": Out(MemoryPort()),
                "abort": In(1),
            }
        )
