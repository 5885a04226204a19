"""The autoencoder of Tariq et al., "Self-supervised learning for chest CT", without the codebook between its halves.

Two convolutions of stride 2, one of stride 1, residual blocks; a 1 x 1 convolution to the codes' length; the same back.
The layers are those of the published code, as counted: with a codebook of 512 x 64 and one channel 101,337,283
parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

STRIDE = 4  # pixels of an image a position of its map
SLOPE = 0.01  # of every LeakyReLU


@dataclass(frozen=True)
class Shape:
    """Channels after the first convolution and of the map, residual blocks of each half, length of a code."""

    first: int
    width: int
    blocks: int
    code: int


SHAPES = {"vqae": Shape(256, 512, 18, 64), "vqae-small": Shape(16, 32, 2, 16)}


class Encoder(nn.Module):
    """What serves as a backbone: images (B, channels, H, W) to features (B, width), the mean of the last map."""

    def __init__(self, shape: Shape, channels: int) -> None:
        super().__init__()
        self.e1 = normed(nn.Conv2d(channels, shape.first, 4, stride=2, padding=1))
        self.e2 = normed(nn.Conv2d(shape.first, shape.width, 4, stride=2, padding=1))
        self.e3 = normed(nn.Conv2d(shape.width, shape.width, 3, padding=1))
        self.residual = residual_blocks(shape)

    def maps(self, images: Tensor) -> Tensor:
        """The last map (B, width, H / 4, W / 4), before pooling."""
        return self.residual(self.e3(self.e2(self.e1(images))))

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, width)."""
        return self.maps(images).mean((2, 3))


class Decoder(nn.Module):
    """Codes (B, code, h, w) to images (B, channels, 4 h, 4 w) in -1..1."""

    def __init__(self, shape: Shape, channels: int) -> None:
        super().__init__()
        self.widen = normed(nn.Conv2d(shape.code, shape.width, 3, padding=1))
        self.residual = residual_blocks(shape)
        self.up = normed(nn.ConvTranspose2d(shape.width, shape.first, 4, stride=2, padding=1))
        paint = nn.ConvTranspose2d(shape.first, channels, 4, stride=2, padding=1)
        self.paint = nn.Sequential(paint, nn.BatchNorm2d(channels), nn.Tanh())

    def forward(self, codes: Tensor) -> Tensor:
        """Images."""
        return self.paint(self.up(self.residual(self.widen(codes))))


class Residual(nn.Module):
    """x + a 3 x 3 convolution, batch norm, ReLU and a 1 x 1 convolution of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.branch = nn.Sequential(wide, nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) to the same."""
        return x + self.branch(x)


def residual_blocks(shape: Shape) -> nn.Sequential:
    """The residual blocks of a half, and the activation after the last."""
    return nn.Sequential(*(Residual(shape.width) for _ in range(shape.blocks)), nn.LeakyReLU(SLOPE))


def normed(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    """A convolution, batch norm and activation."""
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.LeakyReLU(SLOPE))


def squeeze(shape: Shape) -> nn.Sequential:
    """The map of an encoder (B, width, h, w) to what is quantised (B, code, h, w)."""
    return normed(nn.Conv2d(shape.width, shape.code, 1))
