"""How many requests a minute one API key, or one client address, has left in this process.

A bucket that fills evenly and holds a minute's worth, kept as the one moment at which it will be full (the generic
cell rate algorithm). What is left is told as draft-ietf-httpapi-ratelimit-headers-10 has it."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from service.errors import TooManyRequests

WINDOW = 60.0  # seconds
POLICY = "minute"
KEPT = 10_000  # buckets, those asked last: one that is forgotten is full

Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class Share:
    """What a bucket holds after a request was taken from it: whole requests, and seconds until it is full."""

    limit: int
    left: int
    full_in: int

    @property
    def headers(self) -> list[Header]:
        return [
            (b"ratelimit-policy", b'"%s";q=%d;w=%d' % (POLICY.encode(), self.limit, WINDOW)),
            (b"ratelimit", b'"%s";r=%d;t=%d' % (POLICY.encode(), self.left, self.full_in)),
        ]


class Rates:
    """The buckets of one process, used by its event loop alone. `processes` share each limit evenly."""

    def __init__(self, processes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._processes = processes
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def is_empty(self, who: str, limit: int) -> bool:
        return self._missing(who) + WINDOW / self._share(limit) > WINDOW

    def take(self, who: str, limit: int) -> Share:
        """One request of so many a minute. Raises TooManyRequests, and then none is taken."""
        share = self._share(limit)
        missing = self._missing(who) + WINDOW / share
        if missing > WINDOW + 1e-6:
            raise RateLimited(Share(share, 0, ceil(missing - WINDOW / share)), ceil(missing - WINDOW))
        self._full_at[who] = self._clock() + missing
        self._full_at.move_to_end(who)
        if len(self._full_at) > KEPT:
            self._full_at.popitem(last=False)
        return Share(share, int((WINDOW - missing) * share / WINDOW + 1e-6), ceil(missing))

    def _missing(self, who: str) -> float:
        """Seconds until the bucket is full."""
        return max(0.0, self._full_at.get(who, 0.0) - self._clock())

    def _share(self, limit: int) -> int:
        return max(1, limit // self._processes)


class RateLimited(TooManyRequests):
    def __init__(self, share: Share, retry_after: int) -> None:
        super().__init__(
            f"over {share.limit:,} requests a minute (NUMERAL_REQUESTS_PER_MINUTE, or the limit of the API key; each "
            f"API process counts its share alone): try again in {retry_after} s",
            retry_after=retry_after,
        )
        self.share = share


@lru_cache(KEPT)
def network_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the 64 bits of an IPv6 one that a client chooses freely below."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))
