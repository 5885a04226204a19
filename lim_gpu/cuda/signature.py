"""What a kernel declares, read from its source: the type of every parameter, the shape in the comment beside an array.

    extern "C" __global__ void mean(const float *__restrict__ slices,  // (n, H, W)
                                    double *means,                     // (n)
                                    int n, int H, int W)

CuPy checks no argument. The declaration is the one place where types and shapes are written, so launches are checked
against it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_KERNEL = re.compile(r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(')
_PARAMETER = re.compile(r"(const )?(\w+)( ?\* ?| )(?:__restrict__ )?(\w+)")
_SHAPE = re.compile(r"\(([^)]*)\)")
_EXTENT = re.compile(r"(\w+)(?: ([+-]) (\d+))?")
_CONSTANT = re.compile(r"^(?:#define|constexpr int) (\w+) (?:= )?(\d+);?[ ]*(?://.*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Extent:
    """One extent of an array: a name, a number added to it; the name "" stands for 0."""

    name: str
    plus: int

    def __str__(self) -> str:
        sign = "-" if self.plus < 0 else "+"
        return f"{self.name} {sign} {abs(self.plus)}" if self.name and self.plus else self.name or str(self.plus)


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel; `shape` is None for a number and holds the extents of an array."""

    name: str
    type: str
    constant: bool
    shape: tuple[Extent, ...] | None


@dataclass(frozen=True)
class Signature:
    """A kernel and its parameters in order."""

    kernel: str
    parameters: tuple[Parameter, ...]


def signatures(source: str) -> dict[str, Signature]:
    """The `extern "C"` kernels of a source. An array without a shape, or two on a line, is a ValueError."""
    return {name[1]: _signature(name[1], source[name.end() :]) for name in _KERNEL.finditer(source)}


def constants(source: str) -> dict[str, int]:
    """The whole numbers that a source defines: `#define NAME 2` and `constexpr int NAME = 2`."""
    return {name: int(value) for name, value in _CONSTANT.findall(source)}


def _signature(kernel: str, text: str) -> Signature:
    parameters: list[Parameter] = []
    for line in text.splitlines():
        code, _, comment = line.partition("//")
        code, end, _ = code.partition(")")
        declared = [_PARAMETER.fullmatch(piece.strip()) for piece in code.split(",") if piece.strip()]
        arrays = [match for match in declared if match and "*" in match[3]]
        shape = _SHAPE.match(comment.strip())
        if None in declared or (arrays and (shape is None or len(declared) > 1)):
            raise ValueError(f"{kernel}: not a parameter, or an array without a line and a shape of its own: {line}")
        for match in filter(None, declared):
            extents = _extents(shape[1]) if arrays and shape else None
            parameters.append(Parameter(match[4], match[2], extents is None or bool(match[1]), extents))
        if end:
            break
    return Signature(kernel, tuple(parameters))


def _extents(shape: str) -> tuple[Extent, ...]:
    extents = []
    for text in shape.split(", "):
        match = _EXTENT.fullmatch(text)
        if match is None:
            raise ValueError(f"({shape}) is no shape")
        plus = int(f"{match[2] or '+'}{match[3] or 0}")
        extents.append(Extent("", int(match[1])) if match[1].isdigit() else Extent(match[1], plus))
    return tuple(extents)
