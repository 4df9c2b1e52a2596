"""Job files: good ones, and for each bad one a single line with file, key and what was expected."""

from fractions import Fraction

import pytest
from PIL import Image

from tessera.golden.frames import ChromaFormat
from tessera.golden.transcoder import Placement
from tessera.sim.clips import make_jpeg, mux
from tessera.sim.job import JobError, find_job, jobs_folder, load_job

GOOD = """
[job]
name = "small"
[[stream]]
clip = "carphone"
first_frame = 100
frames = 3
[[output]]
width_pixels = 96
height_pixels = 64
file = "small.avi"
"""


def job_of(tmp_path, text):
    file = tmp_path / "job.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("job", sorted(jobs_folder().glob("*.toml")), ids=lambda job: job.stem)
def test_jobs_that_come_along(job):
    assert load_job(job).name == job.stem
    assert load_job(find_job(job.stem)).path == job


def test_what_is_left_open_is_decided(tmp_path):
    job = load_job(job_of(tmp_path, GOOD))
    (stream,), (output,) = job.streams, job.outputs
    assert (stream.name, stream.width, stream.height, stream.frames) == ("carphone", 176, 144, 3)
    assert (stream.subsampling, stream.quality, stream.untouched) == (ChromaFormat.C420, 85, False)
    assert (output.source, output.quality, output.restart_interval) == (0, 75, 0)
    assert job.ddr_name == "ddr4_3200aa"


def test_memory_and_chip_can_be_changed(tmp_path):
    changes = '[ddr]\npreset = "ddr4_2400r"\npostpone = 5\n[chip]\nqueue = 8\n'
    changes += "[host]\nread_latency_cycles = 7\nstall_sixteenths = 3\n"
    job = load_job(job_of(tmp_path, GOOD + changes))
    assert (job.chip.ddr.rate, job.chip.ddr.postpone, job.chip.queue) == (2400, 5, 8)
    assert job.knobs == {"latency": 7, "stall": 3}


# What is changed in the good file, the key that the line names, and what it says is expected.
BAD = {
    "unknown table": ("[job]", "[jobs]", "jobs", "did you mean job?"),
    "unknown key": ("frames = 3", "framse = 3", "stream[0].framse", "did you mean frames?"),
    "unknown key of an output": ("width_pixels = 96", "width = 96", "output[0].width", "did you mean width_pixels?"),
    "no name": ('name = "small"', "", "job.name", "expected, but not there"),
    "name with a slash": ('"small"', '"../small"', "job.name", "letters, digits"),
    "name is a number": ('"small"', "7", "job.name", "a text in quotes expected, 7 found"),
    "no clip": ('clip = "carphone"', "", "stream[0].clip", "expected, but not there"),
    "no stream": ('[[stream]]\nclip = "carphone"\nfirst_frame = 100\nframes = 3', "", "stream", "[[stream]]"),
    "stream once": ("[[stream]]", "[stream]", "stream", "a table in double brackets expected"),
    "clip is not there": ('"carphone"', '"carfone.mp4"', "stream[0].clip", "carphone, bikes, bigbuckbunny, expected"),
    "clip is no clip": ('"carphone"', '"job.toml"', "stream[0].clip", "no video in it"),
    "frames is a text": ("frames = 3", 'frames = "3"', "stream[0].frames", "a whole number expected, '3' found"),
    "frames is a fraction": ("frames = 3", "frames = 3.5", "stream[0].frames", "a whole number expected, 3.5 found"),
    "frames is true": ("frames = 3", "frames = true", "stream[0].frames", "a whole number expected, True found"),
    "no frames": ("frames = 3", "frames = 0", "stream[0].frames", "1 to 10000 expected, 0 found"),
    "too many frames": ("frames = 3", "frames = 21", "stream[0].frames", "1 to 20 expected, 21 found"),
    "beyond the clip": ("first_frame = 100", "first_frame = 120", "stream[0].first_frame", "0 to 119 expected"),
    "negative": ("first_frame = 100", "first_frame = -1", "stream[0].first_frame", "0 or more expected, -1 found"),
    "width without height": ("frames = 3", "width_pixels = 9", "stream[0].height_pixels", "expected with width_pixels"),
    "subsampling": ("frames = 3", 'subsampling = "4:1:1"', "stream[0].subsampling", "'4:2:0'"),
    "quality of a stream": ("frames = 3", "quality = 101", "stream[0].quality", "1 to 100 expected, 101 found"),
    "codec": ('file = "small.avi"', 'codec = "hevc"\nfile = "a.avi"', "output[0].codec", "'jpeg' expected, 'hevc'"),
    "too small": ("width_pixels = 96", "width_pixels = 21", "output[0].width_pixels", "22 to 1408 expected"),
    "too large": ("height_pixels = 64", "height_pixels = 1153", "output[0].height_pixels", "18 to 1152 expected"),
    "size of 0": ("height_pixels = 64", "height_pixels = 0", "output[0].height_pixels", "1 to 16384 expected, 0 found"),
    "file in a folder": ('"small.avi"', '"../small.avi"', "output[0].file", "a file's name that ends in .avi"),
    "file of another kind": ('"small.avi"', '"small.mp4"', "output[0].file", "'small.mp4' found"),
    "many frames as .jpg": ('"small.avi"', '"small.jpg"', "output[0].file", "expected for 3 frames"),
    "other stream": (
        'file = "small.avi"',
        'stream = "carfone"\nfile = "a.avi"',
        "output[0].stream",
        "did you mean carphone?",
    ),
    "slots": ("[[output]]", "[slots]\ndecoded = 1\n[[output]]", "slots.decoded", "2 to 64 expected, 1 found"),
    "memory": ("[[output]]", '[ddr]\npreset = "ddr5"\n[[output]]', "ddr.preset", "ddr4_2400r"),
    "field of the memory": ("[[output]]", "[ddr]\npostpon = 1\n[[output]]", "ddr.postpon", "did you mean postpone?"),
    "figure of the memory": ("[[output]]", "[ddr]\ncl = 99\n[[output]]", "ddr.cl", "32 expected"),
    "figure of the chip": ("[[output]]", "[chip]\nqueue = 1\n[[output]]", "chip.queue", "2 to 64 expected"),
    "wider than the chip": (
        "[[output]]",
        "[chip]\nmax_width = 64\n[[output]]",
        "output[0].width_pixels",
        "max_width 64",
    ),
    "host's memory": ("[[output]]", "[host]\nmemory_bytes = 70000\n[[output]]", "host.memory_bytes", "a power of two"),
    "seed": ('name = "small"', 'name = "small"\nseed = 0', "job.seed", "1 to 2147483647 expected, 0 found"),
    "no TOML": ("[[output]]", "[[output]", "", "no TOML"),
}


def gets_one_line(tmp_path, good, before, after, key, expected):
    """A job with one piece changed is refused, by a line that names the file and the key."""
    assert good.count(before) == 1
    file = job_of(tmp_path, good.replace(before, after))
    with pytest.raises(JobError) as error:
        load_job(file)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"{file}: {key}")
    assert expected in line


@pytest.mark.parametrize("change", BAD)
def test_bad_file_gets_one_line(tmp_path, change):
    gets_one_line(tmp_path, GOOD, *BAD[change])


WALL = """
[job]
name = "wall"
[[stream]]
name = "first"
clip = "carphone"
first_frame = 90
[[stream]]
name = "second"
clip = "bikes"
frames = 7
[[composition]]
name = "both"
width_pixels = 320
height_pixels = 200
background = "#0080FF"
[[composition.layer]]
stream = "second"
x_pixels = -9
width_pixels = 100
height_pixels = 50
[[composition.layer]]
stream = "first"
y_pixels = 7
width_pixels = 88
height_pixels = 72
alpha = 100
order = -1
[[output]]
composition = "both"
width_pixels = 160
height_pixels = 100
file = "both.avi"
"""


def test_a_composition(tmp_path):
    job = load_job(job_of(tmp_path, WALL))
    (wall,) = job.compositions
    assert (wall.name, wall.width, wall.height) == ("both", 320, 200)
    # By order, and then as they stand there.
    assert wall.layers == (Placement(0, 0, 7, 88, 72, 100), Placement(1, -9, 0, 100, 50, 255))
    # The rate of the first layer in the file, and as long as the longest layer: 30 frames at 30000/1001.
    assert (wall.rate, wall.frames) == (25, 26)
    assert (job.streams[0].frames, job.streams[1].frames) == (30, 7)
    assert [job.sources[output.source] for output in job.outputs] == [wall]
    assert wall.background == (104, 213, 54)


COLOURS = {"#FFFFFF": (255, 128, 128), "#ff0000": (76, 85, 255), "#00ff00": (150, 44, 21), "#0000FF": (29, 255, 107)}


@pytest.mark.parametrize("colour", COLOURS)
def test_background_is_a_colour_of_jpegs(tmp_path, colour):
    job = load_job(job_of(tmp_path, WALL.replace("#0080FF", colour)))
    assert job.compositions[0].background == COLOURS[colour]


def test_a_composition_has_a_rate_and_a_length(tmp_path):
    def wall(more):
        job = load_job(job_of(tmp_path, WALL.replace('background = "#0080FF"', more)))
        return job.compositions[0], [stream.frames for stream in job.streams]

    made, frames = wall("frames_per_second = 50\nframes = 8")
    # What nobody sees at the end is not even cut from the clip.
    assert (made.rate, made.frames, frames) == (50, 8, [5, 4])
    assert wall('frames_per_second = "30000/1001"')[0].rate == Fraction(30000, 1001)
    assert wall("frames_per_second = 12.5")[0].rate == Fraction(25, 2)
    assert wall("frames = 1")[0].background == (0, 128, 128)


def test_streams_and_compositions_have_outputs(tmp_path):
    more = '[[output]]\nstream = "first"\nwidth_pixels = 88\nheight_pixels = 72\nfile = "first.avi"\n'
    short = WALL.replace("frames = 7", "").replace('"#0080FF"', '"#000000"\nframes = 3')
    job = load_job(job_of(tmp_path, short + more))
    assert [output.source for output in job.outputs] == [2, 0]
    assert [stream.frames for stream in job.streams] == [30, 3]


BAD_WALL = {
    "unknown key": ("alpha = 100", "alhpa = 100", "composition[0].layer[1].alhpa", "did you mean alpha?"),
    "unknown key of a composition": ("background", "backround", "composition[0].backround", "mean background?"),
    "unknown table": ("[[composition]]", "[[compositon]]", "compositon", "did you mean composition?"),
    "no name": ('name = "both"', "", "composition[0].name", "expected, but not there"),
    "name of a stream": ('name = "both"', 'name = "first"', "composition[0].name", "another name than first expected"),
    "colour": ('"#0080FF"', '"blue"', "composition[0].background", "a text such as '#000000', red, green and blue"),
    "rate": ('background = "#0080FF"', "frames_per_second = 0", "composition[0].frames_per_second", "above 0"),
    "rate in words": (
        'background = "#0080FF"',
        'frames_per_second = "25/0"',
        "composition[0].frames_per_second",
        "'25/0' found",
    ),
    "no frames": ('background = "#0080FF"', "frames = 0", "composition[0].frames", "1 to 10000 expected, 0 found"),
    "no width": ("width_pixels = 88", "", "composition[0].layer[1].width_pixels", "expected, but not there"),
    "alpha": ("alpha = 100", "alpha = 256", "composition[0].layer[1].alpha", "0 to 255 expected, 256 found"),
    "place": ("x_pixels = -9", "x_pixels = 65536", "composition[0].layer[0].x_pixels", "-65536 to 65535 expected"),
    "order": ("order = -1", "order = 1.5", "composition[0].layer[1].order", "a whole number expected, 1.5 found"),
    "other stream": ('stream = "first"', 'stream = "fist"', "composition[0].layer[1].stream", "did you mean first?"),
    "which stream": ('stream = "first"', "", "composition[0].layer[1].stream", "one of first, second expected"),
    "ratio": (
        "height_pixels = 72",
        "height_pixels = 17",
        "composition[0].layer[1].height_pixels",
        "18 to 1152 expected (1/8 to 8 times the 144 of stream first), 17 found",
    ),
    "ratio of an output": (
        "width_pixels = 160",
        "width_pixels = 39",
        "output[0].width_pixels",
        "40 to 2560 expected (1/8 to 8 times the 320 of composition both)",
    ),
    "other composition": ('composition = "both"', 'composition = "bth"', "output[0].composition", "did you mean both?"),
    "composition as a stream": ('composition = "both"', 'stream = "both"', "output[0].stream", "mean composition?"),
    "stream and composition": (
        'composition = "both"',
        'composition = "both"\nstream = "first"',
        "output[0].composition",
        "none expected beside stream",
    ),
    "neither": ('composition = "both"', "", "output[0]", "composition, one of both, or stream, one of first, second"),
    "nothing made of it": ('composition = "both"', 'stream = "first"', "composition[0]", "composition = 'both'"),
    "one frame of many": ('"both.avi"', '"both.jpg"', "output[0].file", "expected for 26 frames"),
    "wider than the chip": (
        "[[output]]",
        "[chip]\nmax_width = 256\n[[output]]",
        "stream[1].width_pixels",
        "max_width 256 expected, 640 found",
    ),
    "slots": ("[[output]]", "[slots]\ncomposed = 65\n[[output]]", "slots.composed", "2 to 64 expected, 65 found"),
    "layers of the chip": ("[[output]]", "[chip]\nlayers = 3\n[[output]]", "chip.layers", "2, 4, 8 or 16 expected"),
}


@pytest.mark.parametrize("change", BAD_WALL)
def test_bad_composition_gets_one_line(tmp_path, change):
    gets_one_line(tmp_path, WALL, *BAD_WALL[change])


def test_no_more_layers_than_the_chip_has(tmp_path):
    layer = WALL[WALL.index("[[composition.layer]]") : WALL.index("[[output]]")]
    many = WALL.replace(layer, layer * 8)
    assert len(load_job(job_of(tmp_path, many)).compositions[0].layers) == 16
    for job, limit in ((many.replace(layer, layer * 2, 1), 16), (WALL + "[chip]\nlayers = 2\n", 2)):
        text = job if limit == 16 else job.replace(layer, layer * 2)
        with pytest.raises(JobError, match=rf"composition\[0\]\.layer: at most the chip's {limit} layers expected"):
            load_job(job_of(tmp_path, text))
    without = WALL.replace(layer, "")
    with pytest.raises(JobError, match=r"composition\[0\]\.layer: .* a table \[\[composition\.layer\]\]"):
        load_job(job_of(tmp_path, without))
    narrow = WALL.replace("frames = 7", "width_pixels = 64\nheight_pixels = 32") + "[chip]\nmax_width = 256\n"
    with pytest.raises(JobError, match=r"composition\[0\]\.width_pixels: at most the chip's max_width 256"):
        load_job(job_of(tmp_path, narrow))
    alone = WALL[: WALL.index("[[composition]]")] + WALL[WALL.index("[[output]]") :]
    with pytest.raises(JobError, match=r"output\[0\]\.composition: none expected, since there is no"):
        load_job(job_of(tmp_path, alone))


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(JobError, match=r"absent\.toml: no such file; .*transcode"):
        load_job(tmp_path / "absent.toml")
    with pytest.raises(JobError, match=r"UTF-8"):
        file = tmp_path / "bytes.toml"
        file.write_bytes(b"\xff\xfe")
        load_job(file)


def test_two_of_one_name(tmp_path):
    twice = GOOD.replace("[[output]]", '[[stream]]\nclip = "carphone"\n[[output]]\nstream = "carphone"')
    with pytest.raises(JobError, match=r"stream\[1\]\.name: another name than carphone"):
        load_job(job_of(tmp_path, twice))
    twice = GOOD + '[[output]]\nwidth_pixels = 96\nheight_pixels = 64\nfile = "small.avi"\n'
    with pytest.raises(JobError, match=r"output\[1\]\.file: another file than small\.avi"):
        load_job(job_of(tmp_path, twice))
    unused = GOOD.replace("[[output]]", '[[stream]]\nclip = "bikes"\n[[output]]\nstream = "carphone"')
    with pytest.raises(JobError, match=r"stream\[1\]: an \[\[output\]\] with stream = 'bikes' expected"):
        load_job(job_of(tmp_path, unused))


def test_motion_jpeg_goes_in_untouched(tmp_path):
    file = make_jpeg(Image.new("RGB", (40, 24), "teal"), quality=50, subsampling=ChromaFormat.C422)
    mux(tmp_path / "clip.mkv", [file] * 3, Fraction(25), 40, 24)
    text = GOOD.replace('"carphone"', '"clip.mkv"').replace("first_frame = 100\nframes = 3", "")
    assert load_job(job_of(tmp_path, text)).streams[0].untouched
    changed = text.replace('"clip.mkv"', '"clip.mkv"\nquality = 30')
    assert not load_job(job_of(tmp_path, changed)).streams[0].untouched
