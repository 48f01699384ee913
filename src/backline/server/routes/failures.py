"""Routes to list and requeue dead letters."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from backline import errors
from backline.server import reads, schemas
from backline.server.routes.responses import WITH_BODY, WITH_DATABASE, problems
from backline.server.routes.status import OptionalCollection
from backline.server.services import ADMIN, READ, TheServices

router = APIRouter(
    prefix="/api/failures", tags=["failures"], responses=problems(*WITH_DATABASE, *WITH_BODY)
)


@router.get("", dependencies=[READ])
async def failures(
    services: TheServices,
    collection: OptionalCollection = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(max_length=schemas.MAX_KEY_LENGTH)] = None,
) -> schemas.Failures:
    """Return one page of the dead letters."""
    store = services.store
    selected = await store.collection(collection) if collection else None
    page = await reads.failures_page(store, selected, _parse_cursor(after), limit)
    counted = [selected] if selected else await store.collections()
    total = sum([(await store.coverage(each)).failed for each in counted])
    return schemas.Failures(
        failures=[schemas.Failure.of(name, failure) for _, name, failure in page],
        total=total,
        next=f"{page[-1][0]}:{page[-1][2].key}" if len(page) == limit else None,
    )


def _parse_cursor(after: str | None) -> tuple[int, str]:
    """Return the collection's id and the key after which a page begins.

    Raises:
        UsageError: the cursor has another form than those that `failures` returns.
    """
    if after is None:
        return (0, "")
    number, colon, key = after.partition(":")
    if not (number.isascii() and number.isdecimal() and colon) or len(number) > 9 or "\0" in key:
        raise errors.UsageError("`after` must be the `next` of the previous page.")
    return int(number), key


@router.post("/retry", dependencies=[ADMIN])
async def retry_failures(services: TheServices, request: schemas.RetryFailures) -> schemas.Retried:
    """Requeue all dead letters or those of the given keys."""
    store = services.store
    if request.collection is None and request.keys is None:
        selected = [each for each in await store.collections() if not each.frozen]
    else:
        selected = [await store.collection(request.collection)]
    keys = None if request.keys is None else [key for key in request.keys if "\0" not in key]
    retried = sum([await store.retry_failures(each, keys) for each in selected])
    return schemas.Retried(retried=retried)
