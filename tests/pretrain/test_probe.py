"""The nearest-neighbour probe: its score, its sets, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lim_gpu.errors import InputError, UsageError
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.plan import Plan
from lim_gpu.pretrain.probe import _image, knn_accuracy, load_probe
from lim_gpu.pretrain.training import build_method


def picture(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 20, (40, 36))
    Image.fromarray((noise + level).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        picture(tmp_path / "data" / "dark" / f"{i}.png", 20)
        picture(tmp_path / "data" / "light" / f"{i}.png", 200)
    return tmp_path / "data"


@pytest.fixture
def plan(store):
    config = resolve("moco", overrides={"backbone": "resnet18", "moco.size": 32, "batch_size": 8})
    return Plan(config, store, None, Intensity(), 35, 4, {})


def test_separate_clusters_score_one_and_shuffled_labels_chance():
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(90) % 3
    features = torch.eye(3, 8)[classes] + 0.1 * torch.randn(90, 8, generator=generator)
    assert knn_accuracy(features, classes) == 1
    shuffled = classes[torch.randperm(90, generator=generator)]
    assert knn_accuracy(features, shuffled) < 0.6


def test_an_image_does_not_vote_for_itself():
    features, classes = torch.tensor([[1.0, 0.0], [1.0, 0.01]]), torch.tensor([0, 1])
    assert knn_accuracy(features, classes) == 0


def test_classes_count_alike_and_only_judged_images_count():
    features = torch.tensor([[1.0, 0], [0, 1.0], [1.0, 0.1], [1.0, 0.1], [1.0, 0.1], [1.0, 0.2]])
    classes = torch.tensor([0, 1, 0, 0, 0, 1])
    judged = torch.tensor([False, False, True, True, True, True])
    assert knn_accuracy(features, classes, judged) == 0.5  # all of class 0, none of class 1


def test_folders_and_csv_score_alike_and_leave_the_module_as_it_was(folder, plan):
    table = folder / "split.csv"
    rows = [f"{name}/{i}.png,{name}" for name in ("dark", "light") for i in range(4)]
    table.write_text("file,label\n" + "\n".join(rows) + "\n")
    module = build_method(plan).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    scores = [load_probe(path, plan, torch.device("cpu"))(module) for path in (folder, table)]
    assert scores[0] == scores[1]
    assert 0 <= scores[0]["knn_accuracy"] <= 1
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("file,label,split\na.png,x,train\nb.png,y,test\n", UsageError, "must not see test data"),
        ("File,Label,Split\na.png,x,train\nb.png,y,Testing\n", UsageError, "must not see test data"),
        ("file,label,split\na.png,x,train\nb.png,y,dev\n", InputError, "is not train and val"),
        ("file,label\na.png,x\nb.png,x\n", InputError, "one class only"),
        ("name,label\na.png,x\n", InputError, "has no column file"),
        ("file,label\na.png,x\nb.png,y\n", InputError, "a.png: cannot be read as PNG or JPEG"),
    ],
)
def test_bad_tables_are_one_line(tmp_path, plan, text, error, message):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(error, match=message):
        load_probe(path, plan, torch.device("cpu"))


def test_16_bit_pictures_are_not_blank(tmp_path, plan):
    for kind, low in (("dark", 0), ("light", 128)):
        for i in range(4):
            picture(tmp_path / kind / f"{i}.png", low)
            with Image.open(tmp_path / kind / f"{i}.png") as image:
                deep = np.asarray(image).astype(np.uint16) * 10 + 31768
            deep[0, 0], deep[0, 1] = 31768, 31768 + 2550
            Image.fromarray(deep).save(tmp_path / kind / f"{i}.png")
    images = {kind: _image(tmp_path / kind / "0.png", 32) for kind in ("dark", "light")}
    assert 0 < images["dark"].mean() < 0.1
    assert 0.5 < images["light"].mean() < 0.6


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("test", UsageError, "must not see test data"),
        ("Testing", UsageError, "must not see test data"),
        ("Train", InputError, "Train is a part of a split and no class"),
    ],
)
def test_a_folder_named_like_a_part_is_refused(folder, plan, name, error, message):
    picture(folder / name / "x.png", 3)
    with pytest.raises(error, match=message):
        load_probe(folder, plan, torch.device("cpu"))
