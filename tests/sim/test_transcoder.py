"""The golden transcoder: decode, scale, encode, with each frame's errors as values."""

import io

import numpy as np
from PIL import Image

from tessera.golden.frames import ChromaFormat
from tessera.golden.jpeg.decoder import decode
from tessera.golden.jpeg.encoder import encode
from tessera.golden.jpeg.status import JpegStatus
from tessera.golden.ops import scale
from tessera.golden.transcoder import Target, transcode
from tessera.sim.clips import same_as_libjpeg
from tessera.tb.codec.jpeg.corpus import picture


def jpeg(seed, width=50, height=34, kind=ChromaFormat.C422):
    return encode(picture(np.random.default_rng(seed), width, height, kind), 80, 3)


def test_is_its_parts_in_a_row():
    files = [jpeg(n, kind=kind) for n, kind in enumerate(ChromaFormat)]
    targets = [Target(33, 60, 50), Target(100, 17, 95, 2)]
    for file, result in zip(files, transcode(files, targets), strict=True):
        frame = decode(file).frame
        assert result.status == JpegStatus.Ok and result.decoded == frame
        for n, target in enumerate(targets):
            scaled = scale(frame, target.width, target.height)
            assert result.scaled[n] == scaled
            assert result.bitstreams[n] == encode(scaled, target.quality, target.restart_interval)
            with Image.open(io.BytesIO(result.bitstreams[n])) as image:
                assert image.size == (target.width, target.height)
            assert same_as_libjpeg(result.bitstreams[n], decode(result.bitstreams[n]).frame) is None


def test_a_bad_frame_leaves_the_others_alone():
    good = [jpeg(1), jpeg(2)]
    cut = good[0][:-2]
    first, second, third = transcode([good[0], cut, good[1]], [Target(40, 40, 75)])
    assert (second.status, second.where) == (JpegStatus.Truncated, len(cut))
    assert second.decoded is None and second.scaled == second.bitstreams == () and "Truncated" in second.message
    assert [first, third][0].bitstreams and third.bitstreams == next(
        transcode([good[1]], [Target(40, 40, 75)])
    ).bitstreams


def test_a_ratio_that_cannot_be_leaves_the_other_targets_alone():
    (result,) = transcode([jpeg(1)], [Target(50 * 8 + 1, 34, 75), Target(50 * 8, 34, 75)])
    assert result.scaled[0] is None and result.bitstreams[0] is None
    assert result.scaled[1].width == 400 and result.bitstreams[1]


def test_libjpeg_check_sees_one_wrong_sample():
    for kind in ChromaFormat:
        file = jpeg(5, 37, 21, kind)
        frame = decode(file).frame
        assert same_as_libjpeg(file, frame) is None
        for plane in frame.planes:
            plane[9, 7] ^= 1
            # One step of chroma may vanish in upsampling's rounding, two do not.
            if same_as_libjpeg(file, frame) is None:
                plane[9, 7] ^= 3
            assert same_as_libjpeg(file, frame) is not None
            plane[:] = decode(file).frame.planes[next(n for n, p in enumerate(frame.planes) if p is plane)]
