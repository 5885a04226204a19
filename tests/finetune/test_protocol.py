"""The learning rate and the phase of every epoch, as the paper writes them and as the notebooks ran."""

from __future__ import annotations

import pytest

from lim_gpu.errors import UsageError
from lim_gpu.finetune.protocol import protocol


def test_the_paper_trains_the_head_for_ten_epochs_and_then_all_at_one_rate():
    paper = protocol("wolf2024-paper")
    assert [paper.head_only(epoch) for epoch in (0, 9, 10, 69)] == [True, True, False, False]
    assert {paper.learning_rate(epoch) for epoch in range(70)} == {1e-4}
    assert (paper.norm, paper.weight_decay, paper.batch_size, paper.size, paper.epochs) == ("frozen", 5e-4, 64, 224, 70)


def test_the_notebooks_lower_the_rate_from_epoch_11_on():
    code = protocol("wolf2024-code")
    assert [code.learning_rate(epoch) for epoch in range(70)] == [1e-4] * 11 + [2e-5] * 59
    assert (code.norm, code.resize) == ("adapts", "area")


def test_changes_and_what_follows_from_them():
    changed = protocol("wolf2024-code", lr=1e-3, epochs=5, size=None)
    assert changed.later_lr == pytest.approx(2e-4)
    assert (changed.epochs, changed.size) == (5, 224)


@pytest.mark.parametrize(
    ("name", "changes", "word"),
    [
        ("paper", {}, "wolf2024-paper, wolf2024-code"),
        ("wolf2024-paper", {"epochs": 0}, "--epochs 0"),
        ("wolf2024-paper", {"head_epochs": -1}, "--head-epochs"),
        ("wolf2024-paper", {"size": 16}, "--size 16"),
        ("wolf2024-paper", {"batch_size": 1}, "--batch-size"),
        ("wolf2024-paper", {"lr": float("nan")}, "--lr"),
    ],
)
def test_what_makes_no_protocol(name, changes, word):
    with pytest.raises(UsageError, match=word):
        protocol(name, **changes)
