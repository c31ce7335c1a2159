"""Who lives in the example application and when: the plan of a load, its users, and the rhythm of their days."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property

import numpy as np
import pyarrow as pa

from lakehouse.demo.columns import DAY, HOUR, MINUTE, Floats, Ints, Rng, microseconds, stream, tokens, weights

# Share of a day's events in each hour (UTC): quiet nights, a morning and an evening peak.
_HOURS = weights([18, 12, 9, 7, 7, 10, 18, 32, 52, 68, 74, 70, 62, 66, 72, 74, 70, 64, 60, 66, 70, 62, 46, 30])
_WEEKDAYS = (1.0, 1.06, 1.08, 1.04, 0.96, 0.62, 0.55)
_GROWTH = 0.35
_HISTORY_DAYS = 30
_NEWCOMERS = 0.3
_ZIPF = 0.9
_STAY_DAYS = 25.0
_GONE = 0.03


@dataclass(frozen=True)
class Plan:
    """The parameters of a load; equal plans give equal bytes.

    days: UTC days before `until` (which is the first day without data). api_logs: their number, by default in proportion.
    """

    days: int
    users: int
    until: date
    seed: int
    api_logs: int | None = None

    @property
    def first_day(self) -> date:
        """The first UTC day with data."""
        return self.until - timedelta(days=self.days)

    @property
    def end(self) -> int:
        """Midnight after the last day, in microseconds since 1970."""
        return microseconds(self.until)

    def total(self, per_user_day: float) -> int:
        """Events in all, for so many a user and day."""
        return max(round(per_user_day * self.users * self.days), self.days)


class World:
    """The users of a plan, oldest first, and how much each does on a day."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        rng = stream(plan.seed, "world")
        start = microseconds(plan.first_day)
        new = round(plan.users * _NEWCOMERS)
        before = start - (rng.random(plan.users - new) ** 1.4 * _HISTORY_DAYS * DAY).astype(np.int64) - MINUTE
        during = start + (rng.random(new) ** 0.85 * plan.days * DAY).astype(np.int64)
        self.created: Ints = np.sort(np.concatenate([before, during]))
        self.clerk_ids: pa.Array = tokens(rng, plan.users, "user_")
        rank = rng.permutation(plan.users) + 1.0
        self._zipf: Floats = np.asarray(rank**-_ZIPF, dtype=np.float64)
        stay = rng.exponential(_STAY_DAYS, plan.users) * (1.0 + 20.0 * self._zipf)
        self._leaves: Ints = self.created + (stay * DAY).astype(np.int64)
        self.prefers_openai = rng.random(plan.users) < 0.45

    @cached_property
    def day_weights(self) -> Floats:
        """The share of each day in all events: weekends are quiet, and the application grows."""
        days = [self.plan.first_day + timedelta(days=n) for n in range(self.plan.days)]
        growth = 1.0 + _GROWTH * np.arange(len(days)) / max(len(days), 14)
        return weights(growth * np.array([_WEEKDAYS[day.weekday()] for day in days]))

    def count_on(self, number: int, total: int) -> int:
        """How many of `total` events fall on day `number` (from 0)."""
        edges = np.round(np.concatenate([[0.0], np.cumsum(self.day_weights)]) * total).astype(np.int64)
        return int(edges[number + 1] - edges[number])

    def day_start(self, number: int) -> int:
        """The beginning of day `number`, in microseconds since 1970."""
        return microseconds(self.plan.first_day + timedelta(days=number))

    def active_users(self, rng: Rng, rows: int, low: int, high: int) -> Ints:
        """`rows` picks among the users who have signed up before `high`: heavy ones often, those who left seldom."""
        known = int(np.searchsorted(self.created, high))
        leaning = self._zipf[:known] * np.where(self._leaves[:known] < low, _GONE, 1.0)
        return rng.choice(known, rows, p=weights(leaning.tolist())).astype(np.int64)

    def moments(self, rng: Rng, users: Ints, low: int, high: int) -> Ints:
        """A moment in `[low, high)` for each event, by the rhythm of the day, never before its user signed up."""
        hours = np.arange(low, high, HOUR, dtype=np.int64)
        chances = weights(_HOURS[(hours % DAY) // HOUR].tolist())
        us = hours[rng.choice(len(hours), len(users), p=chances)] + rng.integers(0, HOUR, len(users))
        born = self.created[users]
        later = born + (rng.random(len(users)) * (high - 1 - born)).astype(np.int64)
        return np.where(us < born, later, us)

    def events(self, rng: Rng, rows: int, low: int, high: int) -> tuple[Ints, Ints]:
        """Users and moments of `rows` events in `[low, high)`, in the order of time."""
        users = self.active_users(rng, rows, low, high)
        us = self.moments(rng, users, low, high)
        order = np.argsort(us, kind="stable")
        return users[order], us[order]

    def hourly(self, total: int, start: int) -> int:
        """Events to expect in the hour that begins at `start`, when the last day saw its share of `total`."""
        last_day = total * float(self.day_weights[-1])
        return max(1, round(last_day * float(_HOURS[(start % DAY) // HOUR])))
