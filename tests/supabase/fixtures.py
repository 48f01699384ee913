"""Fixtures of the Supabase stack; stack.py describes what they offer.

tests/conftest.py imports them, so that all folders share one stack per test process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.provider import StandInProvider
from tests.supabase.shell import Shell
from tests.supabase.stack import Project, Stack, stack_running


@pytest.fixture(scope="session")
def stack(clean_environment: None) -> Iterator[Stack]:
    """A Postgres server with Supabase's roles."""
    with stack_running() as stack:
        yield stack


@pytest.fixture
def project(stack: Stack) -> Iterator[Project]:
    """A migrated project."""
    with stack.project("migrated") as project:
        yield project


@pytest.fixture
def seeded_project(stack: Stack) -> Iterator[Project]:
    """A migrated and seeded project."""
    with stack.project("seeded") as project:
        yield project


@pytest.fixture
def bare_project(stack: Stack) -> Iterator[Project]:
    """A project without migrations."""
    with stack.project("bare") as project:
        yield project


@pytest.fixture(scope="session")
def reading_project(stack: Stack) -> Iterator[Project]:
    """A seeded project shared by tests that only read."""
    with stack.project("seeded") as project:
        yield project


@pytest.fixture
def shell(project: Project, provider: StandInProvider, tmp_path: Path) -> Iterator[Shell]:
    """The command line of a project; fails a test in which it prints a key."""
    shell = Shell(project, provider, tmp_path)
    yield shell
    shell.check_no_key_was_printed(project.keys.secret, project.keys.publishable, provider.api_key)
