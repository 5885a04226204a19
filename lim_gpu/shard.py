"""One share of work that several programs do without knowing each other, as the tasks of a SLURM array."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from lim_gpu.errors import UsageError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Every `count`-th of the items, from number `number` modulo `count` on.

    So arrays may count from 0 (0/4, 1/4, 2/4, 3/4) or from 1 (1/4, 2/4, 3/4, 4/4): either is all of it, once.
    """

    number: int
    count: int

    @classmethod
    def asked(cls, text: str | tuple[int, int] | None, **whole: object) -> Shard | None:
        """None without a text. Raises UsageError as `parse`, and beside an option of `whole`, of all of the work."""
        if text is None:
            return None
        if given := [name for name, value in whole.items() if value]:
            raise UsageError(f"`shard` does a part, and `{given[0]}` is of the whole. Give it without `shard`")
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str | tuple[int, int]) -> Shard:
        """From "I/N" or (I, N), 0 <= I <= N. Raises UsageError."""
        if not isinstance(text, str):
            text = "/".join(map(str, text))
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not count or number > count:
            raise UsageError(f"`shard` {text!r} is not I/N, such as 1/4. Give 0/N to N-1/N, or 1/N to N/N")
        return cls(number, count)

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Its share of `items`, in their order."""
        return list(items[self.number % self.count :: self.count])

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
