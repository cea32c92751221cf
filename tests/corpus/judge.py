"""Judges how a bad file ends: in images or a typed error, within time and memory, and without harm to the next file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle

from tests.corpus.memory import Meter, Use, mib
from tests.corpus.registry import BadFile
from tests.corpus.valid import valid_files
from vqa.errors import BadImage, VQAError
from vqa.images.file import frame_count, read_header
from vqa.images.fit import Fit
from workers.media.budget import Budget
from workers.media.limits import BASE_BYTES, ImageLimits
from workers.media.pool import DecoderPool
from workers.media.request import ImageRequest

#: those of a worker whose settings are the default ones, with PDF files and the sizes of Qwen3-VL
LIMITS = ImageLimits(20 * 2**20, 50_000_000, 1024 * 1024, Fit(32, 256 * 256, 1024 * 1024), pdf=True)

#: processor time of the check that producers make, the best of some
HEADER_S = 0.05
_HEADER_TRIES = 5

#: memory for that check, beside two copies of the file
_HEADER_BYTES = 32 * 2**20

#: of this process for a file, beside copies of the file and the images
_OWN_BYTES = 16 * 2**20

#: programs and libraries that a decoder has mapped: they are resident, and no limit on data counts them
_PROGRAM_BYTES = 64 * 2**20

#: a file must end this long after the pool's own limit
_GRACE_S = 15.0
TIMEOUT_S = 60.0

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a file ended; `faults` is empty if nothing is wrong with that."""

    name: str
    size: int
    #: `answer`, or the class of the error
    outcome: str
    message: str
    header_s: float
    use: Use
    faults: tuple[str, ...]


class Judge:
    """Decodes bad files one at a time in a real pool of two child processes."""

    def __init__(self, processes: int = 1) -> None:
        self._pool = DecoderPool(processes, LIMITS, TIMEOUT_S)
        self._admitted = _Recorded.instead_of(self._pool)
        self._good = [(data, self._decode(data)) for data in valid_files().values() if self._decode(data)]
        self._next_good = cycle(self._good)

    def judge(self, file: BadFile) -> Verdict:
        faults: list[str] = []
        header_s = self._check_header(file.data, faults)
        outcome, message, images, use = self._decode_bad(file.data, faults)
        self._check_use(file.data, images, use, faults)
        data, expected = next(self._next_good)
        if self._decode(data) != expected:
            faults.append("the next image, a good one, is decoded to something else")
        return Verdict(file.name, len(file.data), outcome, message, header_s, use, tuple(faults))

    def close(self) -> None:
        self._pool.close()

    def _check_header(self, data: bytes, faults: list[str]) -> float:
        """Open the file as producers do, in this process; return the processor time."""
        took_s = 0.0
        for check in (lambda: read_header(data, LIMITS.file), lambda: frame_count(data)):
            use, tries = _typed(check, faults), 1
            # a machine with other work takes longer now and then
            while use.cpu_s > HEADER_S and (tries := tries + 1) <= _HEADER_TRIES:
                use = min(use, _typed(check, faults), key=lambda use: use.cpu_s)
            took_s = max(took_s, use.cpu_s)
            if use.own_bytes > 2 * len(data) + _HEADER_BYTES:
                faults.append(f"its header check takes {mib(use.own_bytes)} here")
        if took_s > HEADER_S:
            faults.append(f"its header check takes {took_s * 1000:.0f} ms here")
        return took_s

    def _decode_bad(self, data: bytes, faults: list[str]) -> tuple[str, str, int, Use]:
        self._admitted.clear()
        meter, outcome, message, images = Meter(), "answer", "", 0
        try:
            [found] = self._pool.decode([ImageRequest(data)])
            images = len(found)
        except VQAError as error:
            outcome, message = type(error).__name__, str(error)
            if not isinstance(error, BadImage):
                faults.append(f"{outcome}: {message}")
            elif "crashed" in message:
                # pdfium ends its process where memory is refused; any other end is a fault of a reader
                outcome = "BadImage (decoder ended)"
                if not (data.startswith(b"%PDF") and "SIGABRT" in message):
                    faults.append(message)
        except Exception as error:
            outcome, message = type(error).__name__, str(error)
            faults.append(f"not of our errors: {error!r}")
        return outcome, message, images, meter.read()

    def _check_use(self, data: bytes, images: int, use: Use, faults: list[str]) -> None:
        if use.wall_s > TIMEOUT_S + _GRACE_S:
            faults.append(f"it takes {use.wall_s:.0f} s")
        if use.own_bytes > 2 * len(data) + images * LIMITS.image_bytes + _OWN_BYTES:
            faults.append(f"this process takes {mib(use.own_bytes)} for {images} images")
        if use.child_bytes > (most := BASE_BYTES + self._admitted.most + _PROGRAM_BYTES):
            faults.append(f"its decoder takes {mib(use.child_bytes)}; it was admitted for {mib(most)}")

    def _decode(self, data: bytes) -> tuple[str, ...]:
        """Return the digests of a good file's images; none if its format is not supported here."""
        try:
            [images] = self._pool.decode([ImageRequest(data)])
        except BadImage:
            return ()
        return tuple(image.digest for image in images)


def _typed(check: Callable[[], object], faults: list[str]) -> Use:
    meter = Meter()
    try:
        check()
    except BadImage:
        pass
    except Exception as error:
        faults.append(f"its header check raises {error!r}")
    return meter.read()


class _Recorded(Budget):
    """A pool's budget that remembers the largest amount that was asked for."""

    most = 0

    @classmethod
    def instead_of(cls, pool: DecoderPool) -> _Recorded:
        budget = cls(pool.plan.decoding_bytes)
        pool._decoding = budget
        return budget

    def clear(self) -> None:
        self.most = 0

    @contextmanager
    def holding(self, amount: int, deadline: float = float("inf")) -> Iterator[None]:
        self.most = max(self.most, amount)
        with super().holding(amount, deadline):
            yield
