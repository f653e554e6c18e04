"""Following a job's events over connections that break: what to ask for next, which event a line ends, and when to give
up; decisions without a clock or a socket of their own."""

import json
import math

import httpx

from service.client.errors import TimedOut, Unreachable
from service.client.requests import Request, path_of
from service.client.retries import FIRST_SECONDS, LONGEST_SECONDS
from service.client.views import Event

AWAY_SECONDS = 120.0  # how long a server may be gone while something is followed
SILENCE_SECONDS = 45.0  # a stream says something every 15
LOOK_SECONDS = 1.0  # between two looks at what has no stream
SHORTEST_READ = 0.2


class Following:
    """A job's events from the one after `last` on. None is missed and none comes twice: each has a number, and a new
    connection begins after the last one that came."""

    def __init__(self, job_id: str, last: int, now: float, timeout: float | None = None) -> None:
        self.job_id = job_id
        self.last = last
        self._has_ended = False
        self._fields: dict[str, str] = {}
        self._breaks = 0
        self._broken: float | None = None  # since when
        self._due = math.inf if timeout is None else now + timeout
        self._read = SILENCE_SECONDS

    def request(self, now: float) -> Request:
        """The next connection. Raises TimedOut."""
        self._check(now)
        self._fields = {}
        # a read cannot be ended from outside, so as the end comes near they get shorter
        self._read = min(SILENCE_SECONDS, max(SHORTEST_READ, (self._due - now) / 2))
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self.last)}
        return Request("GET", path_of("jobs", self.job_id, "events"), headers=headers)

    @property
    def read_seconds(self) -> float:
        """How long the connection that was asked for last may be silent."""
        return self._read

    def patience(self, now: float) -> float:
        """How long the server may be away, from now."""
        return max(0.0, min(AWAY_SECONDS, self._due - now))

    def take(self, line: str, now: float) -> Event | None:
        """The event that a line of the stream completes, if it does: fields up to an empty line; comments, which keep
        the connection alive, are passed over. Raises TimedOut."""
        self._check(now)
        self._broken, self._breaks = None, 0
        if line:
            name, _, value = line.partition(":")
            self._fields[name] = value.removeprefix(" ")
            return None
        fields, self._fields = self._fields, {}
        if "data" not in fields or int(fields["id"]) <= self.last:
            return None
        event = Event(seq=int(fields["id"]), type=fields["event"], data=json.loads(fields["data"]))
        self.last, self._has_ended = event.seq, event.type == "end"
        return event

    def ended(self) -> bool:
        """Whether the last event has come."""
        return self._has_ended

    def is_near(self, now: float) -> bool:
        """Whether to connect anew now, since the next read might go on for too long."""
        return self._due - now < self._read

    def broke(self, error: httpx.TransportError, now: float) -> None:
        """The connection is gone. Raises Unreachable if the server has been for too long, and TimedOut."""
        self._check(now)
        if self._broken is None:
            self._broken = now
        if now - self._broken > AWAY_SECONDS:
            raise Unreachable(f"the events of {self.job_id} broke off: {error}") from error

    def pause(self, now: float) -> float:
        """Seconds until the next connection."""
        self._breaks += 1
        pause: float = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** (self._breaks - 1))
        return max(0.0, min(pause, self._due - now))

    def _check(self, now: float) -> None:
        if now >= self._due:
            raise TimedOut(f"{self.job_id} has not ended in time; it goes on")


class Looks:
    """When to look again at something that has no stream. `now` is when it was begun."""

    def __init__(self, what: str, now: float, timeout: float | None = None) -> None:
        self._what = what
        self._due = math.inf if timeout is None else now + timeout

    def pause(self, asked: float, now: float) -> float:
        """Seconds until the next look, after one that was `asked` for then; a slow server is asked less often. Raises
        TimedOut."""
        if now >= self._due:
            raise TimedOut(f"{self._what} has not ended in time; it goes on")
        return min(max(LOOK_SECONDS, 5 * (now - asked)), self._due - now)
