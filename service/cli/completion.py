"""What the shell proposes after a tab: names that are known here, and ids that a server knows if one answers at once."""

from collections.abc import Iterable, Iterator

from service.client import Client, NumeralError

VIEWS = ("train", "jobs", "compare", "look", "models", "status", "docs")  # of the page
SECONDS = 1.0  # a shell that waits for longer feels broken
NEWEST = 20

Proposals = Iterator[tuple[str, str]]  # each with what it is


def presets(incomplete: str) -> Proposals:
    from service.presets import PRESETS

    return _beginning(incomplete, ((preset.name, preset.title) for preset in PRESETS.values()))


def jobs(incomplete: str) -> Proposals:
    """The newest jobs."""
    with _client() as client:
        yield from _known(
            incomplete,
            ((job.id, f"{job.state} {job.preset or ''}") for job in client.jobs.list(limit=NEWEST)),
        )


def sweeps(incomplete: str) -> Proposals:
    """The newest sweeps."""
    with _client() as client:
        yield from _known(incomplete, ((one.id, one.state) for one in client.sweeps.list(limit=NEWEST)))


def batches(incomplete: str) -> Proposals:
    """The newest batches."""
    with _client() as client:
        yield from _known(incomplete, ((one.id, one.state) for one in client.batches.list(limit=NEWEST)))


def models(incomplete: str) -> Proposals:
    """`latest`, aliases, and the newest models."""
    yield from _beginning(incomplete, [("latest", "the newest classifier")])
    with _client() as client:
        yield from _known(incomplete, ((alias.name, alias.model) for alias in client.models.aliases()))
        newest = client.models.list(limit=NEWEST)
        yield from _known(incomplete, ((model.id, f"version {model.version}") for model in newest))


def views(incomplete: str) -> Proposals:
    """Those of the page, and the newest jobs."""
    yield from _beginning(incomplete, ((view, "view") for view in VIEWS))
    yield from jobs(incomplete)


def _client() -> Client:
    return Client(patience=0, timeout=SECONDS)


def _known(incomplete: str, found: Iterable[tuple[str, str]]) -> Proposals:
    """Nothing at all when no server answers: a shell has nowhere to say why."""
    try:
        yield from _beginning(incomplete, found)
    except NumeralError:
        return


def _beginning(incomplete: str, found: Iterable[tuple[str, str]]) -> Proposals:
    return (one for one in found if one[0].startswith(incomplete))
