"""Peaks of resident memory and processor time, from the kernel's own counts (Linux)."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

_MIB = 2**20


def reset_peak(pid: int) -> None:
    """Let the peak of a process start from what it has now (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def resident_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def decoders() -> list[psutil.Process]:
    """Return this process's decoder processes."""
    return [child for child in psutil.Process().children() if "workers.media.decoder_child" in child.cmdline()]


@dataclass(frozen=True, slots=True)
class Use:
    """What something took, in bytes and seconds."""

    #: beside what this process had before
    own_bytes: int
    #: the largest peak among the decoder processes, those that ended included
    child_bytes: int
    wall_s: float
    cpu_s: float


class Meter:
    """Measures this process and its decoders from its creation to `read`."""

    def __init__(self) -> None:
        self._before = {child.pid: _cpu_s(child) for child in decoders()}
        self._pid = psutil.Process().pid
        self._own = resident_bytes(self._pid)
        for pid in (self._pid, *self._before):
            reset_peak(pid)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._ended_bytes, self._ended_s = ended.ru_maxrss, ended.ru_utime + ended.ru_stime
        self._cpu_s, self._wall_s = time.process_time(), time.monotonic()

    def read(self) -> Use:
        wall_s, own_cpu_s = time.monotonic() - self._wall_s, time.process_time() - self._cpu_s
        living = decoders()
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        peaks = [peak_bytes(child.pid) for child in living]
        if ended.ru_maxrss > self._ended_bytes:
            peaks.append(1024 * ended.ru_maxrss)
        # what a child that has ended used before is in the kernel's sum: at most a little is counted twice
        children_s = ended.ru_utime + ended.ru_stime - self._ended_s
        children_s += sum(_cpu_s(child) - self._before.get(child.pid, 0.0) for child in living)
        own = max(0, peak_bytes(self._pid) - self._own)
        return Use(own, max(peaks, default=0), wall_s, own_cpu_s + children_s)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def mib(count: int) -> str:
    return f"{count / _MIB:,.0f} MiB"
