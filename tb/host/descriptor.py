"""Descriptors and records: what Python packs is what the silicon reads, field by field, and back."""

from __future__ import annotations

from random import Random

import cocotb
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import Timer

from tessera.hw.engine import EngineKind
from tessera.hw.host.descriptor import (
    RECORD_BYTES,
    Descriptor,
    DoneRecord,
    Entry,
    Slot,
    TaskEntry,
    descriptor_bytes,
    record_of,
)
from tessera.tb.bench import Dut

SLOT = {"window": 10, "head": 26, "body": 26, "lines": 24}
FIELDS = {
    "tag": 16,
    "context": 6,
    "timestamp": 64,
    "params": 128,
    **{f"{side}_{name}": width for side in ("source", "target") for name, width in SLOT.items()},
    "engine": 4,
    "signal": 6,
    "number": 20,
    "tell": 16,
    **{f"wait{n}_{name}": width for n in range(2) for name, width in (("counter", 6), ("value", 20))},
}
RECORD = {
    "sequence": 32,
    "tag": 16,
    "engine": 4,
    "status": 8,
    "where": 32,
    "bytes": 32,
    "start": 64,
    "cycles": 32,
    "stalled": 32,
    "width": 16,
    "height": 16,
    "chroma_format": 2,
    "last": 1,
    "node": 4,
    "owner": 4,
    "managed": 1,
}
ENDS = ("signal", "number", "tell")


class Fields(wiring.Component):
    """The fields of a descriptor as ports, and a record of ports."""

    def __init__(self):
        super().__init__(
            {
                "descriptor": In(Descriptor),
                **{name: Out(width) for name, width in FIELDS.items()},
                "record": Out(DoneRecord),
                **{f"record_{name}": In(width) for name, width in RECORD.items()},
            }
        )

    def elaborate(self, platform):
        m = Module()
        d = self.descriptor
        for name in ("tag", "context", "timestamp", "params"):
            m.d.comb += getattr(self, name).eq(getattr(d.task, name))
        for side in ("source", "target"):
            for name in SLOT:
                m.d.comb += getattr(self, f"{side}_{name}").eq(getattr(getattr(d.task, side), name))
        m.d.comb += [self.engine.eq(d.engine), *(getattr(self, name).eq(getattr(d, name)) for name in ENDS)]
        for n in range(2):
            for name in ("counter", "value"):
                m.d.comb += getattr(self, f"wait{n}_{name}").eq(getattr(d.waits[n], name))
        for name in RECORD:
            field = getattr(self.record, name)
            field = field.as_value() if hasattr(field, "as_value") else field
            m.d.comb += field.eq(getattr(self, f"record_{name}"))
        return m


DUTS = {"fields": Dut(Fields)}


@cocotb.test()
async def python_packs_what_silicon_reads(dut):
    draw = Random(cocotb.RANDOM_SEED)
    for n in range(100):
        slots = {
            side: {name: draw.getrandbits(width) for name, width in SLOT.items()} for side in ("source", "target")
        }
        waits = tuple((draw.randrange(1, 64), draw.getrandbits(20)) for _ in range(n % 3))
        plain = {name: draw.getrandbits(FIELDS[name]) for name in ("tag", "context", "timestamp", "params", *ENDS)}
        engine = draw.choice([*EngineKind, 15])
        entry = TaskEntry(engine, **{side: Slot(**slot) for side, slot in slots.items()}, waits=waits, **plain)
        dut.descriptor.value = int.from_bytes(descriptor_bytes(entry), "little")
        await Timer(1, unit="ns")
        # What the host makes is a task of its own.
        read = Descriptor.from_bits(int(dut.descriptor.value))
        assert (read.entry, read.managed, read.owner) == (Entry.Task, 0, 0)
        wanted = {**plain, "engine": engine if engine == 15 else engine.value}
        wanted |= {f"{side}_{name}": value for side, slot in slots.items() for name, value in slot.items()}
        for k in range(2):
            counter, value = waits[k] if k < len(waits) else (0, 0)
            wanted |= {f"wait{k}_counter": counter, f"wait{k}_value": value}
        for name, value in wanted.items():
            assert int(getattr(dut, name).value) == value, f"{name} of {entry}"


@cocotb.test()
async def python_reads_what_silicon_packs(dut):
    draw = Random(cocotb.RANDOM_SEED)
    for _ in range(100):
        wanted = {name: draw.getrandbits(width) for name, width in RECORD.items()}
        for name, value in wanted.items():
            getattr(dut, f"record_{name}").value = value
        await Timer(1, unit="ns")
        assert record_of(int(dut.record.value).to_bytes(RECORD_BYTES, "little")) == wanted


@cocotb.test()
async def what_does_not_fit_is_named(dut):
    for wrong, text in (
        ({"tag": 1 << 16}, "tag is 65536"),
        ({"source": Slot(window=1024)}, "window is 1024"),
        ({"waits": ((1, 1 << 20),)}, "value is 1048576"),
        ({"params": -1}, "params is -1"),
        ({"waits": ((1, 0), (2, 0), (3, 0))}, "two at most"),
        ({"waits": ((64, 0),)}, "counters 1 to 63"),
        ({"signal": 64}, "counters 1 to 63"),
        ({"number": 1 << 20}, "number is 1048576"),
        ({"tell": 1 << 16}, "tell is 65536"),
    ):
        try:
            descriptor_bytes(TaskEntry(EngineKind.Ingest, **wrong))
        except ValueError as error:
            assert text in str(error), f"{error} does not say {text!r}"
        else:
            raise AssertionError(f"{wrong} was accepted")
