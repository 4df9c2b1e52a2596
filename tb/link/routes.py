"""Testbench of hw/link/routes.py."""

import cocotb

from tessera.hw.link.routes import Route, Routes
from tessera.tb.bench import Bench, Dut, unpack

DUTS = {f"ports{n}": Dut(lambda n=n: Routes(n)) for n in (1, 3, 8)}


@cocotb.test()
async def ways_are_as_set_and_lead_around_what_is_lost(dut):
    """Random entries, ports that there are not among them, and links lost and not."""
    bench = Bench(dut, DUTS)
    dut.lost.value = 0
    await bench.reset()
    ports, draw = bench.component.ports, bench.random.randrange
    assert not any(entry.known for entry in _ways(bench, "direct"))
    table, seen = {}, set()
    for _ in range(500):
        if draw(2):
            entry = {"port": draw(8), "known": draw(4) > 0, "detour": draw(8), "has_detour": draw(2)}
            node = draw(16)
            await bench.send("set", [{"node": node, "route": entry}])
            table[node] = entry
        lost = draw(1 << ports) & draw(1 << ports)
        dut.lost.value = lost
        await bench.cycles(2)
        for node, (direct, first) in enumerate(zip(_ways(bench, "direct"), _ways(bench, "first"))):
            entry = table.get(node, {"port": 0, "known": 0, "detour": 0, "has_detour": 0})
            known = bool(entry["known"]) and entry["port"] < ports
            assert bool(direct.known) == known and (not known or direct.port == entry["port"])
            way = entry["port"] if known else None
            if way is None or lost >> way & 1:
                if entry["has_detour"] and entry["detour"] < ports and not lost >> entry["detour"] & 1:
                    way = entry["detour"]
            assert (first.port if first.known else None) == way, (node, entry, lost)
            seen.add((known, way is None, way == entry["port"]))
    found = {(True, False, True), (True, False, False), (False, True, False), (False, False, False)}
    assert seen >= found or ports == 1


def _ways(bench, name):
    return unpack(bench.component.signature.members[name].shape, bench.get(name))


@cocotb.test()
async def constructor_says_what_is_wrong(dut):
    for ports in (0, 9):
        try:
            Routes(ports)
        except ValueError as error:
            assert f"ports is {ports}" in str(error)
        else:
            raise AssertionError(f"{ports} ports were taken")
    assert Route.as_shape().size == 8
