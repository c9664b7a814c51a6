"""What the server counts, for Prometheus."""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from swinv2.serve.batcher import Batcher

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
log = logging.getLogger("swinv2.serve")


class Metrics:
    """The figures of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        model = ["model", "version"]
        self.requests = Counter(
            "swinv2_requests", "Requests answered, by protocol and status", ["protocol", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "swinv2_request_seconds", "From the last byte of a request to its answer", ["protocol"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.images = Counter("swinv2_images", "Images computed", model, registry=self.registry)
        self.batches = Counter("swinv2_batches", "Runs of a model", model, registry=self.registry)
        self.batch_seconds = Histogram(
            "swinv2_batch_seconds", "Of one run of a model", model, buckets=SECONDS, registry=self.registry
        )
        self.waiting = Gauge(
            "swinv2_waiting_images", "Images decoded, waiting or computed", model, registry=self.registry
        )
        self.workers = Gauge("swinv2_workers", "Workers that can compute", model, registry=self.registry)
        self.deaths = Counter(
            "swinv2_worker_deaths",
            "Workers that ended before they had answered",
            model,
            registry=self.registry,
        )

    def answered(self, protocol: str, status: str, seconds: float) -> None:
        """A request was answered. protocol: http or grpc; status: its code."""
        self.requests.labels(protocol, status).inc()
        self.seconds.labels(protocol).observe(seconds)

    def refused(self, protocol: str, status: str) -> None:
        """Something was refused that never became a request."""
        self.requests.labels(protocol, status).inc()

    def observer(self, model: str, version: str) -> BatchObserver:
        """Who counts the batches of one version."""
        return BatchObserver(self, model, version)

    def page(self) -> bytes:
        """All figures as text, as Prometheus reads them."""
        return generate_latest(self.registry)


class BatchObserver:
    """batcher.Observer of one version."""

    def __init__(self, metrics: Metrics, model: str, version: str):
        labels = model, version
        self._metrics, self._labels = metrics, labels
        self._images, self._batches = metrics.images.labels(*labels), metrics.batches.labels(*labels)
        self._seconds, self._deaths = metrics.batch_seconds.labels(*labels), metrics.deaths.labels(*labels)

    def batch(self, images: int, seconds: float) -> None:
        self._images.inc(images)
        self._batches.inc()
        self._seconds.observe(seconds)

    def worker_died(self) -> None:
        self._deaths.inc()
        log.warning(
            "a worker died and is started again; what it computed is computed again",
            extra={"fields": dict(zip(("model", "version"), self._labels, strict=True))},
        )

    def watch(self, batcher: Batcher) -> None:
        """Read what waits and who computes whenever somebody asks for the figures."""
        self._metrics.waiting.labels(*self._labels).set_function(lambda: batcher.waiting)
        self._metrics.workers.labels(*self._labels).set_function(lambda: batcher.alive)

    def forget(self) -> None:
        """The version was unloaded: nothing of it waits or computes any more."""
        self._metrics.waiting.remove(*self._labels)
        self._metrics.workers.remove(*self._labels)
