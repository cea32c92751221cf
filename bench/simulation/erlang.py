"""Erlang's formula for a queue with equal servers, random arrivals and exponential times.

A simulation of that case must give what it says.

A. K. Erlang, "Solution of some problems in the theory of probabilities of significance in automatic telephone
exchanges", 1917.
"""

from __future__ import annotations

import math


def must_wait(servers: int, load: float) -> float:
    """Return the probability that a job waits, Erlang C. `load` is arrivals a second times a job's seconds."""
    if load >= servers:
        return 1.0
    # Erlang B by its recursion, which does not overflow
    blocked = 1.0
    for each in range(1, servers + 1):
        blocked = load * blocked / (each + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def mean_wait_s(servers: int, load: float, service_s: float) -> float:
    """Return the mean wait of all jobs, in seconds."""
    if load >= servers:
        return math.inf
    return must_wait(servers, load) * service_s / (servers - load)


def wait_s(servers: int, load: float, service_s: float, part: float) -> float:
    """Return the wait that `part` percent of the jobs do not exceed, in seconds."""
    if load >= servers:
        return math.inf
    waits = must_wait(servers, load)
    beyond = 1 - part / 100
    return 0.0 if waits <= beyond else math.log(waits / beyond) * service_s / (servers - load)
