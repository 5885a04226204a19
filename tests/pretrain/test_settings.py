"""Values and their texts become the types of a dataclass, and what is of another type is refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from lim_gpu.errors import UsageError
from lim_gpu.pretrain.settings import build, coerce, flatten


@dataclass(frozen=True)
class Inner:
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    count: int
    name: str = "x"
    on: bool = False
    least: float | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[float, ...] = (1.0,)
    inner: Inner = field(default_factory=Inner)


def test_texts_become_what_values_are():
    texts = {"count": "3", "on": "yes", "least": "none", "pair": "(0.25, 2)", "many": "1,2,3", "inner": {"share": "1"}}
    values = {"count": 3.0, "on": True, "least": None, "pair": [0.25, 2], "many": (1, 2, 3), "inner": {"share": 1}}
    assert (
        build(Outer, texts)
        == build(Outer, values)
        == Outer(3, "x", True, None, (0.25, 2.0), (1.0, 2.0, 3.0), Inner(1.0))
    )
    assert coerce("least", "0.5", float | None) == 0.5
    assert coerce("many", 2, tuple[float, ...]) == (2.0,)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "setting count is missing"),
        ({"count": 1, "size": 2}, "setting 'size' is unknown. Give one of count, name, on"),
        ({"count": True}, "count=True is not a whole number"),
        ({"count": 1.5}, "count=1.5 is not a whole number"),
        ({"count": float("inf")}, "count=inf is not a whole number"),
        ({"count": 1, "on": 1}, "on=1 is not true or false"),
        ({"count": 1, "least": False}, "least=False is not a finite number"),
        ({"count": 1, "name": 1}, "name=1 is not a text"),
        ({"count": 1, "pair": "1"}, "pair='1' is not 2 numbers"),
        ({"count": 1, "inner": 1}, "setting inner is a group. Set inner.NAME=VALUE"),
        ({"count": 1, "inner": {"share": "much"}}, "inner.share='much' is not a finite number"),
        (
            {"count": 1, "inner": {"size": 1}},
            "setting 'inner.size' is unknown. Did you mean inner.share? Give one of inner.share",
        ),
    ],
)
def test_what_is_of_another_type_is_named(values, message):
    with pytest.raises(UsageError) as caught:
        build(Outer, values)
    assert message in str(caught.value)


def test_groups_have_dotted_names():
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": 3}}}) == {"a": 1, "b.c": 2, "b.d.e": 3}
