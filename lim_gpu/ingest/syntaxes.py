"""The transfer syntaxes that are read (PS3.6 A): their names, which plugin decodes them, and what installs that."""

from __future__ import annotations

from dataclasses import dataclass

from lim_gpu.ingest.elements import BIG_ENDIAN, DEFLATED, IMPLICIT

EXPLICIT = "1.2.840.10008.1.2.1"
NATIVE = {
    IMPLICIT: "Implicit VR Little Endian",
    EXPLICIT: "Explicit VR Little Endian",
    BIG_ENDIAN: "Explicit VR Big Endian",
    DEFLATED: "Deflated Explicit VR Little Endian",
}
LITTLE = (IMPLICIT, EXPLICIT, DEFLATED)  # as the store holds pixels
JPEG_12_BIT = "1.2.840.10008.1.2.4.51"
CODECS = "pip install 'lim-gpu[codecs]'"
OPENJPEG = "pip install pylibjpeg pylibjpeg-openjpeg"


@dataclass(frozen=True)
class Compressed:
    """A compressed transfer syntax.

    plugins  of pydicom 3, in order of preference. GDCM, with its history of memory faults, only where nothing else
             decodes
    lossy    or free to be so
    remedy   how to install the first of them, where lim-gpu does not
    """

    name: str
    plugins: tuple[str, ...]
    lossy: bool = False
    remedy: str = "pip install --upgrade lim-gpu"


JPEG_LOSSLESS = "JPEG Lossless, Non-Hierarchical"
FIRST_ORDER = "First-Order Prediction (Process 14 [Selection Value 1])"
HT_J2K = "High-Throughput JPEG 2000"
COMPRESSED = {
    "1.2.840.10008.1.2.4.50": Compressed("JPEG Baseline (Process 1)", ("pillow",), lossy=True),
    JPEG_12_BIT: Compressed(
        "JPEG Extended (Process 2 and 4)",
        ("pillow", "pylibjpeg"),
        lossy=True,
        remedy="pip install pylibjpeg pylibjpeg-libjpeg (GPL-3)",
    ),
    "1.2.840.10008.1.2.4.57": Compressed(f"{JPEG_LOSSLESS} (Process 14)", ("pylibjpeg", "gdcm"), remedy=CODECS),
    "1.2.840.10008.1.2.4.70": Compressed(f"{JPEG_LOSSLESS}, {FIRST_ORDER}", ("pylibjpeg", "gdcm"), remedy=CODECS),
    "1.2.840.10008.1.2.4.80": Compressed(
        "JPEG-LS Lossless Image Compression", ("pyjpegls",), remedy="pip install pyjpegls"
    ),
    "1.2.840.10008.1.2.4.81": Compressed(
        "JPEG-LS Lossy (Near-Lossless) Image Compression", ("pyjpegls",), lossy=True, remedy="pip install pyjpegls"
    ),
    "1.2.840.10008.1.2.4.90": Compressed("JPEG 2000 Image Compression (Lossless Only)", ("pylibjpeg", "pillow")),
    "1.2.840.10008.1.2.4.91": Compressed("JPEG 2000 Image Compression", ("pylibjpeg", "pillow"), lossy=True),
    "1.2.840.10008.1.2.4.201": Compressed(
        f"{HT_J2K} Image Compression (Lossless Only)", ("pylibjpeg",), remedy=OPENJPEG
    ),
    "1.2.840.10008.1.2.4.202": Compressed(
        f"{HT_J2K} with RPCL Options Image Compression (Lossless Only)", ("pylibjpeg",), remedy=OPENJPEG
    ),
    "1.2.840.10008.1.2.4.203": Compressed(f"{HT_J2K} Image Compression", ("pylibjpeg",), lossy=True, remedy=OPENJPEG),
    "1.2.840.10008.1.2.5": Compressed("RLE Lossless", ("pydicom",)),
}


def name_of(syntax: str) -> str:
    """The name of a transfer syntax, "unknown" for what is none."""
    if syntax in NATIVE:
        return NATIVE[syntax]
    if syntax in COMPRESSED:
        return COMPRESSED[syntax].name
    from pydicom.uid import UID

    return UID(syntax).name if UID(syntax).is_transfer_syntax else "unknown"


def plugins(syntax: str, bits_stored: int) -> list[str]:
    """The pydicom plugins that decode a transfer syntax here, the preferred first ([""] for uncompressed data)."""
    if syntax in NATIVE:
        return [""]
    if syntax not in COMPRESSED:
        return []
    from pydicom.pixels.decoders.base import get_decoder

    wanted = COMPRESSED[syntax].plugins
    if syntax == JPEG_12_BIT and bits_stored > 8:
        wanted = ("pylibjpeg",)  # Pillow has no 12-bit JPEG
    available = get_decoder(syntax).available_plugins
    return [name for name in wanted if name in available]
