"""The bench of an engine in its harness: slots in, a task, slots out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cocotb.triggers import RisingEdge

from tessera.golden.frames import Frame
from tessera.hw.engine import SlotHeader, SlotKind, Status
from tessera.hw.memory.layout import SurfaceLayout
from tessera.tb.bench import Bench, pack, unpack

__all__ = ["EngineBench", "Slot"]


@dataclass(frozen=True)
class Slot:
    """A slot of an ideal memory: its header at line 0 of `window`, its body at line 512."""

    window: int
    lines: int = (1 << 14) - 512
    head: int = 0
    body: int = 512

    def fields(self) -> dict[str, int]:
        """As a :class:`SlotRef`."""
        return {"window": self.window, "head": self.head, "body": self.body, "lines": self.lines}


class EngineBench(Bench):
    """Bench of an :class:`EngineHarness`."""

    backdoor = "backdoor"
    """The port through which lines come and go."""

    async def reset(self, cycles: int = 4, *, latency: int = 20, stall: int = 0) -> None:
        """Reset, and set how the memory behaves."""
        for port in ("load", "dump"):
            self.port(f"backdoor.{port}").value = 0
        if "abort" in self.component.signature.members:
            self.dut.abort.value = 0
        self.set_memory(latency=latency, stall=stall)
        await super().reset(cycles)

    def set_memory(self, *, latency: int = 20, stall: int = 0, window: int = 0, limit: int = 0) -> None:
        """Set the memory's knobs (see ``hw/models/memory.py``)."""
        knobs = {"latency": latency, "stall": stall, "window": window, "limit": limit}
        self.dut.knobs.value = pack(self.component.signature.members["knobs"].shape, knobs)

    @property
    def memory(self) -> Any:
        """The memory: part of the component, or the component itself."""
        return getattr(self.component, "memory", self.component)

    @property
    def window_lines(self) -> int:
        """Lines from one window's start to the next."""
        return self.memory.window_lines

    async def _transfer(self, strobe: str, start: int, count: int) -> None:
        self.port(f"{self.backdoor}.start").value = start
        self.port(f"{self.backdoor}.count").value = count
        self.port(f"{self.backdoor}.{strobe}").value = 1
        await self.cycles(2)
        self.port(f"{self.backdoor}.{strobe}").value = 0
        await self.cycles(1)

    async def write_lines(self, window: int, line: int, data: Any) -> None:
        """Put bytes (padded with zeros to whole lines) or an array of lines into the memory."""
        raw = data.tobytes() if isinstance(data, np.ndarray) else bytes(data)
        raw += bytes(-len(raw) % 64)
        if raw:
            Path(f"{self.memory.name}.load").write_bytes(raw)
            await self._transfer("load", window * self.window_lines + line, len(raw) // 64)

    async def read_lines(self, window: int, line: int, count: int) -> np.ndarray:
        """Lines of the memory, uint8 of shape (count, 64)."""
        await self._transfer("dump", window * self.window_lines + line, count)
        raw = Path(f"{self.memory.name}.dump").read_bytes()
        return np.frombuffer(raw, np.uint8).reshape(count, 64)

    async def write_header(self, slot: Slot, **fields: Any) -> None:
        """Set a slot's header."""
        fields = {"status": Status.Ok, **fields}
        await self.write_lines(slot.window, slot.head, pack(SlotHeader, fields).to_bytes(64, "little"))

    async def write_bitstream(self, slot: Slot, data: bytes, **fields: Any) -> None:
        """Fill a slot with a bitstream."""
        await self.write_header(slot, **{"kind": SlotKind.Bitstream, "bytes": len(data), **fields})
        await self.write_lines(slot.window, slot.body, data)

    async def write_surface(self, slot: Slot, frame: Frame, fill: int = 0xA5, **fields: Any) -> None:
        """Fill a slot with a picture; what lies past its edge is `fill`."""
        geometry = {"chroma_format": int(frame.format), "width": frame.width, "height": frame.height}
        await self.write_header(slot, **{"kind": SlotKind.Surface, **geometry, **fields})
        layout = SurfaceLayout(frame.format, frame.width, frame.height)
        await self.write_lines(slot.window, slot.body, layout.pack(frame, fill))

    async def read_header(self, slot: Slot) -> Any:
        """A slot's header, as a constant of :class:`SlotHeader`."""
        line = await self.read_lines(slot.window, slot.head, 1)
        return unpack(SlotHeader, int.from_bytes(line.tobytes(), "little") & ((1 << 190) - 1))

    async def read_bitstream(self, slot: Slot, count: int) -> bytes:
        """The first `count` bytes of a slot's body."""
        return (await self.read_lines(slot.window, slot.body, -(-count // 64))).tobytes()[:count] if count else b""

    async def read_surface(self, slot: Slot, layout: SurfaceLayout) -> Frame:
        """The picture in a slot's body."""
        return layout.unpack(await self.read_lines(slot.window, slot.body, layout.lines))

    async def run(self, task: Mapping[str, Any], *, timeout: int = 1_000_000) -> Any:
        """Give the engine a task and sleep until it is done; the done message, as a constant of :class:`Done`."""
        await self.send("task", [task])
        self.port("done.ready").value = 0
        valid = self.port("done.valid")
        if not valid.value:
            await self.within(timeout, _edge(valid), f"task {dict(task)}")
        (done,) = await self.receive("done", 1)
        return done


async def _edge(signal: Any) -> None:
    await RisingEdge(signal)
