"""The link's packets and words in Python."""

import struct
from dataclasses import dataclass
from functools import cached_property

from tessera.hw.link.packet import LINE_WORDS, PART_WORDS_MAX, CheckedPart, Head, PartWords
from tessera.tb.bench import pack

__all__ = ["FILL_WORD", "Packet", "blocks_of", "checked", "crc32c", "form_of", "is_filling", "words_in"]

FILL_WORD = 0x3FF


def _table():
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


_TABLE = list(_table())


def crc32c(content: bytes) -> int:
    """CRC-32C, as iSCSI has it (Ref: RFC 3720 B.4, appendix)."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def _parity(number: int) -> int:
    return number.bit_count() % 2


def form_of(lines: int, body: int) -> int:
    """Lines, body and the five checks, as docs/link.md lists them."""
    d = [lines & 1, lines >> 1 & 1, lines >> 2 & 1, lines >> 3, body]
    checks = d[0] ^ d[1] ^ d[2], d[0] ^ d[1] ^ d[3], d[0] ^ d[2] ^ d[4], d[1] ^ d[3] ^ d[4], d[2] ^ d[3] ^ d[4]
    return sum(bit << n for n, bit in enumerate((*d, *checks)))


@dataclass(frozen=True)
class Packet:
    """A packet: its head, its body or None, its lines (numbers of 64, 32 and 512 bits)."""

    head: int
    body: int | None
    lines: tuple[int, ...]

    @staticmethod
    def random(random, lines: int, body: bool, fields: int | None = None) -> "Packet":
        """One of the given form; the head's other bits are `fields`, or random as the rest is."""
        fields = random.getrandbits(54) if fields is None else fields
        content = tuple(random.choice([random.getrandbits(512), 0, (1 << 512) - 1]) for _ in range(lines))
        return Packet(form_of(lines, body) | fields << 10, random.getrandbits(32) if body else None, content)

    @cached_property
    def content(self) -> bytes:
        """What the CRC is of."""
        body = b"" if self.body is None else struct.pack("<I", self.body)
        return self.head.to_bytes(8, "little") + body + b"".join(line.to_bytes(64, "little") for line in self.lines)

    @cached_property
    def crc(self) -> int:
        return crc32c(self.content)

    @property
    def words(self) -> list[int]:
        """All of it, with the CRC."""
        content = self.content + struct.pack("<I", self.crc)
        return list(struct.unpack(f"<{len(content) // 4}I", content))

    def parts(self, crc: int = 0) -> list[dict]:
        """As :class:`CheckedPart`; with `crc` beside the last one, and what has no meaning left at 0."""
        parts = []
        for n in range(max(1, len(self.lines))):
            first, last = n == 0, n >= len(self.lines) - 1
            part = {"first": first, "last": last, "has_line": bool(self.lines)}
            if first:
                part |= {"has_body": self.body is not None, "head": Head.from_bits(self.head), "body": self.body or 0}
            if self.lines:
                part["line"] = self.lines[n]
            parts.append({"part": part, "crc": crc if last else 0})
        return parts

    def part_words(self) -> list[dict]:
        """As :class:`PartWords`; ones where there is nothing."""
        words, all_ = [], self.words
        for part in (part["part"] for part in self.parts()):
            has_body = bool(part.get("has_body", True))
            count = part["first"] * (2 + has_body) + LINE_WORDS * part["has_line"] + part["last"]
            own, all_ = all_[:count], all_[count:]
            flags = {"first": part["first"], "last": part["last"], "has_body": has_body, "has_line": part["has_line"]}
            words.append(flags | {"words": own + [0xFFFFFFFF] * (PART_WORDS_MAX - count)})
        return words


def checked(bits: int):
    """The :class:`CheckedPart` that these bits of a :class:`PartWords` are."""
    one = PartWords.from_bits(bits)
    words = [int(word) for word in one.words]
    at = one.first * (2 + one.has_body)
    fields = {name: getattr(one, name) for name in ("first", "last", "has_body", "has_line")}
    fields |= {"head": Head.from_bits(words[0] | words[1] << 32), "body": words[2]}
    fields["line"] = sum(word << 32 * n for n, word in enumerate(words[at : at + LINE_WORDS]))
    crc = words[min(at + LINE_WORDS * one.has_line, PART_WORDS_MAX - 1)]
    return CheckedPart.from_bits(pack(CheckedPart, {"part": fields, "crc": crc}))


def blocks_of(bits: int, lanes: int) -> list[tuple[int, list[int]]]:
    """The blocks of a stripe: `start` and words."""
    blocks = [bits >> 257 * n for n in range(lanes)]
    return [(block & 1, [block >> 1 + 32 * k & 0xFFFFFFFF for k in range(8)]) for block in blocks]


def is_filling(blocks: list[tuple[int, list[int]]]) -> bool:
    """Whether a stripe begins with ``FILL``."""
    return bool(blocks[0][0]) and blocks[0][1][0] == FILL_WORD


def words_in(stripes: list[list[tuple[int, list[int]]]]) -> list[int]:
    """The words of the packets in `stripes`, which must be as docs/link.md has them."""
    words, left = [], 0
    for number, blocks in enumerate(stripes):
        if is_filling(blocks):
            continue
        flat = [word for _, block in blocks for word in block]
        for place, word in enumerate(flat):
            begins = left == 0
            assert place % 8 or blocks[place // 8][0] == begins, f"start of stripe {number}, word {place}"
            if begins:
                if word == FILL_WORD:
                    break
                lines, body = word & 15, word >> 4 & 1
                assert lines <= 8 and word & 0x3FF == form_of(lines, body), f"stripe {number}, word {place}"
                left = 3 + body + 16 * lines
            words.append(word)
            left -= 1
    return words
