"""The child process that decodes images: `python -m workers.media.decoder_child MEMORY SECONDS LIMITS`.

MEMORY is the number of an inherited in-memory file, SECONDS the limit for one image, LIMITS the fields of `ImageLimits`
as JSON. The child writes READY to the inherited link. Then it reads one line per image: the number of encoded bytes at
the start of MEMORY. It answers with a line of JSON: `needed`, the most bytes that decoding takes, and waits for a line.
Then it overwrites the encoded bytes with the pixels and answers with the other fields of `RGBImage`. In place of either
answer it may send `error` and `message`. It exits when the link is closed.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any

from workers.child_process import inherited_link

if TYPE_CHECKING:
    from workers.media.image import ImageLimits

READY = b"ready\n"

#: limits of an image's computing time, in seconds and seconds per pixel: the dearest form of an honest image takes half
#: of it. A JPEG of 300 kB that repeats its scans takes twenty seconds.
CPU_S, CPU_S_PER_PIXEL = 3.0, 0.1e-6


def write_file(memory: int, data: bytes) -> None:
    """Write `data` at the start of the file with the descriptor `memory`. Raises OSError."""
    rest, at = memoryview(data), 0
    while at < len(rest):
        at += os.pwrite(memory, rest[at:], at)


def main(memory: int, timeout_s: int, limits_fields: dict[str, Any]) -> None:
    """Decode until the link is closed; an image that takes longer than `timeout_s` ends this process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # a signal to the whole container must not end this process: the worker still drains
        signal.signal(number, signal.SIG_IGN)
    limits = _set_up(limits_fields)
    parent = inherited_link()
    assert parent is not None
    with parent, parent.makefile("rb") as requests, suppress(ConnectionError):
        parent.sendall(READY)
        for line in requests:
            # WebP's reader takes memory for the pixels here
            with _limited(timeout_s, CPU_S, limits.decoding_bytes):
                reply = _open(memory, int(line), limits)
            if "needed" in reply:
                parent.sendall(json.dumps(reply).encode() + b"\n")
                if not requests.readline():
                    return
                with _limited(timeout_s, CPU_S + CPU_S_PER_PIXEL * reply["pixels"], reply["needed"]):
                    reply = _decode(memory, int(line), limits)
            parent.sendall(json.dumps(reply).encode() + b"\n")


@contextmanager
def _limited(timeout_s: int, cpu_s: float, image_bytes: int) -> Iterator[None]:
    """End this process after `timeout_s`, or after computing for `cpu_s`; code in C cannot be interrupted otherwise.

    Refuse it memory for more than `image_bytes`: a TIFF file of 1 MB may have a tile of 1 GiB for its 8 x 8 pixels.
    """
    from workers.media.image import BASE_BYTES

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (min(BASE_BYTES + image_bytes, most), most))
    # if the parent is gone, nothing else ends a hanging child
    signal.alarm(timeout_s)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)


def _set_up(limits_fields: dict[str, Any]) -> ImageLimits:
    """Import the decoding code and confine this process, so that no image can harm other processes."""
    # the package itself would import pydantic, which nothing here uses: 0.3 s and 20 MB
    spec = find_spec("vqa")
    assert spec is not None
    sys.modules["vqa"] = module_from_spec(spec)
    from PIL import Image, TiffImagePlugin, WebPImagePlugin

    from workers.media.image import ImageLimits

    # otherwise Pillow loads all forty readers at the first image of a rarer format
    Image.preinit()
    assert {TiffImagePlugin.TiffImageFile.format, WebPImagePlugin.WebPImageFile.format} <= Image.OPEN.keys()
    limits = ImageLimits.from_dict(limits_fields)
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    # Pillow warns of each damaged tag
    warnings.simplefilter("ignore")
    # a core file would contain a user's image
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        # when the machine runs out of memory, the kernel kills this process before the one with the model
        score.write("1000")
    return limits


def _open(memory: int, length: int, limits: ImageLimits) -> dict[str, Any]:
    """Read the header of an image."""
    from vqa.errors import VQAError
    from vqa.images.file import open_image
    from workers.media.image import needed_bytes

    try:
        image = open_image(os.pread(memory, length, 0), limits.max_bytes, limits.max_pixels)
    except VQAError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except (OSError, MemoryError) as error:
        return {"error": "EngineError", "message": f"no memory for an encoded image ({type(error).__name__})"}
    return {"needed": needed_bytes(image, length), "pixels": image.width * image.height}


def _decode(memory: int, length: int, limits: ImageLimits) -> dict[str, Any]:
    from vqa.errors import VQAError
    from workers.media.image import decode

    try:
        data = os.pread(memory, length, 0)
        decoded = decode(data, limits)
        write_file(memory, decoded.image.tobytes())
    except VQAError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except (OSError, MemoryError) as error:
        return {"error": "EngineError", "message": f"no memory for an image's pixels ({type(error).__name__})"}
    width, height = decoded.image.size
    source = {name: getattr(decoded, name) for name in ("source_width", "source_height", "frames")}
    return {"width": width, "height": height, "digest": _digest(data, (width, height)), **source}


def _digest(data: bytes, size: tuple[int, int]) -> str:
    name = sha256(b"%d %d " % size)
    name.update(data)
    return name.hexdigest()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
