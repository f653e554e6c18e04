"""Threads that share a step's work."""

import threading
from collections.abc import Iterator

import pytest
import torch

from worker.crew import ALONE, MOST, Crew


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_members_work_side_by_side_with_their_own_threads() -> None:
    meeting = threading.Barrier(2, timeout=30)

    def work(member: int) -> tuple[int, int]:
        meeting.wait()  # which one after the other would never reach together
        return member, torch.get_num_threads()

    with Crew(2) as crew:
        assert crew.each(work) == [(0, 1), (1, 1)]
        assert torch.get_num_threads() == 2


def test_an_error_comes_when_all_have_ended() -> None:
    ended = threading.Event()

    def work(member: int) -> None:
        if member == 0:
            raise ValueError("of the first")
        ended.set()

    with Crew(2) as crew:
        with pytest.raises(ValueError, match="of the first"):
            crew.each(work)
        assert ended.is_set()
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            crew.each(lambda member: 1 // (1 - member))


def test_one_alone_has_all_threads() -> None:
    with ALONE as crew:
        assert crew.each(lambda member: (member, torch.get_num_threads())) == [(0, 2)]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 60_000])
def test_shares_are_even_and_complete(count: int) -> None:
    crew = Crew(3)
    shares = [crew.share(member, count) for member in range(3)]
    assert [place for share in shares for place in range(count)[share]] == list(range(count))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_a_crew_is_never_larger_than_the_interpreter_can_serve() -> None:
    assert Crew.largest().size == 2
    torch.set_num_threads(MOST + 5)
    with Crew.largest() as crew:
        assert crew.size == MOST
        assert crew.each(lambda _: torch.get_num_threads()) == [2] * MOST


def test_an_error_of_one_round_is_not_told_in_the_next() -> None:
    with Crew(2) as crew:
        with pytest.raises(ValueError, match="of 0"):
            crew.each(_failing)
        assert crew.each(lambda member: member) == [0, 1]


def _failing(member: int) -> None:
    raise ValueError(f"of {member}")
