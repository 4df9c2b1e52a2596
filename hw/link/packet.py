"""Shapes of what a link carries; see docs/link.md."""

from amaranth.hdl import *
from amaranth.lib import data, enum

__all__ = [
    "BLOCK_WORDS",
    "CLASSES",
    "FILL",
    "LINES_MAX",
    "LINE_WORDS",
    "PART_WORDS_MAX",
    "Block",
    "CheckedPart",
    "Form",
    "Head",
    "Kind",
    "Part",
    "PartWords",
    "RequestBody",
    "StatusHead",
    "decode_form",
    "form_code",
    "part_words",
    "stripe",
]

LINES_MAX = 8
"""Lines of a packet."""
LINE_WORDS = 16
BLOCK_WORDS = 8
PART_WORDS_MAX = 2 + 1 + LINE_WORDS + 1
"""Words of a :class:`CheckedPart`: head, body, line and CRC."""
CLASSES = 6
"""The kinds below this have cells."""

_CHECKS = (0, 1, 2), (0, 1, 3), (0, 2, 4), (1, 3, 4), (2, 3, 4)
"""Each check bit of a form is the parity of these three of its data bits."""
_COLUMNS = [sum(1 << n for n, bits in enumerate(_CHECKS) if bit in bits) for bit in range(5)]
"""Which checks fail when that data bit is wrong."""


class Kind(enum.Enum, shape=3):
    """A packet's class, or ``Status``."""

    RequestFirst = 0
    RequestSecond = 1
    ResponseFirst = 2
    ResponseSecond = 3
    SyncFirst = 4
    SyncSecond = 5
    Status = 7


class Head(data.Struct):
    """The first two words of a packet."""

    form: 10
    """See :func:`form_code`."""
    kind: Kind
    frame: 8
    """Number of this transmission."""
    cell: 8
    """Number of its first cell in its class."""
    counted: 3
    """What ``count`` is of: a class, or 7, frames."""
    count: 8
    source: 4
    target: 4
    tag: 8
    """Of the request, given by its source."""
    first: 4
    """Request: lines asked for, less one; response: the first line's number within the request."""
    status: 2
    """Of a response."""
    epoch: 2
    """Of the source's tags."""


class RequestBody(data.Struct):
    """The body of a request."""

    window: 6
    offset: 26


class StatusHead(data.Struct):
    """Head and body of a ``Status``, which has no line: ``Cat(head, body)``."""

    form: 10
    kind: Kind
    frame: 8
    """That the sender's next packet will have."""
    last_frame: 8
    """Last frame received."""
    counted: 3
    count: 8
    lost: 16
    """Which were lost of the last frame received and the 15 before it; that one is bit 0."""
    counts: data.ArrayLayout(8, CLASSES - 1)
    """Of all classes but ``counted``, in order."""


class Part(data.Struct):
    """One line of a packet, with what goes before it. A packet without lines is one part."""

    first: 1
    """Of its packet: ``head`` and, if ``has_body``, ``body`` go before."""
    last: 1
    has_body: 1
    """Of no meaning unless ``first``."""
    has_line: 1
    """Set in all parts, but that of a packet without lines."""
    head: Head
    body: 32
    line: 512


class CheckedPart(data.Struct):
    """A :class:`Part` and, beside the last one of a packet, its CRC."""

    part: Part
    crc: 32


class PartWords(data.Struct):
    """A :class:`Part` as its words, in order, the CRC behind its packet's last ones."""

    first: 1
    last: 1
    has_body: 1
    """Of no meaning unless ``first``."""
    has_line: 1
    words: data.ArrayLayout(32, PART_WORDS_MAX)
    """Behind those that it has, any."""


def part_words(part):
    """The words of a :class:`Part` where :class:`PartWords` has them; and by place, whether the CRC belongs there if it
    is its packet's last one."""
    head, body, line = ([*_words(field)] for field in (part.head, part.body, part.line))
    with_body, without = part.first & part.has_body, part.first & ~part.has_body
    words = []
    for n in range(PART_WORDS_MAX):
        contents = [*head, *body, *line, C(0, 32)], [*head, *line], line
        a, b, c = (content[n] if n < len(content) else None for content in contents)
        words.append(a if b is None else Mux(with_body, a, b if c is None else Mux(without, b, c)))
    ends = {
        len(head): without & ~part.has_line,
        len(head + body): with_body & ~part.has_line,
        len(line): ~part.first,
        len(head + line): without & part.has_line,
        len(head + body + line): with_body & part.has_line,
    }
    return words, ends


def _words(field):
    bits = Value.cast(field)
    return (bits[n : n + 32] for n in range(0, len(bits), 32))


class Block(data.Struct):
    """What a lane moves in a cycle."""

    start: 1
    """A packet, or filling, begins in word 0."""
    words: data.ArrayLayout(32, BLOCK_WORDS)


def stripe(lanes):
    """Shape of a stripe: the blocks of up to ``lanes`` lanes, in the order in which their words are packed."""
    if lanes not in (1, 2, 4):
        raise ValueError(f"lanes is {lanes}; 1, 2 or 4 expected")
    return data.ArrayLayout(Block, lanes)


def form_code(lines, body):
    """The ``form`` of a packet with so many lines, and with or without a body."""
    bits = lines | body << 4
    return bits | sum(sum(bits >> bit & 1 for bit in check) % 2 << 5 + n for n, check in enumerate(_CHECKS))


FILL = form_code(15, 1)
"""The word that ends a stripe."""


class Form(data.Struct):
    """What a word says as the first of a packet."""

    lines: 4
    """Of no meaning with ``fill`` or ``bad``."""
    body: 1
    fill: 1
    """It is ``FILL``."""
    bad: 1
    """It is neither a form nor one with a wrong bit."""


def decode_form(m, code):
    """The :class:`Form` that a word's lowest ten bits are, a wrong bit of them corrected, in the same cycle."""
    form = Signal(Form)
    failed = Signal(5)
    bits = Signal(5)
    m.d.comb += Cat(form.lines, form.body).eq(bits)
    for n, check in enumerate(_CHECKS):
        m.d.comb += failed[n].eq(Cat(code[5 + n], *(code[bit] for bit in check)).xor())
    for bit, column in enumerate(_COLUMNS):
        m.d.comb += bits[bit].eq(code[bit] ^ (failed == column))
    with m.Switch(failed):
        with m.Case(0, *(1 << n for n in range(5)), *_COLUMNS):
            m.d.comb += [form.fill.eq(bits.all()), form.bad.eq(bits[3] & bits[:3].any() & ~bits.all())]
        with m.Default():
            m.d.comb += form.bad.eq(1)
    return form
