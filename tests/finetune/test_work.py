"""Which candidate counts."""

from __future__ import annotations

from lim_gpu.finetune.work import choose


def record(accuracy, loss=0.5):
    return {"val_acc": accuracy, "val_loss": loss}


def test_the_candidate_is_chosen_by_accuracy_then_loss_then_order():
    assert choose([[record(0.5), record(0.7)]], one_for_all=False) == [1]
    assert choose([[record(0.7, 0.6), record(0.7, 0.4)]], one_for_all=False) == [1]
    assert choose([[record(0.7), record(0.7)]], one_for_all=False) == [0]


def test_a_fixed_test_part_has_one_candidate_for_all_runs_and_folds_have_each_their_own():
    runs = [[record(0.9), record(0.5)], [record(0.5), record(0.6)]]
    assert choose(runs, one_for_all=True) == [0, 0]
    assert choose(runs, one_for_all=False) == [0, 1]
