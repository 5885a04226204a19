"""How the texts of the command line become what a stage is asked for."""

from __future__ import annotations

import pytest

from lim_gpu.cli.options import parse_overrides
from lim_gpu.errors import UsageError


def test_set_options():
    assert parse_overrides(["lr=0.1", "swav.queue = 64"]) == {"lr": "0.1", "swav.queue": "64"}
    for texts, message in ((["lr"], "is not NAME=VALUE"), (["=1"], "is not NAME=VALUE"), (["a=1", "a=2"], "twice")):
        with pytest.raises(UsageError, match=message):
            parse_overrides(texts)
