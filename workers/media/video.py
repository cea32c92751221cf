"""Samples frames of video files by PyAV (FFmpeg), in a decoder's child process.

A video comes from strangers: only a few containers and codecs are opened, nothing else on the machine or the network,
and what it may take of memory and computing time is limited as for images.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from PIL import Image

from vqa.errors import BadImage, EngineError
from vqa.images.file import reason
from workers.media.animation import AnimationSource
from workers.media.image import Decoded
from workers.media.limits import ImageLimits
from workers.media.request import VideoSampling
from workers.media.sampling import MOST_DECODED_PIXELS, choose_frames, scale_frame

#: FFmpeg's names of containers, by how files start; others, such as play lists of URLs, are not even tried
_CONTAINERS = (
    (rb"....(ftyp|moov|mdat|wide|free|skip)", "mov"),
    (rb"\x1aE\xdf\xa3", "matroska"),
    (rb"RIFF....AVI ", "avi"),
)

_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg"})

#: packets of a video, of which each takes a little memory: an hour at 50 frames a second
_MOST_PACKETS = 180_000

#: of a frame at full size: what decoders keep for later frames, and copies on the way to RGB
_BYTES_PER_PIXEL = 64

#: frames may grow in the course of a video, as in recorded calls, to 1920 x 1088 pixels; decoders allocate them before
#: their size can be seen here
_GROWN_PIXELS = 2_088_960

#: decoders round sides up to a multiple, which FFmpeg's `max_pixels` counts
_ALIGNMENT = 64

#: frames that are decoded for each that is shown, up to which the limit on computing time grows
_DECODED_PER_FRAME = 4


def open_video(
    data: bytes, limits: ImageLimits, sampling: VideoSampling, max_pixels: int | None
) -> AnimationSource | FileSource:
    """Open an animation or a video file. Raises BadImage."""
    limits.file.check_bytes(len(data))
    container = next((name for start, name in _CONTAINERS if re.match(start, data, re.DOTALL)), None)
    # an AVIF or HEIC file begins like MP4
    if container is None or re.match(rb"....ftyp(avi[fs]|hei|hev|mif1|msf1)", data, re.DOTALL):
        return AnimationSource(data, limits, sampling, max_pixels)
    return FileSource(data, container, limits, sampling, max_pixels)


class FileSource:
    """A video file, of which the first video track is shown."""

    def __init__(
        self, data: bytes, container: str, limits: ImageLimits, sampling: VideoSampling, max_pixels: int | None
    ) -> None:
        """Read the times of all frames, without decoding them. Raises BadImage."""
        self._data, self._limits = data, limits
        with _translated():
            self._file, self._stream = _open(data, container, limits.max_pixels)
            codec = self._stream.codec_context
            self._size: tuple[int, int] = (codec.width, codec.height)
            limits.file.check_size(*self._size)
            self._most = max(self._size[0] * self._size[1], _GROWN_PIXELS)
            codec.options = {"max_pixels": str(self._most + _ALIGNMENT * (sum(self._size) + _ALIGNMENT))}
            self._times, self._keys = self._read_times()
        starts_s = [float((time - self._times[0]) * self._stream.time_base) for time in self._times]
        mean_s = starts_s[-1] / max(1, len(starts_s) - 1)
        chosen = choose_frames(starts_s, starts_s[-1] + mean_s, sampling)
        self._chosen = [self._times[number] for number in chosen]
        self._fit = sampling.fit.for_frames(self.count, max_pixels)

    @property
    def count(self) -> int:
        return len(self._chosen)

    @property
    def pixels(self) -> int:
        size = self._size[0] * self._size[1]
        return min(size * self.count * _DECODED_PER_FRAME, max(size, MOST_DECODED_PIXELS))

    @property
    def needed_bytes(self) -> int:
        return 2 * len(self._data) + _BYTES_PER_PIXEL * self._most + 3 * self._fit.max_pixels

    def images(self) -> Iterator[Decoded]:
        """Decode the frames that are shown, in order. Raises BadImage and EngineError."""
        with _translated():
            for frame in self._frames():
                self._limits.file.check_size(frame.width, frame.height)
                image: Image.Image = frame.to_image()
                if frame.rotation:
                    image = image.rotate(frame.rotation, expand=True)
                time_s = round(float((frame.pts - self._times[0]) * self._stream.time_base), 6)
                scaled = scale_frame(image, self._fit)
                yield Decoded(scaled, *image.size, len(self._times), time_s=max(0.0, time_s))

    def _frames(self) -> Iterator[Any]:
        """Yield the first frame at or after each chosen time; decode from the last key frame before it."""
        decoded, last = self._decoded_from(self._times[0]), None
        for time in self._chosen:
            key = self._keys[max(0, bisect_right(self._keys, time) - 1)]
            if last is None or key > last.pts:
                decoded = self._decoded_from(key)
            elif last.pts >= time:
                # a file without a frame where one was announced
                continue
            last = next((frame for frame in decoded if frame.pts is not None and frame.pts >= time), None)
            if last is None:
                raise BadImage("the video ends before its last frame")
            yield last

    def _decoded_from(self, time: int) -> Iterator[Any]:
        self._file.seek(time, stream=self._stream)
        return iter(self._file.decode(self._stream))

    def _read_times(self) -> tuple[list[int], list[int]]:
        """Return the times of all frames and of key frames, in the units of the track."""
        times: list[int] = []
        keys: list[int] = []
        for packet in self._file.demux(self._stream):
            time = packet.pts if packet.pts is not None else packet.dts
            if time is None or not packet.size or packet.is_discard:
                continue
            times.append(time)
            if packet.is_keyframe:
                keys.append(time)
            if len(times) > _MOST_PACKETS:
                raise BadImage(f"the video has over {_MOST_PACKETS:,} frames")
        if not times:
            raise BadImage("the video has no frames")
        return sorted(times), sorted(keys) or [min(times)]


def _open(data: bytes, container: str, max_pixels: int) -> tuple[Any, Any]:
    try:
        import av
    except ImportError:
        raise BadImage(
            "a video file: this worker opens only GIF, WebP and PNG animations; others need "
            "`pip install 'vqa-queue[video]'`"
        ) from None
    # it would write to the worker's log what the file says
    av.logging.set_level(None)
    options = {"max_pixels": str(max_pixels), "enable_drefs": "0", "protocol_whitelist": "none"}
    file: Any = av.open(io.BytesIO(data), format=container, options=options, io_open=_refuse)
    stream = file.streams.best("video")
    if stream is None:
        raise BadImage("the file has no video track")
    name = stream.codec_context.codec.canonical_name
    if name not in _CODECS:
        raise BadImage(f"the video is coded as {name}; known here are {', '.join(sorted(_CODECS))}")
    # one core for each process; threads would hold more frames
    stream.codec_context.thread_count = 1
    return file, stream


def _refuse(*_: object) -> NoReturn:
    raise BadImage("the video refers to another file")


@contextmanager
def _translated() -> Iterator[None]:
    """Turn FFmpeg's errors into ours."""
    try:
        yield
    except BadImage:
        raise
    except MemoryError:
        raise EngineError("the machine ran out of memory while decoding a video") from None
    except Exception as error:
        # FFmpeg's readers raise many kinds of errors on damaged data
        raise BadImage(f"the video cannot be decoded: {reason(error)}") from None
