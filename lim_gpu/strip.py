"""Slices as pictures within HTML: for pages that stand alone, and for notebooks."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape

import numpy as np
from numpy.typing import NDArray

SHOWN = 12  # slices of a strip
SIDE = 96  # pixels of each
BAR = 12  # pixels that a bar is high


def image_uri(image: NDArray[np.uint8], side: int | None = None, *, lossless: bool = False) -> str:
    """A grey (H, W) or colour (H, W, 3) picture as a data URI; with `side`, shrunk so that it fits side x side."""
    from PIL import Image

    picture = Image.fromarray(image)
    if side is not None:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, format="WEBP", quality=85, method=4, lossless=lossless)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def strip(title: str, slices: Iterable[tuple[str, NDArray[np.uint8]]]) -> str:
    """A title above small pictures in a row, each (H, W) with its caption. Texts are escaped."""
    figures = (
        f'<figure style="display:inline-block;margin:0 4px 0 0;text-align:center;font-size:75%">'
        f'<img src="{image_uri(image, SIDE)}" alt=""><figcaption>{escape(caption)}</figcaption></figure>'
        for caption, image in slices
    )
    return f'<div>{escape(title)}</div><div style="overflow-x:auto;white-space:nowrap">{"".join(figures)}</div>'


def bar(title: str, shades: NDArray[np.uint8], caption: str) -> str:
    """A title above a bar of (n,) shades, one a slice from left to right, and what they mean below."""
    picture = image_uri(np.repeat(shades[None], BAR, axis=0), lossless=True)
    style = "display:block;width:100%;height:1.2em;image-rendering:pixelated"
    return f'<div>{escape(title)}</div><img src="{picture}" alt="" style="{style}"><small>{escape(caption)}</small>'
