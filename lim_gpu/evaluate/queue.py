"""Which jobs can begin: all that they need is done. For hosts, for the GPUs of one machine, and for shards."""

from __future__ import annotations

from collections.abc import Sequence

from lim_gpu.evaluate.job import Job
from lim_gpu.shard import Shard


class Queue:
    """Jobs that wait for what they need. `ready` grows by those that need wait no longer; `failed`: with the cause."""

    def __init__(self, todo: Sequence[Job]) -> None:
        self._waiting = list(todo)
        self._done: set[Job] = set()
        self.ready: list[Job] = []
        self.failed: dict[Job, str] = {}
        self._release()

    def finish(self, job: Job, error: str | None) -> list[str]:
        """Say what became of a job that was ready. Returns the errors that follow, its own first."""
        before = len(self.failed)
        if error is None:
            self._done.add(job)
        else:
            self.failed[job] = error
        self._release()
        return list(self.failed.values())[before:]

    def _release(self) -> None:
        """In order, so that what a job needs has been looked at before it."""
        waiting, self._waiting = self._waiting, []
        for job in waiting:
            missing = [needed for needed in job.needs if needed in self.failed]
            if missing:
                self.failed[job] = f"{job.folder}: needs {missing[0].folder}, which failed"
            elif self._done.issuperset(job.needs):
                self.ready.append(job)
            else:
                self._waiting.append(job)


def share_of(todo: Sequence[Job], shard: Shard) -> list[Job]:
    """Every N-th training with what it needs and what is made of it, in the order of `todo`.

    Fine-tunings without a pre-training are shared out like these. Selections may be in several shares. Analyses that
    need two pre-trainings are in none: they are left to the run that puts all together.
    """
    roots = set(shard.of([job for job in todo if job.root == job]))
    own = {job for job in todo if job.root in roots}
    own |= {needed for job in own for needed in job.needs}
    return [job for job in todo if job in own]
