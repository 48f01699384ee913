"""Request and response models of the change of a model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, Field

from backline import model_change, types
from backline.server.schemas import Body, ModelChange, Target, portable_json

Verb = Literal["continue", "cutover", "rollback", "retire", "cancel"]
PERMITTED: Final[dict[str, list[Verb]]] = {
    "filling": ["continue", "cancel"],
    "indexing": ["continue", "cancel"],
    "ready": ["cutover", "continue", "cancel"],
    "serving": ["retire", "rollback"],
    "retiring": ["retire"],
    "cancelling": ["cancel"],
}


def storable(text: str) -> str:
    """Return the text. Raise ValueError for one that Postgres cannot store."""
    if "\0" in text or not text.isprintable():
        raise ValueError("must not hold control characters or half of a surrogate pair")
    return text


def without_nul(text: str) -> str:
    """Return a template. Raise ValueError for one that Postgres cannot store."""
    if "\0" in portable_json(text):
        raise ValueError("must not hold NUL")
    return text


Word = Annotated[str, Field(max_length=200), AfterValidator(storable)]
Template = Annotated[str, Field(max_length=10_000), AfterValidator(without_nul)]


class ChangedProperties(Body):
    """What a change makes different. What is left out stays as it is."""

    model: Word | None = Field(None, description="As --model takes it; not a folder of the server.")
    column_type: Literal["vector", "halfvec"] | None = None
    into: Word | None = Field(None, description="The side table to make for the new vectors.")
    column: Word | None = Field(
        None, description="The column to add for them. Without both, one beside the present."
    )
    text: Template | None = Field(None, description="The template of a row's text.")
    passages: types.PassageUnit | Literal["none"] | None = None
    passage_tokens: int | None = Field(None, ge=1, le=100_000)
    overlap: int = Field(0, ge=0, le=100_000)
    long_text: types.LongText | None = None

    def asked(self) -> list[str]:
        """Return the names of the properties that are given, except the model."""
        return sorted(self.model_fields_set - {"model", "yes", "despite_failures"})


class BeginModelChange(ChangedProperties):
    """A change to begin, or to continue after an interruption."""

    yes: bool = Field(default=False, description="Pay for the vectors, if they cost money.")
    despite_failures: bool = Field(
        default=False, description="Go on although rows of the new target failed."
    )


class Cutover(Body):
    """How to cut over."""

    freeze: bool = Field(
        default=False, description="Stop keeping the former vectors fresh, which saves their cost."
    )
    despite_failures: bool = Field(
        default=False, description="Go on although rows of the new target failed."
    )


class Retire(Body):
    """How to retire the former vectors."""

    keep_vectors: bool = Field(
        default=False, description="Leave the column or the side table in place."
    )


class Nothing(Body):
    """An empty body."""


class PropertyChange(BaseModel):
    name: str
    present: str
    new: str


class ModelChangePlan(BaseModel):
    """What a change will cost, and what it changes."""

    collection: str
    copies: bool = Field(description="The vectors are computed from those that are there.")
    rows: int
    texts: int = Field(description="Distinct texts to embed.")
    tokens: int
    dollars: float | None = Field(description="Null if the price is not known.")
    seconds: float | None = Field(description="Null if the time is not known.")
    time_basis: str
    bytes: int = Field(description="Of disk, until the former vectors are retired; about.")
    differences: list[PropertyChange]

    @classmethod
    def of(cls, plan: model_change.Plan) -> Self:
        preview = plan.preview
        return cls(
            collection=plan.collection, copies=plan.copies, rows=preview.rows,
            texts=0 if plan.copies else preview.unique,
            tokens=0 if plan.copies else preview.tokens, dollars=plan.dollars,
            seconds=preview.seconds, time_basis=preview.time_basis, bytes=plan.bytes,
            differences=[
                PropertyChange(name=name, present=present, new=new)
                for name, present, new in plan.differences
            ],
        )  # fmt: skip


class ModelChangeStatus(BaseModel):
    """The last change of the model of a collection."""

    collection: str
    change: ModelChange | None = Field(description="The open change, or the last one.")
    target: Target | None = Field(description="Its vectors that are not searched.")
    running: bool = Field(description="Whether this server fills the new vectors now.")
    stopped: str | None = Field(
        description="Why this server does not go on by itself; `continue` tries again."
    )
    permitted: list[Verb] = Field(description="What the state permits. Empty: begin a change.")
    models: list[str] = Field(description="Models that this server can change to.")


def state_of(change: types.ModelChange | None) -> tuple[ModelChange | None, list[Verb]]:
    """Return a change and what its state permits."""
    if change is None:
        return None, []
    return ModelChange(**asdict(change)), PERMITTED.get(change.state, [])
