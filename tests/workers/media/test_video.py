from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from struct import pack
from typing import Any

import psutil
import pytest
from PIL import Image

from tests.workers.media.video_files import SIZE, animation, frame, joined, number_of, video_file
from vqa.errors import BadImage
from vqa.images.fit import Fit
from vqa.images.video_fit import QWEN3_VL, FrameFit, VideoFit
from workers.media.decoder import Decoder
from workers.media.image import Decoded
from workers.media.limits import ImageLimits
from workers.media.pool import DecoderPool
from workers.media.request import ImageRequest, VideoSampling
from workers.media.source import decode

LIMITS = ImageLimits(20 * 2**20, 50_000_000, 1024 * 1024)
TWO_A_SECOND = VideoSampling(fps=2, max_frames=64, fit=QWEN3_VL)


def sampled(data: bytes, limits: ImageLimits = LIMITS, **how: Any) -> tuple[Decoded, ...]:
    fields = {"fps": 2.0, "max_frames": 64, "fit": QWEN3_VL} | how
    return decode(data, limits, ImageRequest(data, video=VideoSampling(**fields)))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_frames_of_an_animation_come_with_their_times(format: str) -> None:
    # 3 s: six frames at two a second
    data = animation(format, [100] * 30)

    frames = sampled(data)

    assert [each.time_s for each in frames] == [0.0, 0.6, 1.2, 1.7, 2.3, 2.9]
    assert [number_of(each.image) for each in frames] == [0, 6, 12, 17, 23, 29]
    assert {each.image.size for each in frames} == {QWEN3_VL.for_frames(6).size(*SIZE)}
    assert {(each.source_width, each.source_height, each.frames) for each in frames} == {(*SIZE, 30)}


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_frames_stand_for_as_long_as_the_file_says(format: str) -> None:
    # the second frame stands for nearly all of the time, and is shown once
    data = animation(format, [200, 5000, 200, 600])

    assert [each.time_s for each in sampled(data)] == [0.0, 0.2, 5.2, 5.4]


def test_gif_frames_without_a_time_stand_as_long_as_in_a_browser() -> None:
    assert [each.time_s for each in sampled(animation("GIF", [0] * 4))] == [0.0, 0.1, 0.2, 0.3]


def test_the_image_that_stands_in_for_a_png_animation_is_not_shown() -> None:
    buffer = io.BytesIO()
    frames = [frame(number) for number in range(1, 5)]
    frame(31).save(buffer, "PNG", save_all=True, default_image=True, append_images=frames, duration=500)

    assert [number_of(each.image) for each in sampled(buffer.getvalue())] == [1, 2, 3, 4]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_a_file_of_one_image_is_a_video_of_one_frame(format: str) -> None:
    (only,) = sampled(animation(format, [100]))

    assert only.time_s == 0


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "libx264"), ("mov", "mpeg4"), ("matroska", "libx265"), ("webm", "libvpx-vp9"), ("avi", "mjpeg")],
)
def test_frames_of_a_video_file_come_with_their_times(container: str, codec: str) -> None:
    frames = sampled(video_file(30, container, codec))

    assert [each.time_s for each in frames] == [0.0, 0.6, 1.2, 1.7, 2.3, 2.9]
    assert [number_of(each.image) for each in frames] == [0, 6, 12, 17, 23, 29]
    assert {(each.source_width, each.source_height, each.frames) for each in frames} == {(*SIZE, 30)}


def test_a_long_video_is_read_from_key_frames_on() -> None:
    # key frames come every 250 frames
    frames = sampled(video_file(620, "mp4", "mpeg4"), max_frames=8)

    assert [each.time_s for each in frames] == [0.0, 8.8, 17.7, 26.5, 35.4, 44.2, 53.1, 61.9]
    assert [number_of(each.image) for each in frames] == [round(10 * (each.time_s or 0)) % 32 for each in frames]


def test_a_video_that_was_filmed_upright_is_shown_upright() -> None:
    identity = b"".join(number.to_bytes(4, "big") for number in (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000))
    # a quarter turn to the right: what was left is on top
    turned = b"".join(
        (number % 2**32).to_bytes(4, "big") for number in (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    )
    data = video_file(30)
    at = data.index(identity, data.index(b"tkhd"))

    seen = sampled(data[:at] + turned + data[at + len(turned) :])[-1]

    assert (seen.source_width, seen.source_height) == SIZE[::-1]
    top, bottom = (seen.image.convert("L").getpixel((seen.image.width // 2, y)) for y in (5, seen.image.height - 5))
    assert isinstance(top, int)
    assert isinstance(bottom, int)
    assert top < 30 < 200 < bottom


def test_a_worker_without_the_extra_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    data = video_file(4)
    monkeypatch.setitem(sys.modules, "av", None)

    with pytest.raises(BadImage, match=r"pip install 'vqa-queue\[video\]'"):
        sampled(data)
    assert len(sampled(animation("GIF", [100] * 4))) == 4


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n", "not an image"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not an image"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(200), "cannot be decoded|no video track"),
        (b"\x1aE\xdf\xa3" + bytes(200), "cannot be decoded|no video track"),
        (b"RIFF\0\0\0\0AVI " + bytes(200), "cannot be decoded|no video track"),
    ],
    ids=["empty", "play list", "concat", "no mp4", "no matroska", "no avi"],
)
def test_other_files_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(BadImage, match=words):
        sampled(data)


def test_an_image_of_a_format_without_animations_is_no_video() -> None:
    buffer = io.BytesIO()
    frame(1).save(buffer, "JPEG")

    with pytest.raises(BadImage, match="no video"):
        sampled(buffer.getvalue())


def test_a_sound_file_has_no_frames() -> None:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream: Any = file.add_stream("aac", rate=16_000)
        sound = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        sound.sample_rate = 16_000
        for plane in sound.planes:
            plane.update(bytes(plane.buffer_size))
        file.mux(stream.encode(sound))
        file.mux(stream.encode(None))

    with pytest.raises(BadImage, match="no video track"):
        sampled(buffer.getvalue())


def test_another_codec_is_refused_by_name() -> None:
    with pytest.raises(BadImage, match="coded as ffv1; known here are av1, h264"):
        sampled(video_file(4, "matroska", "ffv1"))


@pytest.mark.parametrize("format", ["GIF", "mp4"])
def test_a_video_of_too_many_pixels_is_refused(format: str) -> None:
    data = animation("GIF", [100] * 4) if format == "GIF" else video_file(4)

    with pytest.raises(BadImage, match=r"VQA_IMAGE_MAX_PIXELS|cannot be decoded"):
        sampled(data, ImageLimits(20 * 2**20, 1000, 1024))
    with pytest.raises(BadImage, match="VQA_IMAGE_MAX_BYTES"):
        sampled(data, ImageLimits(100, 50_000_000, 1024))


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(LIMITS)
    yield decoder
    decoder.close()


def in_child(decoder: Decoder, data: bytes) -> list[float | None]:
    return [image.time_s for image in decoder.decode(data, request=ImageRequest(data, video=TWO_A_SECOND))]


def test_a_video_whose_frames_grow_beyond_its_memory_is_refused_at_once(decoder: Decoder) -> None:
    small = video_file(3, "avi", "mjpeg")

    grown = joined(small, video_file(1, "avi", "mjpeg", size=(1280, 720)))
    assert in_child(decoder, grown) == [0, 0.1, 0.2, 0.3]

    too_large = joined(small, video_file(1, "avi", "mjpeg", size=(2400, 2400)))
    with pytest.raises(BadImage, match="cannot be decoded"):
        in_child(decoder, too_large)


def test_a_gif_whose_frames_outgrow_its_screen_is_refused_at_once(decoder: Decoder) -> None:
    small = animation("GIF", [100] * 2)
    # of the second frame, after its control block and its place
    at = small.rindex(b"\x21\xf9\x04") + 8 + 5

    with pytest.raises(BadImage, match="frame 2 of the GIF animation reaches beyond its screen of 96 x 64"):
        in_child(decoder, small[:at] + pack("<2H", 20_000, 20_000) + small[at + 4 :])


def test_a_long_index_in_a_short_file_takes_no_memory() -> None:
    data = bytearray(video_file(2))
    for table, at, value in (
        ("stsz", 8, 1),
        ("stsz", 12, 40_000_000),
        ("stsc", 16, 40_000_000),
        ("stts", 12, 40_000_000),
    ):
        place = data.index(table.encode()) + at
        data[place : place + 4] = pack(">I", value)
    decoder = Decoder(LIMITS)

    with pytest.raises(BadImage, match="no frames"):
        in_child(decoder, bytes(data))

    peak = Path(f"/proc/{decoder.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
    decoder.close()
    assert int(peak) < 300 * 1024


def test_the_frames_of_a_video_leave_no_memory_to_the_next_file(decoder: Decoder) -> None:
    def held_bytes(data: bytes) -> int:
        in_child(decoder, data)
        # answered once the memory is free
        in_child(decoder, animation("GIF", [100], (8, 8)))
        return int(psutil.Process(decoder.pid).memory_info().data)

    before = held_bytes(video_file(3, "avi", "mjpeg"))

    assert held_bytes(video_file(3, "avi", "mjpeg", size=(3000, 2000))) - before < 40 * 2**20


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "mp4", "matroska", "avi"])
def test_a_truncated_file_ends_in_frames_or_an_error_and_the_child_goes_on(
    decoder: Decoder, kind: str, part: float
) -> None:
    whole = animation(kind, [100] * 20) if kind.isupper() else video_file(20, kind, "mpeg4")

    try:
        times = in_child(decoder, whole[: int(len(whole) * part)])
    except BadImage:
        times = []

    assert times == sorted(each for each in times if each is not None)
    assert in_child(decoder, whole)[0] == 0


def test_a_gif_of_twenty_thousand_frames_is_answered_within_the_limit(decoder: Decoder) -> None:
    short = animation("GIF", [50] * 2, (8, 8))
    first = short.index(b"\x21\xf9")
    second = short.index(b"\x21\xf9", first + 2)
    long = short[:second] + short[second:-1] * 20_000 + b";"

    assert len(in_child(decoder, long)) == 64


def test_frames_in_a_pool_have_their_pixels_times_and_names() -> None:
    pool = DecoderPool(1, LIMITS)
    data = animation("GIF", [500] * 6)
    request = ImageRequest(data, video=VideoSampling(fps=2, max_frames=4, fit=QWEN3_VL))
    try:
        with pool.decoded([request]) as [frames]:
            expected = decode(data, LIMITS, request)
            assert [each.pixels for each in frames] == [each.image.tobytes() for each in expected]
            assert [each.time_s for each in frames] == [each.time_s for each in expected]
            assert len({each.digest for each in frames}) == 4
    finally:
        pool.close()


def test_a_frame_that_is_a_file_of_its_own_is_scaled_with_the_others() -> None:
    fit = VideoFit(32, 4096, 65_536).for_frames(8)
    buffer = io.BytesIO()
    Image.new("RGB", (640, 480)).save(buffer, "JPEG")

    (only,) = decode(buffer.getvalue(), LIMITS, ImageRequest(buffer.getvalue(), frame=fit))

    assert only.image.size == fit.size(640, 480) == (96, 64)


def test_a_frame_has_the_name_of_its_pixels_where_images_are_scaled_by_another_filter() -> None:
    fit = Fit(32, 4096, 65_536, Image.Resampling.BICUBIC)
    limits = replace(LIMITS, fit=fit)
    buffer = io.BytesIO()
    Image.effect_noise((640, 480), 80).save(buffer, "PNG")
    # of one frame, so that the image and the frames have one size
    frames = [FrameFit(32, 4096, 65_536, filter, frames=1, temporal=1) for filter in (3, Image.Resampling.BILINEAR)]
    requests = [ImageRequest(buffer.getvalue(), frame=frame) for frame in (None, *frames)]
    decoder = Decoder(limits)

    image, same, other = (decoder.decode(buffer.getvalue(), request=request)[0] for request in requests)

    decoder.close()
    assert (image.width, image.height) == (same.width, same.height) == (other.width, other.height)
    assert image.pixels == same.pixels != other.pixels
    assert image.digest == same.digest != other.digest
