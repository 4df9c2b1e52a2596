"""Testbench of the bitstream writer."""

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.memory.bitstream_writer import BitstreamWriter, Chunk, Written
from tessera.hw.memory.port import Op, Request
from tessera.tb.bench import Bench, Dut, pack, unpack

DUTS = {"writer": Dut(lambda: BitstreamWriter(3), stalls=True)}


def chunks(bench, data, sizes=range(1, 9)):
    """`data` cut into chunks; bytes beyond a chunk's count are garbage."""
    place = 0
    while place < len(data):
        part = data[place : place + bench.random.choice(list(sizes))]
        place += len(part)
        garbage = bench.random.randbytes(8 - len(part))
        yield {"data": list(part + garbage), "count": len(part), "last": int(place == len(data))}


def set_target(bench, lines):
    """Anywhere; `bench.target` says where."""
    bench.target = bench.random.getrandbits(6), bench.random.getrandbits(26)
    for name, value in zip(("window", "base", "lines"), (*bench.target, lines)):
        bench.port(name).value = value


async def check(bench, data, lines, stalls=(0.0, 0.0), sizes=range(1, 9)):
    """Write `data` into a target that has room for it."""
    needed = -(-len(data) // 64)
    sent = cocotb.start_soon(bench.send("i", chunks(bench, data, sizes), stalls[0]))
    requests = cocotb.start_soon(bench.receive("request", needed, stalls[1]))
    (written,) = await bench.within(200 * needed + 20 * len(data) + 200, bench.receive("o", 1))
    assert sent.done() and requests.done(), "done was said before all was written"
    assert (written.too_small, written.bytes) == (0, len(data)), f"{len(data)} bytes: {written}"
    padded = data + bytes(-len(data) % 64)
    window, base = bench.target
    for n, request in enumerate(requests.result()):
        expected = Op.Write, 3, window, (base + n) % (1 << 26)
        assert (request.op, request.id, request.window, request.offset) == expected, f"line {n}: {request}"
        line = request.data.to_bytes(64, "little")
        want = padded[64 * n : 64 * n + 64]
        assert line == want, f"line {n} of {needed}: {want.hex()} expected, {line.hex()} found"
    assert not bench.port("request.valid").value


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.5], stall_out=[0.0, 0.9])
async def writes_all(dut, stall_in, stall_out):
    """All lengths near whole lines and words, back to back; with room to spare and without."""
    bench = Bench(dut, DUTS)
    set_target(bench, 4)
    await bench.reset()
    for length in [*range(1, 20), *range(54, 82), *range(118, 138), 255, 256]:
        needed = -(-length // 64)
        lines = needed + length % 2
        set_target(bench, lines)
        await check(bench, bench.random.randbytes(length), lines, (stall_in, stall_out))
    for sizes in ([8], [1], [7], [3, 8]):
        set_target(bench, (1 << 24) - 1)
        await check(bench, bench.random.randbytes(1500), 1 << 20, (stall_in, stall_out), sizes)


@cocotb.test()
async def what_became_of_it_waits_to_be_taken(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    for length in (1, 8, 9, 64, 65, 200):
        set_target(bench, 10)
        cocotb.start_soon(bench.send("i", chunks(bench, bench.random.randbytes(length))))
        await bench.within(1_000, bench.receive("request", -(-length // 64)))
        await bench.cycles(30)
        for _ in range(10):
            assert bench.get("o.valid")
            assert unpack(Written, bench.get("o.payload")).bytes == length
            await bench.cycles(1)
        (written,) = await bench.within(10, bench.receive("o", 1))
        assert (written.too_small, written.bytes) == (0, length)
        await bench.cycles(2)
        assert not bench.get("o.valid")


@cocotb.test()
@cocotb.parametrize(stall_out=[0.0, 0.7])
async def bitstreams_wait_for_each_other(dut, stall_out):
    """The next one is offered at once; its bytes and lines are its own."""
    bench = Bench(dut, DUTS)
    set_target(bench, 10)
    await bench.reset()
    lengths = [1, 8, 9, 64, 65, 200, 7, 640, 3]
    bitstreams = [bench.random.randbytes(length) for length in lengths]
    cocotb.start_soon(bench.send("i", [chunk for data in bitstreams for chunk in chunks(bench, data)]))
    needed = [-(-length // 64) for length in lengths]
    requests = cocotb.start_soon(bench.receive("request", sum(needed), stall_out))
    ends = await bench.within(5_000, bench.receive("o", len(lengths), 0.5))
    assert [(end.too_small, end.bytes) for end in ends] == [(0, length) for length in lengths]
    found = b"".join(request.data.to_bytes(64, "little") for request in requests.result())
    assert found == b"".join(data + bytes(-len(data) % 64) for data in bitstreams)
    offsets = [(bench.target[1] + n) % (1 << 26) for count in needed for n in range(count)]
    assert [request.offset for request in requests.result()] == offsets


@cocotb.test()
async def rooms_of_each_size(dut):
    """All bits of the room are looked at: three lines fit, however large it is."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    for n in range(2, 24):
        set_target(bench, 1 << n | 1)
        await check(bench, bench.random.randbytes(192), 1 << n | 1, sizes=[8])


@cocotb.test()
async def a_long_one(dut):
    """As many chunks as cycles; all of their bytes are counted, and the last line has its place."""
    bench = Bench(dut, DUTS)
    if bench.stalled:
        return
    set_target(bench, (1 << 24) - 1)
    await bench.reset()
    count = (1 << 18) + bench.random.randrange(1 << 18)
    chunk = {"data": [1, 2, 3, 4, 5, 6, 7, 8], "count": 8}
    bench.port("request.ready").value = 1
    bench.port("i.payload").value = pack(Chunk, chunk)
    bench.port("i.valid").value = 1
    began = bench.now()
    window, base = bench.target
    for n in range(1_100):
        await bench.within(20, RisingEdge(bench.port("request.valid")), f"line {n}")
        await ReadOnly()
        assert unpack(Request, bench.get("request.payload")).offset == (base + n) % (1 << 26), f"line {n}"
    await RisingEdge(dut.clk)
    await bench.cycles(count - 1 - (bench.now() - began))
    bench.port("i.payload").value = pack(Chunk, {**chunk, "last": 1})
    await bench.cycles(1)
    bench.port("i.valid").value = 0
    (written,) = await bench.within(100, bench.receive("o", 1))
    assert (written.too_small, written.bytes) == (0, 8 * count)
    request = unpack(Request, bench.get("request.payload"))
    assert (request.window, request.offset) == (window, (base + (count - 1) // 8) % (1 << 26))


@cocotb.test()
@cocotb.parametrize(lines=[0, 1, 2, 5])
async def too_small(dut, lines):
    """A target with one byte too little room, and one with far too little: nothing is written beyond it."""
    bench = Bench(dut, DUTS)
    for length in (64 * lines + 1, 64 * lines + 640):
        set_target(bench, lines)
        await bench.reset()
        data = bench.random.randbytes(length)
        sender = cocotb.start_soon(bench.send("i", chunks(bench, data)))
        requests = cocotb.start_soon(bench.receive("request", lines + 1, 0.3))
        await bench.within(2000, _too_small(bench))
        await bench.cycles(300)
        assert not requests.done(), f"a line beyond the {lines} of the target was written"
        assert bench.port("o.valid").value
        assert sender.done() == (length == 64 * lines + 1), "input was taken after the target was found too small"
        # What comes after reset is as good as new.
        dut.rst.value = 1
        await bench.cycles(1)
        requests.cancel()
        sender.cancel()
        set_target(bench, 3)
        await bench.reset()
        await check(bench, bench.random.randbytes(192), 3)


async def _too_small(bench):
    (written,) = await bench.receive("o", 1)
    assert written.too_small == 1, f"{written}"


@cocotb.test()
async def cycles(dut):
    """The figures of the docstring."""
    bench = Bench(dut, DUTS)
    if bench.stalled:
        return
    set_target(bench, 100)
    await bench.reset()
    start = bench.now()
    sender = cocotb.start_soon(bench.send("i", chunks(bench, bench.random.randbytes(64 * 20), [8])))
    await bench.within(100, bench.receive("request", 1))
    assert bench.now() - start - 1 == 7 + 4, bench.now() - start - 1
    await bench.within(200, bench.receive("request", 19))
    assert bench.now() - start - 1 == 20 * 8 - 1 + 4, bench.now() - start - 1
    assert await sender - start == 160
    await bench.within(10, bench.receive("o", 1))
