"""The bench that all testbenches share.

A testbench is a module ``tb/x/y.py`` for ``hw/x/y.py`` with a table of what to build and the cocotb tests that run on
each of these builds::

    from tessera.tb.bench import Bench, Dut

    DUTS = {"signed": Dut(lambda: Transpose(signed(16))), "plain": Dut(lambda: Transpose(8))}

    @cocotb.test()
    @cocotb.parametrize(stall=[0.0, 0.5, 0.9])
    async def matches_numpy(dut, stall):
        bench = Bench(dut, DUTS)
        await bench.reset()
        ...

``pytest tests/test_tb.py -k x.y`` builds and runs it: each entry of ``DUTS`` once with checkers at the joints and once,
if its ``stalls`` is set, with seeded stallers in all internal streams as well.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import cocotb
from amaranth.hdl import Const, Module, Shape, ShapeCastable
from amaranth.lib import wiring
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge, Timer, with_timeout

from tessera.hw.lib.streams import observe

__all__ = ["CYCLE_NS", "Bench", "Dut", "Watched", "keep_figures", "pack", "streams_of", "unpack"]

CYCLE_NS = 2
"""Nanoseconds of simulated time in a cycle of ``sync``. (Not the silicon's 2.5: cocotb wants an even number.)"""


@dataclass(frozen=True)
class Dut:
    """One build of a component.

    Parameters
    ----------
    make
        Returns the component.
    stalls
        Also build it with stallers in its internal streams, and run all tests on that too. Tests that assert cycle
        counts skip themselves there: ``if bench.stalled: return``.
    tests
        Regular expression of the names of the tests that run on this build; all unless told. It is looked for in
        ``module.test/parameters``, and by ``make bench`` in ``module.test/`` first.
    watched
        Put a checker at each output stream as well: for every block that never withdraws what it has offered.
    soak
        Run in ``make soak`` only.
    """

    make: Callable[[], Any]
    stalls: bool = False
    tests: str | None = None
    watched: bool = False
    soak: bool = False

    def simulated(self) -> Any:
        """The component as the tests see it."""
        return Watched(self.make()) if self.watched else self.make()


class Watched(wiring.Component):
    """A component with a :class:`StreamChecker` at each of its output streams; the same ports."""

    def __init__(self, component: Any):
        self.component = component
        super().__init__(component.signature)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.component = self.component
        wiring.connect(m, wiring.flipped(self), self.component)
        for path, into in streams_of(self.component.signature):
            if not into:
                observe(m, reduce(getattr, path.split("."), self.component))
        return m


def streams_of(signature: wiring.Signature, prefix: str = "") -> Iterable[tuple[str, bool]]:
    """Path of each stream of `signature`, and whether it goes in."""
    for name, member in signature.members.items():
        if not member.is_signature or member.dimensions:
            continue
        inner = member.signature
        if set(inner.members) == {"payload", "valid", "ready"}:
            yield prefix + name, inner.members["valid"].flow == wiring.In
        else:
            yield from streams_of(inner, prefix + name + ".")


def pack(shape: Any, value: Any) -> int:
    """The bits of `value` (an int, a mapping of a struct's fields, a list of an array's items, or an enum member)."""
    if isinstance(shape, ShapeCastable) and not isinstance(value, int):
        constant = shape.const(value)
        constant = constant if isinstance(constant, Const) else Const.cast(constant)
        return constant.value & ((1 << constant.width) - 1)
    if isinstance(shape, ShapeCastable) and isinstance(value, int):
        return int(value)
    width = Shape.cast(shape).width
    number = int(value)
    if not -(1 << width) < number < 1 << width:
        raise ValueError(f"{number} does not fit {width} bits")
    return number & ((1 << width) - 1)


def unpack(shape: Any, bits: int) -> Any:
    """The value of `bits`: an int, an enum member, or an Amaranth constant whose fields are read by name."""
    if isinstance(shape, ShapeCastable):
        return shape.from_bits(bits)
    shape = Shape.cast(shape)
    return bits - (1 << shape.width) if shape.signed and bits >> (shape.width - 1) else bits


def keep_figures(**figures: float | Mapping[str, float]) -> None:
    """Add measured figures to those that this run leaves in its folder (see ``sim/measure.py``)."""
    path = Path("figures.json")
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(kept | figures, indent=1) + "\n")


class Bench:
    """Clock, reset and streams of one component.

    Streams and other members are named as in the component: ``bench.send("memory.response", ...)``.

    Parameters
    ----------
    dut
        cocotb's handle of the simulated top.
    duts
        The module's table ``DUTS``; which entry was built is read from the environment.
    seed
        Of the random stalls; cocotb's random seed unless told.
    """

    def __init__(self, dut: Any, duts: Mapping[str, Dut], seed: int | None = None):
        self.dut = dut
        self.name = os.environ["TESSERA_DUT"]
        self.stalled = os.environ.get("TESSERA_STALLS", "") != ""
        self.component = duts[self.name].make()
        self.random = random.Random(cocotb.RANDOM_SEED if seed is None else seed)
        self._started = False
        if "TESSERA_MUTANT" in os.environ:
            dut.mutant.value = int(os.environ["TESSERA_MUTANT"])

    def _signature(self, path: str) -> wiring.Signature:
        """Signature of the member `path`, whose parts are joined by dots."""
        signature: Any = self.component.signature
        for part in path.split("."):
            signature = signature.members[part].signature
        return signature

    def shape(self, path: str) -> Any:
        """Shape of the payload of stream `path`."""
        return self._signature(path).members["payload"].shape

    def port(self, path: str) -> Any:
        """cocotb's handle of a member that is no stream."""
        return getattr(self.dut, path.replace(".", "__"))

    def get(self, path: str) -> int:
        """Value of a member that is no stream, as an unsigned number."""
        return int(self.port(path).value)

    async def reset(self, cycles: int = 4) -> None:
        """Start the clock if it is not running, hold reset for some cycles, and clear all stream inputs."""
        if not self._started:
            self._started = True
            Clock(self.dut.clk, CYCLE_NS, unit="ns", impl="gpi").start()
        self.dut.rst.value = 1
        # What the test before has left on the inputs stays until the checkers are reset.
        await self.cycles(1)
        for path, into in streams_of(self.component.signature):
            self.port(path + (".valid" if into else ".ready")).value = 0
        await self.cycles(cycles)
        self.dut.rst.value = 0
        await self.cycles(1)

    async def cycles(self, count: int) -> None:
        """Sleep for `count` cycles, to just after a rising edge."""
        await Timer(count * CYCLE_NS - 1, unit="ns")
        await RisingEdge(self.dut.clk)

    @staticmethod
    def now() -> int:
        """Cycles since the simulation began."""
        return int(cocotb.utils.get_sim_time("ns")) // CYCLE_NS

    async def send(
        self, path: str, values: Iterable[Any], stall: float = 0.0, gaps: Callable[[], int] | None = None
    ) -> int:
        """Send `values` into stream `path`; the cycle in which the last was taken.

        Before each value, the stream idles for 1 to 8 cycles with probability `stall`, or for `gaps()` cycles.
        """
        shape = self.shape(path)
        valid, ready, payload = (self.port(f"{path}.{part}") for part in ("valid", "ready", "payload"))
        clk = self.dut.clk
        last = self.now()
        for value in values:
            idle = gaps() if gaps else (self.random.randint(1, 8) if self.random.random() < stall else 0)
            if idle:
                valid.value = 0
                for _ in range(idle):
                    await RisingEdge(clk)
            payload.value = pack(shape, value)
            valid.value = 1
            while True:
                await ReadOnly()
                taken = ready.value
                await RisingEdge(clk)
                if taken:
                    break
            last = self.now()
        valid.value = 0
        return last

    async def receive(
        self, path: str, count: int | None = None, stall: float = 0.0, until: Callable[[Any], bool] | None = None
    ) -> list[Any]:
        """Take `count` values from stream `path`, or all up to one for which `until` holds.

        `stall` is the probability of not being ready, drawn in runs of 1 to 8 cycles.
        """
        shape = self.shape(path)
        valid, ready, payload = (self.port(f"{path}.{part}") for part in ("valid", "ready", "payload"))
        clk = self.dut.clk
        values: list[Any] = []
        while count is None or len(values) < count:
            if stall and self.random.random() < stall:
                ready.value = 0
                for _ in range(self.random.randint(1, 8)):
                    await RisingEdge(clk)
            ready.value = 1
            await ReadOnly()
            offered = valid.value
            bits = payload.value.to_unsigned() if offered else 0
            await RisingEdge(clk)
            if offered:
                values.append(unpack(shape, bits))
                if until is not None and until(values[-1]):
                    break
        ready.value = 0
        return values

    async def within(self, cycles: int, task: Any, what: str = "") -> Any:
        """Wait for coroutine `task`, at most `cycles` cycles."""
        try:
            return await with_timeout(task, cycles * CYCLE_NS, "ns")
        except cocotb.triggers.SimTimeoutError:
            raise AssertionError(f"{what or task} did not end within {cycles} cycles") from None
