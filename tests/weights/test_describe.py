"""What is told of checkpoints: ours from the JSON beside them, others from what their files hold."""

from __future__ import annotations

import json
import subprocess
import sys

import torch

from checkpoints import FOREIGN
from lim_gpu.weights.describe import describe_checkpoint


def test_info_of_ours_reads_the_json_alone_without_torch(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"not even a checkpoint")
    about = {"format": "lim-gpu-checkpoint", "version": 1, "method": "swav", "backbone": "resnet50", "epoch": 7}
    about |= {"global_step": 70, "schedule": {"lr": 0.1}, "config": {"swav": {"queue": 3840}}}
    (tmp_path / "last.ckpt.json").write_text(json.dumps(about))
    values, lines = describe_checkpoint(tmp_path / "last.ckpt")
    assert lines[0].endswith("swav resnet50, epoch 7, global_step 70")
    assert "schedule lr 0.1" in lines
    assert values["config"]["swav"]["queue"] == 3840
    program = (
        "import sys; from lim_gpu.cli import cli\n"
        f"try: cli.main(['info', {str(tmp_path / 'last.ckpt')!r}], standalone_mode=False)\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numba'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_info_fits_a_terminal(tmp_path):
    (tmp_path / "last.ckpt").touch()
    settings = {f"setting_{i}": i / 7 for i in range(20)}
    about = {"format": "lim-gpu-checkpoint", "version": 1, "sha256": "0" * 64}
    about |= {"config": settings | {"moco": settings, "small": {"a": 1}}, "classes": [f"class {i}" for i in range(30)]}
    (tmp_path / "last.ckpt.json").write_text(json.dumps(about))
    _values, (_path, *lines) = describe_checkpoint(tmp_path / "last.ckpt")
    assert max(map(len, lines)) <= 80
    assert "  small a 1" in lines
    text = " ".join(line.strip() for line in lines)
    assert f"  moco {', '.join(f'{name} {value}' for name, value in settings.items())}"[2:] in text
    assert "'class 28', 'class 29']" in text


def test_info_of_others_tells_the_schedule_their_weights_saw(tmp_path, state):
    content = FOREIGN["SwAV of Wolf et al."](state)
    content |= {"epoch": 799, "global_step": 141600, "hyper_parameters": {"start_lr": 0.3, "gpus": 1}}
    content |= {"lr_schedulers": [{"last_epoch": 141600, "_last_lr": [0.07]}]}
    content |= {"optimizer_states": [{"param_groups": [{"lr": 0.07, "weight_decay": 1e-6, "params": [0, 1]}]}]}
    torch.save(content, tmp_path / "c.ckpt")
    values, lines = describe_checkpoint(tmp_path / "c.ckpt")
    assert (values["source"], values["backbone"], values["tensors"]) == ("SwAV of Wolf et al.", "resnet18", 120)
    assert values["schedule"] == {"last_epoch": 141600, "_last_lr": [0.07]}
    assert values["optimizer"]["0"]["lr"] == 0.07
    assert values["configuration"] == {"start_lr": 0.3, "gpus": 1}
    json.dumps(values, allow_nan=False)
    assert "global_step 141600" in lines


def test_info_of_an_incomplete_backbone_says_what_is_missing(tmp_path, state):
    lacking = {name: value for name, value in state.items() if name != "layer4.1.bn2.running_var"}
    torch.save(lacking, tmp_path / "c.pth")
    values, lines = describe_checkpoint(tmp_path / "c.pth")
    assert values["complete"] is False
    assert "119 of 120" in lines[2]
