"""Waveforms: only the groups asked for, with the states' names, in a save file that names what is there."""

import subprocess

import pytest
from amaranth.hdl import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.sim.build import build, elaborate
from tessera.sim.waves import GROUPS, Waves, WavesError, for_tracing, states_of, traced_names


class Kind(enum.Enum, shape=2):
    Plain = 0
    Fancy = 2


class Payload(data.Struct):
    kind: Kind
    number: 6


class Worker(wiring.Component):
    i: In(stream.Signature(Payload))
    o: Out(stream.Signature(Payload))

    def elaborate(self, platform):
        m = Module()
        with m.FSM(name="work"):
            with m.State("AwaitPayload"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += self.o.payload.eq(self.i.payload)
                    m.next = "Send"
            with m.State("Send"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "AwaitPayload"
        return m


class Row(wiring.Component):
    """Workers in a row under the names of the chip's blocks."""

    i: In(stream.Signature(Payload))
    o: Out(stream.Signature(Payload))

    def __init__(self, *names):
        self.names = names
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        source = wiring.flipped(self.i)
        for name in self.names:
            m.submodules[name] = worker = Worker()
            wiring.connect(m, source, worker.i)
            source = worker.o
        wiring.connect(m, source, wiring.flipped(self.o))
        return m


class Top(wiring.Component):
    i: In(stream.Signature(Payload))
    o: Out(stream.Signature(Payload))

    def elaborate(self, platform):
        m = Module()
        m.submodules.chip0 = chip = Row("jpegdecode", "compute")
        wiring.connect(m, wiring.flipped(self.i), chip.i)
        wiring.connect(m, chip.o, wiring.flipped(self.o))
        return m


BENCH = """
import cocotb
from cocotb.clock import Clock
from cocotb.triggers import Timer

@cocotb.test()
async def drive(dut):
    Clock(dut.clk, 2, unit="ns", impl="gpi").start()
    dut.rst.value, dut.i__valid.value, dut.i__payload.value, dut.o__ready.value = 0, 1, 6, 1
    await Timer(60, unit="ns")
"""


def test_save_file(tmp_path, monkeypatch):
    waves = Waves(["compute"])
    text = for_tracing(elaborate("test_waves Top", Top, src=True))
    program = build(text, waves="vcd", control=waves.control)
    (tmp_path / "bench_of_waves.py").write_text(BENCH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    results = program.run("bench_of_waves", folder=tmp_path, environment={"PYTHONPATH": str(tmp_path)}, trace=True)
    assert [result.passed for result in results] == [True]

    traced = tmp_path / "dump.vcd"
    names = traced_names(traced)
    assert "top.chip0.compute.work_state" in names and "$rootio.clk" in names
    assert not any("jpegdecode" in name for name in names)
    assert {"top.chip0.compute.o__payload.number", "top.chip0.compute.o__valid"} < names
    assert not any("$" in name.replace("$rootio", "") or name == "top.chip0.compute.o__payload" for name in names)

    waves.write_save_file(tmp_path / "waves.gtkw", traced, text, states_of(Top()))
    lines = (tmp_path / "waves.gtkw").read_text().splitlines()
    shown = [line.partition("} ")[2].partition("[")[0] for line in lines if line.startswith("+{")]
    assert set(shown) <= names
    block = [name.rpartition(".compute.")[2] for name in shown if ".compute." in name]
    assert block == [
        *("i__valid", "i__ready", "i__payload.kind", "i__payload.number"),
        *("o__valid", "o__ready", "o__payload.kind", "o__payload.number", "work_state"),
    ]
    filters = {file.read_text() for file in (tmp_path / "waves.enums").iterdir()}
    assert filters == {"0 AwaitPayload\n1 Send\n", "0 Plain\n2 Fancy\n"}
    used = [line for line in lines if line.startswith("^") and "waves.enums" in line]
    assert len(used) == 3


def test_groups():
    assert Waves(["all"]).groups == tuple(GROUPS)
    assert Waves(["encode", "decode"]).groups == ("decode", "encode")
    with pytest.raises(WavesError, match=r"--waves fabrik: no such group, did you mean fabric\?"):
        Waves(["fabrik"])


def test_groups_are_instances_of_the_system():
    from tessera.hw.config import SystemConfig
    from tessera.sim.waves import state_names

    paths = state_names(SystemConfig())
    for group in ("host", "dispatch", "ingest", "decode", "compute", "encode", "egress", "compose"):
        assert any(path.startswith(tuple(f"{name}." for name in GROUPS[group])) for path in paths), group
    assert all(names for names in paths.values())


def test_format_needs_headers(monkeypatch):
    from tessera.sim import waves

    for code, expected in ((0, "fst"), (1, "vcd")):
        waves.trace_format.cache_clear()
        monkeypatch.setattr(subprocess, "run", lambda *a, code=code, **k: subprocess.CompletedProcess(a, code))
        assert waves.trace_format() == expected
    waves.trace_format.cache_clear()
