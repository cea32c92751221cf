"""200 SIGKILLs under jobs of 2 ms: a message is lost if its worker dies before kombu records that it was popped.

`python -m tests.chaos sigkills`: each worker is killed soon after it takes its first job. No job may be lost. The
janitors' logs show how many jobs the rule for lost messages published again.
"""

from __future__ import annotations

import re
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.chaos.campaign import Campaign
from tests.chaos.chaos import Chaos
from tests.chaos.evidence import gather
from tests.chaos.figures import last_line
from tests.chaos.plan import Plan
from tests.chaos.report import lines
from tests.chaos.verdict import judge

KILLS = 200

_FOUND = re.compile(r"(\d+) jobs published \(their message was lost\)")


def main(kills: int = KILLS, seed: int = 1) -> int:
    """Run; return 1 if a promise was broken."""
    plan = Plan(seed, jobs=kills * 10, faults=kills, minutes=30, workers=4, slots=(8,), rate=100, mix="tiny")
    folder = Path(tempfile.mkdtemp(prefix="vqa-sigkills-"))
    started = time.monotonic()
    with Chaos(plan, folder) as chaos:
        campaign = Campaign(chaos, started + plan.minutes * 60)
        _kill(chaos, kills, Random(seed))
        found_violations = campaign.wind_down()
        evidence = gather(chaos, found_violations, Counter(kill=kills), time.monotonic() - started)
    violations = judge(evidence)
    for line in lines(evidence, violations, folder):
        print(line)
    found = sum(int(number) for life in evidence.lives for number in _FOUND.findall(life.log.read_text()))
    print(last_line(evidence, violations))
    print(
        f"chaos sigkills: {kills} SIGKILLs, {found} jobs had lost their message and were published again; in {folder}"
    )
    return 1 if violations else 0


def _kill(chaos: Chaos, kills: int, random: Random) -> None:
    for number in range(kills):
        with chaos.fleet.claim(random) as worker:
            assert worker.life
            # the other workers may leave no job for this one
            until = time.monotonic() + 5
            while chaos.tail.last_start(worker.life.pid) < worker.life.begin and time.monotonic() < until:
                time.sleep(0.001)
            # at a random time while it takes jobs
            time.sleep(random.uniform(0, 0.4))
            chaos.ends(worker.signal(signal.SIGKILL, "killed"), 10)
        if number % 20 == 19:
            print(f"chaos sigkills: {number + 1} of {kills}", flush=True)
