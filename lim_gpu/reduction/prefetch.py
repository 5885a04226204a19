"""Reading ahead: threads load what will be asked for next while the work goes on.

Reading, decompressing and copying release the GIL, and so do compiled code and torch: the two overlap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ReadAhead(Generic[K, V]):
    """Values of `load(key)`, begun in the order in which they are expected and taken in it.

    load     is called in the threads; what it raises, `take` raises
    size     bytes that the value of a key takes
    limit    bytes of values that wait to be taken; a value larger than that is loaded when it is asked for
    threads  how many values are loaded at once

    Leaving the context drops what nobody took; it waits for the loads that are under way and for no other.
    """

    def __init__(self, load: Callable[[K], V], size: Callable[[K], int], limit: int, threads: int = 1) -> None:
        self._load = load
        self._size = size
        self._limit = limit
        self._expected: deque[K] = deque()
        self._waiting: deque[tuple[K, Future[V]]] = deque()
        self._held = 0  # bytes that wait
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="read-ahead")

    def __enter__(self) -> ReadAhead[K, V]:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._expected.clear()
        self._waiting.clear()

    def expect(self, keys: Iterable[K]) -> None:
        """Say what will be taken next, after what was said before."""
        self._expected.extend(keys)
        self._fill()

    def take(self, key: K) -> V:
        """The value of `key`. What was expected before it and not taken is dropped: work that failed passes it by."""
        value = self._found(key)
        self._fill()  # the threads go on while this value is waited for
        return self._load(key) if value is None else value.result()

    def _found(self, key: K) -> Future[V] | None:
        if all(key != other for other, _ in self._waiting):
            if key in self._expected:  # not yet begun
                self._drop(len(self._waiting))
                while self._expected.popleft() != key:
                    pass
            return None
        self._drop(next(i for i, (other, _) in enumerate(self._waiting) if other == key))
        _, future = self._waiting.popleft()
        self._held -= self._size(key)
        return future

    def _drop(self, count: int) -> None:
        for _ in range(count):
            key, future = self._waiting.popleft()
            future.cancel()
            self._held -= self._size(key)

    def _fill(self) -> None:
        while self._expected and self._held + self._size(self._expected[0]) <= self._limit:
            key = self._expected.popleft()
            self._held += self._size(key)
            self._waiting.append((key, self._threads.submit(self._load, key)))
