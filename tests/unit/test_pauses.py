"""What is tried again is tried after a pause that nobody can foresee, a bounded number of times."""

from __future__ import annotations

import pytest

from lakehouse import pauses
from lakehouse.errors import CommitConflict
from lakehouse.pipeline.attempts import ATTEMPTS, until_won


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made; no time passes in them."""
    found: list[float] = []
    monkeypatch.setattr(pauses, "sleep", found.append)
    return found


def test_pauses_are_random_grow_and_have_a_bound(waited: list[float]) -> None:
    for failed in range(1, 12):
        for _ in range(200):
            pauses.pause(failed)
    rounds = [waited[start : start + 200] for start in range(0, len(waited), 200)]
    for failed, found in enumerate(rounds, start=1):
        bound = min(2.0, 0.05 * 2 ** (failed - 1))
        assert all(0 <= seconds <= bound for seconds in found)
        assert max(found) > bound / 2, "two hundred of them are spread over the whole span"
        assert len(set(found)) > 100


def test_a_commit_that_always_loses_is_given_up_and_one_that_wins_does_not_wait(waited: list[float]) -> None:
    lost = CommitConflict("committing", value="another", remedy="Run it again.")

    def loses() -> None:
        raise lost

    with pytest.raises(CommitConflict):
        until_won(loses)
    assert len(waited) == ATTEMPTS - 1
    waited.clear()
    assert until_won(lambda: 5) == 5
    assert waited == []
