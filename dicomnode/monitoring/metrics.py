"""The node's figures in the text format of Prometheus.

Counts come from the ledger, where each was made together with what it counts; they are the sum over all
processes, and survive restarts and retention.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dicomnode import __version__
from dicomnode.ledger.figures import ABOVE, ANSWER_BUCKETS_S, SEPARATOR, STEP_BUCKETS_S
from dicomnode.monitoring.snapshot import SIDES, Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_DAY_S = 86_400.0

# Figure of the ledger -> name, help and labels of the counter.
_COUNTERS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "instances": ("instances_received", "Instances acknowledged and safe, by what they were.", ("kind",)),
    "refusals": ("refused", "Callers and instances turned away, by event and reason.", ("event", "reason")),
    "outcomes": ("studies_answered", "Answers to studies, by what they say.", ("outcome",)),
    "deliveries": (
        "deliveries",
        "Results sent, confirmed, tried in vain and given up, by destination.",
        ("destination", "outcome"),
    ),
    "starts": ("process_starts", "Starts of the node's processes.", ("side",)),
    "lost_workers": ("worker_restarts", "Worker processes that died or were ended while computing.", ()),
}


class Exporter(Collector):
    """The families of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """Return every family; Prometheus calls it when it is asked."""
        yield from _counters(self._snapshot)
        yield from _histograms(self._snapshot)
        yield from _queues(self._snapshot)
        yield from _destinations(self._snapshot)
        yield from _machine(self._snapshot)


def render(snapshot: Snapshot) -> bytes:
    """Return the exposition of a snapshot, as /metrics answers it."""
    registry = CollectorRegistry()
    registry.register(Exporter(snapshot))
    return generate_latest(registry)


def _counters(snapshot: Snapshot) -> Iterator[Metric]:
    for figure, (name, words, labels) in _COUNTERS.items():
        family = CounterMetricFamily(f"dicomnode_{name}", words, labels=labels)
        for label, value in sorted(_with_zeros(snapshot, figure).items()):
            family.add_metric(_split(label, len(labels)), value)
        yield family


def _with_zeros(snapshot: Snapshot, figure: str) -> dict[str, float]:
    """Return a figure's values, with zeros for what has not happened yet.

    Rates then begin with the first event.
    """
    expected: dict[str, tuple[str, ...]] = {
        "instances": ("new", "duplicate", "conflict"),
        "outcomes": ("lesions", "negative", "undetermined", "refused", "failed", "excluded"),
        "deliveries": tuple(
            f"{name}{SEPARATOR}{outcome}"
            for name in snapshot.destinations
            for outcome in ("sent", "confirmed", "failed_try", "given_up")
        ),
        "starts": SIDES,
        "lost_workers": ("",),
    }
    return {**dict.fromkeys(expected.get(figure, ()), 0.0), **snapshot.figures.get(figure, {})}


def _split(label: str, count: int) -> list[str]:
    """Return the values of a label; the last one may hold the separator."""
    return label.split(SEPARATOR, count - 1) if count else []


def _histograms(snapshot: Snapshot) -> Iterator[Metric]:
    for figure, label_name, bounds, words in (
        ("step_seconds", "step", STEP_BUCKETS_S, "Seconds that a step of the pipeline took."),
        ("answer_seconds", "outcome", ANSWER_BUCKETS_S, "Seconds from a study's last image to its answer."),
    ):
        family = HistogramMetricFamily(f"dicomnode_{figure}", words, labels=[label_name])
        counts = snapshot.figures.get(f"{figure}_bucket", {})
        for label, total in sorted(snapshot.figures.get(f"{figure}_sum", {}).items()):
            buckets, cumulated = list[tuple[str, float]](), 0.0
            for upper in (*(f"{bound:g}" for bound in bounds), ABOVE):
                cumulated += counts.get(f"{label}{SEPARATOR}{upper}", 0.0)
                buckets.append((upper, cumulated))
            family.add_metric([label], buckets=buckets, sum_value=total)
        yield family


def _gauge(name: str, words: str, values: Mapping[str, float], label_name: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"dicomnode_{name}", words, labels=[label_name])
    for label, value in sorted(values.items()):
        family.add_metric([label], value)
    return family


def _queues(snapshot: Snapshot) -> Iterator[Metric]:
    health = snapshot.health
    yield _gauge("jobs", "Studies by the state of their answers.", health.jobs, "state")
    yield _gauge("delivery_queue", "Deliveries by state.", health.deliveries, "state")
    since = {
        "waiting": health.oldest_waiting_since,
        "ready": health.oldest_ready_since,
        "undelivered": health.oldest_undelivered_since,
    }
    ages = {name: 0.0 if at is None else max(0.0, snapshot.now - at) for name, at in since.items()}
    yield _gauge("oldest_seconds", "Seconds that the oldest study of each kind waits.", ages, "kind")
    yield GaugeMetricFamily(
        "dicomnode_open_studies", "Studies that wait for an answer.", snapshot.open_studies
    )
    yield GaugeMetricFamily(
        "dicomnode_open_studies_limit",
        "network.maximum_open_studies: with more, senders are refused for the moment.",
        snapshot.maximum_open_studies,
    )
    yield GaugeMetricFamily(
        "dicomnode_unreadable_instances",
        "Instances that can be of no study, kept and not answered.",
        health.without_study,
    )


def _destinations(snapshot: Snapshot) -> Iterator[Metric]:
    failing = {line.destination: line for line in snapshot.failing}
    waits = {
        name: snapshot.now - failing[name].failing_since if name in failing and failing[name].is_down else 0.0
        for name in snapshot.destinations
    }
    yield _gauge(
        "destination_down_seconds",
        "Seconds since which a destination has taken nothing of what is due; 0: it takes.",
        waits,
        "destination",
    )


def _machine(snapshot: Snapshot) -> Iterator[Metric]:
    info = GaugeMetricFamily("dicomnode_build_info", "The version of the node.", labels=["version"])
    info.add_metric([__version__], 1)
    yield info
    silences = {side: snapshot.silent_s(side) for side in SIDES}
    yield _gauge(
        "process_silent_seconds",
        "Seconds since a process last gave a sign of life; it gives one every 10.",
        {side: silent_s for side, silent_s in silences.items() if silent_s is not None},
        "side",
    )
    days = {setting: left for setting, left in snapshot.certificates.items() if left is not None}
    yield _gauge(
        "certificate_expires_seconds",
        "Seconds that a certificate of ours is good yet.",
        {setting: left * _DAY_S for setting, left in days.items()},
        "setting",
    )
    if snapshot.disk is not None:
        disk = snapshot.disk
        values = {"free": disk.free_bytes, "total": disk.total_bytes, "minimum_free": disk.minimum_free_bytes}
        yield _gauge(
            "disk_bytes", "The disk of storage.root; below minimum_free nothing is taken.", values, "kind"
        )
