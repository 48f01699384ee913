"""What the routes declare of their errors, so that the OpenAPI document has every answer."""

from __future__ import annotations

from typing import Any, Final

from backline.server.problems import MEDIA_TYPE, TITLES

ALWAYS: Final = (401, 403, 429, 500)
WITH_DATABASE: Final = (404, 409, 422, 503, 504)
WITH_BODY: Final = (400, 413)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These answers, and those that any request may have, as problem details."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": TITLES[status],
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in sorted({*ALWAYS, *statuses})
    }
