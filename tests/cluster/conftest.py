"""Real servers for these tests; each is started once, and stopped at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import services

# Before Ray is imported: it reads its settings once.
os.environ.update(services.environment())

import pytest


@pytest.fixture(scope="session")
def postgres() -> Iterator[services.Postgres]:
    server = services.Postgres()
    yield server
    server.close()


@pytest.fixture
def cluster() -> Iterator[services.Cluster]:
    """A head that lends no cores, and no other node yet."""
    nodes = services.Cluster()
    yield nodes
    nodes.close()
