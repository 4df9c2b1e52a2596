"""Job files: good ones, and for each bad one a single line with file, key and what was expected."""

import pytest

from tessera.golden.frames import ChromaFormat
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
    assert (output.stream, output.quality, output.restart_interval) == (0, 75, 0)
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


@pytest.mark.parametrize("change", BAD)
def test_bad_file_gets_one_line(tmp_path, change):
    before, after, key, expected = BAD[change]
    assert GOOD.count(before) == 1
    file = job_of(tmp_path, GOOD.replace(before, after))
    with pytest.raises(JobError) as error:
        load_job(file)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"{file}: {key}")
    assert expected in line


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
    from fractions import Fraction

    from PIL import Image

    file = make_jpeg(Image.new("RGB", (40, 24), "teal"), quality=50, subsampling=ChromaFormat.C422)
    mux(tmp_path / "clip.mkv", [file] * 3, Fraction(25), 40, 24)
    text = GOOD.replace('"carphone"', '"clip.mkv"').replace("first_frame = 100\nframes = 3", "")
    assert load_job(job_of(tmp_path, text)).streams[0].untouched
    changed = text.replace('"clip.mkv"', '"clip.mkv"\nquality = 30')
    assert not load_job(job_of(tmp_path, changed)).streams[0].untouched
