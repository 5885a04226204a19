"""Tensors of torchvision's networks by name: ImageNet's, and without what trainings put into the names."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from lim_gpu.errors import InputError

ARTIFACTS = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_forward_module|_checkpoint_wrapped_module)\.")
NETWORK_TIMEOUT = 30  # s without an answer from the server of the weights


def imagenet_state(name: str = "resnet50", otherwise: str = "give --weights FILE") -> dict[str, torch.Tensor]:
    """torchvision's IMAGENET1K_V1 state of model `name`, from torch's cache or the network.

    Raises InputError that says where to put the file, or what to do `otherwise`.
    """
    from torchvision.models import get_model_weights

    url = get_model_weights(name).IMAGENET1K_V1.url
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        with contextlib.redirect_stdout(sys.stderr), _network_timeout():  # torch announces the download on stdout
            return torch.hub.load_state_dict_from_url(
                url, map_location="cpu", check_hash=True, progress=False, weights_only=True
            )
    except Exception as error:  # the network, or a damaged file in the cache
        raise InputError(
            f"the ImageNet weights of {name} cannot be had ({_cause(error)}). Put {url} into {folder}, or {otherwise}"
        ) from None


@contextlib.contextmanager
def _network_timeout() -> Iterator[None]:
    """torch.hub sets no limit of its own: without one, a network that swallows packets hangs it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def plain_state(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state under the names that the layers have: without what torch.compile, FSDP and checkpointing put into them.

    With the counters of batch norm that files of before PyTorch 0.4.1 lack, at 0: no inference reads them.
    """
    named = {ARTIFACTS.sub("", name): value for name, value in tensors.items()}
    whole: dict[str, torch.Tensor] = {}
    for name, value in named.items():
        whole[name] = value
        if name.endswith("running_var"):
            counter = name.removesuffix("running_var") + "num_batches_tracked"
            whole[counter] = named.get(counter, torch.tensor(0))
    return whole


def _cause(error: Exception) -> str:
    """One line: torch explains over several."""
    return f"{type(error).__name__}: {error}".split("\n", 1)[0]
