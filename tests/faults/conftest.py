"""The service on each pair of database and broker in turn, and a fault to be told of."""

import os
import random
from collections.abc import Iterator

import pytest

from tests.faults.ledger import Fault, record
from tests.faults.stack import STACKS, Stack, started

SEEDS = int(os.environ.get("FAULT_SEEDS", "1"))  # how much is left to chance: more takes longer


@pytest.fixture(scope="session", params=STACKS)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One service for all tests of a pair."""
    with started(request.param, tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Iterator[Fault]:
    """To be told of the fault that the test injects; one that does not fire fails the test."""
    name = str(request.function.__doc__).splitlines()[0]
    found = Fault(name, request.node.name.partition("[")[2].rstrip("]") or "SQLite")
    record(request.node.user_properties, found)
    yield found
    assert found.seen, "the fault did not fire"


@pytest.fixture(params=range(SEEDS))
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random moments that can be had again."""
    return random.Random(request.param)  # noqa: S311 - moments, not secrets
