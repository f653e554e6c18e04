"""Whether to try again, and when: decisions without a clock or a socket of their own."""

import random
from dataclasses import dataclass

import httpx

from service.client.errors import retry_after

FIRST_SECONDS = 0.2
LONGEST_SECONDS = 5.0
REFUSED = frozenset({429, 503})  # the server has done nothing
LOST = frozenset({502, 504})  # something between says that it got no answer: the server may have done it
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass
class Retries:
    """The tries of one request, until `deadline`; times are seconds of one monotonic clock."""

    deadline: float
    repeatable: bool = True
    tries: int = 0

    def after_answer(self, response: httpx.Response, now: float) -> float | None:
        """Seconds after which to ask again; None if this is the answer."""
        status = response.status_code
        if status not in REFUSED and not (status in LOST and self.repeatable):
            return None
        return self._pause(now, retry_after(response) or 0.0)

    def after_break(self, error: httpx.TransportError, now: float) -> float | None:
        """Seconds after which to ask again; None if nothing came, and no more is tried."""
        if not self.repeatable and not isinstance(error, UNSENT):
            return None
        return self._pause(now)

    def _pause(self, now: float, at_least: float = 0.0) -> float | None:
        """As long as the server asks for, if it does; else twice as long each time, and somewhere in the upper half of
        that, so that many clients of one server do not come back at one moment."""
        longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2**self.tries)
        pause = at_least + longest * random.uniform(0.5, 1.0)  # noqa: S311 - nothing secret
        self.tries += 1
        return pause if now + pause <= self.deadline else None
