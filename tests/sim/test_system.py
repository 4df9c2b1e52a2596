"""The whole chip: jobs and single tasks in the simulator, bit for bit against the golden and libjpeg-turbo."""

import dataclasses
import io
import itertools
import json
import os
from fractions import Fraction

import numpy as np
import pytest
from amaranth.hdl import Shape
from PIL import Image, ImageFile
from vcdvcd import VCDVCD

from tessera.golden.frames import ChromaFormat, read_y4m, write_y4m
from tessera.golden.jpeg.decoder import decode
from tessera.golden.jpeg.encoder import encode
from tessera.golden.transcoder import Target, decode_frame, transcode
from tessera.hw.config import SystemConfig
from tessera.hw.engine import EngineKind, Status
from tessera.hw.gpu import ENGINES, TaskEvent
from tessera.hw.lib.streams import Instruments
from tessera.sim.claims import claimed_layout
from tessera.sim.clips import count_frames, find_clip, jpeg_files, make_jpeg, mux, pictures, same_as_libjpeg
from tessera.sim.compare import compare_outcome
from tessera.sim.job import load_job
from tessera.sim.planner import Chain, Leg, plan_chains
from tessera.sim.run import run_job
from tessera.sim.simulation import SimulationError, build_system, simulate
from tessera.sim.units import decode_file, encode_file
from tessera.tb.bench import CYCLE_NS, unpack
from tessera.tb.codec.jpeg.corpus import clip_frame, picture, pillow_files

CONFIG = SystemConfig()


def quiet(what, done, total):
    pass


@pytest.fixture(scope="module")
def program():
    return build_system(CONFIG)


def job_file(tmp_path, stream, output, more=""):
    file = tmp_path / "job.toml"
    file.write_text(f'[job]\nname = "small"\n{more}[[stream]]\n{stream}\n[[output]]\n{output}\nfile = "small.avi"\n')
    return file


def test_small_job(tmp_path, program):
    stream = 'clip = "carphone"\nframes = 24\nwidth_pixels = 72\nheight_pixels = 58\nquality = 70'
    job = load_job(job_file(tmp_path, stream, "width_pixels = 61\nheight_pixels = 40\nquality = 80"))
    result = run_job(job, tmp_path / "out")
    assert (result.mismatches, result.failed) == ([], [])

    folder = tmp_path / "out" / "small"
    assert count_frames(folder / "small.avi") == 24
    golden = run_job(job, tmp_path / "golden", on="golden")
    assert golden.mismatches == []
    assert jpeg_files(folder / "small.avi") == jpeg_files(tmp_path / "golden" / "small" / "small.avi")

    report = json.loads((folder / "report.json").read_text())
    assert report["mismatch_count"] == 0 and report["errors"]["REFUSED"] == 0
    assert report["memory"]["timing_violations"] == 0
    assert len(report["tasks"]) == 5 * 24 and all(task["status"] == "Ok" for task in report["tasks"])
    # The overlap is real: all engines together take hardly longer than the busiest one alone.
    busiest = max(sum(t["cycles"] for t in report["tasks"] if t["engine"] == kind.name) for kind in EngineKind)
    assert report["cycles"] <= 1.1 * busiest
    page = (folder / "report.html").read_text()
    assert "0 mismatches" in page and "small.avi" in page and page.count("<svg") == 5


def test_several_streams_and_outputs(tmp_path, program):
    (tmp_path / "job.toml").write_text(
        '[job]\nname = "many"\n[slots]\nbitstream_in = 2\ndecoded = 2\nscaled = 2\nbitstream_out = 2\n'
        '[[stream]]\nclip = "carphone"\nframes = 3\nwidth_pixels = 40\nheight_pixels = 32\n'
        '[[stream]]\nclip = "bikes"\nframes = 6\nwidth_pixels = 49\nheight_pixels = 21\nsubsampling = "4:4:4"\n'
        '[[output]]\nstream = "bikes"\nwidth_pixels = 90\nheight_pixels = 40\nfile = "bikes.mkv"\n'
        '[[output]]\nstream = "carphone"\nwidth_pixels = 20\nheight_pixels = 20\nfile = "small.mov"\n'
        '[[output]]\nstream = "carphone"\nwidth_pixels = 40\nheight_pixels = 32\nquality = 95\nfile = "same.avi"\n'
    )
    result = run_job(load_job(tmp_path / "job.toml"), tmp_path / "out")
    assert (result.mismatches, result.failed) == ([], [])
    folder = tmp_path / "out" / "many"
    assert [count_frames(folder / name) for name in ("bikes.mkv", "small.mov", "same.avi")] == [6, 3, 3]


def test_same_plan_same_cycles(program):
    files = tuple(encode(picture(np.random.default_rng(n), 40, 24, ChromaFormat.C422), 75) for n in range(3))
    chain = Chain(files, claimed_layout(files[0]).lines, (Leg(50, 30, 90, 2),), surfaces=2)
    plan = plan_chains([chain], dram_lines=CONFIG.chip.memory_lines, host_bytes=CONFIG.host_bytes)
    first, again = (simulate(plan, program, seed=seed) for seed in (1, 2))
    assert first.cycles == again.cycles and first.records == again.records and first.results == again.results
    slow = simulate(plan, program, knobs={"latency": 900, "stall": 3, "split": 2, "reorder": 1})
    assert slow.results == first.results and slow.cycles > first.cycles
    stalled = [simulate(plan, program, seed=seed, knobs={"stall": 3}) for seed in (1, 1, 2)]
    assert stalled[0].cycles == stalled[1].cycles != stalled[2].cycles
    assert all(outcome.results == first.results for outcome in stalled)


def test_corrupt_frames_in_the_middle(tmp_path, program):
    rng = np.random.default_rng(7)
    files = [encode(picture(rng, 48, 40, ChromaFormat.C420), 75) for _ in range(7)]
    files[2] = files[2][: len(files[2]) // 2]
    progressive = io.BytesIO()
    Image.new("RGB", (48, 40), "teal").save(progressive, "JPEG", progressive=True)
    files[4] = progressive.getvalue()
    # A frame header that claims 4000x4000.
    frame_header = files[5].index(b"\xff\xc0")
    files[5] = files[5][: frame_header + 5] + b"\x0f\xa0\x0f\xa0" + files[5][frame_header + 9 :]
    mux(tmp_path / "broken.mkv", files, Fraction(25), 48, 40)
    assert jpeg_files(tmp_path / "broken.mkv") == files

    job = load_job(job_file(tmp_path, 'clip = "broken.mkv"', "width_pixels = 64\nheight_pixels = 30"))
    assert job.streams[0].untouched
    result = run_job(job, tmp_path / "out")
    assert result.mismatches == []
    assert result.exit_code == 1 and len(result.failed) == 12

    report = json.loads((tmp_path / "out" / "small" / "report.json").read_text())
    for frame, status, where in (
        (2, "JpegTruncated", decode_frame(files[2]).where),
        (4, "JpegUnsupportedProgressive", decode_frame(files[4]).where),
        (5, "TargetTooSmall", claimed_layout(files[5]).lines),
    ):
        ends = {t["engine"]: (t["status"], t["where"]) for t in report["tasks"] if t["frame"] == frame}
        assert ends["Ingest"] == ("Ok", 0) and ends["JpegDecode"] == (status, where)
        assert ends["Compute"] == ("SourceFailed", Status[status].value)
        assert ends["JpegEncode"] == ends["Egress"] == ("SourceFailed", Status.SourceFailed.value)
    good = [n for n in range(7) if n not in (2, 4, 5)]
    targets = [job.outputs[0]]
    expected = [made.bitstreams[0] for made in transcode([files[n] for n in good], targets)]
    assert jpeg_files(tmp_path / "out" / "small" / "small.avi") == expected


def test_forty_files_decoded_and_encoded_again(program, monkeypatch):
    """All samplings, qualities, restart intervals, optimized tables and odd sizes to 320x240, in one simulation."""
    # Pillow's buffer for optimized tables would be too small for noise.
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 1 << 22)
    files = []
    for name, data in pillow_files(40, 80, 320):
        layout = claimed_layout(data)
        if layout.height <= 240 and len(files) < 40:
            files.append((name, data))
    assert len(files) == 40
    kinds = {claimed_layout(data).format for _, data in files}
    assert kinds == set(ChromaFormat)
    quality = [1, 10, 30, 50, 75, 90, 95, 100]
    restart = [0, 1, 0, 3, 0, 20, 0, 7]
    chains, golden, claims = [], [], []
    for n in range(8):
        some = tuple(data for _, data in files[n::8])
        layouts = [claimed_layout(data) for data in some]
        width, height = (max(getattr(layout, side) for layout in layouts) for side in ("width", "height"))
        leg = Leg(width, height, quality[n], restart[n], scales=False, format=ChromaFormat.C444)
        chains.append(Chain(some, max(layout.lines for layout in layouts), (leg,), surfaces=len(some)))
        made = [decode_frame(data) for data in some]
        again = [(encode(m.decoded, quality[n], restart[n]),) for m in made]
        golden.append([dataclasses.replace(m, bitstreams=files) for m, files in zip(made, again)])
        claims.append([layout.lines for layout in layouts])
    plan = plan_chains(chains, dram_lines=CONFIG.chip.memory_lines, host_bytes=CONFIG.host_bytes)
    outcome = simulate(plan, program)
    rooms = [chain.surface_lines for chain in chains]
    mismatches, failed = compare_outcome(outcome, golden, claims, rooms, list(range(8)))
    assert (mismatches, failed) == ([], [])
    # The surfaces themselves, against libjpeg-turbo's planes.
    for n, chain in enumerate(chains):
        for k, data in enumerate(chain.files):
            assert same_as_libjpeg(data, outcome.surface(n, k)) is None, files[n::8][k][0]


def task_events(file, engines):
    """From a waveform: the cycles, counted from its start, in which each task began and ended, by engine and frame."""
    width = Shape.cast(TaskEvent).width
    ports = [f"$rootio.{name}[{width * len(engines) - 1}:0]" for name in ("began", "ended")]
    waves = VCDVCD(str(file), signals=ports)
    events = {}
    for name in waves.signals:
        what = name.partition(".")[2].partition("[")[0]
        for time, value in waves[name].tv:
            bits = int(value, 2) if set(value) <= {"0", "1"} else 0
            for n, engine in enumerate(engines):
                event = unpack(TaskEvent, bits >> width * n & (1 << width) - 1)
                if event.valid:
                    # Times are in picoseconds, and signals follow the clock's edge.
                    events.setdefault((engine, event.tag), {})[what] = time // (1000 * CYCLE_NS)
    return events


def test_engines_work_at_the_same_time(tmp_path, program):
    """The ports ``began`` and ``ended`` in a waveform: tasks last as long as their records say, start as soon as
    dispatch promises, and three engines work on three frames at once."""
    frames = 10
    files = tuple(encode(clip_frame("carphone", 88, 72), 75 + n) for n in range(frames))
    chain = Chain(files, claimed_layout(files[0]).lines, (Leg(80, 64, 80),), surfaces=4)
    plan = plan_chains([chain], dram_lines=CONFIG.chip.memory_lines, host_bytes=CONFIG.host_bytes)
    outcome = simulate(plan, program, waves_to=tmp_path / "events.vcd")
    events = task_events(tmp_path / "events.vcd", list(ENGINES))
    assert len(events) == len(plan.tasks) == 5 * frames

    at = {}
    for task in plan.tasks:
        seen, record = events[task.engine, task.tag], outcome.records[task.tag]
        # An engine that is done may wait until dispatch has heard the others.
        assert 0 < seen["ended"] - seen["began"] - record.cycles <= len(ENGINES), plan.name(task.tag)
        at[task.engine, task.frame] = seen
    starts = {seen["began"] - outcome.records[tag].start for (_, tag), seen in events.items()}
    assert len(starts) == 1, f"the records' clock and the waveform's differ by {starts}"

    promised = 14 + 4 * len(ENGINES)
    order = [EngineKind.JpegDecode, EngineKind.Compute, EngineKind.JpegEncode, EngineKind.Egress]
    for frame in range(1, frames):
        for before, engine in itertools.pairwise(order):
            ready = max(at[before, frame]["ended"], at[engine, frame - 1]["ended"])
            waited = at[engine, frame]["began"] - ready
            assert 0 < waited <= promised, f"{engine.name} of frame {frame} began {waited} cycles after it could"
    together = 0
    for frame in range(frames - 2):
        three = [at[engine, frame + 2 - n] for n, engine in enumerate(order[:3])]
        together += max(t["began"] for t in three) < min(t["ended"] for t in three)
    assert together >= frames - 4, f"three engines worked on three frames at once only {together} times"


@pytest.mark.soak
def test_full_hd(program):
    (picture_of_clip,) = pictures(find_clip("bigbuckbunny"), 100, 1)
    image = picture_of_clip.to_image().resize((1920, 1080))
    files = (
        make_jpeg(image, quality=75, subsampling=ChromaFormat.C420),
        make_jpeg(image, quality=90, subsampling=ChromaFormat.C422, restart_interval=120),
    )
    chains, golden, claims = [], [], []
    for data in files:
        layout = claimed_layout(data)
        leg = Leg(1920, 1080, 85, scales=False, format=layout.format, bitstream_slots=1)
        chains.append(Chain((data,), layout.lines, (leg,)))
        made = decode_frame(data)
        golden.append([dataclasses.replace(made, bitstreams=(encode(made.decoded, 85),))])
        claims.append([layout.lines])
    plan = plan_chains(chains, dram_lines=CONFIG.chip.memory_lines, host_bytes=CONFIG.host_bytes)
    outcome = simulate(plan, program)
    assert compare_outcome(outcome, golden, claims, [c.surface_lines for c in chains], [0, 1]) == ([], [])
    for n, data in enumerate(files):
        assert same_as_libjpeg(data, outcome.surface(n, 0)) is None


@pytest.mark.soak
def test_stalls_in_every_stream_change_no_bit():
    seed = int(os.environ["TESSERA_SEED"])
    files = tuple(encode(picture(np.random.default_rng(n), 60, 44, ChromaFormat(n)), 75) for n in range(4))
    room = max(claimed_layout(data).lines for data in files)
    plan = plan_chains(
        [Chain(files, room, (Leg(50, 70, 90, 2),))],
        dram_lines=CONFIG.chip.memory_lines,
        host_bytes=CONFIG.host_bytes,
        limit=4_000_000,
    )
    stalled = build_system(CONFIG, instruments=Instruments(checkers=True, stalls=seed))
    golden = list(transcode(files, [Target(50, 70, 90, 2)]))
    outcome = simulate(plan, stalled, knobs={"stall": 4, "reorder": 1, "latency": seed % 300})
    claims = [[claimed_layout(data).lines for data in files]]
    assert compare_outcome(outcome, [golden], claims, [room], [0]) == ([], [])


def test_single_decode(tmp_path, program):
    frames = [picture(np.random.default_rng(n), 75, 43, ChromaFormat.C422) for n in range(3)]
    files = [encode(frame, 85, 4) for frame in frames]
    mux(tmp_path / "clip.avi", files, Fraction(25), 75, 43)
    result = decode_file(tmp_path / "clip.avi", tmp_path / "out.y4m", on="rtl", progress=quiet)
    assert (result.mismatches, result.failed) == ([], [])
    assert list(read_y4m(tmp_path / "out.y4m")) == [decode(data).frame for data in files]

    (tmp_path / "bad.jpg").write_bytes(files[0][:300])
    result = decode_file(tmp_path / "bad.jpg", tmp_path / "bad.y4m", on="rtl", progress=quiet)
    assert result.exit_code == 1 and result.mismatches == [] and len(result.failed) == 1
    assert not (tmp_path / "bad.y4m").exists()


@pytest.mark.parametrize("kind", ChromaFormat, ids=str)
def test_single_encode(tmp_path, program, kind):
    frames = [picture(np.random.default_rng(n), 51, 35, kind) for n in range(2)]
    write_y4m(tmp_path / "in.y4m", frames)
    result = encode_file(
        tmp_path / "in.y4m", tmp_path / "out.mjpeg", quality=60, restart_interval=3, on="rtl", progress=quiet
    )
    assert (result.mismatches, result.failed) == ([], [])
    assert (tmp_path / "out.mjpeg").read_bytes() == b"".join(encode(frame, 60, 3) for frame in frames)


def test_what_does_not_end_is_named(program):
    files = tuple(encode(picture(np.random.default_rng(n), 64, 64, ChromaFormat.C420), 75) for n in range(3))
    chain = Chain(files, claimed_layout(files[0]).lines, (Leg(50, 30, 90),))
    plan = plan_chains([chain], dram_lines=CONFIG.chip.memory_lines, host_bytes=CONFIG.host_bytes, limit=2500)
    with pytest.raises(SimulationError) as error:
        simulate(plan, program)
    line = str(error.value)
    assert "tasks did not end within" in line and "JpegDecode of stream 0 frame" in line and "\n" not in line
