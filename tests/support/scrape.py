"""Figures of a node, read as Prometheus reads them."""

from __future__ import annotations

import urllib.request

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

_SECONDS_MAX = 60.0


class Scrape:
    """Families that were read, by sample."""

    def __init__(self, found: list[Metric]) -> None:
        self.types = {family.name: family.type for family in found}
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in found
            for sample in family.samples
        }

    def __call__(self, name: str, /, **labels: str) -> float:
        """The one sample that has these labels, and maybe others."""
        values = [
            value
            for (its, have), value in self.samples.items()
            if its == f"vstorage_{name}" and labels.items() <= dict(have).items()
        ]
        assert len(values) == 1, (name, labels, values)
        return values[0]

    def names(self) -> set[str]:
        """What can be asked for."""
        return {name for name, _ in self.samples}


def scrape(port: int, path: str = "/metrics") -> Scrape:
    """Ask a server, as Prometheus does."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=_SECONDS_MAX) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return Scrape(list(text_string_to_metric_families(answer.read().decode())))
