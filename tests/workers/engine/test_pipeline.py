from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.workers.engine.conftest import SOON, Starting, answers, ask, wait_until
from vqa.errors import Cancelled, DeadlineExceeded, EngineError, PromptTooLong


def test_starts(starting):
    e=starting()
    print(answers(e,[ask(i) for i in range(8)]))
