"""Judges a soak: what grows is a leak, and what is left at the end is one, too."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from tests.soak.samples import KEPT, Sample

#: growth an hour that is noise: a part of the median, or this many units where that is more
_PART = 0.03
_LEAST = {"mib": 1.5, "count": 4.0, "keys": 20.0, "kib": 2.0}
#: a series is judged if it is at least this long, as allocators need time to settle
_LEAST_S = 600.0
#: part of the jobs that a busy machine may refuse or end by their deadline
_LATE = 0.01
#: points that slopes are computed from
_POINTS = 240

#: seconds in which a key fills: it has the ids of deleted files, for an hour
_FILLS_S = {"keys vqa:files": 3600.0, "keys vqa:files: memory, KiB": 3600.0}

#: the process of the load itself, which keeps a digest of each outcome, is not judged
LOAD = "load"

#: single keys that outlive the jobs: queues' bindings, the janitor's lock, and indexes that expire after days
_LASTING = tuple(
    ["_kombu.", *(f"vqa:{name}" for name in ("batches", "capacity", "dead", "dropped", "files", "gateway", "images"))]
    + [f"vqa:{name}" for name in ("inbox", "janitor", "workers")]
)


@dataclass(frozen=True)
class Trend:
    """How a figure went after the warm-up; `first` and `last` are medians of a tenth of the time."""

    name: str
    first: float
    last: float
    per_hour: float
    limit: float

    @property
    def grows(self) -> bool:
        return self.per_hour > self.limit


def trends(samples: Sequence[Sample], warm_up_s: float) -> list[Trend]:
    """Return the trends of every process, of Redis's memory, and of its keys by prefix.

    A process that was replaced is judged by the one of its name that lived longest.
    """
    return [*_trends([sample for sample in samples if sample.at_s >= warm_up_s])]


def _trends(samples: Sequence[Sample]) -> Iterator[Trend]:
    figures = defaultdict[tuple[str, str], list[tuple[float, float]]](list)
    pids = _longest_lived(samples)
    for sample in samples:
        for name, process in sample.processes.items():
            if process.pid == pids[name] and name != LOAD:
                figures[f"{name}: memory, MiB", "mib"].append((sample.at_s, process.rss_mib))
                figures[f"{name}: descriptors", "count"].append((sample.at_s, process.descriptors))
                figures[f"{name}: threads", "count"].append((sample.at_s, process.threads))
        figures["redis: used memory, MiB", "mib"].append((sample.at_s, sample.redis["used_memory"] / 2**20))
        figures["redis: connections", "count"].append((sample.at_s, sample.redis["connected_clients"]))
        for prefix in sorted({prefix for each in samples for prefix in each.keys if not prefix.startswith(KEPT)}):
            figures[f"keys {prefix}", "keys"].append((sample.at_s, sample.keys.get(prefix, 0)))
            # a single key may grow, too
            if prefix.startswith(_LASTING):
                kib = sample.key_bytes.get(prefix, 0) / 1024
                figures[f"keys {prefix}: memory, KiB", "kib"].append((sample.at_s, kib))
    for (name, unit), whole in figures.items():
        points = [point for point in whole if point[0] >= _FILLS_S.get(name, 0.0)]
        if points and points[-1][0] - points[0][0] >= _LEAST_S:
            yield trend(name, points, _LEAST[unit])


def trend(name: str, points: Sequence[tuple[float, float]], least: float) -> Trend:
    """Fit a line by Theil and Sen: the median of the slopes between all pairs, which outliers hardly move.

    P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", 1968.
    """
    points = points[:: len(points) // _POINTS + 1]
    slope = statistics.median(3600 * (b - a) / (end - begin) for (begin, a), (end, b) in combinations(points, 2))
    values = [value for _, value in points]
    tenth = max(1, len(values) // 10)
    first, last = statistics.median(values[:tenth]), statistics.median(values[-tenth:])
    return Trend(name, first, last, slope, max(least, _PART * statistics.median(values)))


def _longest_lived(samples: Sequence[Sample]) -> dict[str, int]:
    seen = defaultdict[str, Counter[int]](Counter)
    for sample in samples:
        for name, process in sample.processes.items():
            seen[name][process.pid] += 1
    return {name: pids.most_common(1)[0][0] for name, pids in seen.items()}


def left_over(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Return a line for each prefix with more keys at the end than before the load.

    Keys that live for days are left out: they expire, if after this run.
    """
    return [
        f"keys {prefix}: {count}, {before.get(prefix, 0)} before the load"
        for prefix, count in sorted(after.items())
        if count > max(before.get(prefix, 0), prefix.startswith(_LASTING)) and not prefix.startswith(KEPT)
    ]


def judge(found: Sequence[Trend], left: Sequence[str], faults: Mapping[str, int], late: float = 0.0) -> list[str]:
    """Return what is wrong, a line each; an empty list for a good run. `late` is the part of the jobs that were."""
    lines = [f"{count} jobs {fault}" for fault, count in faults.items() if count]
    lines += [f"{each.name} grows by {each.per_hour:.1f} an hour" for each in found if each.grows]
    lines += [f"{late:.1%} of the jobs were refused or late"] if late > _LATE else []
    lines += [f"left over: {line}" for line in left]
    return lines if found else [*lines, "the run was too short for a trend"]
