"""Random draws as pure functions: a seed for each."""

import hashlib


def derived_seed(seed: int, purpose: str, counter: int = 0) -> int:
    """A seed in [0, 2^63) for one draw: a pure function of the run's seed, what is drawn, and which time.

    Hashed rather than added, since torch's CPU generator looks at the low 32 bits of a seed only and
    neighbouring runs must not share streams."""
    text = f"{seed}/{purpose}/{counter}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
