"""Routes that change the model of a collection while it is searched."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi import Path as PathParameter

from backline import errors, model_change, wiring
from backline.embedders import registry
from backline.model_change import NewTarget
from backline.server import change_schemas, handlers
from backline.server.embedder_pool import name_of
from backline.server.routes.responses import WITH_BODY, WITH_DATABASE, problems
from backline.server.services import ADMIN, READ, Services, TheServices
from backline.types import Collection, Model, ModelChange

# A name may have slashes.
ROUTE = "/api/collections/{name:path}/model-change"
router = APIRouter(tags=["model change"], responses=problems(*WITH_DATABASE, *WITH_BODY, 502))

Name = Annotated[str, PathParameter(max_length=200)]


@router.get(ROUTE, dependencies=[READ])
async def state(services: TheServices, name: Name) -> change_schemas.ModelChangeStatus:
    """Return the open change of the model, or the last one."""
    return await _status(services, await _family(services, name))


@router.post(ROUTE + "/plan", dependencies=[ADMIN])
async def plan(
    services: TheServices, name: Name, request: change_schemas.ChangedProperties
) -> change_schemas.ModelChangePlan:
    """Return what a change will cost. Reads all texts, and changes nothing."""
    collection = await services.store.collection(await _family(services, name))
    target = await _target(services, collection, request)
    return change_schemas.ModelChangePlan.of(await services.model_changes.plan(collection, target))


@router.post(ROUTE, dependencies=[ADMIN], status_code=202)
async def begin(
    services: TheServices, name: Name, request: change_schemas.BeginModelChange
) -> change_schemas.ModelChangeStatus:
    """Fill vectors of another model beside the present ones, or go on with that.

    If the vectors cost money, the answer is 422 with the price, unless `yes` is true.
    """
    family = await _family(services, name)
    change = await model_change.find(services.store, family)
    if change is None:
        collection = await services.store.collection(family)
        target = await _target(services, collection, request)
        await services.model_changes.begin(collection, target, paid=request.yes)
        change = await _open(services, family)
    else:
        model = None if request.model is None else await _model(services, request.model)
        await model_change.require_same(services.store, change, model, request.asked())
    services.model_changes.go_on(change, despite_failures=request.despite_failures)
    return await _status(services, family)


@router.post(ROUTE + "/cutover", dependencies=[ADMIN])
async def cutover(
    services: TheServices, name: Name, request: change_schemas.Cutover
) -> change_schemas.ModelChangeStatus:
    """Search the new vectors from now on. Searches that have begun end with the former ones."""
    family = await _family(services, name)
    await model_change.cutover(
        services.store, family, despite_failures=request.despite_failures, freeze=request.freeze
    )
    return await _status(services, family)


@router.post(ROUTE + "/rollback", dependencies=[ADMIN])
async def rollback(
    services: TheServices, name: Name, _: change_schemas.Nothing
) -> change_schemas.ModelChangeStatus:
    """Search the former vectors again.

    If they were frozen, every row is then read to find the edits of the meantime.
    """
    family = await _family(services, name)
    await model_change.rollback(services.store, family)
    services.model_changes.reconcile(family)
    return await _status(services, family)


@router.post(ROUTE + "/retire", dependencies=[ADMIN])
async def retire(
    services: TheServices, name: Name, request: change_schemas.Retire
) -> change_schemas.ModelChangeStatus:
    """Drop the former vectors, which ends the change."""
    family = await _family(services, name)
    await model_change.discard(
        services.store, family, retire=True, keep_vectors=request.keep_vectors
    )
    return await _status(services, family)


@router.post(ROUTE + "/cancel", dependencies=[ADMIN])
async def cancel(
    services: TheServices, name: Name, _: change_schemas.Nothing
) -> change_schemas.ModelChangeStatus:
    """Drop the new vectors before they serve, which ends the change."""
    family = await _family(services, name)
    change = await _open(services, family)
    if "cancel" in change_schemas.PERMITTED.get(change.state, []):
        await services.model_changes.stop(family)
    await model_change.discard(services.store, family, retire=False)
    return await _status(services, family)


async def _family(services: Services, name: str) -> str:
    """Return the name of the collection that `name`, or a target of that name, belongs to."""
    return (await services.store.collection(name)).family


async def _open(services: Services, family: str) -> ModelChange:
    change = await model_change.find(services.store, family)
    if change is None:
        raise errors.ModelChangeError(f"No change of the model of {family!r} is open.")
    return change


async def _model(services: Services, spec: str) -> Model:
    if spec.strip().startswith("local:"):
        raise errors.UsageError(
            "A folder of weights is not accepted over HTTP. Name it on the command line: "
            f"{errors.command('model', 'change', 'COLLECTION', '--to', spec)}."
        )
    return await wiring.resolve_model(services.settings, spec)


async def _target(
    services: Services, collection: Collection, request: change_schemas.ChangedProperties
) -> NewTarget:
    model = collection.model
    if request.model is not None:
        model = await _model(services, request.model)
    return model_change.new_target_of(
        collection, model, (request.passages, request.passage_tokens, request.overlap),
        column_type=request.column_type, into=request.into, column=request.column,
        template=request.text, long_text=request.long_text,
    )  # fmt: skip


async def _status(services: Services, family: str) -> change_schemas.ModelChangeStatus:
    records = await services.store.changes(family)
    record = records[0] if records else None
    collections = await services.store.collections()
    others = [each for each in collections if each.family == family and each.role != "serving"]
    change, permitted = change_schemas.state_of(record)
    return change_schemas.ModelChangeStatus(
        collection=family,
        change=change,
        target=await handlers.target(services, others[0]) if others else None,
        running=services.model_changes.running(family),
        stopped=record and services.model_changes.why_stopped(record),
        permitted=permitted,
        models=await _models(services, [each.model for each in collections]),
    )


async def _models(services: Services, used: list[Model]) -> list[str]:
    """Return the models that this server can open without a download."""
    found = {name_of(model) for model in await services.embedder_pool.available(used)}
    found |= {
        f"{entry.provider}/{entry.name}"
        for entry in registry.models()
        if entry.provider is not None
        and registry.provider(entry.provider) is not None
        and services.settings.reaches(entry.provider)
    }
    return sorted(found)
