"""Metrics of quotas."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from service.operation.quotas import Quotas


class QuotasState:
    """Collector of what was refused to keys."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas

    def collect(self) -> Iterable[Metric]:
        refused = CounterMetricFamily(
            "hyperdraw_key_refused_requests",
            "Requests refused because their key had used what it may: requests, or inputs × networks, by time, or "
            "requests at the same time.",
            labels=["key", "quantity"],
        )
        for (key, quantity), count in list(self._quotas.refused.items()):
            refused.add_metric([key, quantity], count)
        fault = GaugeMetricFamily("hyperdraw_quotas_fault", "Whether the store of quotas cannot be used.")
        fault.add_metric([], self._quotas.fault is not None)
        return refused, fault
