"""In a MONAI pipeline: the kept slices of a store as a MONAI data set, with MONAI's transforms, loader and network.

Usage: python examples/monai_pipeline.py. Makes its own procedural CT; needs no download and no GPU.
"""

import tempfile
from pathlib import Path

import torch
from monai.data import CacheDataset, DataLoader
from monai.networks.nets import AutoEncoder
from monai.transforms import Compose, RandFlip, RandGaussianNoise, Resize, ScaleIntensityRange

import lim_gpu
from lim_gpu.ingest import ingest
from lim_gpu.phantom import write_data_set

TRANSFORMS = Compose(
    [
        ScaleIntensityRange(a_min=-160, a_max=240, b_min=0, b_max=1, clip=True),  # HU
        Resize((64, 64)),  # cached with the step before it: what follows is random
        RandFlip(prob=0.5, spatial_axis=1),
        RandGaussianNoise(prob=0.5, std=0.05),
    ]
)


def main(folder: Path) -> None:
    """Ingest, reduce, train MONAI's auto-encoder for two epochs."""
    write_data_set(folder / "sources", seed=0)
    ingest([folder / "sources" / name for name in ("abdomen", "chest-a", "head.nii.gz")], folder / "slices")
    with lim_gpu.SliceStore(folder / "slices") as store:
        print(lim_gpu.reduce(store, "mi", keep=0.25, output=folder / "selection.csv"))

    slices = lim_gpu.SliceDataset(folder / "slices", folder / "selection.csv")  # int16 HU (1, H, W)
    cached = CacheDataset(list(slices), TRANSFORMS, progress=False)
    loader = DataLoader(cached, batch_size=4, shuffle=True)

    torch.manual_seed(0)
    model = AutoEncoder(spatial_dims=2, in_channels=1, out_channels=1, channels=(8, 16), strides=(2, 2))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for epoch in range(2):
        for batch in loader:
            loss = torch.nn.functional.mse_loss(model(batch), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.4f}")


if __name__ == "__main__":  # ingest decodes in child processes, which import this file
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
