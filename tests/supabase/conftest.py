"""The fixtures of the Supabase tests; what they offer is described at the top of stack.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.supabase.stack import Project, Stack, stack_running


@pytest.fixture(scope="session")
def stack(clean_environment: None) -> Iterator[Stack]:
    with stack_running() as running:
        yield running


@pytest.fixture
def project(stack: Stack) -> Iterator[Project]:
    with stack.project("migrated") as made:
        yield made


@pytest.fixture
def seeded_project(stack: Stack) -> Iterator[Project]:
    with stack.project("seeded") as made:
        yield made


@pytest.fixture
def bare_project(stack: Stack) -> Iterator[Project]:
    with stack.project("bare") as made:
        yield made


@pytest.fixture(scope="session")
def reading_project(stack: Stack) -> Iterator[Project]:
    with stack.project("seeded") as made:
        yield made
