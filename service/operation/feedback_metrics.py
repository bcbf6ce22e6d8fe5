"""Metrics of feedback."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from service.catalog import Catalog
from service.feedback import Feedback


class FeedbackState:
    """Collector of what is kept, and of what the labels said when they were last measured. Without feedback, no metric
    has a series."""

    def __init__(self, catalog: Catalog, feedback: Feedback | None) -> None:
        self._catalog = catalog
        self._feedback = feedback

    def collect(self) -> Iterable[Metric]:
        kept = CounterMetricFamily("hyperdraw_feedback_answers", "Answers kept for their labels.", labels=["model"])
        dropped = CounterMetricFamily(
            "hyperdraw_feedback_dropped_answers",
            "Answers that are not kept, or not any more: queue, too many wait to be written; store, it cannot be used; "
            "space, it holds as many as it may.",
            labels=["reason"],
        )
        faults = GaugeMetricFamily("hyperdraw_feedback_fault", "Whether the feedback store cannot be used.")
        labels = GaugeMetricFamily("hyperdraw_feedback_labels", "Labels behind the measures.", labels=["model"])
        accuracy = GaugeMetricFamily("hyperdraw_feedback_accuracy", "Share of right answers.", labels=["model"])
        coverage = GaugeMetricFamily(
            "hyperdraw_feedback_coverage",
            "Share of prediction sets or intervals that contain what they promise to.",
            labels=["model", "promised"],
        )
        alarm = GaugeMetricFamily(
            "hyperdraw_feedback_coverage_alarm", "Whether some coverage is below its promise.", labels=["model"]
        )
        if (feedback := self._feedback) is not None:
            faults.add_metric([], feedback.fault is not None)
            for name, count in list(feedback.kept.items()):
                kept.add_metric([name], count)
            for reason in ("queue", "store", "space"):
                dropped.add_metric([reason], feedback.dropped[reason])
            for model in list(self._catalog.predictors):
                if (measures := feedback.measures.get((model.name, model.version))) is None:
                    continue
                labels.add_metric([model.name], measures.labels)
                alarm.add_metric([model.name], measures.alarm)
                if measures.accuracy:
                    accuracy.add_metric([model.name], measures.accuracy.share)
                for each in measures.coverages:
                    coverage.add_metric([model.name, f"{each.promised:g}"], each.observed.share)
        return kept, dropped, faults, labels, accuracy, coverage, alarm
