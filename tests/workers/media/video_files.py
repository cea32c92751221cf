"""Animations and video files whose frames tell their number by their colour."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

from PIL import Image

SIZE = (96, 64)


def frame(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Of a grey that tells the number, up to 31; its left half is darker."""
    image = Image.new("RGB", size, (8 * number % 256,) * 3)
    image.paste((0, 0, 0), (0, 0, size[0] // 2, size[1]))
    return image


def number_of(image: Image.Image) -> int:
    """The number that a frame tells, however it is scaled."""
    colour = image.convert("L").getpixel((image.width * 3 // 4, image.height // 2))
    assert isinstance(colour, int)
    return round(colour / 8)


def animation(format: str, delays_ms: list[int], size: tuple[int, int] = SIZE, **how: Any) -> bytes:
    """Of a frame for each delay."""
    first, *others = (frame(number, size) for number in range(len(delays_ms)))
    buffer = io.BytesIO()
    more = {"lossless": True} if format == "WEBP" else {}
    first.save(buffer, format, save_all=True, append_images=others, duration=delays_ms, loop=0, **more, **how)
    return buffer.getvalue()


def video_file(
    frames: int, container: str = "mp4", codec: str = "libx264", rate: int = 10, size: tuple[int, int] = SIZE
) -> bytes:
    """Coded by PyAV."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(frames):
            file.mux(stream.encode(av.VideoFrame.from_image(frame(number, size))))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def joined(*files: bytes) -> bytes:
    """A Matroska file with the frames of these files, which have the same codec, at ten a second."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as joined:
        into: Any = None
        frames = 0
        for data in files:
            with av.open(io.BytesIO(data)) as file:
                stream = file.streams.video[0]
                into = into or joined.add_stream_from_template(stream)
                for packet in file.demux(stream):
                    if packet.size:
                        packet.stream, packet.time_base = into, Fraction(1, 10)
                        packet.pts = packet.dts = frames
                        frames += 1
                        joined.mux(packet)
    return buffer.getvalue()
