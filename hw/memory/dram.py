"""Between the DDR4 controller and its devices: commands, data, and how a line's address becomes bank, row and column.

The bus is what a PHY's controller side (DFI) carries at a quarter of the DRAM clock: a core cycle holds four command
slots, one for each tick, and one data burst of eight transfers, one line.
"""

from amaranth.hdl import *
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["BANKS", "GROUPS", "SLOTS", "Command", "DramBus", "DramCommand", "Place", "line_of", "place_of"]

GROUPS = 4
BANKS = 16
SLOTS = 4


class Command(enum.Enum, shape=3):
    """What a command slot carries."""

    Nop = 0
    Activate = 1
    Read = 2
    Write = 3
    Precharge = 4
    PrechargeAll = 5
    Refresh = 6


class DramCommand(data.Struct):
    """One command slot."""

    command: Command
    bank: 4
    """Bank group in bits 0 and 1, bank within the group in bits 2 and 3."""
    row: 18
    """Of :attr:`Command.Activate`; of other commands but ``Nop`` 0."""
    column: 7
    """Of an access: line within the page; of other commands but ``Nop`` 0."""


class Place(data.Struct):
    """Where a line lies."""

    bank: 4
    column: 7
    row: 18


class DramBus(wiring.Signature):
    """From the controller to the devices.

    ``command[k]`` is on the bus in tick ``4n + k`` of cycle ``n``. The burst of a read or write at tick ``t`` takes
    the four ticks from ``t + cl`` or ``t + cwl`` on, which must be one whole core cycle: the controller drives
    ``write_data`` with ``write_valid`` in that cycle, the devices ``read_data`` with ``read_valid``. ``read_poison``
    comes with data that the devices know to be bad.
    """

    def __init__(self):
        super().__init__(
            {
                "command": Out(data.ArrayLayout(DramCommand, SLOTS)),
                "write_valid": Out(1),
                "write_data": Out(512),
                "read_valid": In(1),
                "read_data": In(512),
                "read_poison": In(1),
            }
        )

    def __eq__(self, other):
        return isinstance(other, DramBus)

    __hash__ = None


def place_of(address):
    """:class:`Place` of the line `address`, 30 bits; the highest is not used.

    From the lowest bit: bank group, column, bank in the group, row. So four neighbouring lines lie in the four bank
    groups, and 512, a surface's block, are one page in each of four banks. The bank is hashed with the row so that
    blocks whose numbers differ by 1, 7, 8, 9 or 15 (neighbours in a surface of 8 blocks a line, and above each other
    in one of 15) lie in different banks.
    """
    address = Value.cast(address)
    block = address[9:29]
    return Place(Cat(address[0:2], block[0], block[1] ^ block[3], address[2:9], block[2:]))


def line_of(bank, row, column):
    """The line at a place: the inverse of :func:`place_of`."""
    bank, row = Value.cast(bank), Value.cast(row)
    return Cat(bank[0:2], column, bank[2], bank[3] ^ row[1], row)
