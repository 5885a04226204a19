"""DeepNet against torchvision's own transforms and model, with seeded weights; and weights that cannot be used."""

from __future__ import annotations

import pickle
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.models import resnet50
from torchvision.transforms import v2

from hard_slices import STACKS
from lim_gpu.errors import InputError, UsageError
from lim_gpu.intensity import Intensity
from lim_gpu.phantom import phantom
from lim_gpu.similarity import deepnet

KINDS = ("chest", "abdomen", "head")
TOLERANCE = 1e-5  # cosines, float32 against float64


@pytest.fixture(scope="session")
def slices() -> np.ndarray:
    return np.concatenate([STACKS["ct_like"]()[:3], np.full((1, 90, 110), 255, np.uint8)])


def reference(slices, weights, pooled=False):
    """Cosines in float64 by torchvision's transforms, three equal channels and its forward pass."""
    model = resnet50(weights=None)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model = model.double().eval()
    if pooled:
        model.fc = torch.nn.Identity()
    transform = v2.Compose(
        [
            v2.ToDtype(torch.float64, scale=True),
            v2.Resize((224, 224), antialias=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    with torch.no_grad():
        outputs = model(transform(torch.from_numpy(slices)[:, None].repeat(1, 3, 1, 1))).numpy()
    unit = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.parametrize("features", deepnet.FEATURES)
def test_equals_torchvision(slices, weights, features):
    embeddings = deepnet.embed(slices, deepnet.load_model(weights, "cpu"), features)
    assert embeddings.shape == (4, 1000 if features == "logits" else 2048)
    expected = reference(slices, weights, pooled=features == "pooled")
    assert np.abs(deepnet.cosine_matrix(embeddings).numpy() - expected).max() < TOLERANCE
    assert np.ptp(expected) > 1e-3, "these slices are too alike to prove anything"


def test_batches_do_not_change_the_result(slices, weights, monkeypatch):
    model = deepnet.load_model(weights, "cpu")
    whole = deepnet.embed(slices, model)
    monkeypatch.setitem(deepnet.BATCH, "cpu", 3)
    torch.testing.assert_close(deepnet.embed(slices, model), whole, rtol=1e-4, atol=1e-4)


def test_out_of_memory_halves_the_batch(slices, weights, monkeypatch):
    model = deepnet.load_model(weights, "cpu")
    whole = deepnet.embed(slices, model)
    forward, sizes = deepnet._forward, []

    def short_of_memory(model, grey, features):
        sizes.append(len(grey))
        if len(grey) > 1:
            raise torch.OutOfMemoryError
        return forward(model, grey, features)

    monkeypatch.setattr(deepnet, "_forward", short_of_memory)
    monkeypatch.setitem(deepnet.BATCH, "cpu", 4)
    torch.testing.assert_close(deepnet.embed(slices, model), whole, rtol=1e-4, atol=1e-4)
    assert sizes == [4, 2, 1, 1, 1, 1]


@pytest.fixture(scope="module")
def spreading():
    """A seeded network whose batch norms are those of CT-like slices: its cosines spread as a trained one's do."""
    slices = np.concatenate([Intensity.parse().to_uint8(phantom(kind, 2, 96, 96, seed=1)) for kind in KINDS])
    torch.manual_seed(11)
    model = resnet50(weights=None)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the running statistics are the mean over all passes
    with torch.no_grad():
        deepnet._forward(model.train(), torch.from_numpy(slices) / 255, "pooled")
    return slices, model.to(memory_format=torch.channels_last).eval()


@pytest.mark.parametrize("features", deepnet.FEATURES)
def test_the_deviation_of_each_precision_is_as_stated(spreading, features):
    slices, model = spreading

    def cosines(network, **options):
        embeddings = deepnet.embed(slices, network, features, **options)
        assert embeddings.dtype == next(network.parameters()).dtype
        return deepnet.cosine_matrix(embeddings)

    exact = cosines(deepnet.double_precision(model))
    assert exact.min() < 0.9, "these slices are too alike to prove anything"
    assert (cosines(model) - exact).abs().max() < 2e-5  # of a borderline of 1e-4; seen: 2e-6 to 4e-6
    deviation = (cosines(model, precision="bfloat16") - exact).abs().max()
    # Beyond the borderline: no default. Three networks, their activations rounded to bfloat16 after sums that were
    # perturbed by 1e-6, deviated by 0.003 to 0.0094; a Xeon with AMX by 0.0102.
    assert 1e-4 < deviation < 2e-2


def test_unknown_precision_is_refused(slices, weights):
    with pytest.raises(UsageError, match="float16"):
        deepnet.embed(slices, deepnet.load_model(weights, "cpu"), precision="float16")


def test_a_gpu_without_bfloat16_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(UsageError, match="cuda:0: computes no bfloat16"):
        deepnet._check_precision("bfloat16", torch.device("cuda", 0))


def test_batches_are_planned_from_the_free_memory(monkeypatch):
    monkeypatch.setattr(deepnet, "memory_for_blocks", lambda device: 1 << 30)
    cuda = torch.device("cuda", 0)
    assert deepnet.batch_size(cuda, 512, 512) == (1 << 30) // (14 << 20)
    assert deepnet.batch_size(cuda, 4096, 4096) == (1 << 30) // (140 << 20)
    monkeypatch.setattr(deepnet, "memory_for_blocks", lambda device: 4 << 30)
    assert deepnet.batch_size(cuda, 512, 512) == 256
    monkeypatch.setattr(deepnet, "memory_for_blocks", lambda device: 1)
    assert deepnet.batch_size(cuda, 512, 512) == 1


def test_the_users_tf32_setting_returns_when_the_last_thread_is_done(monkeypatch):
    setting = []

    @contextmanager
    def switched():
        setting.append("off")
        yield
        setting.append("restored")

    monkeypatch.setattr(deepnet, "_no_tf32", switched)
    inside = [threading.Event(), threading.Event()]

    def other():
        with deepnet._full_precision:
            inside[0].set()
            assert inside[1].wait(60)

    thread = threading.Thread(target=other)
    with deepnet._full_precision:
        thread.start()
        assert inside[0].wait(60)
    assert setting == ["off"]
    inside[1].set()
    thread.join()
    assert setting == ["off", "restored"]


def test_double_precision_is_a_copy(slices, weights):
    model = deepnet.load_model(weights, "cpu")
    embeddings = deepnet.embed(slices[:1], deepnet.double_precision(model))
    assert embeddings.dtype == torch.float64
    assert next(model.parameters()).dtype == torch.float32


def test_cosines_keep_their_range():
    matrix = deepnet.cosine_matrix(torch.tensor([[3.0, 4.0], [-6.0, -8.0], [3e-30, 4e-30], [1.0, 1.0]]))
    assert matrix.dtype == torch.float32
    assert torch.equal(matrix, matrix.T)
    assert matrix[0, 1] == -1
    assert matrix.diagonal().tolist() == [1, 1, 1, 1]


def test_unknown_features_are_refused(slices, weights):
    with pytest.raises(UsageError, match="fc7"):
        deepnet.embed(slices, deepnet.load_model(weights, "cpu"), "fc7")


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("payload-ran"),)


def broken_files(folder: Path, weights: Path) -> dict[str, Path]:
    state = torch.load(weights, weights_only=True)
    lacking = {name: value for name, value in state.items() if name != "fc.bias"}
    other = state | {"fc.weight": torch.zeros(10, 2048)}
    for name, value in (("lacking", lacking), ("other", other), ("list", [1]), ("epoch", {"epoch": 3})):
        torch.save(value, folder / f"{name}.pth")
    (folder / "payload.pth").write_bytes(pickle.dumps(Payload()))
    (folder / "text.pth").write_text("these are no weights")
    (folder / "empty.pth").touch()
    (folder / "cut.pth").write_bytes(weights.read_bytes()[:100_000])
    (folder / "text.safetensors").write_text("these are no weights")
    (folder / "folder.pth").mkdir()
    return {path.name: path for path in folder.iterdir()} | {"missing": folder / "missing.pth"}


def test_unusable_weights_are_named_in_one_line(tmp_path, weights, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    for name, path in broken_files(tmp_path / "files", weights).items():
        with pytest.raises(InputError, match="--weights") as caught:
            deepnet.load_model(path, "cpu")
        assert str(path) in str(caught.value), name
        assert "\n" not in str(caught.value), name
    assert not (tmp_path / "payload-ran").exists()


def test_weights_that_give_nan_are_refused(tmp_path, slices, weights):
    state = torch.load(weights, weights_only=True)
    state["conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(InputError, match="finite"):
        deepnet.embed(slices, deepnet.load_model(tmp_path / "nan.pth", "cpu"))


def test_without_a_network_the_error_says_how_to_get_the_weights(tmp_path, monkeypatch, capsys):
    def unreachable(*_arguments, **_options):
        raise URLError("unreachable")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(InputError, match=r"https://.*resnet50-0676ba61\.pth into .*checkpoints, or give --weights"):
        deepnet.load_model(None, "cpu")
    assert capsys.readouterr().out == ""  # --json owns stdout


def test_cached_imagenet_weights_are_taken(tmp_path, monkeypatch, weights):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet50-0676ba61.pth").symlink_to(weights)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    model = deepnet.load_model(None, "cpu")
    torch.testing.assert_close(model.state_dict(), torch.load(weights, weights_only=True))
    assert not model.training
