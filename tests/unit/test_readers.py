"""Bytes that are nearly good, thrown at everything that reads foreign ones (see `tests/readers.py`)."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.presets import PRESETS
from service.spec import TrainingSpec
from tests import readers

EXAMPLES = 150
SPECS = [json.loads(one.spec.canonical_json()) for one in PRESETS.values()]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("kind", readers.ALL)
def test_good_ones_hold(kind: str) -> None:
    for data in readers.ALL[kind].good:
        readers.ALL[kind].holds(data)


@pytest.mark.parametrize("kind", readers.ALL)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_nearly_good_ones_are_read_rightly_or_refused(kind: str, data: st.DataObject) -> None:
    foreign = readers.ALL[kind]
    body = data.draw(st.sampled_from(foreign.good))
    put = st.sampled_from(foreign.tokens) | st.binary(max_size=4)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(body), 200)) | st.integers(0, len(body)))
        cut = data.draw(st.sampled_from([0, 0, 1, 1, 2, 4, 30]))
        body = body[:at] + data.draw(put) + body[at + cut :]
    foreign.holds(body)


@settings(max_examples=EXAMPLES, deadline=None)
@given(payload=ANYTHING)
def test_any_json_is_a_spec_or_is_refused_by_its_fields(payload: object) -> None:
    readers.spec(payload)


@settings(max_examples=2 * EXAMPLES, deadline=None)
@given(base=st.sampled_from(SPECS), data=st.data())
def test_a_spec_with_anything_in_a_field_is_one_or_the_field_is_named(
    base: dict[str, Any], data: st.DataObject
) -> None:
    payload = json.loads(json.dumps(base))
    where: list[str] = []
    inner = payload
    while isinstance(inner, dict) and inner and (not where or data.draw(st.booleans())):
        holder, name = inner, data.draw(st.sampled_from(sorted(inner)))
        where.append(name)
        inner = holder[name]
    other = data.draw(st.sampled_from(SPECS))
    holder[name] = data.draw(
        ANYTHING | st.sampled_from([0, 1, 0.5, 10**9, [], {}]) | st.just(other.get(name))
    )
    found = readers.spec(payload)
    assert found is None or isinstance(found, TrainingSpec)


@given(base=st.sampled_from(SPECS), name=st.text(min_size=1, max_size=8))
def test_a_field_that_there_is_not_is_named(base: dict[str, Any], name: str) -> None:
    if name not in TrainingSpec.model_fields:
        assert readers.spec(base | {name: 1}) is None
