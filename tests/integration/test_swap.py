"""Promotions under load: no request fails, none is answered by two models, and the new one soon answers all."""

import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from service.settings import Settings
from tests.integration.conftest import eventually, serving
from tests.integration.test_fleet import answered, fleet

REQUESTS, PROMOTIONS, CLIENTS = 10_000, 20, 8
MANY = 300  # images that go through the queue of the batcher
PATH = "/v1/models/champion/predict"
FOLLOWS = 1.0  # seconds until every process answers by a new model


@dataclass(frozen=True)
class Answer:
    status: int
    model: str
    labels: frozenset[int]
    began: float
    ended: float


def bodies() -> list[tuple[str, bytes, int]]:
    """Content type, body, and how many images it holds."""
    one = json.dumps({"images": [[0.0] * 783 + [1.0]], "scale": "unit"}).encode()
    many = np.full((MANY, 784), 9, np.uint8)
    many[:, ::7] = 200
    return [
        *([("application/json", one, 1)] * 8),
        *([("application/octet-stream", many[:16].tobytes(), 16)] * 8),
        ("application/octet-stream", many.tobytes(), MANY),
    ]


class Load:
    """Clients that ask until all is promoted, and so often at least."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._number = itertools.count()
        self.promoted = threading.Event()
        self.answers: list[Answer] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection(self._address.hostname or "", self._address.port, timeout=30)
        kinds = bodies()
        while (number := next(self._number)) < REQUESTS or not self.promoted.is_set():
            content_type, body, images = kinds[number % len(kinds)]
            began = time.monotonic()
            connection.request("POST", PATH, body, {"Content-Type": content_type})
            response = connection.getresponse()
            told = json.loads(response.read())
            predictions = told.get("predictions", [])
            assert response.status == 200, told
            assert len(predictions) == images
            labels = frozenset(each["label"] for each in predictions)
            self.answers.append(Answer(response.status, told["model"], labels, began, time.monotonic()))
        connection.close()

    def has_seen(self, model_id: str) -> bool:
        """Whether one of the newest answers is by a model."""
        return any(answer.model == model_id for answer in self.answers[-200:])


def test_ten_thousand_requests_during_twenty_promotions(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    with serving(settings_for(tmp_path)) as live, fleet(live.settings, 2) as (_, url):
        eventually(lambda: answered(url), seconds=60)
        label_of = {live.model(label).id: label for label in range(10)}
        ids = list(label_of)
        promoted: list[tuple[float, float, str]] = []  # asked, done, model

        def promote(model_id: str) -> None:
            asked = time.monotonic()
            response = live.http.put("/v1/aliases/champion", json={"model": model_id})
            assert response.status_code == 200, response.text
            promoted.append((asked, time.monotonic(), model_id))

        promote(ids[0])
        load = Load(url)
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(load.run) for _ in range(CLIENTS)]
            try:
                for number in range(1, PROMOTIONS + 1):
                    model_id = ids[number % len(ids)]
                    promote(model_id)
                    eventually(partial(load.has_seen, model_id))
            finally:
                load.promoted.set()
            for client in clients:
                client.result()

    assert len(load.answers) >= REQUESTS
    assert all(answer.labels == {label_of[answer.model]} for answer in load.answers)
    for answer in load.answers:
        # whichever was promoted last when it began, or between that and its end; or, for a moment, the one before
        earlier = [model for _, done, model in promoted if done <= answer.began - FOLLOWS][-1:]
        recent = [
            model
            for asked, done, model in promoted
            if answer.began - FOLLOWS < done and asked <= answer.ended
        ]
        assert answer.model in earlier + recent
