"""The number of requests that wait and run inside a server, from its Prometheus metrics."""

from __future__ import annotations

from collections.abc import Collection

#: vLLM's and SGLang's
_WAITING = frozenset({"vllm:num_requests_waiting", "sglang:num_queue_reqs"})
_RUNNING = frozenset({"vllm:num_requests_running", "sglang:num_running_reqs"})


def waiting_and_running(metrics: str) -> tuple[int, int] | None:
    """Return both gauges, summed over their labels; None if the metrics have not both."""
    waiting, running = _sum(metrics, _WAITING), _sum(metrics, _RUNNING)
    return None if waiting is None or running is None else (waiting, running)


def _sum(metrics: str, names: Collection[str]) -> int | None:
    found: list[float] = []
    for line in metrics.splitlines():
        name, _, rest = line.partition("{") if "{" in line else line.partition(" ")
        if name in names:
            try:
                # labels may have spaces; after the value may be a time
                found.append(float(rest.rpartition("}")[2].split()[0]))
            except (ValueError, IndexError):
                continue
    finite = [each for each in found if 0 <= each < float("inf")]
    return round(sum(finite)) if finite else None
