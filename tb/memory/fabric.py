"""Testbench of hw/memory/fabric.py."""

from collections import Counter, deque
from itertools import product

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.memory.fabric import Fabric
from tessera.hw.memory.port import MemoryStatus, Op
from tessera.tb.bench import Bench, Dut

DUTS = {
    "one": Dut(lambda: Fabric(1), watched=True),
    "five": Dut(lambda: Fabric(5), stalls=True, watched=True),
    "links": Dut(lambda: Fabric(3, 3), stalls=True, watched=True),
}

NODE = 3
ROUTES = {0: 0, 1: 1, 2: 2, 9: 1}
"""Behind which link a node is."""
ALL = {"read": 1, "write": 1, "others_read": 1, "others_write": 1}
WINDOWS = {
    0: {"base": 0x100, "length": 0x40, "rights": ALL},
    5: {"base": 0x1000, "length": 0x10, "rights": {**ALL, "write": 0, "others_write": 0}},
    6: {"base": 0x2000, "length": 0x10, "rights": {**ALL, "read": 0, "others_read": 0}},
    7: {"base": 0x3000, "length": 0x10, "rights": {**ALL, "others_read": 0, "others_write": 0}},
    8: {"base": 0x4000, "length": 0x10, "rights": {**ALL, "read": 0, "write": 0}},
    63: {"base": (1 << 30) - 8, "length": 8, "rights": ALL},
}


def way_of(bench, request, other=False):
    """Where a request has to go, ("lines", address) or ("port0", (target, window, offset)); or its answer's status."""
    node, number = divmod(request["window"], 64)
    if not other and node != NODE:
        port = ROUTES.get(node, 8)
        if port >= bench.component.ports:
            return MemoryStatus.Failed
        return f"port{port}", (node, number, request["offset"])
    window = WINDOWS.get(number)
    if window is None or request["offset"] >= window["length"]:
        return MemoryStatus.Refused
    if not window["rights"][("others_" if other else "") + ("write" if request["op"] == Op.Write else "read")]:
        return MemoryStatus.Refused
    return "lines", window["base"] + request["offset"]


def content(where):
    """What was in a line before anybody wrote it."""
    return hash(where) & (1 << 512) - 1


async def prepared(dut):
    bench = Bench(dut, DUTS)
    dut.node.value = NODE
    shape = bench.component.signature.members["routes"].shape
    known = [ROUTES.get(node, 8) for node in range(16)]
    routes = [{"known": port < bench.component.ports, "port": port % max(bench.component.ports, 1)} for port in known]
    dut.routes.value = shape.const(routes).as_bits()
    await bench.reset()
    dut.refused__ready.value = 1
    await bench.send("window", [{"index": n, "window": window} for n, window in WINDOWS.items()])
    bench.clients = [f"client{n}" for n in range(bench.component.clients)]
    bench.others = [f"other{n}" for n in range(bench.component.ports)]
    bench.ways = ["lines", *(f"port{n}" for n in range(bench.component.ports))]
    return bench


def place(request):
    """Where a request that came out goes."""
    return int(request.address) if hasattr(request, "address") else (request.target, request.window, request.offset)


async def memory(bench, way, stall, writes):
    """Lines behind one way out. Order holds within an id for the memory, and altogether for a link.

    Adds (way, client, where, data) of each write to `writes`.
    """
    lines, waiting = {}, {}

    async def respond():
        while True:
            while not (ids := [key for key, queue in waiting.items() if queue]):
                await RisingEdge(bench.dut.clk)
            response = waiting[bench.random.choice(ids)].popleft()
            await bench.send(f"{way}.response", [response], stall)

    cocotb.start_soon(respond())
    while True:
        (request,) = await bench.receive(f"{way}.request", 1, stall)
        where = place(request) if way != "lines" else int(request.address)
        response = {"op": request.op, "id": request.id, "status": MemoryStatus.Ok, "data": 0}
        if request.op == Op.Write:
            lines[where] = request.data
            writes.append((way, request.id >> 3, where, request.data))
        else:
            response["data"] = lines.get(where, content(where))
        waiting.setdefault(request.id if way == "lines" else 0, deque()).append(response)


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def each_client_gets_its_answers_in_order(dut, stall):
    """Of all sorts of requests, to all places there are and to some that there are not."""
    bench = await prepared(dut)
    writes, expected_writes = [], []
    for way in bench.ways:
        cocotb.start_soon(memory(bench, way, stall, writes))
    refusals, expected_refusals = [], []

    async def watch_refusals():
        while True:
            (refusal,) = await bench.receive("refused", 1, stall)
            refusals.append((refusal.client, refusal.id, refusal.write, refusal.window, refusal.offset))

    counted = Counter()

    async def watch_served():
        while True:
            await ReadOnly()
            every = [f"{client}.response" for client in bench.clients + bench.others]
            taken = [bench.get(f"{client}.valid") & bench.get(f"{client}.ready") for client in every]
            assert bench.get("served") == sum(bit << n for n, bit in enumerate(taken))
            assert not bench.get("far") & ~bench.get("served")
            counted["far"] += bench.get("far").bit_count()
            await RisingEdge(dut.clk)

    cocotb.start_soon(watch_refusals())
    cocotb.start_soon(watch_served())

    async def client(number, name):
        random, other = bench.random, name in bench.others
        requests, ways = [], []
        for _ in range(150):
            op = random.choice([Op.Read, Op.Write])
            request = {"op": op, "id": random.randrange(8), "data": random.getrandbits(512)}
            node = 0 if other else random.choice([NODE, NODE, NODE, *ROUTES, 14])
            request["window"] = node << 6 | random.choice([0, 0, 0, 0, 5, 6, 7, 8, 9, 63])
            request["offset"] = random.choice([random.randrange(8), 15, 16, 17, 0x3F, 0x40, 7, 8, (1 << 26) - 1])
            requests.append(request)
            ways.append(way_of(bench, request, other))
            if ways[-1] is MemoryStatus.Refused:
                window = request["window"] & 63
                expected_refusals.append((number, request["id"], int(op == Op.Write), window, request["offset"]))
            elif isinstance(ways[-1], tuple) and op == Op.Write:
                expected_writes.append((ways[-1][0], number, ways[-1][1], request["data"]))
        cocotb.start_soon(bench.send(f"{name}.request", requests, stall))
        answers = await bench.receive(f"{name}.response", len(requests), stall)
        for id in range(8):
            mine = [(request, way) for request, way in zip(requests, ways) if request["id"] == id]
            got = [answer for answer in answers if answer.id == id]
            assert [answer.op for answer in got] == [request["op"] for request, _ in mine]
            for (request, way), answer in zip(mine, got):
                assert answer.status == (MemoryStatus.Ok if isinstance(way, tuple) else way), request
                if request["op"] == Op.Read and request["window"] & 63 == 5 and isinstance(way, tuple):
                    if way[0] == "lines":
                        assert answer.data == content(way[1])
        if not other:
            counted["expected"] += sum(isinstance(way, tuple) and way[0] != "lines" for way in ways)

    every = bench.clients + bench.others
    running = [cocotb.start_soon(client(number, name)) for number, name in enumerate(every)]
    for task in running:
        await bench.within(20_000, task, "a client")
    await bench.cycles(50)
    assert sorted(refusals) == sorted(expected_refusals)
    assert sorted(map(str, writes)) == sorted(map(str, expected_writes))
    assert counted["far"] == counted["expected"] and (counted["far"] > 100) == (len(bench.ways) > 1)


class Links:
    """The links of a fabric, with answers in order some cycles later, and the table of routes with its detours.

    A link that is cut answers all that it has and all that comes as ``Failed``, until it is mended.
    """

    DETOURS = {0: 1, 1: 2, 2: 0, 9: 0}

    def __init__(self, bench, stall, delay=40):
        self.bench, self.stall, self.delay = bench, stall, delay
        self.lost, self.detours = set(), dict(self.DETOURS)
        self.waiting = [deque() for _ in range(bench.component.ports)]
        self.asked, self.writes, self.failed = Counter(), Counter(), Counter()
        self.set_routes()
        for n in range(bench.component.ports):
            cocotb.start_soon(self.take(n))
            cocotb.start_soon(self.answer(n))

    def set_routes(self):
        """As :class:`Routes` does."""
        routes = [{"known": 0, "port": 0}] * 16
        for node, port in ROUTES.items():
            detour = self.detours.get(node)
            around = detour is not None and port in self.lost and detour not in self.lost
            routes[node] = {"known": 1, "port": detour if around else port}
        shape = self.bench.component.signature.members["routes"].shape
        self.bench.dut.routes.value = shape.const(routes).as_bits()

    def cut(self, n):
        self.lost.add(n)
        self.set_routes()
        for entry in self.waiting[n]:
            entry["failed"] = True

    def mend(self, n):
        self.lost.discard(n)
        self.set_routes()

    async def take(self, n):
        while True:
            (request,) = await self.bench.receive(f"port{n}.request", 1, self.stall)
            counts = self.writes if request.op == Op.Write else self.asked
            counts[place(request)] += 1
            due = self.bench.now() + self.delay
            self.waiting[n].append({"request": request, "due": due, "failed": n in self.lost})

    async def answer(self, n):
        waiting = self.waiting[n]
        while True:
            while not waiting or (waiting[0]["due"] > self.bench.now() and not waiting[0]["failed"]):
                await RisingEdge(self.bench.dut.clk)
            request, failed = waiting[0]["request"], waiting[0]["failed"]
            self.failed[place(request)] += failed
            status = MemoryStatus.Failed if failed else MemoryStatus.Ok
            data = 0 if failed else content(place(request))
            answer = {"op": request.op, "id": request.id, "status": status, "data": data}
            await self.bench.send(f"port{n}.response", [answer], self.stall)
            waiting.popleft()


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5], how=["one", "any", "no_way"])
async def reads_that_failed_are_sent_again(dut, stall, how):
    """Links are lost and come back at random: one at a time, whose reads all succeed; any; or without detours."""
    bench = await prepared(dut)
    if len(bench.ways) == 1:
        return
    links = Links(bench, stall)
    if how == "no_way":
        links.detours = {}
    cocotb.start_soon(memory(bench, "lines", stall, []))
    random, ended, statuses = bench.random, [], Counter()

    async def sabotage():
        while len(ended) < len(bench.clients):
            await bench.cycles(random.randint(20, 150))
            n = random.randrange(bench.component.ports)
            if how == "any" and n in links.lost:
                links.mend(n)
            else:
                links.cut(n)
            if how != "any":
                await bench.cycles(random.randint(1, 150))
                while any(entry["failed"] for entry in links.waiting[n]):
                    await bench.cycles(1)
                links.mend(n)
                # What it has left to others is answered before the next one is lost.
                await bench.cycles(600)
        for n in range(bench.component.ports):
            links.mend(n)

    async def client(number, name):
        requests = []
        for k in range(400):
            node = random.choice([*ROUTES, *ROUTES, *ROUTES, NODE])
            op = Op.Write if random.random() < 0.1 and node != NODE else Op.Read
            offset = 1 if node == NODE else number << 12 | k
            requests.append({"op": op, "id": random.randrange(3), "window": node << 6, "offset": offset, "data": k})
        cocotb.start_soon(bench.send(f"{name}.request", requests, stall))
        answers = await bench.receive(f"{name}.response", len(requests), stall)
        for id in range(8):
            mine = [request for request in requests if request["id"] == id]
            got = [answer for answer in answers if answer.id == id]
            assert [answer.op for answer in got] == [request["op"] for request in mine]
            for request, answer in zip(mine, got):
                node = request["window"] >> 6
                where = (node, 0, request["offset"])
                if node == NODE:
                    assert answer.status == MemoryStatus.Ok
                    continue
                tries, failed = (links.writes if answer.op == Op.Write else links.asked)[where], links.failed[where]
                statuses[answer.op, MemoryStatus(answer.status), tries] += 1
                if answer.status == MemoryStatus.Ok:
                    assert tries == failed + 1, f"{where}: {tries} times, {failed} failed"
                    assert answer.op == Op.Write or answer.data == content(where), where
                else:
                    assert answer.status == MemoryStatus.Failed and tries == failed, where
                    assert how != "one" or answer.op == Op.Write, where
                assert tries <= (2 if answer.op == Op.Read and how != "no_way" else 1), f"{where}: {tries} times"
        ended.append(name)

    running = [cocotb.start_soon(client(number, name)) for number, name in enumerate(bench.clients)]
    saboteur = cocotb.start_soon(sabotage())
    for task in running:
        await bench.within(60_000, task, "a client")
    await bench.within(2_000, saboteur)
    await bench.cycles(200)
    assert not any(bench.get(f"{name}.response.valid") for name in bench.clients)
    cocotb.log.info(f"{how}: {dict(statuses)}")
    assert statuses[Op.Write, MemoryStatus.Failed, 1]
    assert how == "no_way" or statuses[Op.Read, MemoryStatus.Ok, 2] > 10
    assert how != "no_way" or statuses[Op.Read, MemoryStatus.Failed, 1] > 10


@cocotb.test()
async def what_waits_for_a_read_that_is_sent_again(dut):
    """Answers behind it on its link; not those of other links. It goes two cycles after it failed, and once."""
    bench = await prepared(dut)
    if len(bench.ways) == 1 or bench.stalled:
        return
    links = [(0, 5), (0, 6), (1, 7)]
    requests = [{"window": node << 6, "offset": k, "id": k, "op": Op.Read} for node, k in links]
    cocotb.start_soon(bench.send("client0.request", requests))
    await bench.within(100, bench.receive("port0.request", 2))
    await bench.within(100, bench.receive("port1.request", 1))
    shape = bench.component.signature.members["routes"].shape
    dut.routes.value = shape.const([{"known": 1, "port": 1}] * 16).as_bits()
    answer = {"op": Op.Read, "status": MemoryStatus.Ok}
    failed_at = await bench.within(100, bench.send("port0.response", [{"id": 5, "status": MemoryStatus.Failed}]))
    again = await bench.within(100, bench.receive("port1.request", 1))
    assert bench.now() - failed_at == 2
    assert place(again[0]) == (0, 0, 5) and again[0].id == 5 and again[0].op == Op.Read
    behind = cocotb.start_soon(bench.send("port0.response", [{**answer, "id": 6, "data": 6}]))
    got = cocotb.start_soon(bench.receive("client0.response", 1))
    await bench.cycles(20)
    assert not got.done() and not behind.done()
    await bench.within(100, bench.send("port1.response", [{**answer, "id": 7, "data": 7}]))
    assert [a.data for a in await bench.within(100, got)] == [7]
    # It fails again: that is its answer, though there would be another way once more.
    dut.routes.value = shape.const([{"known": 1, "port": 2}] * 16).as_bits()
    got = cocotb.start_soon(bench.receive("client0.response", 2))
    await bench.within(100, bench.send("port1.response", [{"id": 5, "status": MemoryStatus.Failed}]))
    first, second = await bench.within(100, got)
    assert (first.id, first.status, second.id, second.data) == (5, MemoryStatus.Failed, 6, 6)
    await bench.cycles(20)
    assert not any(bench.get(f"port{n}.request.valid") for n in range(3))
    # Nobody waits for it any more.
    cocotb.start_soon(bench.send("client0.request", [{"window": 0, "offset": 1, "id": 5, "op": Op.Read}]))
    await bench.within(100, bench.receive("port2.request", 1))
    cocotb.start_soon(bench.send("port2.response", [{**answer, "id": 5, "data": 1}]))
    assert (await bench.within(100, bench.receive("client0.response", 1)))[0].data == 1


@cocotb.test()
async def one_line_per_cycle_and_its_latency(dut):
    """By each way out: all clients together, and others' as well, one a cycle; answers as well."""
    bench = await prepared(dut)
    if bench.stalled:
        return
    count = 60
    for way in bench.ways:
        node = NODE if way == "lines" else int(way[4:])
        askers = bench.clients + bench.others if way == "lines" else bench.clients
        began = bench.now()
        for name in askers:
            window = 0 if name in bench.others else node << 6
            requests = [{"window": window, "offset": k, "op": Op.Read, "id": 1} for k in range(count)]
            cocotb.start_soon(bench.send(f"{name}.request", requests))
        got = await bench.within(5_000, bench.receive(f"{way}.request", count * len(askers)))
        assert bench.now() - began == count * len(askers) + 2, way
        first = [place(r) for r in got if r.id >> 3 == 0]
        assert first == [0x100 + k if way == "lines" else (node, 0, k) for k in range(count)]
        for number, name in enumerate(askers):
            began = bench.now()
            cocotb.start_soon(bench.send(f"{way}.response", [{"id": number << 3 | 1, "data": k} for k in range(count)]))
            answers = await bench.within(5_000, bench.receive(f"{name}.response", count))
            assert bench.now() - began == count + (way == "lines"), (way, name)
            assert [answer.data for answer in answers] == list(range(count))


@cocotb.test()
async def nobody_waits_for_who_goes_elsewhere(dut):
    """One way out takes nothing and answers nothing: requests by the others, and those of other chips, go on."""
    bench = await prepared(dut)
    if len(bench.ways) == 1 or bench.stalled:
        return
    for stuck in bench.ways:
        await bench.reset()
        await bench.send("window", [{"index": n, "window": window} for n, window in WINDOWS.items()])
        node = NODE if stuck == "lines" else int(stuck[4:])
        requests = [{"window": node << 6, "offset": 1, "op": Op.Read}] * 20
        sender = cocotb.start_soon(bench.send("client0.request", requests))
        await bench.cycles(30)
        assert not sender.done()
        for way in bench.ways:
            if way == stuck:
                continue
            node = NODE if way == "lines" else int(way[4:])
            askers = ["client1", "client2"] + (bench.others if way == "lines" else [])
            for name in askers:
                window = 0 if name in bench.others else node << 6
                requests = [{"window": window, "offset": k, "op": Op.Read} for k in range(30)]
                cocotb.start_soon(bench.send(f"{name}.request", requests))
            began = bench.now()
            await bench.within(500, bench.receive(f"{way}.request", 30 * len(askers)), f"{way} while {stuck} is stuck")
            assert bench.now() - began <= 30 * len(askers) + 2
            responses = [
                {"id": number << 3, "op": Op.Read}
                for number, name in enumerate(bench.clients + bench.others)
                for _ in range(30 if name in askers else 0)
            ]
            cocotb.start_soon(bench.send(f"{way}.response", responses))
            for name in askers:
                await bench.within(500, bench.receive(f"{name}.response", 30), f"{name} by {way}")
        sender.cancel()


@cocotb.test()
async def an_id_goes_one_way_at_a_time(dut):
    """A request waits until what its id has under way elsewhere is answered; one of another id does not."""
    bench = await prepared(dut)
    if len(bench.ways) == 1:
        return
    for first, second in product(range(len(bench.ways)), repeat=2):
        if first == second:
            continue
        nodes = [NODE if way == 0 else way - 1 for way in (first, second)]
        requests = [{"window": nodes[k] << 6, "offset": k, "op": Op.Read, "id": 4} for k in (0, 0, 1)]
        sender = cocotb.start_soon(bench.send("client0.request", requests))
        await bench.within(200, bench.receive(f"{bench.ways[first]}.request", 2))
        answer = {"id": 4, "op": Op.Read, "status": MemoryStatus.Ok}
        answers = cocotb.start_soon(bench.receive("client0.response", 3))
        await bench.send(f"{bench.ways[first]}.response", [{**answer, "data": 1}])
        await bench.cycles(60)
        assert not sender.done() and not bench.get(f"{bench.ways[second]}.request.valid")
        await bench.send("client1.request", [{"window": nodes[1] << 6, "offset": 3, "op": Op.Read, "id": 4}])
        (passed,) = await bench.within(200, bench.receive(f"{bench.ways[second]}.request", 1))
        assert passed.id == 1 << 3 | 4
        cocotb.start_soon(bench.send(f"{bench.ways[second]}.response", [{**answer, "id": 1 << 3 | 4}]))
        await bench.within(200, bench.receive("client1.response", 1))
        await bench.send(f"{bench.ways[first]}.response", [{**answer, "data": 2}])
        await bench.within(200, bench.receive(f"{bench.ways[second]}.request", 1))
        await bench.send(f"{bench.ways[second]}.response", [{**answer, "data": 3}])
        assert [answer.data for answer in await bench.within(200, answers)] == [1, 2, 3]
        await sender


@cocotb.test()
async def others_wait_for_no_refusal_of_ours(dut):
    """An engine's refusal waits for what that has under way over a link; another chip's requests do not."""
    bench = await prepared(dut)
    if len(bench.ways) == 1:
        return
    requests = [{"window": 0, "offset": 1, "op": Op.Read, "id": 2}, {"window": NODE << 6 | 9, "op": Op.Read, "id": 1}]
    sender = cocotb.start_soon(bench.send("client0.request", [*requests, {"window": NODE << 6, "id": 1}]))
    await bench.within(200, bench.receive("port0.request", 1))
    await bench.cycles(60)
    assert not sender.done()
    for name in bench.others:
        cocotb.start_soon(bench.send(f"{name}.request", [{"window": 0, "offset": k, "op": Op.Read} for k in range(9)]))
    await bench.within(500, bench.receive("lines.request", 27))
    cocotb.start_soon(bench.send("port0.response", [{"id": 2, "op": Op.Read}]))
    answers = await bench.within(200, bench.receive("client0.response", 2))
    assert [(a.id, a.status) for a in answers] == [(2, MemoryStatus.Ok), (1, MemoryStatus.Refused)]
    await bench.within(200, bench.receive("lines.request", 1))


@cocotb.test()
async def a_refusal_takes_two_cycles(dut):
    """A link counts on that: no answer comes sooner after its request."""
    bench = await prepared(dut)
    if bench.stalled:
        return
    for name in bench.clients + bench.others:
        window = (NODE << 6 if name in bench.clients else 0) + 9
        answer = cocotb.start_soon(bench.receive(f"{name}.response", 1))
        asked = await bench.within(100, bench.send(f"{name}.request", [{"window": window, "op": Op.Write}]))
        await bench.within(100, answer)
        assert bench.now() - asked == 2, f"{name}: {bench.now() - asked} cycles"


@cocotb.test()
async def reset_takes_all_windows_back(dut):
    bench = await prepared(dut)
    whole = {"base": 0, "length": 1 << 20, "rights": ALL}
    await bench.send("window", [{"index": n, "window": whole} for n in range(64)])
    await bench.reset()
    dut.refused__ready.value = 1
    for name in ["client0", *bench.others]:
        first = 0 if name in bench.others else NODE << 6
        requests = [{"window": first + n, "offset": 0, "op": Op.Read} for n in range(64)]
        cocotb.start_soon(bench.send(f"{name}.request", requests))
        answers = await bench.within(2_000, bench.receive(f"{name}.response", 64))
        assert all(answer.status == MemoryStatus.Refused for answer in answers)


@cocotb.test()
async def any_window(dut):
    """Its first and last line are reached, the next one is not; nor any with the right missing."""
    bench = await prepared(dut)
    writes = []
    draw = bench.random.getrandbits
    lines = []

    async def answer():
        while True:
            (request,) = await bench.receive("lines.request", 1)
            lines.append((request.id >> 3, request.op, int(request.address), request.data))
            await bench.send("lines.response", [{"op": request.op, "id": request.id, "data": 0}])

    cocotb.start_soon(answer())

    async def reaches(name, index, op, offset):
        """The answer's status; if it is ``Ok``, the line that was reached has to be the right one."""
        data, number = draw(512), (bench.clients + bench.others).index(name)
        node = NODE if name in bench.clients else 0
        request = {"op": op, "id": draw(3), "window": node << 6 | index, "offset": offset, "data": data}
        await bench.send(f"{name}.request", [request])
        (answer,) = await bench.within(500, bench.receive(f"{name}.response", 1))
        assert (answer.op, answer.id) == (op, request["id"])
        if answer.status == MemoryStatus.Ok:
            assert lines.pop() == (number, op, (base + offset) % (1 << 30), data)
        assert not lines
        return MemoryStatus(answer.status)

    async def set_window(index, **fields):
        await bench.send("window", [{"index": index, "window": fields}])

    lengths = [1 << n for n in range(27)] + [(1 << 26) - 1, 3, 77777]
    for index, length in enumerate(lengths + [1 + draw(26) for _ in range(60)]):
        index, base = index % 64, draw(30)
        name = bench.random.choice(bench.clients + bench.others)
        mine = "" if name in bench.clients else "others_"
        await set_window(index, base=base, length=length, rights=ALL)
        for offset in {0, length // 2, length - 1}:
            assert await reaches(name, index, Op.Read, offset) == MemoryStatus.Ok, (index, base, length, offset)
        assert await reaches(name, index, Op.Write, draw(26) % length) == MemoryStatus.Ok
        if length < 1 << 26:
            assert await reaches(name, index, Op.Read, length) == MemoryStatus.Refused, (index, length)
            assert await reaches(name, index, Op.Write, (1 << 26) - 1) == MemoryStatus.Refused, (index, length)
        for change in ({"rights": {**ALL, f"{mine}read": 0}}, {"length": 0}):
            await set_window(index, **{"base": base, "length": length, "rights": ALL} | change)
            assert await reaches(name, index, Op.Read, 0) == MemoryStatus.Refused, (index, change)
        await set_window(index, base=base, length=length, rights={f"{mine}read": 1})
        assert await reaches(name, index, Op.Write, 0) == MemoryStatus.Refused, index
        assert await reaches(name, index, Op.Read, 0) == MemoryStatus.Ok, index
    assert not writes


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.1])
async def a_refusal_waits_for_all_answers(dut, stall):
    """It keeps its place behind whatever its client has under way, however much that is."""
    bench = await prepared(dut)
    if bench.stalled:
        return
    names = bench.clients + bench.others
    for name, count in [(names[-1], 1), (names[0], 1000), *((name, 600) for name in names)]:
        number = names.index(name)
        near = {"window": NODE << 6 if name in bench.clients else 0, "offset": 1, "op": Op.Read, "id": 2}
        requests = [near] * count + [{**near, "window": near["window"] + 9, "offset": 5}, {**near, "offset": 2}]
        sender = cocotb.start_soon(bench.send(f"{name}.request", requests, stall))
        await bench.within(3_000, bench.receive("lines.request", count))
        answers = cocotb.start_soon(bench.receive(f"{name}.response", count + 2))
        response = {"id": number << 3 | 2, "data": 7}
        await bench.send("lines.response", [response] * (count - 1), stall)
        await bench.cycles(20)
        assert not sender.done() and not bench.get("lines.request.valid")
        await bench.send("lines.response", [response])
        await bench.within(100, bench.receive("lines.request", 1))
        await bench.send("lines.response", [response])
        statuses = [answer.status for answer in await bench.within(100, answers)]
        assert statuses == [MemoryStatus.Ok] * count + [MemoryStatus.Refused, MemoryStatus.Ok]
        await sender


@cocotb.test()
async def constructor_says_what_is_wrong(dut):
    cases = (0, 0, "clients is 0"), (33, 0, "clients is 33"), (30, 3, "clients is 30; 1 to 29"), (4, 9, "ports is 9")
    for clients, ports, words in cases:
        try:
            Fabric(clients, ports)
        except ValueError as error:
            assert words in str(error)
        else:
            raise AssertionError(f"{clients} clients and {ports} ports were taken")
