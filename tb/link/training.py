"""Testbench of hw/link/training.py."""

import cocotb
from amaranth.hdl import Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.block import Marker
from tessera.hw.link.training import LinkState, Training
from tessera.tb.bench import Bench, Dut, pack

GIVE_UP, SEARCH_BITS = 46, 3
COUNTS = ("losses", "training", "active", "dead")


class Late(Training):
    """With counts that begin shortly before they wrap."""

    BEGINNING = 2**32 - 20

    def __init__(self, *parameters):
        super().__init__(*parameters)
        for name in COUNTS:
            setattr(self, name, Signal(32, init=self.BEGINNING, name=name))

    @property
    def signature(self):
        begun = {name: Out(32, init=self.BEGINNING) for name in COUNTS}
        return wiring.Signature({**super().signature.members, **begun})


DUTS = {
    **{f"lanes{lanes}": Dut(lambda lanes=lanes: Training(lanes, GIVE_UP, SEARCH_BITS)) for lanes in (1, 2)},
    "lanes4": Dut(lambda: Late(4, GIVE_UP, SEARCH_BITS)),
}


def is_newer(theirs, mine):
    """Half of the sessions are newer than any one; of two that are opposite, the higher is."""
    ahead = (theirs - mine) % 16
    return theirs != 0 and (1 <= ahead <= 7 or (ahead == 8 and theirs > mine))


class Rules:
    """What the states are to do, a cycle at a time."""

    def __init__(self, lanes, counts):
        self.lanes, self.state, self.session, self.sessions_before = lanes, "Training", 0, (0, 0)
        self.renew, self.resumable, self.lost_for = False, False, 0
        self.lost = True
        self.since, self.known, self.before, self.gone = 0, 0, 0, 0
        self.counts = dict.fromkeys(COUNTS, counts)

    def outputs(self, told):
        up = self.state == "Active"
        theirs = [n for n in range(self.lanes) if told["heard"] >> n & 1]
        used = theirs[: {0: 0, 1: 1, 2: 2, 3: 2, 4: 4}[len(theirs)]] if up else []
        searching = len(theirs) < self.lanes and self.since % 2 ** (SEARCH_BITS + 4) < 2**SEARCH_BITS
        return {
            "state": LinkState[self.state].value,
            "up": int(up),
            "accept": int(told["session"] == self.sessions_before[1] != 0),
            "renew": int(self.renew),
            "lost": int(self.lost),
            "wanted": sum(1 << n for n in used),
            "dense": int(not up or searching),
            "session": self.session,
            **{name: count % 2**32 for name, count in self.counts.items()},
        }

    def step(self, heard, told):
        self.sessions_before = (self.session, self.sessions_before[0])
        self.counts[self.state.lower()] += 1
        self.counts["losses"] += self.gone.bit_count()
        self.before, self.gone = heard, self.before & ~heard
        theirs = told["heard"] & (1 << self.lanes) - 1
        self.since = 0 if self.state != "Active" or self.known & ~theirs else self.since + 1
        self.known = theirs
        well = heard and theirs and told["session"] == self.session != 0
        self.renew = False
        if self.state == "Active":
            self.resumable, self.lost_for = True, 0
            self.state = "Active" if well else "Training"
            return
        self.lost_for += 1
        if heard and self.session == 0:
            self.session = told["session"] % 15 + 1
        elif heard and is_newer(told["session"], self.session):
            self.session, self.renew, self.resumable = told["session"], True, False
        elif well:
            self.state = "Active"
        elif self.resumable and self.lost_for == GIVE_UP:
            self.session, self.renew, self.resumable = self.session % 15 + 1, True, False
            self.state = "Dead"
        # From a beginning anew until it is up: what was under way before is forgotten.
        self.lost = self.renew or (self.lost and self.state != "Active")


class Follower:
    """Sets the inputs and compares all outputs with the rules, cycle by cycle."""

    def __init__(self, bench):
        self.bench, self.lanes = bench, bench.component.lanes
        self.told = {"lane": 0, "used": 0, "heard": 0, "dense": 0, "session": 0, "node": 0, "number": 0}
        self.heard = 0

    async def reset(self):
        self.told = dict.fromkeys(self.told, 0)
        self.heard = 0
        self._drive()
        await self.bench.reset()
        self.rules = Rules(self.lanes, getattr(self.bench.component, "BEGINNING", 0))
        # The cycle in which reset ended.
        self.rules.step(0, self.told)

    def _drive(self):
        dut, random = self.bench.dut, self.bench.random
        for name, width in (("lane", 2), ("used", 4), ("dense", 1), ("node", 4), ("number", 8)):
            self.told[name] = random.getrandbits(width)
        dut.told.value = pack(Marker, self.told)
        dut.heard.value = self.heard

    async def go(self, cycles=1, heard=None, **told):
        if heard is not None:
            self.heard = heard
        self.told |= told
        for _ in range(cycles):
            self._drive()
            await ReadOnly()
            expected = self.rules.outputs(self.told)
            found = {name: self.bench.get(name) for name in expected}
            assert found == expected, f"heard {self.heard:b}, told {self.told}: {found}, {expected}"
            await RisingEdge(self.bench.dut.clk)
            self.rules.step(self.heard, self.told)

    @property
    def state(self):
        return self.rules.state


@cocotb.test()
async def sides_agree_on_their_first_session(dut):
    follower = Follower(Bench(dut, DUTS))
    for session in range(16):
        await follower.reset()
        await follower.go(3)
        await follower.go(1, heard=1, session=session)
        mine = session % 15 + 1
        await follower.go(3)
        assert follower.rules.session == mine and follower.state == "Training"
        await follower.go(3, session=mine)
        assert follower.state == "Training"
        follower.told["heard"] = 1
        await follower.go(3)
        assert follower.state == "Active"


@cocotb.test()
async def uses_the_most_lanes_that_are_heard(dut):
    follower = Follower(Bench(dut, DUTS))
    await follower.reset()
    await follower.go(3, heard=1, session=4)
    follower.told["session"] = follower.rules.session
    for theirs in range(15, 0, -1):
        follower.told["heard"] = theirs
        await follower.go(4)


@cocotb.test()
async def begins_anew_for_each_newer_session(dut):
    follower = Follower(Bench(dut, DUTS))
    for mine in range(1, 16):
        for theirs in range(16):
            await follower.reset()
            await follower.go(2, heard=1, session=(mine - 2) % 15 + 1)
            assert follower.rules.session == mine
            follower.told["heard"] = 1
            await follower.go(3, session=mine)
            assert follower.state == "Active"
            await follower.go(2, session=theirs)
            assert follower.state == ("Active" if theirs == mine else "Training")
            await follower.go(1)
            assert follower.rules.session == (theirs if is_newer(theirs, mine) else mine)
            await follower.go(3)
            assert (follower.state == "Active") == (theirs == follower.rules.session)
            # Of the two sides, not both begin anew; if neither does, they are the same.
            assert is_newer(theirs, mine) + is_newer(mine, theirs) == (theirs not in (0, mine)) or theirs == 0


@cocotb.test()
async def dies_after_its_time_and_lives_again(dut):
    bench = Bench(dut, DUTS)
    follower = Follower(bench)
    lanes = bench.component.lanes
    for how in ("heard", "theirs", "session"):
        await follower.reset()
        # It never dies before it was active.
        await follower.go(2 * GIVE_UP)
        await follower.go(2, heard=1)
        follower.told["heard"] = (1 << lanes) - 1
        for _ in range(17):
            mine = follower.rules.session
            await follower.go(2 + bench.random.randrange(5), heard=1, session=mine)
            assert follower.state == "Active"

            async def lose(cycles):
                if how == "heard":
                    await follower.go(cycles, heard=0)
                elif how == "theirs":
                    follower.told["heard"] = 0
                    await follower.go(cycles)
                else:
                    await follower.go(cycles, session=(mine - 2) % 15 + 1)
                follower.told["heard"] = (1 << lanes) - 1

            # A moment earlier, it goes on where it was.
            await lose(GIVE_UP)
            assert follower.state == "Training"
            await follower.go(2, heard=1, session=mine)
            assert follower.state == "Active" and follower.rules.session == mine
            await lose(GIVE_UP + 1)
            assert follower.state == "Dead" and follower.rules.session == mine % 15 + 1
            await lose(2 * GIVE_UP)
            assert follower.state == "Dead" and follower.rules.session == mine % 15 + 1
            if bench.random.randrange(2):
                # The other side may have gone further.
                await follower.go(1, heard=1, session=(mine + 1) % 15 + 1)
                assert follower.rules.session == (mine + 1) % 15 + 1 and follower.state != "Active"


@cocotb.test()
async def searches_for_lanes_now_and_then(dut):
    bench = Bench(dut, DUTS)
    follower = Follower(bench)
    lanes = bench.component.lanes
    await follower.reset()
    await follower.go(50, heard=1)
    follower.told["heard"] = 1
    await follower.go(2 * 2 ** (SEARCH_BITS + 4) + 20, session=follower.rules.session)
    assert follower.state == "Active"
    for _ in range(20):
        follower.told["heard"] = bench.random.randrange(1, 1 << lanes)
        await follower.go(bench.random.choice([1, 5, 8, 30]))


@cocotb.test()
async def is_as_the_rules_say(dut):
    bench = Bench(dut, DUTS)
    random = bench.random
    follower = Follower(bench)
    states = set()
    for _ in range(3):
        await follower.reset()
        for _ in range(250):
            if random.random() < 0.3:
                follower.heard = random.getrandbits(follower.lanes) if random.random() < 0.5 else follower.heard
                follower.told["heard"] = random.choice([0, random.getrandbits(4), 15])
                follower.told["session"] = random.choice([follower.rules.session] * 4 + [random.randrange(16)])
            await follower.go(random.choice([1, 1, 2, 3, GIVE_UP + 2]))
            states.add(follower.state)
    assert states == {"Training", "Active", "Dead"}
