"""Draws docs/dashboard.svg from a run: `python -m tests.deploy docs/dashboard.svg --seconds 150`."""

import argparse
import tempfile
import time
from pathlib import Path

from tests.deploy.picture import Drawn, line, picture
from tests.deploy.prometheus import Prometheus
from tests.deploy.queries import DASHBOARD, panel_queries
from tests.deploy.system import running_system

#: bulk jobs of each round of load, over the run
LOAD = (20, 60, 150, 400, 400, 100, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=float, default=150)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_system(Path(folder) / "run", interval="1s") as system:
        start = time.time()
        while (gone := time.time() - start) < arguments.seconds:
            system.load(LOAD[int(gone / arguments.seconds * len(LOAD))])
            time.sleep(1)
        arguments.file.write_text(draw(system.prometheus, start, time.time()))


def draw(prometheus: Prometheus, start: float, end: float) -> str:
    """Return the picture of that time."""
    queries, drawn = panel_queries(), []
    for panel in DASHBOARD["panels"]:
        own = [next(queries) for _ in panel.get("targets", ())]
        lines = [
            line(series, query.legend)
            for query in own
            for series in prometheus.query_range(query.expr.replace("[30s]", "[10s]"), start, end, 2)
        ]
        drawn.append(Drawn(panel, lines))
    return picture(drawn, start, end)


if __name__ == "__main__":
    main()
