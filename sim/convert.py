"""From Amaranth to RTLIL and Verilog, without looking at each net again and again.

Whenever Amaranth makes or slices a value of a netlist, it looks at each net in it. For each field that is read of a
structure of hundreds of bits all of it is sliced, and so much time goes there; and a third of the rest into looking for
garbage among millions of objects of which nearly all are kept. What is written is the same.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amaranth.back import rtlil, verilog
from amaranth.hdl import _nir

__all__ = ["to_rtlil", "to_verilog"]

# What is changed is of the whole process.
_LOCK = threading.Lock()
_NEW_OBJECTS = 100_000
"""Made before garbage is looked for again."""


def _made(cls: type[tuple[Any, ...]], nets: Any = ()) -> tuple[Any, ...]:
    return tuple.__new__(cls, (nets,) if isinstance(nets, _nir.Net) else nets)


def _sliced(self: tuple[Any, ...], index: Any) -> Any:
    found = tuple.__getitem__(self, index)
    return tuple.__new__(type(self), found) if isinstance(index, slice) else found


@contextmanager
def _unchecked() -> Iterator[None]:
    quick = {"__new__": _made, "__getitem__": _sliced}
    with _LOCK:
        checked = {name: vars(_nir.Value)[name] for name in quick}
        thresholds = gc.get_threshold()
        try:
            gc.set_threshold(_NEW_OBJECTS, *thresholds[1:])
            for name, function in quick.items():
                setattr(_nir.Value, name, function)
            yield
        finally:
            for name, function in checked.items():
                setattr(_nir.Value, name, function)
            gc.set_threshold(*thresholds)


def to_rtlil(component: Any, **options: Any) -> str:
    """As ``amaranth.back.rtlil.convert``."""
    with _unchecked():
        return rtlil.convert(component, **options)


def to_verilog(component: Any, **options: Any) -> str:
    """As ``amaranth.back.verilog.convert``."""
    with _unchecked():
        return verilog.convert(component, **options)
