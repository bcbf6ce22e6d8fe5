"""Metrics of candidates: their share, and how they differ from stable versions."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from service.catalog import Catalog
from service.shadow import Shadow


class VersionsState:
    """Collector of what is known of candidates. Without a candidate, no metric has a series."""

    def __init__(self, catalog: Catalog, shadow: Shadow) -> None:
        self._catalog = catalog
        self._shadow = shadow

    def collect(self) -> Iterable[Metric]:
        labels = ["model"]
        shares = GaugeMetricFamily(
            "hyperdraw_candidate_share", "Share of the clients to whom the candidate answers.", labels=labels
        )
        inputs = CounterMetricFamily(
            "hyperdraw_shadow_inputs", "Inputs that the stable version and the candidate have answered.", labels=labels
        )
        disagreements = CounterMetricFamily(
            "hyperdraw_shadow_disagreements",
            "Inputs of which stable version and candidate say different things: label, the most probable class; or the "
            "flag that only one of them raises.",
            labels=["model", "about"],
        )
        lost = CounterMetricFamily(
            "hyperdraw_shadow_lost_requests",
            "Requests not compared: dropped, too much waited already; failed, the candidate could not answer.",
            labels=["model", "reason"],
        )
        for name, served in self._catalog.served.items():
            if served.candidate is not None:
                shares.add_metric([name], served.versions.share)
        for name, comparison in self._shadow.read().items():
            inputs.add_metric([name], comparison.inputs)
            for about, count in sorted(comparison.disagreements.items()):
                disagreements.add_metric([name, about], count)
            lost.add_metric([name, "dropped"], comparison.dropped)
            lost.add_metric([name, "failed"], comparison.failed)
        return shares, inputs, disagreements, lost
