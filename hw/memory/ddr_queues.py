"""One queue of accesses for each DRAM bank, and the order of age among their heads."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tessera.hw.memory.dram import BANKS
from tessera.hw.memory.port import Op

__all__ = ["BankQueues", "access_shape", "head_shape", "push_shape"]

# Accesses in the queues differ by less than half the range of sequence numbers: no push while one is _PATIENCE old.
_SEQUENCE_BITS = 10
_PATIENCE = 256


def access_shape(tags):
    """One access of a bank; ``tag``, one of `tags`, tells the controller whose it is."""
    return data.StructLayout({"op": Op, "row": 18, "column": 7, "tag": range(tags)})


def push_shape(tags):
    """An access and its bank."""
    return data.StructLayout({"bank": 4, "access": access_shape(tags)})


def head_shape(tags):
    """What stands first in a bank's queue, if ``valid``."""
    return data.StructLayout({"valid": 1, "access": access_shape(tags)})


class BankQueues(wiring.Component):
    """A queue of ``depth`` accesses for each bank: order holds within a bank and nowhere else.

    Throughput is one push and one pop a cycle. A push into an empty queue is its head in the next cycle; after a pop,
    the next head of the same bank stands two cycles later, as two accesses of a bank group are two cycles apart.

    Parameters
    ----------
    depth : int
        Accesses that a bank's queue holds behind its head, a power of two.
    tags : int
        Number of tags.

    Members
    -------
    i : :py:`In(stream.Signature(push_shape(tags)))`
        Accesses. None is taken while its bank's queue is full, or any head is older than 256 pushes: so old ones
        are waited for.
    heads : :py:`Out(head_shape(tags))`, one for each bank
        What may be done next.
    older : :py:`Out(BANKS)`, one for each bank
        Bit ``j`` of ``older[i]``: the head of bank ``i`` was pushed before that of ``j``. Means nothing unless both
        are valid; among those that are, it is a total order.
    pop, pop_bank
        The head of ``pop_bank`` leaves; it must be valid.
    """

    def __init__(self, depth, tags):
        if not 4 <= depth <= 64 or depth & (depth - 1):
            raise ValueError(f"depth is {depth}; a power of two from 4 to 64 expected")
        self.depth, self.tags = depth, tags
        super().__init__(
            {
                "i": In(stream.Signature(push_shape(tags))),
                "heads": Out(head_shape(tags)).array(BANKS),
                "older": Out(BANKS).array(BANKS),
                "pop": In(1),
                "pop_bank": In(4),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth = self.depth
        access = access_shape(self.tags)

        kept = data.StructLayout({"access": access, "sequence": _SEQUENCE_BITS})
        m.submodules.accesses = accesses = Memory(shape=kept, depth=BANKS * depth, init=[])
        write, read = accesses.write_port(), accesses.read_port()

        sequence = Signal(_SEQUENCE_BITS)
        sequences = [Signal(_SEQUENCE_BITS, name=f"sequence{b}") for b in range(BANKS)]
        valid = [Signal(name=f"valid{b}") for b in range(BANKS)]
        heads = [Signal(access, name=f"head{b}") for b in range(BANKS)]
        write_at = [Signal(range(depth), name=f"write_at{b}") for b in range(BANKS)]
        read_at = [Signal(range(depth), name=f"read_at{b}") for b in range(BANKS)]
        behind = [Signal(range(depth + 1), name=f"behind{b}") for b in range(BANKS)]
        empty, full, overdue = Signal(BANKS), Signal(BANKS), Signal(BANKS)
        for b in range(BANKS):
            age = Signal(_SEQUENCE_BITS, name=f"age{b}")
            m.d.comb += age.eq(sequence - sequences[b])
            m.d.sync += overdue[b].eq(valid[b] & (age >= _PATIENCE))
            m.d.comb += [
                empty[b].eq(behind[b] == 0),
                full[b].eq(behind[b] == depth),
                self.heads[b].valid.eq(valid[b]),
                self.heads[b].access.eq(heads[b]),
            ]

        # A refill is under way in the cycle after a pop of a bank with something behind its head.
        refilling, refill_bank = Signal(), Signal(4)
        refill = Signal()
        pop_empty = empty.bit_select(self.pop_bank, 1)
        m.d.comb += [
            refill.eq(self.pop & ~pop_empty),
            read.en.eq(refill),
            read.addr.eq(Cat(Array(read_at)[self.pop_bank], self.pop_bank)),
        ]
        m.d.sync += [refilling.eq(refill), refill_bank.eq(self.pop_bank)]

        bank = self.i.payload.bank
        push, direct = Signal(), Signal()
        occupied = Signal(BANKS)
        for b in range(BANKS):
            m.d.comb += occupied[b].eq(
                (valid[b] & ~(self.pop & (self.pop_bank == b))) | (refilling & (refill_bank == b)) | ~empty[b]
            )
        m.d.comb += [
            self.i.ready.eq(~full.bit_select(bank, 1) & ~overdue.any()),
            push.eq(self.i.valid & self.i.ready),
            direct.eq(~occupied.bit_select(bank, 1)),
            write.en.eq(push & ~direct),
            write.addr.eq(Cat(Array(write_at)[bank], bank)),
            write.data.access.eq(self.i.payload.access),
            write.data.sequence.eq(sequence),
        ]
        m.d.sync += sequence.eq(sequence + push)

        loads = Signal(BANKS)
        m.d.comb += loads.eq((push & direct) << bank)
        refills = Signal(BANKS)
        m.d.comb += refills.eq(refilling << refill_bank)
        younger = Signal(BANKS)
        for b in range(BANKS):
            difference = Signal(_SEQUENCE_BITS, name=f"difference{b}")
            m.d.comb += [difference.eq(read.data.sequence - sequences[b]), younger[b].eq(~difference[-1] & valid[b])]
        for b in range(BANKS):
            stored, fetched = Signal(name=f"stored{b}"), Signal(name=f"fetched{b}")
            m.d.comb += [
                stored.eq(push & ~direct & (bank == b)),
                fetched.eq(refill & (self.pop_bank == b)),
            ]
            m.d.sync += [
                write_at[b].eq(write_at[b] + stored),
                read_at[b].eq(read_at[b] + fetched),
                behind[b].eq(behind[b] + stored - fetched),
            ]
            with m.If(self.pop & (self.pop_bank == b)):
                m.d.sync += valid[b].eq(0)
            with m.If(refills[b]):
                m.d.sync += [valid[b].eq(1), heads[b].eq(read.data.access), sequences[b].eq(read.data.sequence)]
            with m.Elif(loads[b]):
                m.d.sync += [valid[b].eq(1), heads[b].eq(self.i.payload.access), sequences[b].eq(sequence)]

        # Bit b, j for b < j is kept; j, b is its complement.
        order = {(b, j): Signal(name=f"older{b}_{j}") for b in range(BANKS) for j in range(b + 1, BANKS)}
        for (b, j), older in order.items():
            with m.If(loads[b]):
                m.d.sync += older.eq(0)
            with m.Elif(loads[j]):
                m.d.sync += older.eq(1)
            with m.Elif(refills[b]):
                m.d.sync += older.eq(~younger[j])
            with m.Elif(refills[j]):
                m.d.sync += older.eq(younger[b])
            m.d.comb += [self.older[b][j].eq(older), self.older[j][b].eq(~older)]
        return m
