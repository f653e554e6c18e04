"""What came in one turn is answered together, and each gets its own."""

import asyncio
import json
from concurrent.futures import Future
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from service.api.express.quick import Pictures
from service.api.express.turn import Question, Turn
from service.serving.batcher import LIGHT, WORTH_BATCHING, Overloaded, Runs
from service.serving.classifier import Loaded
from service.serving.inference import Floats


class First:
    """Reads an image as the place of its brightest pixel among the first ten, and notes how many it was asked at a
    time."""

    def __init__(self, cost: int = 1) -> None:
        self.cost = cost
        self.asked: list[int] = []

    def logits(self, inputs: NDArray[Any]) -> Floats:
        self.asked.append(len(inputs))
        return np.asarray(inputs[:, :10], np.float32)


class Broken(First):
    def logits(self, inputs: NDArray[Any]) -> Floats:
        raise FloatingPointError(len(inputs))


def never(_network: Runs, _pixels: NDArray[Any]) -> "Future[Floats]":
    raise AssertionError("it is light")


def loaded(network: First, name: str = "model_1") -> Loaded:
    return Loaded(cast(Any, SimpleNamespace(id=name, version=1)), network, cast(Any, None))


def of(*labels: int, warnings: tuple[str, ...] = (), is_judged: bool = False) -> Pictures:
    pixels = np.zeros((len(labels), 784), np.uint8)
    pixels[np.arange(len(labels)), list(labels)] = 9
    return Pictures(pixels, (warnings,) * len(labels), (is_judged,) * len(labels))


def told(answer: bytes | None) -> tuple[str, list[int], list[list[str]]]:
    assert answer is not None
    found = json.loads(answer)
    predictions = found["predictions"]
    return (
        found["model"],
        [each["label"] for each in predictions],
        [each["warnings"] for each in predictions],
    )


def answered(*asked: tuple[Loaded, Pictures], is_enough: bool = False) -> list[bytes | None]:
    """The answers to all of a turn's questions, in their order, none before the turn's end or the last of them that
    `is_enough`."""

    async def turned() -> list[bytes | None]:
        turn, found = Turn(never), dict[int, bytes | None]()
        for number, (model, pictures) in enumerate(asked):

            def noted(answer: bytes | None, number: int = number) -> None:
                assert number not in found
                found[number] = answer

            turn.add(Question(model, pictures, noted), is_last=False)
        assert len(found) == is_enough * len(asked)
        await asyncio.sleep(0)
        return [found[number] for number in range(len(asked))]

    return asyncio.run(turned())


def test_each_gets_its_own() -> None:
    network = First()
    model = loaded(network)
    found = answered((model, of(3)), (model, of(1, 4, 1, warnings=("blank",))), (model, of(9)))
    assert network.asked == [5]
    assert [told(each) for each in found] == [
        ("model_1", [3], [[]]),
        ("model_1", [1, 4, 1], [["blank"]] * 3),
        ("model_1", [9], [[]]),
    ]


def test_models_and_kinds_are_not_mixed() -> None:
    one, other = First(), First()
    first, second = loaded(one), loaded(other, "model_2")
    found = answered((first, of(3)), (second, of(4)), (first, of(5)), (first, of(6, is_judged=True)))
    assert [told(each)[:2] for each in found] == [
        ("model_1", [3]),
        ("model_2", [4]),
        ("model_1", [5]),
        ("model_1", [6]),
    ]
    assert (sorted(one.asked), other.asked) == ([1, 2], [1])


def test_no_more_at_a_time_than_are_light() -> None:
    network = First(cost=LIGHT // WORTH_BATCHING)
    model = loaded(network)
    few, many = [1, 2, 3], list(range(WORTH_BATCHING))
    found = answered((model, of(*few)), (model, of(*many)), is_enough=True)
    assert network.asked == [len(few), len(many)]
    assert [told(each)[1] for each in found] == [few, many]


def test_what_is_enough_to_be_run_waits_for_no_others() -> None:
    network = First(cost=LIGHT // WORTH_BATCHING)
    model, turn, found = loaded(network), Turn(never), list[bytes | None]()

    async def turned() -> None:
        for _ in range(2 * WORTH_BATCHING):
            turn.add(Question(model, of(1), found.append), is_last=False)
        assert len(found) == 15
        await asyncio.sleep(0)

    asyncio.run(turned())
    assert network.asked == [5, 5, 5, 1]
    assert len(found) == 16


def test_the_last_of_a_turn_is_not_kept_waiting() -> None:
    found: list[bytes | None] = []
    Turn(never).add(Question(loaded(First()), of(2), found.append), is_last=True)  # without a loop
    assert [told(each)[1] for each in found] == [[2]]


def test_what_fails_goes_the_long_way_and_the_others_do_not() -> None:
    whole, broken = loaded(First()), loaded(Broken(), "model_2")
    found = answered((broken, of(1)), (whole, of(2)), (broken, of(3)))
    assert [found[0], found[2]] == [None, None]
    assert told(found[1])[1] == [2]


def test_what_cannot_be_joined_goes_the_long_way() -> None:
    narrow = Pictures(np.zeros((1, 100), np.uint8), ((),), (False,))
    model = loaded(First())
    assert answered((model, of(1)), (model, narrow)) == [None, None]


def test_a_connection_that_breaks_takes_no_answer_from_others(caplog: pytest.LogCaptureFixture) -> None:
    def breaks(_answer: bytes | None) -> None:
        raise ConnectionError

    turn, found, model = Turn(never), list[bytes | None](), loaded(First())

    async def turned() -> None:
        turn.add(Question(model, of(1), breaks), is_last=False)
        turn.add(Question(model, of(2), found.append), is_last=False)
        await asyncio.sleep(0)

    asyncio.run(turned())
    assert [told(each)[1] for each in found] == [[2]]
    assert "could not be answered" in caplog.text


class Thread:
    """Runs what is queued when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Runs, NDArray[Any], Future[Floats]]] = []

    def queue(self, network: Runs, pixels: NDArray[Any]) -> "Future[Floats]":
        self.waiting.append((network, pixels, Future()))
        return self.waiting[-1][2]

    def run(self) -> None:
        for network, pixels, answer in self.waiting:
            try:
                answer.set_result(network.logits(pixels))
            except FloatingPointError as error:
                answer.set_exception(error)


@pytest.mark.parametrize("cost", [LIGHT, LIGHT + 1])  # one by itself would be light, or not
def test_what_takes_long_is_run_by_a_thread_together(cost: int) -> None:
    thread, network, broken = Thread(), First(cost), Broken(LIGHT + 1)
    slow, fails, quick = loaded(network), loaded(broken, "model_2"), loaded(First(), "model_3")
    found: dict[str, bytes | None] = {}

    async def turned() -> None:
        turn = Turn(thread.queue)
        for name, model, pictures in (
            ("one", slow, of(1)),
            ("fails", fails, of(2)),
            ("two", slow, of(2, 3)),
            ("quick", quick, of(4)),
        ):
            turn.add(Question(model, pictures, partial(found.__setitem__, name)), is_last=False)
        await asyncio.sleep(0)
        assert told(found["quick"])[1] == [4]
        assert len(found) == 1
        await asyncio.to_thread(thread.run)
        await asyncio.sleep(0)

    asyncio.run(turned())
    assert network.asked == [3]
    assert [told(found[name])[1] for name in ("one", "two")] == [[1], [2, 3]]
    assert found["fails"] is None


def test_what_finds_no_room_goes_the_long_way() -> None:
    def full(_network: Runs, _pixels: NDArray[Any]) -> "Future[Floats]":
        raise Overloaded("full")

    found: list[bytes | None] = []
    Turn(full).add(Question(loaded(First(cost=LIGHT + 1)), of(1), found.append), is_last=True)
    assert found == [None]


def test_a_turn_begins_anew() -> None:
    network = First()
    model, turn, found = loaded(network), Turn(never), list[bytes | None]()

    async def turned() -> None:
        for _ in range(3):
            turn.add(Question(model, of(1), found.append), is_last=False)
            turn.add(Question(model, of(1), found.append), is_last=False)
            await asyncio.sleep(0)

    asyncio.run(turned())
    assert network.asked == [2, 2, 2]
    assert len(found) == 6
