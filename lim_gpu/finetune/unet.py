"""A backbone with MONAI's decoder of a U-Net: images to one logit a pixel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from lim_gpu.errors import UsageError
from lim_gpu.weights.backbone import network
from lim_gpu.weights.maps import feature_maps

# channels at strides 16, 8, 4, 2 and 1, as MONAI's FlexibleUNet and segmentation-models-pytorch have them
DECODER = (256, 128, 64, 32, 16)


class UNet(torch.nn.Module):
    """(B, channels, H, W) to logits (B, 1, H, W), of any size: the backbone, its maps from the deepest up, one layer.

    The backbone is `encoder`, as in every checkpoint of ours. Raises UsageError for one whose maps do not halve.
    """

    def __init__(self, backbone: str, channels: int, pretrained: bool = False) -> None:
        super().__init__()
        self.encoder = network(backbone, channels, pretrained=pretrained)
        self.maps, widths = feature_maps(backbone, self.encoder, channels)
        self.step = 2 ** len(widths)  # the decoder takes sides that halve so often
        self.decoder = _decoder((channels, *widths))
        self.head = torch.nn.Conv2d(DECODER[-1], 1, kernel_size=3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of normalised images."""
        height, width = images.shape[-2:]
        whole = pad(images, (0, -width % self.step, 0, -height % self.step), mode="replicate")
        maps = self.maps(self.encoder, whole)
        logits: Tensor = self.head(self.decoder([whole, *maps], len(maps) - 1))
        return logits[..., :height, :width]


def _decoder(widths: tuple[int, ...]) -> torch.nn.Module:
    """As FlexibleUNet makes its own, without its skip from the image itself."""
    try:
        from monai.networks.nets.flexible_unet import UNetDecoder
    except ImportError:
        raise UsageError("task segmentation: MONAI is not installed. Run pip install 'lim-gpu[monai]'") from None
    decoder: torch.nn.Module = UNetDecoder(
        spatial_dims=2,
        encoder_channels=widths,
        decoder_channels=DECODER[1 - len(widths) :],
        act=("relu", {"inplace": True}),
        norm=("batch", {"eps": 1e-3, "momentum": 0.1}),
        dropout=0.0,
        bias=False,
        upsample="nontrainable",
        pre_conv="default",
        interp_mode="nearest",
        align_corners=None,
        is_pad=True,
    )
    return decoder
