"""Floors and aims on one H200: a figure that is worse than its floor fails the run."""

from __future__ import annotations

Wanted = tuple[float | None, float | None]

NOTHING: Wanted = (None, None)

# jobs/s, all at once
W1: Wanted = (41.0, 46.0)
W1_FP8: Wanted = (48.0, 58.0)
W2: Wanted = (30.0, 35.0)
W3: Wanted = (200.0, 280.0)
# seconds
ALONE: Wanted = (0.28, 0.20)
W2_P95: Wanted = (3.0, 1.5)
PAUSE: Wanted = (0.08, 0.05)
# ms
PREFILL: Wanted = (33.0, 20.0)
STEP: Wanted = (38.0, 28.0)
#: rows for which STEP holds
STEP_ROWS = 128
# ratios
CELERY_W1: Wanted = (0.93, 0.98)
CELERY_W3: Wanted = (0.9, 0.97)
CARDS: Wanted = (1.9, 1.98)
CACHE_UNUSED: Wanted = (0.99, 1.0)
#: relative error of float8 logits
LOGITS: Wanted = (0.02, 0.01)
