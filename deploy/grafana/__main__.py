"""Writes the dashboard's JSON: `python -m deploy.grafana`, or `python -m deploy.grafana FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.grafana.dashboard import dashboard_json

FILE = Path(__file__).parent / "dashboards" / "vqa.json"

if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else FILE).write_text(dashboard_json())
