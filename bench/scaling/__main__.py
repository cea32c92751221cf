"""`python -m bench.scaling`: what one Redis carries, and the plans that follow from it.

Figures of Redis are its own counters of computing time and bytes, so that other programs on the machine disturb them
less than rates: each is the median of several runs, with the least and the most.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable
from dataclasses import fields

from bench.scaling.figures import Found
from bench.scaling.plan import Costs, plans


def _jobs() -> Found:
    from bench.scaling import jobs

    return jobs.measure()


def _saturation() -> Found:
    from bench.scaling import saturation

    return saturation.measure()


def _memory() -> Found:
    from bench.scaling import memory

    return memory.measure()


def _images() -> Found:
    from bench.scaling import images

    return images.measure()


def _connections() -> Found:
    from bench.scaling import connections

    return connections.measure()


def _functions() -> Found:
    from bench.scaling import functions

    return functions.measure()


PARTS: dict[str, Callable[[], Found]] = {
    "jobs": _jobs,
    "saturation": _saturation,
    "functions": _functions,
    "memory": _memory,
    "images": _images,
    "connections": _connections,
}


def main() -> None:
    """Measure the parts, or print plans."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scaling",
        description="Measure what one Redis carries, or plan with what was measured.",
        epilog="Example: python -m bench.scaling plan --job-us 300 --worker-us 800",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}, plan (default: all)")
    for field in fields(Costs):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default, metavar="NUMBER")
    options = parser.parse_args()
    if unknown := set(options.parts) - {*PARTS, "plan"}:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)} and plan")
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}, Python {platform.python_version()}", flush=True)
    for part in options.parts or [*PARTS, "plan"]:
        if part == "plan":
            for line in plans(Costs(**{field.name: getattr(options, field.name) for field in fields(Costs)})):
                print(line)
            continue
        for what, spread in PARTS[part]().items():
            print(f"{what}: {spread}", flush=True)


if __name__ == "__main__":
    main()
