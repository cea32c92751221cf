"""The queries of the committed dashboard and rules."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from tests.deploy.prometheus import FOLDER
from tests.worker_process import ROOT

DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "vqa.json").read_text())
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"][0]["rules"]

#: in place of Grafana's variables
VARIABLES = {"$__rate_interval": "30s", "$lane": ".*", "$price": "2.50"}

_COMPARED = re.compile(r" (>|==) ([\d.* ]+)(?= or |$)")


@dataclass(frozen=True)
class PanelQuery:
    row: str
    panel: str
    #: A, B, ...
    ref: str
    #: as committed
    template: str
    legend: str
    unit: str

    @property
    def id(self) -> str:
        return f"{self.row}-{self.panel}-{self.ref}".replace(" ", "_")

    @property
    def expr(self) -> str:
        """With values in place of Grafana's variables."""
        found = self.template
        for name, value in VARIABLES.items():
            found = found.replace(name, value)
        return found

    @property
    def needs_a_card(self) -> bool:
        return "vqa_gpu_" in self.template and " or " not in self.template


def panel_queries() -> Iterator[PanelQuery]:
    row = ""
    for panel in DASHBOARD["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
            continue
        for target in panel["targets"]:
            unit = panel["fieldConfig"]["defaults"]["unit"]
            yield PanelQuery(row, panel["title"], target["refId"], target["expr"], target["legendFormat"], unit)


def uncompared(expr: str) -> str:
    """Return an alert's expression with the outermost comparisons as 0 or 1: data also while it does not fire."""
    found, count = _COMPARED.subn(r" \1 bool \2", expr)
    assert count, expr
    return found
