"""What comes in one turn of the event loop is answered together, when all of it was read: a call of numpy costs about as
much for sixteen pictures as for one. Nobody waits for others to come; a request that is alone is answered alone.

What takes long is run by the thread of `batcher`, and its answers are given in a later turn."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.api.express.quick import Pictures
from service.api.predictions import predictions
from service.api.predictions.written import Written
from service.errors import Unavailable
from service.serving.batcher import Runs, is_light, room
from service.serving.classifier import Loaded
from service.serving.inference import Floats

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Pictures for a model, and who is to have the answer: None if it has to be found the long way."""

    loaded: Loaded
    pictures: Pictures
    answer: Callable[[bytes | None], None]

    @property
    def kind(self) -> tuple[int, bool]:
        """What it has in common with those that it can be answered with."""
        return id(self.loaded), any(self.pictures.judged)


Queue = Callable[[Runs, NDArray[Any]], "Future[Floats]"]  # runs a network in a thread; may raise Overloaded


class Turn:
    """The questions of a turn that has not ended. Of one event loop."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._questions: list[Question] = []
        self._images = 0  # of all questions

    def add(self, question: Question, *, is_last: bool) -> None:
        """`is_last` where no other can come in this turn. Nor are others waited for where there is enough to be run: what
        was just read is still in a processor's cache."""
        self._questions.append(question)
        self._images += len(question.pictures.pixels)
        if is_last or self._images > room(question.loaded.network) // 2:
            self.end()
        elif len(self._questions) == 1:
            asyncio.get_running_loop().call_soon(self.end)

    def end(self) -> None:
        """Answer what there is, in the order of each kind, or have it run."""
        questions, self._questions, self._images = self._questions, [], 0
        for together in [questions] if len(questions) <= 1 else _kinds(questions):
            if together:
                self._run(together)

    def _run(self, together: Sequence[Question]) -> None:
        network = together[0].loaded.network
        try:
            pictures = together[0].pictures if len(together) == 1 else _joined(together)
            if is_light(network, len(pictures.pixels)):
                together[0].loaded.meter.ran(len(pictures.pixels))
                _answer(together, pictures, network.logits(pictures.pixels))
                return
            running = self._queue(network, pictures.pixels)
        except Exception as error:  # noqa: BLE001  the long way raises it again
            _refer(together, error)
            return
        loop = asyncio.get_running_loop()
        running.add_done_callback(
            lambda done: loop.call_soon_threadsafe(_answer_later, together, pictures, done)
        )


def _kinds(questions: Iterable[Question]) -> Iterator[list[Question]]:
    """Those of one kind, as many at a time as may be run at once."""
    open_: dict[tuple[int, bool], tuple[int, list[Question]]] = {}
    for question in questions:
        kind, count = question.kind, len(question.pictures.pixels)
        images, together = open_.get(kind, (0, []))
        if together and images + count > room(question.loaded.network):
            yield together
            images, together = 0, []
        open_[kind] = images + count, [*together, question]
    for _, together in open_.values():
        yield together


def _answer_later(together: Sequence[Question], pictures: Pictures, done: "Future[Floats]") -> None:
    error = done.exception()
    if error is None:
        _answer(together, pictures, done.result())
    else:
        _refer(together, error)


def _answer(together: Sequence[Question], pictures: Pictures, logits: Floats) -> None:
    try:
        answers = _answers(together, pictures, logits)
    except Exception as error:  # noqa: BLE001  the long way raises it again
        _refer(together, error)
        return
    for question, answer in zip(together, answers, strict=True):
        _give(question, answer)


def _answers(together: Sequence[Question], pictures: Pictures, logits: Floats) -> list[bytes]:
    """To each its own part of what is told of all pictures."""
    loaded, found, first = together[0].loaded, list[bytes](), 0
    told = written(loaded, pictures, logits)
    for question in together:
        last = first + len(question.pictures.pixels)
        found.append(predictions.answered(loaded.model, told.of(first, last)))
        first = last
    return found


def _refer(together: Sequence[Question], error: BaseException) -> None:
    """To the long way, which says what is wrong."""
    if not isinstance(error, Unavailable):
        log.error("predictions are answered the long way", exc_info=error)
    for question in together:
        _give(question, None)


def _give(question: Question, answer: bytes | None) -> None:
    try:
        question.answer(answer)
    except Exception:  # nobody else is to go without
        log.exception("a prediction could not be answered")


def _joined(together: Sequence[Question]) -> Pictures:
    parts = [question.pictures for question in together]
    return Pictures(
        np.concatenate([part.pixels for part in parts]),
        [odd for part in parts for odd in part.warnings],
        [judged for part in parts for judged in part.judged],
    )


def written(loaded: Loaded, pictures: Pictures, logits: Floats) -> Written:
    """What is told of pictures."""
    found = loaded.predicted(logits, pictures.pixels)
    return Written(found, pictures.warnings, pictures.judged)
