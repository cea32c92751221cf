"""The child process that decodes images: `python -m workers.media.decoder_child MEMORY SECONDS LIMITS`.

MEMORY is the number of an inherited in-memory file, SECONDS the limit for one file, LIMITS the fields of `ImageLimits`
as JSON. The child writes READY to the inherited link. Then it reads one line of JSON per file: `bytes`, the number of
encoded bytes at the start of MEMORY, and the options of an `ImageRequest`. It answers with a line of JSON: `needed`,
the most bytes that decoding takes, and `count`, the number of images. Then it waits for GO or SKIP. After GO it
overwrites the encoded bytes with the pixels of all images, one after another, and answers with `images`, the other
fields of each `RGBImage`. In place of either answer it may send `error` and `message`. It exits when the link is
closed.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any

from workers.child_process import inherited_link

if TYPE_CHECKING:
    from workers.media.image import Decoded
    from workers.media.limits import ImageLimits
    from workers.media.source import Source

    Step = Callable[[int, dict[str, Any], ImageLimits], dict[str, Any]]

READY, GO, SKIP = b"ready\n", b"go\n", b"skip\n"

#: limits of an image's computing time, in seconds and seconds per pixel: the dearest form of an honest image takes half
#: of it. A JPEG of 300 kB that repeats its scans takes twenty seconds.
CPU_S, CPU_S_PER_PIXEL = 3.0, 0.1e-6


#: fields of a decoded image that are passed on as they are
_PASSED_ON = ("source_width", "source_height", "frames", "page", "pages", "time_s")


def write_file(memory: int, data: bytes, at: int = 0) -> int:
    """Write `data` into the file with the descriptor `memory`; return where it ends. Raises OSError."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(memory, rest, at)
        rest, at = rest[written:], at + written
    return at


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
            fields = json.loads(line)
            # nobody has admitted this memory: a video of 1 kB may have an index of gigabytes
            with _limited(timeout_s, CPU_S, limits.opening_bytes):
                reply = _reply(_open, memory, fields, limits)
            if "needed" in reply:
                parent.sendall(json.dumps(reply).encode() + b"\n")
                answer = requests.readline()
                if answer == SKIP:
                    continue
                if answer != GO:
                    return
                with _limited(timeout_s, CPU_S + CPU_S_PER_PIXEL * reply["pixels"], reply["needed"]):
                    reply = _reply(_decode, memory, fields, limits)
            parent.sendall(json.dumps(reply).encode() + b"\n")
            if "error" in reply or fields["video"]:
                # FFmpeg's frames, and what an error refers to, are in cycles; the next file needs their memory
                gc.collect()


@contextmanager
def _limited(timeout_s: int, cpu_s: float, image_bytes: int) -> Iterator[None]:
    """End this process after `timeout_s`, or after computing for `cpu_s`; code in C cannot be interrupted otherwise.

    Refuse it memory for more than `image_bytes`: a TIFF file of 1 MB may have a tile of 1 GiB for its 8 x 8 pixels.
    """
    from workers.media.limits import BASE_BYTES

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

    from workers.media.limits import ImageLimits

    # otherwise Pillow loads all forty readers at the first image of a rarer format
    Image.preinit()
    assert {TiffImagePlugin.TiffImageFile.format, WebPImagePlugin.WebPImageFile.format} <= Image.OPEN.keys()
    limits = ImageLimits.from_dict(limits_fields)
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    _silence()
    # a core file would contain a user's image
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        # when the machine runs out of memory, the kernel kills this process before the one with the model
        score.write("1000")
    return limits


def _silence() -> None:
    """Drop what readers say of damaged files; an exception of this program is still printed."""
    # Pillow warns of each damaged tag
    warnings.simplefilter("ignore")
    logging.disable()
    # libtiff prints a line for each damaged row: 178,000 in one file
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _open(memory: int, fields: dict[str, Any], limits: ImageLimits) -> dict[str, Any]:
    """Read the header of a file."""
    source = _source(_read(memory, fields), fields, limits)
    return {"needed": source.needed_bytes, "pixels": source.pixels, "count": source.count}


def _decode(memory: int, fields: dict[str, Any], limits: ImageLimits) -> dict[str, Any]:
    from workers.media.request import ImageRequest

    data, at, images = _read(memory, fields), 0, []
    name = sha256(data)
    # an image and a frame of one file and size may differ: each is scaled as the processor of its kind does
    name.update(f" {limits.filter_for(ImageRequest.from_options(data, fields))}".encode())
    for decoded in _source(data, fields, limits).images():
        at = write_file(memory, decoded.image.tobytes(), at)
        images.append(_about(decoded, name))
    return {"images": images}


def _reply(step: Step, memory: int, fields: dict[str, Any], limits: ImageLimits) -> dict[str, Any]:
    """Return what `step` returns, or the reply for the error that it raises."""
    from vqa.errors import VQAError

    try:
        return step(memory, fields, limits)
    except VQAError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except (OSError, MemoryError) as error:
        return {"error": "EngineError", "message": f"no memory for an image ({type(error).__name__})"}


def _read(memory: int, fields: dict[str, Any]) -> bytes:
    return os.pread(memory, fields["bytes"], 0)


def _source(data: bytes, fields: dict[str, Any], limits: ImageLimits) -> Source:
    from workers.media.request import ImageRequest
    from workers.media.source import open_source

    request = ImageRequest.from_options(data, fields)
    return open_source(data, limits.for_request(request), request)


def _about(decoded: Decoded, name: Any) -> dict[str, Any]:
    """Return the fields of an `RGBImage` but its pixels; `name` is the hash of the file and filter."""
    fields = {field: getattr(decoded, field) for field in _PASSED_ON}
    fields["width"], fields["height"] = decoded.image.size
    digest = name.copy()
    digest.update(f" {decoded.page} {decoded.time_s} {decoded.image.size}".encode())
    return {**fields, "digest": digest.hexdigest()}


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
