"""Components that stand several times in a design: where a simulation asks for it, each is made once."""

from contextlib import contextmanager
from contextvars import ContextVar

from amaranth.hdl import *
from amaranth.lib import wiring

__all__ = ["RepeatedModules", "repeated"]

_modules = ContextVar("modules", default=None)


class RepeatedModules:
    """Modules that are to be made beside the design that uses them.

    While it is entered, :func:`repeated` stands for an instance of such a module; else for the component itself.
    """

    def __init__(self):
        self._components = {}
        self._made = set()

    @contextmanager
    def entered(self):
        """What is elaborated inside uses modules."""
        token = _modules.set(self)
        try:
            yield self
        finally:
            _modules.reset(token)

    def use(self, name, make, key):
        """The component of which module `name` is to be made: what `make` gives, unless there is one already."""
        if name not in self._components:
            self._components[name] = make(), key
        component, known = self._components[name]
        if known != key:
            raise ValueError(f"module {name} is made of {known!r}; the same expected, {key!r} found")
        return component

    def pending(self):
        """(name, component) of what is to be made and has not been asked for, once each; making it may add more."""
        while left := [name for name in self._components if name not in self._made]:
            self._made.add(left[0])
            yield left[0], self._components[left[0]][0]


class _Renamed(wiring.Component):
    """A component in other clock domains."""

    def __init__(self, component, domains):
        self._component, self._domains = component, domains
        super().__init__(component.signature)

    def elaborate(self, platform):
        m = Module()
        m.submodules.component = DomainRenamer(self._domains)(self._component)
        wiring.connect(m, wiring.flipped(self), self._component)
        return m


def repeated(m, instance, module, make, *, key, domains=None):
    """Put the component that `make` gives into `m` as submodule `instance`; what to connect it by.

    Parameters
    ----------
    module : str
        Name of the module that it is made of, if modules are made. All its logic is in domain ``sync`` then, once
        renamed.
    make : function
    key
        Of two that are alike the same, as their parameters are.
    domains : dict
        As of :class:`DomainRenamer`.
    """
    modules = _modules.get()
    if modules is None:
        component = make()
        m.submodules[instance] = DomainRenamer(domains)(component) if domains else component
        return component
    component = modules.use(module, lambda: _Renamed(make(), domains) if domains else make(), key)
    interface = component.signature.create(path=(instance,))
    ports = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
    for path, member, value in component.signature.flatten(interface):
        ports[("i_" if member.flow == wiring.In else "o_") + "__".join(map(str, path))] = value
    m.submodules[instance] = Instance(module, **ports)
    return interface
