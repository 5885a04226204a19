"""Plain torch: reduce a store once, then train on the kept slices with a DataLoader of one's own.

Usage: python examples/plain_torch.py [--steps 30]. Makes its own procedural CT; needs no download and no GPU.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch.nn.functional import interpolate, mse_loss

import lim_gpu
from lim_gpu.ingest import ingest
from lim_gpu.intensity import Intensity
from lim_gpu.phantom import write_data_set


def prepared(item: torch.Tensor) -> torch.Tensor:
    """A uint8 slice (1, H, W) as float (1, 64, 64) in 0..1: volumes differ in size."""
    return interpolate(item[None].float() / 255, (64, 64), mode="bilinear", antialias=True)[0]


def main(folder: Path, steps: int) -> None:
    """Ingest, reduce, train a small denoiser."""
    write_data_set(folder / "sources", seed=0)
    ingest(folder / "sources", folder / "slices")
    with lim_gpu.SliceStore(folder / "slices") as store:
        selection = lim_gpu.reduce(store, "ssim", keep=0.25, output=folder / "selection.csv")
    print(selection)

    dataset = lim_gpu.SliceDataset(
        folder / "slices", folder / "selection.csv", transform=prepared, intensity=Intensity.parse(window="40,400")
    )
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True, drop_last=True)

    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 1, 3, padding=1))
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    step = 0
    while step < steps:
        for clean in loader:
            loss = mse_loss(model(clean + 0.2 * torch.randn_like(clean)), clean)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step in (1, steps):
                print(f"step {step}: loss {loss.item():.4f}")


if __name__ == "__main__":  # ingest decodes in child processes, which import this file
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30)
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary), parser.parse_args().steps)
