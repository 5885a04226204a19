"""How long an evaluation may take: what is compared seed by seed stops between two seeds."""

from __future__ import annotations

import time

from lim_gpu.evaluate.job import Job


class Clock:
    """Tells whether there is time for another seed. The first is always begun."""

    def __init__(self, minutes: float | None) -> None:
        self._limit = None if minutes is None else 60 * minutes
        self._start = self._begun = time.monotonic()
        self._seed, self._longest = 0, 0.0

    @property
    def limited(self) -> bool:
        """Whether there is an end."""
        return self._limit is not None

    def is_up(self, job: Job) -> bool:
        """Whether `job` begins a seed that would end too late, if it took as long as the longest before it."""
        seed = seed_of(job)
        if self._limit is None or seed <= self._seed:
            return False
        now = time.monotonic()
        self._longest = max(self._longest, now - self._begun)
        self._seed, self._begun = seed, now
        return now - self._start + self._longest > self._limit


def seed_of(job: Job) -> int:
    """That of the pre-training which a job is, or begins with, or of what chance chose for it; else 0: all need it."""
    return getattr(job.root or job, "seed", 0)
