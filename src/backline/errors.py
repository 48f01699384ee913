"""The errors of Backline, in one tree.

The docstring of a class is its default message: what is wrong, then the remedy. If two numbers
disagree, the message gives both. `exit_code` is the exit status of the command line: 2 for usage
and configuration, 1 for work that was not finished.
"""

from __future__ import annotations

import inspect
import shlex


class BacklineError(Exception):
    """Backline could not finish the operation."""

    exit_code = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)) or "")


class ConfigurationError(BacklineError):
    """The settings contradict each other. Run the command with --help to see their meaning."""

    exit_code = 2


class MissingExtraError(ConfigurationError):
    """An optional package is not installed. Run: pip install 'backline[all]'."""


class UsageError(ConfigurationError):
    """The arguments are not valid. Run the command with --help to see what it accepts."""


class DimensionMismatchError(ConfigurationError):
    """The column and the model have different dimensions."""


class ModelMismatchError(ConfigurationError):
    """Vectors of two different models cannot be compared."""


def command(*words: object) -> str:
    """Return a call of `backline` as a shell reads it, for a remedy."""
    return shlex.join(["backline", *map(str, words)])


# --- database -------------------------------------------------------------------------------------


class DatabaseError(BacklineError):
    """Postgres refused a statement."""


class DatabaseUnavailableError(DatabaseError):
    """Postgres cannot be reached. Check the URL, and that the server is running."""

    exit_code = 2


class DatabaseAuthenticationError(DatabaseUnavailableError):
    """Postgres refused the user name or the password. Check them in the database URL."""


class ProjectPausedError(DatabaseUnavailableError):
    """The Supabase project is paused. Restore it in the dashboard, then run the command again."""


class ReadOnlyError(DatabaseError):
    """The database accepts no writes. Run the command on the primary, or allow writes to it."""

    exit_code = 2


class DatabaseFullError(DatabaseError):
    """Postgres has no disk space left. Free some, then run the same command again."""


class ContentionError(DatabaseError):
    """Another transaction held a lock for too long. Run the statement again."""


class StatementTimeoutError(DatabaseError):
    """The statement exceeded the role's statement_timeout. Smaller pages may succeed."""


class RowRefusedError(DatabaseError):
    """Postgres refuses to store a row: it violates a constraint or a trigger of the table."""


class ObjectStateError(DatabaseError):
    """The table's state forbids it. If it is published: alter table … replica identity full."""


class PermissionDeniedError(DatabaseError):
    """The database role lacks a privilege. Use the table's owner or a member of service_role."""

    exit_code = 2


class ProjectKeyError(PermissionDeniedError):
    """The Supabase project refuses the key. Copy it from the dashboard, Settings, API Keys."""


class ExtensionMissingError(ConfigurationError):
    """This Postgres has no pgvector. Install it (package postgresql-NN-pgvector), then retry."""


class NotMigratedError(ConfigurationError):
    """This database has no Backline schema yet. Run: backline migrate."""


class SchemaDamagedError(NotMigratedError):
    """Objects of schema backline are missing or changed. Run: backline migrate."""


class TableNotFoundError(ConfigurationError):
    """The table does not exist."""


class ColumnNotFoundError(ConfigurationError):
    """The table has no such column."""


class KeyMissingError(ConfigurationError):
    """The table has no key. Add a primary key, or name a unique NOT NULL column with --key."""


class CollectionNotFoundError(ConfigurationError):
    """The collection does not exist. Declare it first: backline add TABLE --text '{column} …'."""


class CollectionExistsError(ConfigurationError):
    """A collection of this name exists. To declare it again, drop it first: backline drop NAME."""


class VectorsExistError(ConfigurationError):
    """The column holds vectors. Declare it with --adopt to keep them or --overwrite."""


class ModelChangeError(ConfigurationError):
    """The state of the change of the model does not permit this. See: backline model changes."""


class NotFilledError(BacklineError):
    """Rows of the new target have no vector yet. Run: backline model change COLLECTION."""


class InputFileError(ConfigurationError):
    """The input file could not be read."""


# --- providers ------------------------------------------------------------------------------------


class EmbedderError(BacklineError):
    """The embedding provider failed."""


class ProviderUnavailableError(EmbedderError):
    """The provider does not respond, or responds with a server error. The batch may be retried.

    Attributes:
        status: the HTTP status, or None without a response.

    """

    def __init__(self, message: str | None = None, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RateLimitedError(EmbedderError):
    """The provider's rate limit is reached. The batch is deferred; no attempt is counted.

    Attributes:
        retry_after: seconds to wait, from the provider's response, or None if it has none.

    """

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InputRejectedError(EmbedderError):
    """The provider rejects at least one text of the batch. A retry of that text cannot succeed."""


class ProviderRefusedError(EmbedderError):
    """The provider refuses every request. Check the key, the credit and the name of the model."""

    exit_code = 2


class ModelNotFoundError(ConfigurationError):
    """The model does not exist. Run: backline model list."""


class WeightsError(ConfigurationError):
    """The model's weights are missing or damaged. Run: backline model pull."""


# --- runs -----------------------------------------------------------------------------------------


class RunNotFoundError(BacklineError):
    """The run does not exist. See: backline runs list."""


class RunEndedError(BacklineError):
    """The run has ended already and cannot be cancelled."""


class RunInProgressError(BacklineError):
    """Another run of this collection is in progress. Cancel it, or wait until it ends."""


# --- server ---------------------------------------------------------------------------------------


class OverloadedError(BacklineError):
    """The server is overloaded. Send the request again later."""


class UnauthorizedError(BacklineError):
    """This request needs the server's key: Authorization: Bearer KEY, or X-API-Key: KEY."""


class ForbiddenError(BacklineError):
    """The server does not accept this Host, or requests from pages of this Origin."""


class TooLargeError(BacklineError):
    """The request is larger than the server accepts. Send it in parts."""
