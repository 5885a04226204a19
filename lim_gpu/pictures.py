"""PNG and JPEG files: the one place that decodes them, upright as every viewer shows them.

The content decides the format, not the name, and only these two decoders are ever used: data sets hold JPEG files named
.png (COVID-CT), and Pillow would start Ghostscript for an EPS file named .png.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from lim_gpu.errors import InputError

FORMATS = ("PNG", "JPEG")
ENDINGS = (".png", ".jpg", ".jpeg")
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
OFFSET_16 = 32768  # int16 = 16-bit value - 32768: nothing is lost, and DeepLesion's HU + 32768 become HU again
TURNS = {  # by EXIF orientation, what brings a picture upright; from 5 on its sides are exchanged
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_picture(path: str | Path, *, colour: bool = False) -> tuple[NDArray[Any], Counter[str]]:
    """The pixels of a picture, row 0 the top one, and what was done to them: "colour", "transparent".

    uint8 (H, W) where it is grey, in RGB too; int16 (H, W), the value - 32768, where it is 16-bit grey. Other colours
    by luminance (ITU-R 601-2, as Pillow's L), which is counted, or with `colour` as they are, uint8 (H, W, 3).
    Transparency is left out and counted. Raises InputError with the reason alone, which never holds the path.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.verify()  # the CRC of every PNG chunk, which load() passes by
        with Image.open(path, formats=FORMATS) as image:
            turn = TURNS.get(orientation(image))
            return _pixels(image if turn is None else image.transpose(turn), colour)
    except Exception as error:  # Pillow raises many kinds, SyntaxError among them
        raise InputError(reason(error)) from None


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of a picture that was opened and not loaded: 1, upright, or one of `TURNS`."""
    try:  # without the test Pillow would decode a PNG to look behind its pixels
        found = image.getexif().get(ExifTags.Base.Orientation) if "exif" in image.info else None
        return found if found in TURNS else 1
    except Exception:  # a damaged tag turns no picture in any viewer
        return 1


def reason(error: Exception) -> str:
    """Why Pillow could not read a file, without its path."""
    if isinstance(error, UnidentifiedImageError):
        return "neither PNG nor JPEG inside"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:120] or type(error).__name__


def _pixels(image: Image.Image, colour: bool) -> tuple[NDArray[Any], Counter[str]]:
    counts: Counter[str] = Counter()
    if image.mode.startswith("I"):  # 16-bit grey
        return (np.asarray(image).astype(np.int32) - OFFSET_16).astype(np.int16), counts
    if image.mode in ("1", "L"):
        return np.array(image.convert("L")), counts
    if image.has_transparency_data:
        image = image.convert("RGBA")
        counts["transparent"] = int(np.asarray(image)[..., 3].min() < 255)
    image = image.convert("RGB")
    channels = np.array(image)
    if (channels == channels[..., :1]).all():
        return np.ascontiguousarray(channels[..., 0]), counts
    if colour:
        return channels, counts
    counts["colour"] = 1
    return np.array(image.convert("L")), counts
