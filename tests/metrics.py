"""Reads metrics over HTTP, as Prometheus does."""

import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

#: name, and labels as sorted pairs
Key = tuple[str, tuple[tuple[str, str], ...]]


class Scrape:
    """The samples of one scrape: `scrape.value("vqa_attempts_total", lane="bulk", outcome="answered", code="")`."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.samples: Mapping[Key, float] = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for each in families
            for sample in each.samples
        }
        #: kind and help by the name as it is declared
        self.declared = {
            each.name + ("_total" if each.type == "counter" else ""): (each.type, each.documentation)
            for each in families
        }

    @classmethod
    def of(cls, url: str, key: str | None = None) -> "Scrape":
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
        with urllib.request.urlopen(request, timeout=30) as reply:
            return cls(reply.read().decode())

    def value(self, name: str, **labels: str) -> float | None:
        """Return a sample's value; None if there is no such sample."""
        return self.samples.get((name, tuple(sorted(labels.items()))))

    def labels(self, name: str) -> list[dict[str, str]]:
        return [dict(labels) for each, labels in self.samples if each == name]

    @property
    def names(self) -> set[str]:
        """Of vqa's own metrics."""
        return {name for name in self.declared if name.startswith("vqa_")}
