"""The machine's memory."""

from __future__ import annotations

import os
from pathlib import Path


def machine_free() -> int:
    """Bytes that nobody needs: what is only kept for reading again counts as free."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        # not Linux: what there is in all is the best that can be said
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
