"""Whether a link is up, and on which lanes."""

from functools import reduce
from operator import add

from amaranth.hdl import *
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.link.block import Marker

__all__ = ["LinkState", "Training"]


class LinkState(enum.Enum, shape=2):
    """See docs/link.md."""

    Training = 0
    Active = 1
    Dead = 2


class Training(wiring.Component):
    """Agrees with the other side on a session and on lanes.

    Outputs answer to what is heard and told by the next cycle.

    Parameters
    ----------
    lanes : int
        1, 2 or 4.
    give_up : int
        Cycles of training after which what was active is dead; 2 to 2**31.
    search_bits : int
        While ``Active`` and the other side misses lanes, markers are dense for ``2 ** search_bits`` cycles in every
        16 times as many, and from when one came to be missed; 2 to 24.

    Members
    -------
    heard : :py:`In(4)`
        Lanes of the other side that are received here, by its numbers.
    told : :py:`In(Marker)`
        What its last right marker said; since ``heard`` is not 0, or later.
    state : :py:`Out(LinkState)`
    up : :py:`Out(1)`
        It is ``Active``.
    accept : :py:`Out(1)`
        What is received now is of this session, as that was two cycles ago: when it changes, all that was received is
        forgotten until then. Follows ``told`` in the same cycle.
    renew : :py:`Out(1)`
        High for one cycle: forget all that was sent and received.
    lost : :py:`Out(1)`
        All was forgotten, from the cycle of ``renew`` on, and the link is not up again; or never was.
    wanted : :py:`Out(4)`
        Lanes to send stripes on: the most of 4, 2, 1 that the other side hears, the lowest ones; 0 unless ``Active``.
    dense : :py:`Out(1)`
        Markers are to be dense.
    session : :py:`Out(4)`
        0 until the other side is first heard, and never again.
    losses : :py:`Out(32)`
        Times that a lane which was heard was no more; each a cycle later.
    training, active, dead : :py:`Out(32)`
        Cycles in each state. All counts wrap.
    """

    def __init__(self, lanes, give_up=1 << 20, search_bits=13):
        if lanes not in (1, 2, 4):
            raise ValueError(f"lanes is {lanes}; 1, 2 or 4 expected")
        if not 2 <= give_up <= 1 << 31:
            raise ValueError(f"give_up is {give_up}; 2 to {1 << 31} expected")
        if not 2 <= search_bits <= 24:
            raise ValueError(f"search_bits is {search_bits}; 2 to 24 expected")
        self.lanes, self.give_up, self.search_bits = lanes, give_up, search_bits
        counts = ("losses", "training", "active", "dead")
        super().__init__(
            {
                "heard": In(4),
                "told": In(Marker),
                "state": Out(LinkState),
                "up": Out(1),
                "accept": Out(1),
                "renew": Out(1),
                "lost": Out(1, init=1),
                "wanted": Out(4),
                "dense": Out(1),
                "session": Out(4),
                **{name: Out(32) for name in counts},
            }
        )

    def elaborate(self, platform):
        m = Module()
        told, session = self.told, self.session
        theirs = Signal(self.lanes)
        same, both, session_before, known_session = Signal(), Signal(), Signal(4), Signal(4)
        m.d.sync += [session_before.eq(session), known_session.eq(session_before)]
        m.d.comb += [
            theirs.eq(told.heard),
            same.eq((told.session == session) & (session != 0)),
            both.eq((self.heard != 0) & (theirs != 0)),
            self.accept.eq((told.session == known_session) & (known_session != 0)),
            # No other state is odd.
            self.up.eq(self.state.as_value()[0]),
        ]

        # Sessions go from 15 on to 1; half of them are newer than any one. Which of two opposite ones is, both sides
        # must agree on.
        ahead, newer = Signal(4), Signal()
        m.d.comb += [
            ahead.eq(told.session - session),
            newer.eq((told.session != 0) & (Mux(ahead == 8, told.session[3], ~ahead[3] & ahead.any()))),
        ]

        lost_for = Signal(range(self.give_up))
        m.d.sync += self.renew.eq(0)
        with m.If(self.up):
            m.d.sync += lost_for.eq(0)
            with m.If(~same | ~both):
                m.d.sync += self.state.eq(LinkState.Training)
        with m.Else():
            m.d.sync += lost_for.eq(lost_for + 1)
            with m.If((self.heard != 0) & (session == 0)):
                # Whatever the other side remembers of this one is not so: let it begin anew as well.
                m.d.sync += session.eq(_next(told.session))
            with m.Elif((self.heard != 0) & newer):
                m.d.sync += [session.eq(told.session), self.renew.eq(1), self.lost.eq(1)]
            with m.Elif(same & both):
                m.d.sync += [self.state.eq(LinkState.Active), self.lost.eq(0)]
            with m.Elif(~self.lost & (lost_for == self.give_up - 1)):
                m.d.sync += [session.eq(_next(session)), self.renew.eq(1), self.lost.eq(1)]
                m.d.sync += self.state.eq(LinkState.Dead)

        with m.If(self.up):
            m.d.comb += self.wanted.eq(theirs)
            if self.lanes == 4:
                with m.Switch(theirs):
                    for three, two in ((0b0111, 0b0011), (0b1011, 0b0011), (0b1101, 0b0101), (0b1110, 0b0110)):
                        with m.Case(three):
                            m.d.comb += self.wanted.eq(two)

        missing = Signal()
        known, since = Signal(self.lanes), Signal(self.search_bits + 4)
        m.d.comb += [
            missing.eq(~theirs.all()),
            self.dense.eq(~self.up | (missing & (since[self.search_bits :] == 0))),
        ]
        m.d.sync += [known.eq(theirs), since.eq(since + 1)]
        with m.If(~self.up | (known & ~theirs).any()):
            m.d.sync += since.eq(0)

        before, gone = Signal(self.lanes), Signal(self.lanes)
        m.d.sync += [
            before.eq(self.heard),
            gone.eq(before & ~self.heard[: self.lanes]),
            self.losses.eq(self.losses + reduce(add, gone)),
        ]
        for name, state in (
            (self.training, LinkState.Training),
            (self.active, LinkState.Active),
            (self.dead, LinkState.Dead),
        ):
            with m.If(self.state == state):
                m.d.sync += name.eq(name + 1)
        return m


def _next(session):
    return Mux(session == 15, 1, session + 1)
