"""The engine inside one's own Lightning loop: of every volume, only the diverse slices reach the network.

The similarity matrix is computed where the volume lies: on the GPU, if it trains there.
Usage: python examples/lightning_loop.py. Makes its own procedural CT; needs no download and no GPU.
"""

import tempfile
from pathlib import Path

import lightning
import torch
from torch.nn.functional import interpolate, mse_loss

import lim_gpu
from lim_gpu.ingest import ingest
from lim_gpu.intensity import Intensity
from lim_gpu.phantom import write_data_set


class Volumes(torch.utils.data.Dataset):
    """Whole volumes of a store, uint8 (n, H, W)."""

    def __init__(self, store: Path) -> None:
        self.store = lim_gpu.SliceStore(store)

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(Intensity.parse().to_uint8(self.store[index].read()))


class Denoiser(lightning.LightningModule):
    """Any network; what matters is the first two lines of `training_step`."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.Conv2d(16, 1, 3, padding=1))

    def training_step(self, volume: torch.Tensor, _number: int) -> torch.Tensor:
        """One step on the slices of a volume that are worth it."""
        kept = lim_gpu.prune(lim_gpu.similarity_matrix(volume, "ssim"), keep=0.25)
        slices = volume[torch.from_numpy(kept).to(volume.device)]
        self.print(f"trains on {len(slices)} of {len(volume)} slices")
        clean = interpolate(slices[:, None].float() / 255, (64, 64), mode="bilinear", antialias=True)
        return mse_loss(self.model(clean + 0.2 * torch.randn_like(clean)), clean)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), 3e-3)


if __name__ == "__main__":  # ingest decodes in child processes, which import this file
    with tempfile.TemporaryDirectory() as folder:
        write_data_set(Path(folder) / "sources", seed=0)
        ingest(Path(folder) / "sources", Path(folder) / "slices")
        loader = torch.utils.data.DataLoader(Volumes(Path(folder) / "slices"), batch_size=None, shuffle=True)
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        lightning.Trainer(max_epochs=1, **quiet).fit(Denoiser(), loader)
