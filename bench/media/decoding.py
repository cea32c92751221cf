"""Images decoded and resized in the worker's pool, against Pillow and the model's image processor used plainly.

`python -m bench.media.decoding --processes 1,2,4,8,16` prints the pool's rate for each number of processes, and needs
neither Redis nor Celery.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

from PIL import Image

from bench.figures import Row, alternately, rate
from bench.media.images import photo
from vqa.images.fit import Fit
from workers.media.limits import ImageLimits
from workers.media.pool import DecoderPool
from workers.media.request import ImageRequest

REPEATS = 5
#: the sizes that a worker shows to Qwen3-VL with the default VQA_MAX_IMAGE_TOKENS
FIT = Fit(32, 256 * 256, 1024 * 1024)
LIMITS = ImageLimits(20 * 2**20, 50_000_000, FIT.max_pixels, FIT)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of image, and how many are decoded in one measurement for each process."""

    name: str
    width: int
    height: int
    format: str
    count: int


KINDS = (
    Kind("JPEG 1024 x 768", 1024, 768, "JPEG", 24),
    Kind("JPEG 12 megapixels", 4000, 3000, "JPEG", 3),
    Kind("PNG 1024 x 768", 1024, 768, "PNG", 12),
    Kind("WebP 1024 x 768", 1024, 768, "WEBP", 12),
    Kind("PNG 12 megapixels", 4000, 3000, "PNG", 2),
)


def rows() -> list[Row]:
    cores = len(os.sched_getaffinity(0))
    return [_row(kind, cores) for kind in KINDS]


def throughput(processes: Sequence[int]) -> Iterator[str]:
    """Yield a line for each kind of image and number of processes."""
    for kind in KINDS:
        images = _images(kind)
        for count in processes:
            with _pool(count) as pool:
                work = 4 * count * kind.count
                per_s = max(rate(work, partial(_decode, pool, images, work)) for _ in range(3))
            yield f"{kind.name}, {count} processes: {per_s:,.1f} images/s, {per_s / count:,.1f} a process"


def _row(kind: Kind, cores: int) -> Row:
    images, work = _images(kind), cores * kind.count
    with _pool(cores) as pool, _plain(cores, images) as plain:
        ours, rival = alternately(
            REPEATS,
            lambda: _core_rate(work, lambda: _decode(pool, images, work)),
            lambda: _core_rate(work, lambda: list(plain.map(_process, range(work), chunksize=2))),
        )
    what = f"images for each second of a core, {kind.name}, {cores} cores"
    return Row.ratio(what, ours, rival, 1.0, "Pillow and the model's image processor in as many processes")


def _core_rate(count: int, work: Callable[[], object]) -> float:
    """Return how many images a second of processor time yields, that of this process and of all its children."""
    before_s = _cpu_s()
    work()
    return count / (_cpu_s() - before_s)


def _cpu_s() -> float:
    import psutil

    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def _images(kind: Kind) -> list[bytes]:
    """Return a few images, so that no cache holds them all decoded."""
    return [_encoded(photo(seed, kind.width, kind.height), kind.format) for seed in range(2)]


def _encoded(jpeg: bytes, format: str) -> bytes:
    if format == "JPEG":
        return jpeg
    buffer = io.BytesIO()
    # PNG at the level at which cameras' and screenshots' programs write it, WebP as it is on web pages
    how = {"compress_level": 6} if format == "PNG" else {"quality": 85, "method": 0}
    Image.open(io.BytesIO(jpeg)).save(buffer, format, **how)
    return buffer.getvalue()


@contextmanager
def _pool(processes: int) -> Iterator[DecoderPool]:
    pool = DecoderPool(processes, LIMITS)
    try:
        yield pool
    finally:
        pool.close()


def _decode(pool: DecoderPool, images: Sequence[bytes], count: int) -> None:
    """Decode `count` images, in jobs of up to 48."""
    requests = [ImageRequest(images[number % len(images)]) for number in range(count)]
    for at in range(0, count, 48):
        pool.decode(requests[at : at + 48])


#: of a process that works plainly
_images_here: Sequence[bytes] = ()
_processor: Any = None


@contextmanager
def _plain(processes: int, images: Sequence[bytes]) -> Iterator[ProcessPoolExecutor]:
    """Start processes that have the images and the model's image processor, and wait until they are ready."""
    with ProcessPoolExecutor(processes, get_context("spawn"), _start, (images,)) as pool:
        list(pool.map(_process, range(4 * processes)))
        yield pool


def _start(images: Sequence[bytes]) -> None:
    global _images_here, _processor
    import torch
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    torch.set_num_threads(1)
    _images_here = images
    size = {"shortest_edge": FIT.min_pixels, "longest_edge": FIT.max_pixels}
    _processor = Qwen2VLImageProcessorPil(patch_size=16, merge_size=2, size=size)


def _process(number: int) -> int:
    image = Image.open(io.BytesIO(_images_here[number % len(_images_here)])).convert("RGB")
    return len(_processor(images=[image], return_tensors="pt")["pixel_values"])


def main() -> None:
    """Print what the pool decodes."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.media.decoding", description="Rate of the pool by its processes."
    )
    parser.add_argument("--processes", default="1,2,4,8,16", help="numbers of processes (default: 1,2,4,8,16)")
    counts = [int(count) for count in parser.parse_args().processes.split(",")]
    print(f"{len(os.sched_getaffinity(0))} cores", flush=True)
    for line in throughput(counts):
        print(line, flush=True)


if __name__ == "__main__":
    main()
