"""Every error that Backline raises on purpose, in one tree.

The docstring of a class is its default message. A message says what is wrong, gives both numbers
where two disagree, and names the remedy. `exit_code` is what the command line ends with: 2 for
usage and configuration, 1 for work that fell short.
"""

from __future__ import annotations

import inspect


class BacklineError(Exception):
    """Backline could not do what was asked."""

    exit_code = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)) or "")


class ConfigurationError(BacklineError):
    """The settings do not fit together. Run the command with --help for what each one means."""

    exit_code = 2


class MissingExtraError(ConfigurationError):
    """A part of Backline that this needs is not installed. Run: pip install 'backline[all]'."""


class UsageError(ConfigurationError):
    """The command was called with arguments that make no sense together."""


class DimensionMismatchError(ConfigurationError):
    """The column and the model disagree on the number of dimensions."""


class ModelMismatchError(ConfigurationError):
    """Vectors of two different models cannot be compared."""


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


class DatabaseFullError(DatabaseError):
    """Postgres has no disk space left. Free some, then run the same command again."""


class ContentionError(DatabaseError):
    """Another transaction was in the way for too long. The same statement may be tried again."""


class StatementTimeoutError(DatabaseError):
    """The statement ran into the role's statement_timeout. Smaller pages may pass."""


class RowRefusedError(DatabaseError):
    """Postgres refuses to store a row: a constraint or a trigger of the table forbids it."""


class PermissionDeniedError(DatabaseError):
    """The database role may not do this. Use a role that owns the table or is in service_role."""

    exit_code = 2


class ProjectKeyError(PermissionDeniedError):
    """The Supabase project refuses the key. Copy it anew from the dashboard, Settings, API Keys."""


class ExtensionMissingError(ConfigurationError):
    """This Postgres has no pgvector. Install it (package postgresql-NN-pgvector), then retry."""


class NotMigratedError(ConfigurationError):
    """This database has no Backline schema yet. Run: backline migrate."""


class TableNotFoundError(ConfigurationError):
    """There is no such table."""


class ColumnNotFoundError(ConfigurationError):
    """The table has no such column."""


class KeyMissingError(ConfigurationError):
    """The table has no key. Add a primary key, or name a unique NOT NULL column with --key."""


class CollectionNotFoundError(ConfigurationError):
    """There is no such collection. Declare it first: backline add TABLE --text '{column} …'."""


class CollectionExistsError(ConfigurationError):
    """This table already is a collection. Run backline drop first to declare it anew."""


class InputFileError(ConfigurationError):
    """The input file could not be read."""


# --- providers ------------------------------------------------------------------------------------


class EmbedderError(BacklineError):
    """The embedding provider failed."""


class ProviderUnavailableError(EmbedderError):
    """The provider does not answer, or answers with a server error. The batch may be retried.

    Attributes:
        status: the HTTP status, or None where there was no answer at all.

    """

    def __init__(self, message: str | None = None, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RateLimitedError(EmbedderError):
    """The provider asks to slow down. A deferral, not a failure: no attempt is counted.

    Attributes:
        retry_after: seconds to wait that the provider named, or None where it named none.

    """

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InputRejectedError(EmbedderError):
    """The provider rejects at least one text of the batch. Retrying the same text cannot help."""


class ProviderRefusedError(EmbedderError):
    """The provider refuses every request: wrong key, no credit, or unknown model."""

    exit_code = 2


class ModelNotFoundError(ConfigurationError):
    """There is no such model. Run: backline model list."""


class WeightsError(ConfigurationError):
    """The model's weights are missing or damaged. Run: backline model pull."""


# --- work -----------------------------------------------------------------------------------------


class RunNotFoundError(BacklineError):
    """There is no such run. See: backline runs list."""


class RunEndedError(BacklineError):
    """The run has ended already; there is nothing to cancel."""


class RunInProgressError(BacklineError):
    """A run of this collection is under way. Cancel it first, or wait for its end."""


# --- server ---------------------------------------------------------------------------------------


class OverloadedError(BacklineError):
    """The server has more work than it can take at this moment. Send the request again later."""


class UnauthorizedError(BacklineError):
    """This needs the server's key: Authorization: Bearer KEY, or X-API-Key: KEY."""


class ForbiddenError(BacklineError):
    """The server does not answer to this name, or not to pages of this origin."""


class TooLargeError(BacklineError):
    """The request is larger than the server takes. Send it in parts."""
