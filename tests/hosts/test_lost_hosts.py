"""Hosts of workers and of Redis are lost in the middle of a batch: nothing is lost, and nothing is answered twice."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.hosts.batch import Batch
from tests.hosts.site import WORKER_HOSTS, Site, until

# the programs of six hosts start on a machine that may be busy
pytestmark = pytest.mark.timeout(400)

#: seconds that a row takes; a host answers five a second
ROW_S = 0.4
ROWS = 60


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), VQA_ECHO_DELAY_S=str(ROW_S)) as site:
        yield site


def _wait_until_working(site: Site, *hosts: str) -> None:
    until(lambda: all(site.running(host) for host in hosts), lambda: [site.log(host) for host in hosts])


def _back_in_queue(site: Site, ids: set[str], other: str) -> float:
    """Wait until each of these jobs, with which a host was lost, is back in the queue or the other host runs it.

    Returns the seconds. A worker that waits for jobs takes one faster than the queue can be looked at.
    """
    assert ids
    missing = set(ids)

    def seen() -> bool:
        missing.difference_update(site.queued(), site.runs(other))
        return not missing

    return until(seen, lambda: f"{missing} are held by a host that is lost")


def test_a_batch_loses_no_row_when_a_host_of_workers_loses_power_and_is_added_again(site: Site, tmp_path: Path) -> None:
    batch = Batch(site, tmp_path / "batch", ROWS)
    _wait_until_working(site, *WORKER_HOSTS)
    site.lose("one")
    lost, before = site.running("one"), site.ended("one")
    took_s = _back_in_queue(site, lost, other="two")
    print(f"back in the queue {took_s:.1f} s after a host was lost")
    # so that rows are left, however long the host takes to start
    site.network.cut("two")
    site.boot("one")
    until(lambda: site.ended("one") - before, lambda: site.log("one"))
    site.network.join("two")
    lines = batch.finish()
    assert {line["worker"] for line in lines} == {"cpu@one", "cpu@two"}
    runs = {id: [run for host in WORKER_HOSTS for run in site.runs(host).get(id, ())] for id in lost}
    assert all(len(each) > 1 for each in runs.values()), runs


def test_a_host_that_is_cut_off_silently_loses_its_jobs_and_answers_none_of_them_later(
    site: Site, tmp_path: Path
) -> None:
    # few, as jobs that are back in the queue are behind the others
    batch = Batch(site, tmp_path / "batch", 20)
    _wait_until_working(site, *WORKER_HOSTS)
    cut_off = site.cut_off("two")
    took_s = _back_in_queue(site, cut_off, other="one")
    print(f"back in the queue {took_s:.1f} s after a host was cut off")
    lines = batch.finish()
    assert {line["worker"] for line in lines if line["job"] in cut_off} == {"cpu@one"}
    site.network.join("two")
    until(lambda: "this attempt's outcome is dropped" in site.log("two"), lambda: site.log("two"))
    batch.is_over(lines)
    # the same process works again, once it has found Redis, for which a batch may be too short
    assert "restarting" not in site.log("two")
    number = count()
    until(
        lambda: "cpu@two" in {line["worker"] for line in Batch(site, tmp_path / f"more-{next(number)}", 8).finish()},
        lambda: site.log("two"),
    )
    assert "restarting" not in site.log("two")


def test_a_batch_goes_on_when_the_host_of_the_master_is_lost_and_returns_as_a_replica(
    site: Site, tmp_path: Path
) -> None:
    batch = Batch(site, tmp_path / "batch", 40)
    _wait_until_working(site, *WORKER_HOSTS)
    lost = site.master
    site.lose(lost)
    print(f"another master {until(lambda: site.master != lost):.1f} s after the host was lost")
    runs = len(site.ended("one"))
    print(f"answers again {until(lambda: len(site.ended('one')) > runs + 2):.1f} s later")
    # it still takes itself for the master, while the batch goes on
    site.boot(lost)
    until(site.is_whole, lambda: "the old master does not follow the new one")
    batch.finish()
    assert site.is_replica(lost)
    assert all("restarting" not in site.log(host) for host in WORKER_HOSTS)
