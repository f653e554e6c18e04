"""What comes in one turn of the event loop is answered together, when all of it was read: a call of numpy costs about as
much for sixteen pictures as for one. Nobody waits for others to come; a request that is alone is answered alone."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.api.express.quick import Pictures
from service.api.predictions import predictions
from service.batcher import is_light
from service.classifier import Loaded
from service.inference import Floats

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


class Turn:
    """The questions of a turn that has not ended. Of one event loop."""

    def __init__(self) -> None:
        self._questions: list[Question] = []

    def add(self, question: Question, *, is_last: bool) -> None:
        """`is_last` where no other can come in this turn."""
        self._questions.append(question)
        if is_last:
            self.end()
        elif len(self._questions) == 1:
            asyncio.get_running_loop().call_soon(self.end)

    def end(self) -> None:
        """Answer what there is, in the order of each kind."""
        questions, self._questions = self._questions, []
        for together in [questions] if len(questions) == 1 else _kinds(questions):
            for question, answer in zip(together, _answers(together), strict=True):
                try:
                    question.answer(answer)
                except Exception:  # nobody else is to go without
                    log.exception("a prediction could not be answered")


def _kinds(questions: Iterable[Question]) -> Iterator[list[Question]]:
    """Those of one kind, as many at a time as may be answered at once."""
    open_: dict[tuple[int, bool], tuple[int, list[Question]]] = {}
    for question in questions:
        kind, count = question.kind, len(question.pictures.pixels)
        images, together = open_.get(kind, (0, []))
        if together and not is_light(question.loaded.network, images + count):
            yield together
            images, together = 0, []
        open_[kind] = images + count, [*together, question]
    for _, together in open_.values():
        yield together


def _answers(together: Sequence[Question]) -> Sequence[bytes | None]:
    """Of questions of one kind."""
    loaded = together[0].loaded
    try:
        pictures = together[0].pictures if len(together) == 1 else _joined(together)
        told = described(loaded, pictures, loaded.network.logits(pictures.pixels))
    except Exception:
        log.exception("predictions are answered the long way")
        return [None] * len(together)
    found, first = [], 0
    for question in together:
        last = first + len(question.pictures.pixels)
        found.append(predictions.answered(loaded.model, told[first:last]))
        first = last
    return found


def _joined(together: Sequence[Question]) -> Pictures:
    parts = [question.pictures for question in together]
    return Pictures(
        np.concatenate([part.pixels for part in parts]),
        [odd for part in parts for odd in part.warnings],
        [judged for part in parts for judged in part.judged],
    )


def described(loaded: Loaded, pictures: Pictures, logits: Floats) -> list[dict[str, object]]:
    """What is told of pictures."""
    found = loaded.predicted(logits, pictures.pixels)
    return predictions.described(found, pictures.warnings, pictures.judged)
