"""The child process that decodes images: `python -m workers.media.decoder_child LINK MEMORY SECONDS LIMITS`.

LINK is its end of a socket pair, MEMORY a file in memory, both inherited by number; LIMITS is JSON. Once it has written
READY it reads lines with a number: so many bytes of an encoded image lie at the start of MEMORY. It puts the pixels
in their place, and answers with a line of JSON: `width`, `height` and `digest`, or `error` and `message`. It ends when
the link does.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from contextlib import suppress
from hashlib import sha256
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers.media.image import Limits

READY = b"ready\n"


def fill(memory: int, data: bytes) -> None:
    """Write `data` at the start of the file `memory`. Raises OSError."""
    rest, at = memoryview(data), 0
    while at < len(rest):
        at += os.pwrite(memory, rest[at:], at)


def main(link: int, memory: int, seconds: int, given: dict[str, Any]) -> None:
    """Decode until the link ends; one image may take that many seconds."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # for the worker alone, which still drains where they go to its whole container
        signal.signal(number, signal.SIG_IGN)
    limits = _begin(given)
    with open(link, "r+b", buffering=0) as parent, suppress(ConnectionError):
        parent.write(READY)
        while line := parent.readline():
            # nothing else would end it if it hung and its parent were no more
            signal.alarm(seconds)
            answer = _answer(memory, int(line), limits)
            signal.alarm(0)
            parent.write(json.dumps(answer).encode() + b"\n")


def _begin(given: dict[str, Any]) -> Limits:
    """Import what decoding takes; from here on, whatever an image makes Pillow do is no harm to others."""
    # the package itself would import pydantic: 0.3 s and 20 MB of which nothing is used here
    spec = find_spec("vqa")
    assert spec is not None
    sys.modules["vqa"] = module_from_spec(spec)
    from PIL import Image, TiffImagePlugin, WebPImagePlugin

    from workers.media.image import Limits

    # else Pillow loads its readers, all forty, when it meets the first image of a rarer format
    Image.preinit()
    assert {TiffImagePlugin.TiffImageFile.format, WebPImagePlugin.WebPImageFile.format} <= Image.OPEN.keys()
    limits = Limits.of(given)
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    # a core file would hold a user's image
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        # where the machine's memory runs out, the kernel ends this process and not the one with the model
        score.write("1000")
    return limits


def _answer(memory: int, length: int, limits: Limits) -> dict[str, Any]:
    from vqa.errors import VQAError
    from workers.media.image import decode

    try:
        data = os.pread(memory, length, 0)
        image = decode(data, limits)
        fill(memory, image.tobytes())
    except VQAError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except (OSError, MemoryError) as error:
        return {"error": "EngineError", "message": f"there is no room for an image's pixels ({type(error).__name__})"}
    return {"width": image.width, "height": image.height, "digest": _digest(data, image.size)}


def _digest(data: bytes, size: tuple[int, int]) -> str:
    name = sha256(b"%d %d " % size)
    name.update(data)
    return name.hexdigest()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
