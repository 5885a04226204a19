"""What a shell completes, asked as a shell asks it."""

from __future__ import annotations

import pytest
from click.shell_completion import BashComplete

from lim_gpu.cli.program import cli


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        (["reduce", "--method"], "", ["all", "every-n", "random", "ssim", "mi", "deepnet", "hash"]),
        (["reduce", "--scope"], "pa", ["patient"]),
        (["reduce", "--order"], "lex", ["lexicographic"]),
        (["compare", "--method"], "h", ["hash"]),
        (["similarity", "slices", "0", "--method"], "s", ["ssim"]),
        (["pretrain", "--method"], "m", ["moco", "masked"]),
        (["pretrain", "--preset"], "wolf", ["wolf2024-paper", "wolf2024-code"]),
    ],
)
def test_values_are_completed(words, incomplete, expected):
    found = BashComplete(cli, {}, "lim-gpu", "_LIM_GPU_COMPLETE").get_completions(words, incomplete)
    assert [item.value for item in found] == expected
