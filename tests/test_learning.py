"""Pre-training is worth something: on procedural CT with a planted label it beats random initialisation by far."""

from __future__ import annotations

from lim_gpu.evaluate.smoke import make_data, smoke_grid
from lim_gpu.finetune.protocol import protocol
from lim_gpu.finetune.request import Request
from lim_gpu.finetune.run import finetune
from lim_gpu.pretrain.run import pretrain
from lim_gpu.progress import Reporter


def test_a_pre_trained_network_learns_the_planted_label_faster_than_a_random_one(tmp_path):
    grid = smoke_grid(tmp_path / "data")
    make_data(tmp_path / "data", 0, Reporter(quiet=True))
    pretrain(
        grid.stores["procedural"],
        "moco",
        epochs=4,
        batch_size=8,
        backbone="resnet18",
        overrides={"moco.size": 32, "moco.output": 16, "moco.queue": 16},
        output=tmp_path / "moco",
        device="cpu",
    )
    asked = {
        "data": grid.tasks[0].data,
        "protocol": protocol("wolf2024-paper", epochs=2, head_epochs=1, batch_size=12, size=32),
        "runs": 3,
    }
    random = Request(backbone="resnet18", **asked)
    started = Request(checkpoints=(tmp_path / "moco" / "last.ckpt",), **asked)
    finetune(random, tmp_path / "random", "cpu")
    outcome = finetune(started, tmp_path / "started", "cpu", against=tmp_path / "random")
    assert outcome.values["auc"]["mean"] > 0.85  # seeds 0 to 3: at least 0.979
    assert outcome.values["comparison"]["auc"]["mean"] > 0.1  # seeds 0 to 3: at least 0.269
