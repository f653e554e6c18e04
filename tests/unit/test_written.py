"""What is written in pieces is what is described."""

import numpy as np
import orjson
import pytest

from service.api.predictions.predictions import described, encoded
from service.api.predictions.written import Written
from service.serving.confidence import predicted

WARNINGS = [(), ("blank",), (), ("low_contrast", "touches_edge"), ()]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_is_the_json_of_what_is_described(count: int) -> None:
    logits = np.random.default_rng(count).normal(0, 9, (count, 10)).astype(np.float32)
    found = predicted(logits, np.zeros((count, 784), np.uint8), None)
    warnings, judged = WARNINGS[:count], [False] * count
    assert Written(found, warnings, judged).of(0, count) == encoded(described(found, warnings, judged))


def test_each_gets_its_own_part() -> None:
    logits = np.diag(np.full(10, 30)).astype(np.float32)
    told = Written(predicted(logits, np.zeros((10, 784), np.uint8), None), [()] * 10, [False] * 10)
    for first, last in ((0, 1), (3, 7), (9, 10)):
        assert [each["label"] for each in orjson.loads(told.of(first, last))] == list(range(first, last))
