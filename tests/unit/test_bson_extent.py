"""The ranges by which a field's extent is approached leave no date out."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from lakehouse.sources.mongodb.extent import downwards
from lakehouse.sources.mongodb.values import FIRST_MILLISECOND, LAST_MILLISECOND

times = st.integers(FIRST_MILLISECOND, LAST_MILLISECOND)


@given(times)
@example(FIRST_MILLISECOND)
@example(LAST_MILLISECOND)
@example(1763726400000)
def test_ranges_down_from_now_follow_each_other_and_cover_every_date(now: int) -> None:
    ranges = list(downwards(now))
    assert ranges[0][1] == LAST_MILLISECOND
    assert ranges[-1][0] == FIRST_MILLISECOND
    assert all(lower[1] == higher[0] - 1 for higher, lower in pairwise(ranges))
    assert all(low <= high for low, high in ranges)
    assert len(ranges) < 1000
