"""Both ends of the retry with memories and wires in Python: what is lost, doubled or late changes nothing."""

from collections import deque
from itertools import pairwise

import cocotb
from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.retry import RetryParameters, RetryReceiver, RetrySender
from tessera.tb.bench import Bench, Dut, pack, unpack

CLASSES = (32, 16, 128, 32, 16, 16)


class Ends(wiring.Component):
    """A sender and a receiver, not joined."""

    def __init__(self, p):
        self.p = p
        self.ends = {"sender": RetrySender(p), "receiver": RetryReceiver(p)}
        super().__init__({name: Out(end.signature) for name, end in self.ends.items()})

    def elaborate(self, platform):
        m = Module()
        for name, end in self.ends.items():
            m.submodules[name] = end
            wiring.connect(m, wiring.flipped(getattr(self, name)), end)
        return m


DUTS = {
    "six": Dut(lambda: Ends(RetryParameters(CLASSES, timeout_bits=9))),
    "one": Dut(lambda: Ends(RetryParameters((16,), timeout_bits=8))),
}


class RetryBench(Bench):
    """Moves packets from end to end, a step a cycle. A packet is its number in its class and how many cells it has."""

    def __init__(self, dut):
        super().__init__(dut, DUTS)
        self.p = self.component.p
        self.classes = range(len(self.p.cells))

    async def start(self, *, lost=0.0, lost_back=0.0, latency=1, take=1.0, passing=1.0, status=0.2):
        """`lost` and `lost_back` are of what each way loses, `status` how often a cycle with nothing else has one."""
        self.lost, self.lost_back, self.latency = lost, lost_back, latency
        self.take, self.passing, self.status = take, passing, status
        receiver = ("store", "take", "pass_", "framed", "behind", "told")
        for name in ("sender.put", "sender.report", *(f"receiver.{name}" for name in receiver)):
            self.port(name).value = 0
        await self.reset()
        self.waiting, self.out = ([deque() for _ in self.classes] for _ in range(2))
        self.putting, self.coming, self.asking, self.taken = None, None, None, None
        self.kept, self.got = {}, {}
        self.there, self.back, self.repeated = deque(), deque(), []
        self.again = self.timed_out = self.skipped = self.cycle = self.next_frame = 0
        self.ready, self.room, self.tell, self.accepted = 0, -1, 0, 0
        self.next, self.counts, self.begun = ([0] * len(self.p.cells) for _ in range(3))

    def place(self, kind, cell):
        return kind, cell % self.p.cells[kind]

    def maybe(self, probability):
        return self.random.random() < probability

    def put_cell(self, kind, cells, last):
        """What is said of a cell of class `kind`; of others anything is."""
        said = [cells if n == kind else self.random.randint(0, self.p.longest) for n in self.classes]
        shape = self.component.ends["sender"].signature.members["cells"].shape
        self.port("sender.cells").value = pack(shape, said)
        self.port("sender.last").value = sum((last if n == kind else self.maybe(0.5)) << n for n in self.classes)

    def _put(self):
        """The next cell of a packet into the sender's memory. After a packet, ``room`` has to be looked at again."""
        if self.putting is None:
            kinds = [n for n in self.classes if self.waiting[n] and self.room >> n & 1]
            if kinds:
                kind = self.random.choice(kinds)
                self.putting = [kind, *self.waiting[kind].popleft(), 0]
        self.port("sender.put").value = 1 << self.putting[0] if self.putting else 0
        self.room = 0
        if self.putting:
            kind, number, cells, done = self.putting
            if not done:
                self.kept[self.place(kind, self.next[kind])] = number, cells
            self.put_cell(kind, 0 if done else cells, done + 1 == cells)
            self.next[kind] = (self.next[kind] + 1) % (1 << self.p.cell_bits)
            self.putting = None if done + 1 == cells else [kind, number, cells, done + 1]
            return True
        return False

    def _arrive(self):
        """A frame at the receiver: its packet comes in one cycle, is asked about in the next, and then stored."""
        asked, self.asking, self.coming = self.asking, self.coming, None
        self.port("receiver.store").value = bool(asked)
        if asked and self.accepted:
            kind, cell, number, cells = asked
            self.got[self.place(kind, cell)] = number, cells
        if self.asking:
            kind, cell, _, cells = self.asking
            self.port("receiver.asked").value = pack(self.p.packet, {"kind": kind, "cell": cell, "cells": cells})
        framed = not (asked or self.asking) and bool(self.there) and self.there[0][0] <= self.cycle
        self.port("receiver.framed").value = framed
        if framed:
            _, frame, packet = self.there.popleft()
            self.port("receiver.frame").value = (frame - (packet is None)) % (1 << self.p.frame_bits)
            self.port("receiver.behind").value = packet is None
            if packet:
                kind, cell, *_ = self.coming = packet
                self.port("receiver.coming").value = pack(self.p.cell, {"kind": kind, "cell": cell})

    def _pass(self):
        """What was taken is passed on, and a packet that is ready is taken, at most one of a class in two cycles."""
        passed = self.taken if self.taken and self.maybe(self.passing) else None
        self.port("receiver.pass_").value = passed is not None
        if passed:
            kind, cells = passed
            self.port("receiver.passed").value = pack(self.p.packet, {"kind": kind, "cell": 0, "cells": cells})
        kinds = [n for n in self.classes if self.ready >> n & 1 and n != (self.taken or [None])[0]]
        if self.taken and not passed:
            kinds = []
        self.port("receiver.take").value = 0
        if not self.taken or passed:
            self.taken = None
        if kinds and self.maybe(self.passing):
            kind = self.random.choice(kinds)
            self.port("receiver.take").value = 1 << kind
            number, cells = self.got.pop(self.place(kind, self.begun[kind]))
            self.out[kind].append(number)
            self.taken = kind, cells
            self.begun[kind] = (self.begun[kind] + cells) % (1 << self.p.cell_bits)
        return passed

    def _send(self, ready, tells):
        """What the sender's side puts on the wire."""
        frame = None
        if self.get("sender.send.valid") and ready:
            sending = unpack(self.p.sending, self.get("sender.send.payload"))
            kind = int(sending.kind)
            number, cells = self.kept[self.place(kind, sending.cell)]
            assert sending.place == self.p.base(kind) + sending.cell % self.p.cells[kind], "the place of another cell"
            assert sending.cells == cells, f"{sending.cells} cells, not {cells}"
            # A packet that was passed on when it was to be sent again has taken a number with it.
            self.skipped += (sending.frame - self.next_frame) % (1 << self.p.frame_bits)
            self.next_frame = (sending.frame + 1) % (1 << self.p.frame_bits)
            self.again += sending.again
            if sending.again:
                self.repeated.append((kind, number))
            frame = sending.frame, (kind, sending.cell, number, cells)
        elif self.maybe(self.status):
            frame = self.next_frame, None
        if frame and not self.maybe(self.lost):
            self.there.append((self.cycle + self.latency, *frame))
        if tells and not self.maybe(self.lost_back):
            told = {"classes": (1 << len(self.p.cells)) - 1, "passed": list(self.counts), "frames": 1, "losses": 1}
            told |= {name: self.get(f"receiver.{name}") for name in ("last", "lost")}
            self.back.append((self.cycle + self.latency, told))

    def _numbers(self, path):
        """Of each class."""
        width = self.p.cell_bits
        return [self.get(path) >> width * n & (1 << width) - 1 for n in self.classes]

    def packets_next(self):
        """Of each class, as the receiver says."""
        shape = self.component.ends["receiver"].signature.members["next"].shape
        return list(unpack(shape, self.get("receiver.next")))

    async def step(self):
        before, next_ = list(self.next), list(self.begun)
        put = self._put()
        self._arrive()
        passed = self._pass()
        report = self.back.popleft()[1] if self.back and self.back[0][0] <= self.cycle else {}
        self.port("sender.report").value = pack(self.p.report, report) if report else 0
        ready, tells = self.maybe(self.take), self.tell or self.maybe(self.status)
        self.port("sender.send.ready").value = ready
        self.port("receiver.told").value = bool(tells)
        await ReadOnly()
        assert self._numbers("sender.next") == before, "next"
        assert self._numbers("receiver.counts") == self.counts, "counts"
        assert [one.cell for one in self.packets_next()] == next_, "what is next"
        self._send(ready, tells)
        self.accepted, self.tell = self.get("receiver.accept"), self.get("receiver.tell")
        self.timed_out += self.get("sender.timed_out")
        self.ready = self.get("receiver.ready")
        self.room = 0 if put else self.get("sender.room")
        if passed:
            kind, cells = passed
            self.counts[kind] = (self.counts[kind] + cells) % (1 << self.p.cell_bits)
        await RisingEdge(self.dut.clk)
        self.cycle += 1

    def packets(self, count):
        """So many of each class."""
        for kind in self.classes:
            self.waiting[kind].extend((n, self.random.randint(1, self.p.longest)) for n in range(count))
        return [list(range(count)) for _ in self.classes]

    async def deliver(self, expected, cycles):
        """Until all are out, in order."""
        while [list(numbers) for numbers in self.out] != expected:
            await self.step()
            for kind, numbers in enumerate(self.out):
                right = expected[kind][: len(numbers)]
                assert list(numbers) == right, f"class {kind}: packet {list(numbers)[-1]} comes as {len(numbers) - 1}"
            assert self.cycle < cycles, f"{[len(numbers) for numbers in self.out]} packets in {cycles} cycles"


class Sent:
    """A sender on its own, whose cells are filled and emptied: what each frame carried, and who is there."""

    def __init__(self, bench):
        self.bench, self.p, self.frames = bench, bench.p, []
        self.may_skip = False
        self.packets = [deque() for _ in bench.classes]
        self.next, self.passed = ([0] * len(bench.classes) for _ in range(2))
        self.latest = {}

    async def cycle(self):
        """What is taken in it."""
        bench = self.bench
        await ReadOnly()
        taken = None
        if bench.get("sender.send.valid") and bench.get("sender.send.ready"):
            sending = unpack(self.p.sending, bench.get("sender.send.payload"))
            taken = int(sending.kind), sending.cell
            skipped = (sending.frame - len(self.frames)) % (1 << self.p.frame_bits)
            assert skipped <= 2 * self.may_skip, f"{skipped} frames are skipped"
            self.frames += [None] * skipped
            assert bool(sending.again) == (taken in self.latest), f"{taken} is sent again: {sending.again}"
            self.latest[taken] = len(self.frames)
            self.frames.append(taken)
        await RisingEdge(bench.dut.clk)
        return taken

    async def cycles(self, count):
        return [taken for taken in [await self.cycle() for _ in range(count)] if taken]

    async def fill(self, lengths=lambda kind: None):
        """Every class, until it has no room; with packets of any length, or what `lengths` says next."""
        bench, taken = self.bench, []
        for kind in bench.classes:
            while (self.next[kind] - self.passed[kind]) <= self.p.cells[kind] - self.p.longest:
                cells = lengths(kind) or bench.random.randint(1, self.p.longest)
                self.packets[kind].append((self.next[kind] % (1 << self.p.cell_bits), cells))
                for n in range(cells):
                    bench.port("sender.put").value = 1 << kind
                    bench.put_cell(kind, 0 if n else cells, n + 1 == cells)
                    taken.append(await self.cycle())
                self.next[kind] += cells
        bench.port("sender.put").value = 0
        return [one for one in taken if one] + await self.cycles(4 + sum(map(len, self.packets)))

    async def tell(self, **report):
        self.bench.port("sender.report").value = pack(self.p.report, report)
        taken = await self.cycle()
        self.bench.port("sender.report").value = 0
        return [taken] if taken else []

    async def lose(self, lost, last, **report):
        """A report of losses: what is sent again."""
        taken = await self.tell(losses=1, lost=lost, last=last % (1 << self.p.frame_bits), **report)
        return taken + await self.cycles(15 + 2 * lost.bit_count())

    def pass_on(self, kind, count):
        """Its oldest packets: the fields of the report."""
        for _ in range(count):
            cell, cells = self.packets[kind].popleft()
            self.passed[kind] += cells
            del self.latest[kind, cell]
        passed = [cells % (1 << self.p.cell_bits) for cells in self.passed]
        return {"classes": 1 << kind, "passed": passed}


@cocotb.test()
async def what_was_lost_is_sent_again_once(dut):
    """The packets whose last frame was lost and which are not passed on, each once; of a loss told again, nothing."""
    bench = RetryBench(dut)
    await bench.start()
    bench.port("sender.send.ready").value = 1
    sent = Sent(bench)
    for turn in range(40):
        await sent.fill()
        for kind in bench.classes:
            # One at the least, or its oldest is sent again.
            await sent.tell(**sent.pass_on(kind, bench.random.choice((1, 1, len(sent.packets[kind]) // 2))))
        last = max(0, len(sent.frames) - 1 - bench.random.randrange(3))
        lost = bench.random.getrandbits(bench.p.history) & (2 << last) - 1
        expected = {sent.frames[last - n] for n in range(bench.p.history) if lost >> n & 1
                    and sent.latest.get(sent.frames[last - n]) == last - n}  # fmt: skip
        found = await sent.lose(lost, last, frames=1)
        assert sorted(found) == sorted(expected), f"turn {turn}: {found} are sent again, {expected} expected"
        assert not await sent.lose(lost, last, frames=1), f"turn {turn}: sent again for a loss that was told before"


@cocotb.test()
async def each_frame_of_the_history_can_be_lost(dut):
    """Alone: what it carried is sent again, and nothing else."""
    bench = RetryBench(dut)
    await bench.start()
    bench.port("sender.send.ready").value = 1
    sent, seen = Sent(bench), set()
    for turn in range(400):
        if turn % 6 == 0:
            # No class stands still.
            for kind in bench.classes if turn else ():
                await sent.tell(**sent.pass_on(kind, 1))
            await sent.fill(lambda kind: 1)
        last = len(sent.frames) - 1
        behind = {last - frame: packet for packet, frame in sent.latest.items() if last - frame < bench.p.history}
        n = bench.random.choice(sorted(behind.keys() - seen) or sorted(behind))
        seen.add(n)
        found = await sent.lose(1 << n, last, frames=1)
        assert found == [behind[n]], f"the frame {n} before the last: {found} are sent again, not {behind[n]}"
    assert seen == set(range(bench.p.history))


@cocotb.test()
async def losses_wait_until_frames_are_taken(dut):
    """Told one after the other meanwhile, and again: all are sent again then, each once, and nothing else."""
    bench = RetryBench(dut)
    await bench.start()
    sent = Sent(bench)
    for turn in range(60):
        bench.port("sender.send.ready").value = 1
        await sent.fill(lambda kind: 1)
        await sent.cycles(20)
        for kind in bench.classes:
            await sent.tell(**sent.pass_on(kind, bench.random.randint(1, 3)))
        bench.port("sender.send.ready").value = 0
        last = len(sent.frames) - 1
        behind = {last - frame: packet for packet, frame in sent.latest.items() if last - frame < bench.p.history}
        chosen = bench.random.sample(sorted(behind), len(behind) // 2)
        for begin in range(0, len(chosen), 2):
            await sent.lose(sum(1 << n for n in chosen[begin : begin + 2]), last, frames=1)
        await sent.lose(sum(1 << n for n in chosen), last, frames=1)
        bench.port("sender.send.ready").value = 1
        found = await sent.cycles(40)
        assert sorted(found) == sorted(behind[n] for n in chosen), f"turn {turn}: {found} are sent again"


@cocotb.test()
async def losses_that_are_told_over_and_over(dut):
    """As an idle other side does: all of the history lost, and each packet is sent again once, and soon."""
    bench = RetryBench(dut)
    await bench.start()
    bench.port("sender.send.ready").value = 1
    sent, history = Sent(bench), bench.p.history
    for period in (1, 2, 3, 5, 8):
        await sent.fill(lambda kind: 1)
        for kind in bench.classes:
            await sent.tell(**sent.pass_on(kind, 1))
        # None before the history is left to be lost.
        heard, last, found = len(sent.frames) - 1 - history, len(sent.frames) - 1, []
        await sent.tell(frames=1, last=heard % (1 << bench.p.frame_bits))
        lost = [last - n for n in range(history) if last >= n and sent.frames[last - n] in sent.latest]
        expected = [sent.frames[frame] for frame in sorted(lost) if sent.latest[sent.frames[frame]] == frame]
        mask = sum(1 << last - frame for frame in lost)
        for _ in range(100 // period):
            report = {"losses": 1, "lost": mask, "last": last % (1 << bench.p.frame_bits), "frames": 1}
            found += await sent.tell(**report)
            found += await sent.cycles(period - 1)
        assert found == expected, f"told every {period} cycles: {found} are sent again, {expected} expected"


@cocotb.test()
@cocotb.parametrize(heads=[0, 1], more=[0, 1, 3])
async def a_gap_longer_than_the_history_is_repaired(dut, heads, more):
    """Since the last frame that was told of, all are lost: all are sent again, each once, and nothing times out.

    A head may tell of the first frame behind the gap, before it is told what was lost; more may come by then.
    """
    bench = RetryBench(dut)
    await bench.start()
    bench.port("sender.send.ready").value = 1
    sent, number, history = Sent(bench), 1 << bench.p.frame_bits, bench.p.history
    if len(bench.classes) == 1:
        return
    for gap in (history, history + 1, history + 2, 40):
        await sent.fill(lambda kind: 1)
        for kind in bench.classes:
            await sent.tell(**sent.pass_on(kind, 1))
        last = len(sent.frames) - 1
        heard = last - more - 1 - gap
        for told in (heard, *[last - more] * heads):
            await sent.tell(frames=1, last=told % number)
        lost = [packet for packet, frame in sent.latest.items() if heard < frame < last - more]
        found = await sent.lose((1 << history) - (2 << more), last, frames=1) + await sent.cycles(3 * gap)
        assert sorted(found) == sorted(lost), f"a gap of {gap}: {len(found)} are sent again, {len(lost)} expected"


@cocotb.test()
async def what_is_passed_on_meanwhile_is_not_sent_again(dut):
    """Told lost, and passed on before it is taken, whether it is offered then or waits: the others are sent again."""
    bench = RetryBench(dut)
    await bench.start()
    sent, withdrawn = Sent(bench), 0
    sent.may_skip = True
    for turn in range(60):
        bench.port("sender.send.ready").value = 1
        await sent.fill(lambda kind: 1)
        await sent.cycles(20)
        bench.port("sender.send.ready").value = 0
        last = len(sent.frames) - 1
        behind = {last - frame: packet for packet, frame in sent.latest.items() if last - frame < bench.p.history}
        lost = set(bench.random.sample(sorted(behind), (len(behind) + 1) // 2))
        await sent.lose(sum(1 << n for n in lost), last, frames=1)
        for kind in bench.classes:
            await sent.tell(**sent.pass_on(kind, bench.random.randint(1, len(sent.packets[kind]))))
        # So that the sender knows.
        await sent.cycles(2)
        expected = sorted(behind[n] for n in lost if behind[n] in sent.latest)
        withdrawn += len(lost) - len(expected)
        bench.port("sender.send.ready").value = 1
        found = await sent.cycles(60)
        assert sorted(found) == expected, f"turn {turn}: {found} are sent again, {expected} expected"
    assert withdrawn > 20


@cocotb.test()
async def all_cells_may_be_in_use(dut):
    """Then the oldest packet, too, is sent again."""
    bench = RetryBench(dut)
    await bench.start()
    for oldest in range(1, bench.p.longest + 1):
        await bench.reset()
        bench.port("sender.send.ready").value = 1
        sent = Sent(bench)
        lengths = []
        for size in bench.p.cells:
            rest = size - bench.p.longest - oldest
            lengths.append([oldest, *[1] * rest, bench.p.longest])
        await sent.fill(lambda kind, lengths=lengths: lengths[kind].pop(0))
        assert all(used == size for used, size in zip(sent.next, bench.p.cells)), f"{sent.next} cells in use"
        last = len(sent.frames) - 1
        await sent.tell(frames=1, last=last % (1 << bench.p.frame_bits))
        for kind in bench.classes:
            frame = sent.latest[kind, 0]
            if last - frame < bench.p.history:
                assert await sent.lose(1 << last - frame, last) == [(kind, 0)], f"class {kind}, {oldest} cells"


@cocotb.test()
async def no_frame_outside_the_window(dut):
    """So many behind the last one that is heard of, and no more; then what waits goes on."""
    bench = RetryBench(dut)
    await bench.start()
    bench.port("sender.send.ready").value = 1
    sent = Sent(bench)
    await sent.fill()
    heard = -1
    for _ in range(2):
        for _ in range(bench.p.window):
            last = len(sent.frames) - 1
            # All but one, so that none before them are taken for lost.
            await sent.lose((1 << min(bench.p.history, last + 1)) - 1 & ~(1 << bench.p.history // 2), last)
            if len(sent.frames) == last + 1:
                break
        assert len(sent.frames) - 1 - heard == bench.p.window, f"{len(sent.frames) - 1 - heard} frames"
        heard += bench.random.randrange(20, 200)
        await sent.tell(frames=1, last=heard % (1 << bench.p.frame_bits))
        await sent.cycles(20)
        assert len(sent.frames) > last + 1, "nothing goes on"


@cocotb.test()
async def knows_what_is_stored(dut):
    """In any order, each once, if not behind what is next nor ready; a class is ready while its next one is there."""
    bench = RetryBench(dut)
    await bench.start()
    p, draw = bench.p, bench.random.randrange
    begun, counts, taken, double = [0] * len(p.cells), [0] * len(p.cells), deque(), False
    stored = [{} for _ in p.cells]

    def comes():
        """What is asked about in the next cycle."""
        kind = bench.random.choices(bench.classes, p.cells)[0]
        number = begun[kind] + (draw(-8, p.cells[kind] + 8) if draw(4) else draw(4))
        coming = {"kind": kind, "cell": number % (1 << p.cell_bits)}
        bench.port("receiver.coming").value = pack(p.cell, coming)
        return kind, number

    coming = comes()
    await RisingEdge(dut.clk)
    for cycle in range(1500):
        # They fill up, and are emptied.
        passing = cycle % 450 > 300
        (kind, number), coming = coming, comes()
        offset, cells = number - begun[kind], draw(1, 9) if draw(4) == 0 else 1
        # What is there already has the same length when it comes again, and none is over another one.
        cells = stored[kind].get(number, cells)
        ahead = 0 <= offset < p.cells[kind]
        others = {first + n for first, length in stored[kind].items() for n in range(length) if first != number}
        store = offset < 0 or (ahead and not others & set(range(number, number + cells)))
        ready = sum(1 << n for n in bench.classes if begun[n] in stored[n])
        # What is ready may be read at any moment.
        accept = ahead and not (offset == 0 and ready >> kind & 1)
        take = [n for n in bench.classes if ready >> n & 1 and (passing or draw(20) == 0)]
        passes = taken and draw(2)
        asked = {"kind": kind, "cell": number % (1 << p.cell_bits), "cells": cells}
        bench.port("receiver.asked").value = pack(p.packet, asked)
        bench.port("receiver.store").value = store
        bench.port("receiver.take").value = sum(1 << n for n in take)
        bench.port("receiver.pass_").value = bool(passes)
        passed = (*taken[0],) if taken else (0, 0)
        bench.port("receiver.passed").value = pack(p.packet, {"kind": passed[0], "cell": draw(256), "cells": passed[1]})
        await ReadOnly()
        assert bench.get("receiver.accept") == accept, f"cell {offset} behind the next of class {kind}, {cells} cells"
        assert bench.get("receiver.double") == double, "what was stored in the cycle before had come before, or not"
        double = store and (not ahead or number in stored[kind])
        assert bench.get("receiver.ready") == ready, f"ready are {bench.get('receiver.ready'):b}, {ready:b} expected"
        assert bench._numbers("receiver.counts") == [count % (1 << p.cell_bits) for count in counts]
        for n, one in enumerate(bench.packets_next()):
            assert one.cell == begun[n] % (1 << p.cell_bits), f"next of class {n}"
            assert not ready >> n & 1 or one.cells == stored[n][begun[n]], f"length of the next of class {n}"
        await RisingEdge(dut.clk)
        if store and ahead:
            stored[kind][number] = cells
        if passes:
            taken.popleft()
            counts[passed[0]] += passed[1]
        for n in take:
            cells = stored[n].pop(begun[n])
            begun[n] += cells
            taken.append((n, cells))


@cocotb.test()
@cocotb.parametrize(latency=[1, 20], take=[1.0, 0.4], passing=[1.0, 0.3])
async def in_order_without_losses(dut, latency, take, passing):
    """Nothing is sent twice, and no class is thought to stand still."""
    bench = RetryBench(dut)
    await bench.start(latency=latency, take=take, passing=passing)
    await bench.deliver(bench.packets(50), 40_000)
    assert not bench.again and not bench.timed_out and not bench.skipped


@cocotb.test()
@cocotb.parametrize(lost=[0.02, 0.3], lost_back=[0.0, 0.3], latency=[1, 30])
async def in_order_whatever_is_lost(dut, lost, lost_back, latency):
    bench = RetryBench(dut)
    await bench.start(lost=lost, lost_back=lost_back, latency=latency, take=0.8, passing=0.8)
    await bench.deliver(bench.packets(max(80, 320 // len(bench.classes))), 200_000)
    assert bench.again


@cocotb.test()
async def a_packet_is_offered_two_cycles_after_its_last_cell(dut):
    """And with everything taken at once, one in each cycle."""
    bench = RetryBench(dut)
    await bench.start(status=0.0)
    p = bench.p
    bench.put_cell(len(p.cells) - 1, 1, last=True)
    put = 1 << len(p.cells) - 1
    bench.port("sender.send.ready").value = 1
    bench.port("sender.put").value = put
    offered = []
    for cycle in range(12):
        await ReadOnly()
        offered.append(bench.get("sender.send.valid"))
        await RisingEdge(dut.clk)
        bench.port("sender.put").value = put if cycle < 7 else 0
    assert offered == [0, 0, *[1] * 8, 0, 0]


@cocotb.test()
async def there_is_room_for_the_longest_packet(dut):
    """As long as one fits: cells are free again when they have been passed on, not when they have been sent."""
    bench = RetryBench(dut)
    p = bench.p
    for kind, size in enumerate(p.cells):
        await bench.start(status=0.0)
        bench.waiting[kind].extend((n, 1) for n in range(size))
        for _ in range(4 * size):
            await bench.step()
        assert not bench.room >> kind & 1 and bench.next[kind] == size - p.longest + 1, f"class {kind}"
        bench.status = 1.0
        await bench.deliver([list(range(size)) if n == kind else [] for n in bench.classes], 20 * size)


@cocotb.test()
async def a_class_that_stands_still_is_sent_again(dut):
    """With no word from the other side: its oldest packet, between one and two periods later, and each period again."""
    bench = RetryBench(dut)
    period = 1 << bench.p.timeout_bits
    for kind in bench.classes:
        await bench.start()
        bench.waiting[kind].extend((n, 3) for n in range(5))
        await bench.deliver([list(range(5)) if n == kind else [] for n in bench.classes], period)
        # So that the sender knows.
        for _ in range(60):
            await bench.step()
        bench.lost_back = 1.0
        for _ in range(bench.random.randrange(1, period)):
            await bench.step()
        bench.waiting[kind].extend((n, 2) for n in range(5, 8))
        began = bench.cycle
        seen = []
        while len(seen) < 4:
            again = bench.again
            await bench.step()
            if bench.again != again:
                seen.append(bench.cycle)
            assert bench.cycle < 6 * period + began
        assert period < seen[0] - began < 2 * period + 20
        assert all(abs(b - a - period) < 4 for a, b in pairwise(seen)), seen
        assert bench.timed_out == 4 and bench.repeated == [(kind, 5)] * 4, f"{bench.repeated} sent again"
        bench.lost_back = 0.0
        await bench.deliver([list(range(8)) if n == kind else [] for n in bench.classes], 20 * period)


@cocotb.test()
async def losses_are_told_twice(dut):
    """At once, and when `again` frames have come since; each of the last frames has its bit."""
    bench = RetryBench(dut)
    p = bench.p
    draw = bench.random.randrange
    await bench.start()
    last, history, said, since = -1, 0, 2, 0
    for _ in range(400):
        gap, behind = (draw(1, 2 * p.history), draw(2)) if draw(6) == 0 else (1, 0)
        lost = (1 << gap) - 1 if behind else (1 << gap) - 2
        last = (last + gap) % (1 << p.frame_bits)
        bench.port("receiver.frame").value = last
        bench.port("receiver.behind").value = behind
        bench.port("receiver.framed").value = 1
        await bench.cycles(1)
        bench.port("receiver.framed").value = 0
        history = (history << gap | lost) & (1 << p.history) - 1
        said, since = (0, 0) if lost else (said, since + 1)
        for told in range(draw(3)):
            await ReadOnly()
            tell = said == 0 or (said == 1 and since >= p.again)
            found = {name: bench.get(f"receiver.{name}") for name in ("last", "lost", "tell")}
            assert found == {"last": last, "lost": history, "tell": tell}, (said, since)
            await RisingEdge(dut.clk)
            if told == 0 and tell and draw(2):
                bench.port("receiver.told").value = 1
                await bench.cycles(1)
                bench.port("receiver.told").value = 0
                said, since = said + 1, 0
