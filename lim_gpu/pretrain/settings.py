"""Settings by name, as values or as their texts, brought to the types of a dataclass. Knows no setting itself."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from lim_gpu.errors import UsageError, unknown

WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def flatten(overrides: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names: {"swav": {"queue": 0}} as {"swav.queue": 0}."""
    flat: dict[str, Any] = {}
    for name, value in overrides.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def build(cls: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """A dataclass of `values`, every one brought to the type of its field. Raises UsageError for unknown names too."""
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}
    if wrong := sorted(set(values) - set(known)):
        raise unknown("setting", prefix + wrong[0], [prefix + name for name in known])
    missing = [n for n, f in known.items() if n not in values and f.default is f.default_factory is MISSING]
    if missing:
        raise UsageError(f"setting {prefix}{missing[0]} is missing. Give it")
    built = {}
    for name, value in values.items():
        hint = hints[name]
        if is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise UsageError(f"setting {prefix}{name} is a group. Set {prefix}{name}.NAME=VALUE")
            built[name] = build(hint, value, f"{prefix}{name}.")
        else:
            built[name] = coerce(prefix + name, value, hint)
    return cls(**built)


def coerce(name: str, value: Any, hint: Any) -> Any:
    """`value`, or its text, as the type `hint`. Raises UsageError naming the setting."""
    if get_origin(hint) in (Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        return coerce(name, value, next(kind for kind in get_args(hint) if kind is not type(None)))
    if get_origin(hint) is tuple:
        return _several(name, value, get_args(hint))
    convert, kind = _SIMPLE[hint]
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"setting {name}={value!r} is not {kind}. Give one") from None


def _several(name: str, value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = value.strip("()[]").split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        parts = [parts]
    if kinds[-1] is not Ellipsis and len(parts) != len(kinds):
        raise UsageError(f"setting {name}={value!r} is not {len(kinds)} numbers. Give some, such as {name}=0.1,0.33")
    return tuple(coerce(name, part, kinds[0]) for part in parts)


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in WORDS:
        return WORDS[value.lower()]
    raise ValueError


def _whole(value: Any) -> int:
    number = int(value)
    if isinstance(value, bool) or (isinstance(value, float) and number != value):
        raise ValueError
    return number


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


_SIMPLE: dict[Any, tuple[Callable[[Any], Any], str]] = {
    bool: (_truth, "true or false"),
    int: (_whole, "a whole number"),
    float: (_finite, "a finite number"),
    str: (_text, "a text"),
}
