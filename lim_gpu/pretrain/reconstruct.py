"""Masked, next-slice and denoise (Tariq et al.): an autoencoder with a codebook restores what was done to a slice."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional

from lim_gpu import augment
from lim_gpu.pretrain.codebook import Codebook, Quantised, perplexity
from lim_gpu.pretrain.config import PretrainConfig
from lim_gpu.pretrain.corruptions import draw_squares, inside, median, salt_and_pepper, square_side
from lim_gpu.pretrain.method import COMPILING, SPREAD, Meter, Pretraining, spread
from lim_gpu.weights.vqae import SHAPES, Decoder, Encoder, squeeze

if TYPE_CHECKING:
    from lim_gpu.pretrain.resident import SliceBatch

SQUARE = (1.0, 1.0)  # width / height of the crops


class Reconstruction(Pretraining):
    """Encoder, codebook and decoder; what a method corrupts, and what restores it without a network, is its own.

    Images are in 0..1, square: the largest central square of a slice, or random ones. Inputs are normalised, outputs
    and targets are not.
    """

    meters: ClassVar[dict[str, Meter]] = {
        "loss": Meter("", "weighted sum of mse, masked_mse, vq and -ssim"),
        "mse": Meter("grey^2, of 0..1", "squared error of the whole image"),
        "ssim": Meter("", "structural similarity of output and target, valid mean; of what the loss takes"),
        "vq": Meter("", "squared distance of the encoder's outputs and their codes, 1.25 times"),
        "perplexity": Meter("codes", "that are in use in a step; 1 is collapse"),
        "codes_used": Meter("share", "of the codes, chosen at least once in the step"),
    } | SPREAD
    trivial: ClassVar[str]  # what `without_network` is

    def __init__(self, config: PretrainConfig, slices: int) -> None:
        super().__init__(config, slices)
        part, shape = config.reconstruct, SHAPES[config.backbone]
        self.part = part
        self.compress = squeeze(shape)
        self.codebook = Codebook(part.codes, shape.code, part.dead_after)
        self.decoder = Decoder(shape, config.channels)
        encoder = cast(Encoder, self.encoder)
        self.maps = torch.compile(encoder.maps, **COMPILING) if config.compile else encoder.maps

    def views(self, batch: SliceBatch, generator: torch.Generator) -> list[Tensor]:
        """[input and target (B, C, S, S), squares (B, 3) that are masked, picks (codes,) for the codebook]."""
        boxes = augment.random_boxes(batch.sizes.cpu(), self.part.scale, SQUARE, generator)
        images = augment.crop_and_resize(batch.pixels, boxes, self.part.size)
        corrupted, target, squares = self.task(images, batch, boxes, generator)
        picks = torch.rand(self.part.codes, generator=generator)
        target = target.expand(-1, self.config.channels, -1, -1)
        return [self.normalized(corrupted), target, *(augment.to_device(v, images.device) for v in (squares, picks))]

    @abstractmethod
    def task(
        self, images: Tensor, batch: SliceBatch, boxes: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Input and target (B, 1, S, S) in 0..1 made of `images`, `boxes` of a batch; squares (B, 3), masked."""

    @abstractmethod
    def without_network(self, corrupted: Tensor) -> Tensor:
        """What restores an image (B, 1, S, S) trivially: the least that a network must beat."""

    def restore(self, images: Tensor, picks: Tensor) -> tuple[Tensor, Tensor, Quantised]:
        """Normalised images (B, C, S, S) restored, in float32, the encoder's map, and what the codebook made of it."""
        found = self.maps(images)
        z = self.compress(found)
        with torch.autocast(images.device.type, enabled=False):
            quantised = self.codebook(z.float(), picks)
        return self.decoder(quantised.codes).float(), found, quantised

    def loss(self, views: list[Tensor], batch: SliceBatch) -> dict[str, Tensor]:
        """The composite loss of Tariq et al., equations 1 to 3, with the signs and squares that their code has."""
        from pytorch_msssim import ssim  # here, so that the other methods train where it is not installed

        images, target, squares, picks = views
        output, found, quantised = self.restore(images, picks)
        with torch.autocast(images.device.type, enabled=False):
            terms = {"mse": functional.mse_loss(output, target), "vq": quantised.loss}
            terms |= self.masked_terms(output, target, squares)
            judged = stretched(output) if self.part.stretch_ssim else output
            terms["ssim"] = ssim(judged, target, data_range=1)
            part = self.part
            weights = {"mse": part.mse, "masked_mse": part.masked, "vq": part.vq, "ssim": -part.ssim}
            loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
            pooled = functional.normalize(found.detach().float().mean((2, 3)), dim=1)
            meters = {name: term.detach() for name, term in terms.items()} | self.baseline(images, target, squares)
            meters |= {"perplexity": perplexity(quantised.counts), "codes_used": (quantised.counts > 0).float().mean()}
            return {"loss": loss} | meters | spread(pooled)

    def masked_terms(self, output: Tensor, target: Tensor, squares: Tensor) -> dict[str, Tensor]:
        """Terms of the loss that the method has beside the others."""
        return {}

    @torch.no_grad()
    def baseline(self, images: Tensor, target: Tensor, squares: Tensor) -> dict[str, Tensor]:
        """The meter of `without_network`, of normalised inputs."""
        mean, std = (values[0] for values in (self.config.mean, self.config.std))
        trivial = self.without_network(images[:, :1] * std + mean)
        return {"baseline": functional.mse_loss(trivial, target[:, :1])}


class Masked(Reconstruction):
    """A black square is painted over; its share of the image is that of the curriculum's stage."""

    meters: ClassVar[dict[str, Meter]] = Reconstruction.meters | {
        "masked_mse": Meter("grey^2, of 0..1", "squared error within the square; with sum_masked, over the batch"),
        "baseline": Meter("grey^2, of 0..1", "masked_mse of the black square itself"),
    }
    trivial = "black square"

    def task(
        self, images: Tensor, batch: SliceBatch, boxes: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The images with a square black."""
        part, epoch = self.part, self.global_step // self.config.steps_per_epoch(self.slices)
        side = square_side(part.size, self.config.share(epoch), part.mask_by)
        squares = draw_squares(len(images), part.size, side, int(part.mask_margin * part.size), generator)
        hidden = inside(augment.to_device(squares, images.device), part.size)
        return images.masked_fill(hidden, 0), images, squares

    def without_network(self, corrupted: Tensor) -> Tensor:
        """The square left black."""
        return corrupted

    def masked_terms(self, output: Tensor, target: Tensor, squares: Tensor) -> dict[str, Tensor]:
        """The error within the square."""
        each = masked_mse(output, target, squares)
        return {"masked_mse": each.sum() if self.part.sum_masked else each.mean()}

    def baseline(self, images: Tensor, target: Tensor, squares: Tensor) -> dict[str, Tensor]:
        """The error of black within the square."""
        return {"baseline": self.masked_terms(torch.zeros_like(target), target, squares)["masked_mse"]}


class NextSlice(Reconstruction):
    """The next slice of the volume, towards the head, is foretold."""

    meters: ClassVar[dict[str, Meter]] = Reconstruction.meters | {
        "baseline": Meter("grey^2, of 0..1", "mse of the slice itself in the place of the next"),
    }
    trivial = "the slice itself"

    def task(
        self, images: Tensor, batch: SliceBatch, boxes: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same box of the next slice is the target."""
        assert batch.following is not None
        return images, augment.crop_and_resize(batch.following, boxes, self.part.size), nowhere(images)

    def without_network(self, corrupted: Tensor) -> Tensor:
        """The slice again."""
        return corrupted


class Denoise(Reconstruction):
    """Salt and pepper is taken out."""

    meters: ClassVar[dict[str, Meter]] = Reconstruction.meters | {
        "baseline": Meter("grey^2, of 0..1", "mse of the median of 5 x 5 pixels"),
    }
    trivial = "5 x 5 median"

    def task(
        self, images: Tensor, batch: SliceBatch, boxes: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The images with noise."""
        return salt_and_pepper(images, self.part.noise, generator), images, nowhere(images)

    def without_network(self, corrupted: Tensor) -> Tensor:
        """The median."""
        return median(corrupted)


def nowhere(images: Tensor) -> Tensor:
    """No square for any of the images."""
    return torch.zeros(len(images), 3, dtype=torch.long)


def masked_mse(output: Tensor, target: Tensor, squares: Tensor) -> Tensor:
    """(B,) squared error of images (B, C, S, S) within their squares (B, 3)."""
    hidden = inside(squares, target.shape[-1])
    error = ((output - target).square().mean(1, keepdim=True) * hidden).sum((1, 2, 3))
    return error / squares[:, 2].square()


def stretched(images: Tensor) -> Tensor:
    """Each image from its own least value to its own greatest, 0..1."""
    low, high = (limit(images, dim=(1, 2, 3), keepdim=True) for limit in (torch.amin, torch.amax))
    return (images - low) / (high - low).clamp_min(torch.finfo(images.dtype).tiny)
