"""The table of transfer syntaxes is pydicom's, and names plugins that it has."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("pydicom")

from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    UID,
    ExplicitVRBigEndian,
    JPEG2000TransferSyntaxes,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from lim_gpu.ingest.pixels import missing_decoder
from lim_gpu.ingest.syntaxes import COMPRESSED, LITTLE, NATIVE, name_of


def test_names_are_those_of_the_standard():
    for syntax in (*NATIVE, *COMPRESSED):
        assert name_of(syntax) == UID(syntax).name
        assert UID(syntax).is_compressed == (syntax in COMPRESSED)
    assert set(LITTLE) == {*NATIVE} - {ExplicitVRBigEndian}


def test_a_lossy_syntax_is_known_as_one():
    lossless = [how for how in COMPRESSED.values() if not how.lossy]
    assert all("Lossless" in how.name or "Process 14" in how.name for how in lossless)
    assert {JPEG2000TransferSyntaxes[1], HTJ2K} <= {syntax for syntax, how in COMPRESSED.items() if how.lossy}
    assert not COMPRESSED[JPEGLSLossless].lossy


def test_every_plugin_that_is_named_is_one_of_pydicom():
    for syntax, how in COMPRESSED.items():
        assert missing_decoder(syntax, 8) == "" or syntax in (JPEGLossless, JPEGLosslessSV1), how.name
        known = get_decoder(syntax)
        assert set(how.plugins) <= set(known.available_plugins) | set(known._unavailable)
    assert all(missing_decoder(syntax, 16) == "" for syntax in NATIVE)


def test_a_missing_decoder_is_named_with_the_command_that_installs_it(monkeypatch):
    assert "pip install pylibjpeg pylibjpeg-libjpeg" in missing_decoder(JPEGExtended12Bit, 12)
    monkeypatch.setitem(COMPRESSED, JPEGLosslessSV1, replace(COMPRESSED[JPEGLosslessSV1], plugins=()))
    assert missing_decoder(JPEGLosslessSV1, 16) == "pip install 'lim-gpu[codecs]'"
