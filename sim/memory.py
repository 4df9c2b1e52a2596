"""Where things lie: slots in the chip's memory, pieces in the host's."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.hw.host.descriptor import Slot
from tessera.hw.memory.layout import BLOCK_LINES
from tessera.hw.memory.port import LINE_BYTES

__all__ = ["ChipMemory", "HostMemory", "PlanError", "Pool", "Window"]


class PlanError(ValueError):
    """What was asked for does not fit the chip; one line."""


@dataclass(frozen=True)
class Window:
    """A window as the host sets it: `length` lines from `base` of node 0."""

    index: int
    base: int
    length: int
    read: bool = True
    write: bool = True


@dataclass(frozen=True)
class Pool:
    """Slots of one kind and size, in a window of their own.

    Parameters
    ----------
    window
        The window.
    slots
        Where each is, in the window.
    """

    name: str
    window: Window
    slots: tuple[Slot, ...]

    def turn(self, n: int) -> Slot:
        """The slot of the `n`-th that uses the pool."""
        return self.slots[n % len(self.slots)]

    def body_line(self, slot: int) -> int:
        """Line in the chip's memory at which the body of slot number `slot` begins."""
        return self.window.base + self.slots[slot].body

    def head_line(self, slot: int) -> int:
        """Line in the chip's memory of the header of slot number `slot`."""
        return self.window.base + self.slots[slot].head


class HostMemory:
    """The host's memory while it is laid out: pieces at ascending addresses, each on a line of its own."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._image = bytearray()
        self._reserved = 0

    def place(self, data: bytes | int, what: str, alignment: int = LINE_BYTES) -> int:
        """Address of a new piece: `data`, or as many zeros."""
        self._image += bytes(-len(self._image) % alignment)
        address = len(self._image)
        self._image += bytes(data) if isinstance(data, int) else data
        self._check(len(self._image), what)
        assert not self._reserved
        return address

    @property
    def image(self) -> bytes:
        """Whole lines."""
        return bytes(self._image) + bytes(-len(self._image) % LINE_BYTES)

    def reserve(self, size: int, what: str) -> int:
        """Address of a piece that begins as garbage. Nothing can be placed behind it."""
        end = self._reserved or len(self.image)
        self._reserved = end + size + -size % LINE_BYTES
        self._check(self._reserved, what)
        return end

    def _check(self, end: int, what: str) -> None:
        if end > self.size:
            raise PlanError(f"{what}: {end} bytes with all before, in the host's memory of {self.size}")

    def patch(self, address: int, data: bytes) -> None:
        """Put `data` into a piece that was placed."""
        self._image[address : address + len(data)] = data


class ChipMemory:
    """The chip's memory while pools are laid out."""

    def __init__(self, lines: int) -> None:
        self.lines = lines
        self.used = 0
        self.pools: list[Pool] = []

    def _pool(self, name: str, length: int, slots: list[Slot]) -> Pool:
        length += -length % BLOCK_LINES
        if self.used + length > self.lines:
            total = f"{(self.used + length) * LINE_BYTES} bytes with those before"
            raise PlanError(f"{len(slots)} {name} slots: {total}, {self.lines * LINE_BYTES} at most expected")
        pool = Pool(name, Window(len(self.pools), self.used, length), tuple(slots))
        self.used += length
        self.pools.append(pool)
        return pool

    def surfaces(self, name: str, count: int, lines: int) -> Pool:
        """`count` slots for surfaces of `lines` lines."""
        heads = count + -count % BLOCK_LINES
        lines += -lines % BLOCK_LINES
        window = len(self.pools)
        slots = [Slot(window, n, heads + n * lines, lines) for n in range(count)]
        return self._pool(name, heads + count * lines, slots)

    def bitstreams(self, name: str, count: int, lines: int) -> Pool:
        """`count` slots for bitstreams of `lines` lines."""
        window = len(self.pools)
        slots = [Slot(window, n * (lines + 1), n * (lines + 1) + 1, lines) for n in range(count)]
        return self._pool(name, count * (lines + 1), slots)
