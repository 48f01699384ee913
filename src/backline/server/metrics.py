"""The Prometheus metrics of a server.

Figures about collections are read from the database on every scrape, so they are the same on every
server and survive restarts.
"""

from __future__ import annotations

import math
import time
from collections import Counter as Counts
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from backline.types import Collection, Coverage, ModelChange

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
STATES: Final = ("embedded", "blank", "excluded", "pending", "failed", "missing")
SECONDS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("http_requests", "Requests.", "method", "route", "status")
        self.request_seconds = self._histogram(
            "http_request_seconds", "Response time of a request.", "route"
        )
        self.clients = self._gauge("websocket_clients", "Open WebSockets.")
        self.messages = self._counter("websocket_messages", "WebSocket frames.", "direction")
        self.dropped = self._counter(
            "websocket_dropped", "Clients disconnected because they read too slowly."
        )
        self.provider_seconds = self._histogram(
            "provider_seconds", "Duration of one call to the embedder.", "model", "purpose"
        )
        self.texts = self._counter(
            "texts_embedded", "Texts embedded by this server.", "model", "purpose"
        )
        self.provider_failures = self._counter(
            "provider_failures", "Failed calls to the embedder.", "model", "kind"
        )
        self.database_up = self._gauge("database_up", "1 if Postgres responds, else 0.")
        self.rows = self._gauge("rows", "Rows by state.", "collection", "state")
        self.ratio = self._gauge(
            "coverage_ratio",
            "Share of the rows with text that are embedded; NaN if no row has text.",
            "collection",
        )
        self.eta = self._gauge(
            "eta_seconds", "Time until no row remains; NaN if it is unknown.", "collection"
        )
        self.problems = self._gauge(
            "problems", "What makes the figures of a collection untrue.", "collection", "kind"
        )
        self.lag = self._gauge("lag_seconds", "Age of the oldest pending row.", "collection")
        self.rate = self._gauge("rows_per_second", "Recent rate of written rows.", "collection")
        self.failures = self._gauge("failures", "Dead letters by kind.", "collection", "kind")
        self.written = self._gauge("rows_embedded_by_runs", "Rows embedded by runs.", "collection")
        self.tokens = self._gauge("run_tokens", "Tokens sent by runs.", "collection", "model")
        self.dollars = self._gauge(
            "run_cost_dollars", "Price of the tokens sent by runs.", "collection", "model"
        )

        self.changes = self._gauge(
            "model_change", "1 for the state of an open change of the model.", "collection",
            "state", "former_model", "new_model",
        )  # fmt: skip
        self.target_rows = self._gauge(
            "model_change_rows", "Rows by state of the vectors that are not searched.",
            "collection", "role", "state",
        )  # fmt: skip
        self.target_ratio = self._gauge(
            "model_change_ratio", "Coverage of the vectors that are not searched; NaN if no row "
            "has text.", "collection", "role",
        )  # fmt: skip

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(f"backline_{name}", help_, labels, registry=self.registry)

    def _gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(f"backline_{name}", help_, labels, registry=self.registry)

    def _histogram(self, name: str, help_: str, *labels: str) -> Histogram:
        return Histogram(f"backline_{name}", help_, labels, buckets=SECONDS, registry=self.registry)

    @contextmanager
    def provider_call(self, model: str, purpose: str, texts: int) -> Iterator[None]:
        """Measure one call to an embedder, or count its failure."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            self.provider_failures.labels(model, type(error).__name__).inc()
            raise
        self.provider_seconds.labels(model, purpose).observe(time.perf_counter() - began)
        self.texts.labels(model, purpose).inc(texts)

    def set_change(self, change: ModelChange) -> None:
        """Set the state of an open change of a model."""
        labels = (change.name, change.state, change.former_model, change.new_model)
        self.changes.labels(*labels).set(1)

    def set_target(self, target: Collection, coverage: Coverage) -> None:
        """Set the gauges of a target that is not searched, under the name of its collection."""
        for state in STATES:
            rows = self.target_rows.labels(target.family, target.role, state)
            rows.set(getattr(coverage, state))
        self.target_ratio.labels(target.family, target.role).set(_or_nan(coverage.ratio))

    def set_coverage(self, collection: str, coverage: Coverage) -> None:
        """Set the gauges of a collection."""
        for state in STATES:
            self.rows.labels(collection, state).set(getattr(coverage, state))
        self.ratio.labels(collection).set(_or_nan(coverage.ratio))
        self.eta.labels(collection).set(_or_nan(coverage.eta_seconds))
        for kind, found in Counts(each.kind for each in coverage.problems).items():
            self.problems.labels(collection, kind).set(found)
        self.lag.labels(collection).set(coverage.lag_seconds)
        self.rate.labels(collection).set(coverage.rate)

    def clear_collections(self) -> None:
        """Clear the gauges of all collections, so that dropped collections disappear."""
        for gauge in (
            self.rows, self.ratio, self.eta, self.problems, self.lag, self.rate, self.failures,
            self.written, self.tokens, self.dollars, self.changes, self.target_rows,
            self.target_ratio,
        ):  # fmt: skip
            gauge.clear()

    def text(self) -> bytes:
        return generate_latest(self.registry)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
