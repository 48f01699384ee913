"""Traces by OpenTelemetry, off unless the environment names a collector."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Final

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from backline import extras

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

_tracer: Final = trace.get_tracer("backline")


def configuration() -> TelemetryConfig:
    """Return the telemetry of the application. Metrics are those of /metrics.

    Raises:
        MissingExtraError: a collector is named, and the SDK is not installed.
    """
    enabled = is_enabled()
    if enabled:
        extras.require("otel")
    return {"tracing": enabled, "metrics": False, "logs": False, "auto_configure": enabled}


def embedding(model: str, purpose: str, texts: int) -> AbstractContextManager[Span]:
    """Return a span around one call of a model; it records nothing while traces are off."""
    return _tracer.start_as_current_span(
        f"embeddings {model}",
        kind=SpanKind.CLIENT,
        attributes={
            "gen_ai.operation.name": "embeddings",
            "gen_ai.request.model": model,
            "backline.purpose": purpose,
            "backline.texts": texts,
        },
    )


def is_enabled() -> bool:
    """Return whether the environment names a collector of traces."""
    return (
        any(os.environ.get(name) for name in _ENDPOINTS)
        and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true"
        and os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "none"
    )
