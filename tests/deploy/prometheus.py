"""A real Prometheus on loopback, with the configuration and rules of deploy/prometheus."""

import json
import math
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from producer.demo.redis_server import free_port
from tests.worker_process import ROOT

FOLDER = ROOT / "deploy" / "prometheus"

#: as found on PATH; .ci/run installs Debian's package
PROMETHEUS, PROMTOOL = "prometheus", "promtool"


def promtool(*arguments: object) -> None:
    done = subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class Series:
    """One series of a query's result."""

    labels: Mapping[str, str]
    #: (seconds since the epoch, value); one of an instant query
    points: Sequence[tuple[float, float]]

    @property
    def is_number(self) -> bool:
        """Whether any value is a number: 0 / 0 is none."""
        return any(math.isfinite(value) for _, value in self.points)

    @property
    def is_more(self) -> bool:
        """Whether any value is a number, and not 0."""
        return any(math.isfinite(value) and value for _, value in self.points)


class Prometheus:
    """Scrapes `targets`, by the names of the committed jobs, every `interval`; the rest is as committed."""

    def __init__(self, folder: Path, targets: Mapping[str, Sequence[str]], key: Path, interval: str) -> None:
        folder.mkdir(parents=True)
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log = folder / "log"
        (folder / "prometheus.yml").write_text(yaml.safe_dump(_configuration(targets, key, interval)))
        self._command = [
            PROMETHEUS,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        ]

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, process_group=0)
        try:
            self._wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def _wait_ready(self, timeout_s: float = 60) -> None:
        until = time.monotonic() + timeout_s
        while True:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < until, self._log.read_text()
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=10):
                    return
            except OSError:
                time.sleep(0.05)

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def query(self, expr: str) -> list[Series]:
        """Return what the expression is now."""
        found = self.get("query", query=expr)["result"]
        return [Series(each["metric"], [_point(each["value"])]) for each in found]

    def query_range(self, expr: str, start: float, end: float, step_s: float) -> list[Series]:
        """Return what the expression was from `start` to `end`, in seconds since the epoch."""
        found = self.get("query_range", query=expr, start=start, end=end, step=step_s)["result"]
        return [Series(each["metric"], [_point(value) for value in each["values"]]) for each in found]

    def get(self, what: str, **parameters: object) -> Any:
        """Return `data` of a reply of the HTTP API."""
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as reply:
            return json.load(reply)["data"]


def _configuration(targets: Mapping[str, Sequence[str]], key: Path, interval: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    found["global"] |= {"scrape_interval": interval, "evaluation_interval": interval}
    found["rule_files"] = [str(FOLDER / name) for name in found["rule_files"]]
    for job in found["scrape_configs"]:
        for found_by in ("dns_sd_configs", "static_configs", "relabel_configs"):
            job.pop(found_by, None)
        job["static_configs"] = [{"targets": [*targets[job["job_name"]]]}]
        if job["job_name"] == "vqa-queue":
            job["authorization"] = {"credentials_file": str(key)}
    return found


def _point(value: Sequence[Any]) -> tuple[float, float]:
    return float(value[0]), float(value[1])
