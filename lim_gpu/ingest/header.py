"""The elements of a header as text and numbers, each converted once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from lim_gpu.ingest.elements import ELEMENTS, Element, plain_texts
from lim_gpu.ingest.records import SourceError

Value = TypeVar("Value")


class Header(Protocol):
    """The elements of a data set that are read, by keyword."""

    def __contains__(self, keyword: str, /) -> bool: ...

    def texts(self, keyword: str, /) -> list[str]:
        """All values of an element as text; none of one that is not there."""

    def items(self, keyword: str, /) -> list[Header]:
        """The items of a sequence; none of one that is not there."""


class PlainHeader:
    """The elements that a walk has found; of `parsed`, all of it as pydicom reads it, only what is not plain."""

    def __init__(self, elements: Mapping[int, Element], parsed: Callable[[], Header]) -> None:
        self._elements = elements
        self._parsed = parsed

    def __contains__(self, keyword: str) -> bool:
        return ELEMENTS[keyword][0] in self._elements

    def texts(self, keyword: str) -> list[str]:
        """All values of an element as text."""
        element = self._elements.get(ELEMENTS[keyword][0])
        plain = () if element is None else plain_texts(*element)
        return self._parsed().texts(keyword) if plain is None else list(plain)

    def items(self, keyword: str) -> list[Header]:
        """The items of a sequence."""
        return self._parsed().items(keyword) if keyword in self else []


class NoHeader:
    """Where a functional group is missing: none of its elements is there."""

    def __contains__(self, _keyword: str) -> bool:
        return False

    def texts(self, _keyword: str) -> list[str]:
        """No value."""
        return []

    def items(self, _keyword: str) -> list[Header]:
        """No item."""
        return []


def texts(header: Header, keyword: str) -> list[str]:
    """All values of an element as text; none when it is absent or empty."""
    return header.texts(keyword)


def text(header: Header, keyword: str) -> str:
    """The first value of an element as text, "" when there is none."""
    return next(iter(texts(header, keyword)), "")


def numbers(header: Header, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers, or None when the element is absent or empty."""
    if not (values := texts(header, keyword)):
        return None
    if len(values) != count:
        raise SourceError(f"unusable {keyword}", f"{len(values)} values where {count} belong")
    try:
        result = tuple(float(v) for v in values)
    except ValueError:
        raise SourceError(f"unusable {keyword}", "not a number") from None
    if not all(math.isfinite(v) for v in result):
        raise SourceError(f"unusable {keyword}", "not a finite number")
    return result


def number(header: Header, keyword: str) -> float | None:
    """One finite number, or None."""
    values = numbers(header, keyword, 1)
    return values[0] if values else None


def whole(header: Header, keyword: str) -> int | None:
    """One integer, or None."""
    value = number(header, keyword)
    if value is not None and value != int(value):
        raise SourceError(f"unusable {keyword}", "not a whole number")
    return None if value is None else int(value)


def if_usable(read: Callable[[Header, str], Value | None], header: Header, keyword: str) -> Value | None:
    """An element that only describes: None where it is missing or wrong."""
    try:
        return read(header, keyword)
    except SourceError:
        return None


def required(header: Header, keyword: str) -> int:
    """One integer that must be there."""
    if (value := whole(header, keyword)) is None:
        raise SourceError(f"no {keyword}")
    return value
