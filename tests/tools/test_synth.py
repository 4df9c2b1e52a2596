"""Every block through Yosys: what it takes is what the baseline says, neither more nor less."""

import re
from dataclasses import asdict, replace

import pytest

from tessera.sim import measure, synth

BASELINE = measure.baseline()["synth"]
AGAIN = "if that is right: make bench ACCEPT=1"


# Yosys has nothing new to say of what has not changed.
LONG = ("chip", "compose", "compute", "ddr", "host-port", "jpeg-decoder", "jpeg-encoder", "link-1", "link-2", "link-4")
# The chip has all other blocks in it, and ports of more lanes are made as that of one.
LARGE = ("chip", "link-2", "link-4")


def all_blocks(*, but):
    """Every block; those `but` for the soak only."""
    return [pytest.param(name, marks=[pytest.mark.soak] * (name in but)) for name in synth.BLOCKS]


@pytest.mark.parametrize("name", all_blocks(but=LONG))
def test_counts_are_the_baselines(name):
    assert name in BASELINE, f"{name} is not in {measure.BASELINE.name}; {AGAIN}"
    counts, _ = synth.count(synth.BLOCKS[name])
    expected = {key: BASELINE[name][key] for key in asdict(counts)}
    assert asdict(counts) == expected, f"{name} changed; {AGAIN}"


@pytest.mark.parametrize("name", all_blocks(but=LARGE))
def test_the_baseline_is_of_this_netlist(name):
    row = BASELINE[name]
    assert row["netlist"] == synth.netlist(synth.BLOCKS[name])[1], f"{name} changed since it was measured; {AGAIN}"
    assert "fmax" not in row or row["path"], "no source line of the slowest path is known"


def test_the_baseline_has_every_block_and_no_other():
    assert set(BASELINE) == set(synth.BLOCKS)
    placed = {name for name, block in synth.BLOCKS.items() if block.place}
    assert placed == {name for name, row in BASELINE.items() if "fmax" in row}


def test_a_moved_line_keeps_its_hash():
    text = 'attribute \\src "hw/a.py:1"\ncell $add $1\n'
    assert synth.without_sources(text) == synth.without_sources(text.replace(":1", ":12"))
    assert synth.without_sources(text) != synth.without_sources(text.replace("$add", "$sub"))


def test_the_harness_keeps_every_bit_of_the_block(tmp_path, monkeypatch):
    """An arbiter keeps its flip-flops, and the harness has one for each bit of its ports, and those of the fold."""
    monkeypatch.setenv("TESSERA_BUILD", str(tmp_path))
    block = synth.Block("arbiter", "lib.arbiter", lambda module: module.RoundRobin(16, 4))
    alone, key = synth.count(block)
    text, harnessed = synth.netlist(block, harness=True)
    assert key != harnessed
    cells = synth.cells(text, harnessed)
    ports = 4 * (16 + 1) + 1 + 4 + 16 + 1
    fold = 6 + 2 + 1
    assert cells["TRELLIS_FF"] == alone.ff + ports + fold
    led = replace(block, part=replace(block.part, lead=1))
    cells = synth.cells(*synth.netlist(led, harness=True))
    assert cells["TRELLIS_FF"] == alone.ff + ports + fold + 1, "one more before the only shift register"


def test_a_block_is_placed_with_tables_that_stay_empty(tmp_path, monkeypatch):
    """On the chip of the links' ports: nextpnr knows every site that is to stay empty, and takes none of them."""
    monkeypatch.setenv("TESSERA_BUILD", str(tmp_path))
    block = synth.Block("arbiter", "lib.arbiter", lambda module: module.RoundRobin(16, 4), part=synth.SERIAL)
    less = replace(block, part=replace(block.part, spare=1))
    few, many = synth.place(less), synth.place(block)
    assert few.fmax > 100 and few.path and few.netlist != many.netlist
    tables = []
    for placement in (few, many):
        log = (tmp_path / "synth" / f"{placement.netlist}.log").read_text()
        tables.append(int(re.search(r"TRELLIS_COMB: +(\d+)/", log)[1]))
    sites = len(synth.spare_sites(less.part))
    assert sites > 7000 and tables[1] - tables[0] == sites
