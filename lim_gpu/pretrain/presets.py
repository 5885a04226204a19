"""The presets of every method, as what differs from the defaults of `lim_gpu.pretrain.config`.

Sources: Wolf et al. 2024 (tables A.8 and B.9), the code that its authors published, and the papers of SwAV, MoCo v2 and
SparK. Of rotation and flip "recommended" is MoCo's, and not tuned. The presets tariq2024 are the pretext tasks of
"Self-supervised learning for chest CT", as its text says and as its code ran; neither gives a number of epochs.
"""

from __future__ import annotations

from typing import Any

RECONSTRUCTIONS = ("masked", "next-slice", "denoise")
TURNS = {"rotation": 4, "flip": 3}  # what the methods of orientation tell apart
METHODS = ("swav", "moco", "spark", *RECONSTRUCTIONS, *TURNS)
SECTIONS = (  # of the configuration
    {method: method for method in METHODS}
    | dict.fromkeys(RECONSTRUCTIONS, "reconstruct")
    | dict.fromkeys(TURNS, "orientation")
)
PRESETS = ("recommended", "wolf2024-paper", "wolf2024-code", "tariq2024-paper", "tariq2024-code")

# Both wolf2024 presets have no flip in SwAV and scale no learning rate.
_WOLF_SWAV: dict[str, Any] = {
    "epochs": 800,
    "batch_size": 128,
    "optimizer": "lars",
    "lr": 0.15,
    "weight_decay": 1e-6,
    "exclude_bias_and_norm": False,
    "swav": {"flip": 0.0},
}
_WOLF_MOCO: dict[str, Any] = {
    "epochs": 800,
    "optimizer": "sgd",
    "schedule": "cosine-epoch",
    "weight_decay": 1e-4,
    "exclude_bias_and_norm": False,
    "precision": "32",
    "moco": {"temperature": 0.07, "queue_share": 0.0, "bn_groups": 1, "mask_same_slice": False},
}
_WOLF_SPARK: dict[str, Any] = {
    "epochs": 1600,
    "batch_size": 32,
    "optimizer": "lamb",
    "eps": 1e-6,
    "clip_grad_norm": 5.0,
    "lr": 2.5e-5,
    "start_lr": 1.25e-7,
    "final_lr": 2.5e-8,
    "warmup_epochs": 40.0,
    "weight_decay": 0.04,
    "final_weight_decay": 0.2,
    "precision": "32",
    "mean": (0.485, 0.456, 0.406),  # ImageNet's, as the code; the paper's table C.10 is empty
    "std": (0.229, 0.224, 0.225),
    "spark": {"variance_floor": 0.0},
}
_VQAE: dict[str, Any] = {
    "backbone": "vqae",
    "channels": 1,
    "epochs": 20,
    "batch_size": 16,
    "optimizer": "radam",
    "betas": (0.9, 0.999),
    "lr": 1e-3,
    "weight_decay": 0.0,
    "mean": (0.0,),  # the network's outputs are in -1..1, its targets in 0..1
    "std": (1.0,),
}
_TARIQ = _VQAE | {"final_lr": 1e-3}
_TARIQ_PAPER = {"shares": (0.05, 0.1, 0.2, 0.33), "dead_after": 0}
# Squares are shares of the side and never in the last 100 of 512 rows or columns; the weights of the stage before were
# not loaded, so that there is one share; the output is stretched before SSIM, and the masked error summed.
_TARIQ_CODE: dict[str, Any] = {
    "dead_after": 0,
    "mask_by": "side",
    "mask_margin": 100 / 512,
    "stretch_ssim": True,
    "sum_masked": True,
}
VALUES: dict[tuple[str, str], dict[str, Any]] = {
    ("swav", "wolf2024-paper"): _WOLF_SWAV
    | {"warmup_epochs": 10.0, "final_lr": 1.5e-4, "swav": {"flip": 0.0, "freeze_iterations": 313}},
    # As it ran: the schedule was built with one step an epoch, so it warms up in 10 steps and then swings between the
    # peak and 0 with a period of 1,580 steps to the end; the prototypes stay frozen for 313 epochs.
    ("swav", "wolf2024-code"): _WOLF_SWAV
    | {"schedule": "oscillating", "warmup_steps": 10, "precision": "16-mixed"}
    | {"swav": {"flip": 0.0, "freeze_epochs": 313}},
    ("swav", "recommended"): {
        "batch_size": 128,
        "lr": 0.15,
        "final_lr": 1.5e-4,
        "warmup_epochs": 10.0,
        "swav": {"queue": 3840, "freeze_epochs": 1},
    },
    ("moco", "wolf2024-paper"): _WOLF_MOCO | {"batch_size": 64, "lr": 1e-4},
    ("moco", "wolf2024-code"): _WOLF_MOCO
    | {"batch_size": 128, "lr": 0.015}
    | {"moco": _WOLF_MOCO["moco"] | {"jitter": 1.0, "vertical_flip": 0.5, "rotate": 0.5, "noise": 0.5}},
    ("moco", "recommended"): {
        "batch_size": 128,
        "optimizer": "sgd",
        "lr": 0.015,
        "weight_decay": 1e-4,
    },
    ("spark", "wolf2024-paper"): _WOLF_SPARK,
    ("spark", "wolf2024-code"): _WOLF_SPARK,
    # The published base rate 2e-4 a 256 slices, at a batch that one GPU holds.
    ("spark", "recommended"): {
        "batch_size": 256,
        "optimizer": "lamb",
        "eps": 1e-6,
        "clip_grad_norm": 5.0,
        "lr": 2e-4,
        "start_lr": 1e-6,
        "final_lr": 2e-7,
        "warmup_epochs": 40.0,
        "weight_decay": 0.04,
        "final_weight_decay": 0.2,
    },
} | {
    (method, "recommended"): {"batch_size": 128, "optimizer": "sgd", "lr": 0.015, "weight_decay": 1e-4}
    for method in TURNS
}
VALUES |= {(method, "recommended"): _VQAE for method in RECONSTRUCTIONS}
VALUES |= {(method, "tariq2024-paper"): _TARIQ | {"reconstruct": _TARIQ_PAPER} for method in RECONSTRUCTIONS}
VALUES |= {
    (method, "tariq2024-code"): _TARIQ | {"channels": 3, "reconstruct": _TARIQ_CODE} for method in RECONSTRUCTIONS
}
VALUES |= {
    (method, "tariq2024-paper"): _TARIQ | {"orientation": {"size": 512, "scale": (1.0, 1.0)}} for method in TURNS
}


def presets_of(method: str) -> tuple[str, ...]:
    """The presets that a method has: each paper published its own methods alone, and no code for rotation and flip."""
    return tuple(preset for preset in PRESETS if (method, preset) in VALUES)
