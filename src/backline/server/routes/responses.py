"""Declares the error responses of the routes for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

from backline.server.problems import MEDIA_TYPE, TITLES

ALWAYS: Final = (401, 403, 429, 500)
WITH_DATABASE: Final = (404, 409, 422, 503, 504)
WITH_BODY: Final = (400, 413)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return problem responses for these statuses and for those that every route can return."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": TITLES[status],
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in sorted({*ALWAYS, *statuses})
    }
