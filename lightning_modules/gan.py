"""A GAN of images and their masks: the peer of diffusion on the same data and budget.

Legend:
    B batch    F findings    K levels of a mask    C channels: 3, and one for each level of the mask but the background
    x          channels in [-1, 1], as mask_channels.py has them
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from lightning_modules.adversarial import TwoOptimisers
from lightning_modules.condition import Condition, Pairs
from lightning_modules.conditioning import UNKNOWN, LabelConditioning
from lightning_modules.differentiable_augmentation import DifferentiableAugmentation
from lightning_modules.diffusion.sampling import draw_noise
from lightning_modules.ema import AveragedNetwork
from lightning_modules.losses.adversarial import discriminator_hinge, generator_hinge
from lightning_modules.mask_channels import channels_of, num_channels, pairs_of
from lightning_modules.networks.gan import Discriminator, Generator
from lightning_modules.randomness import image_generators, stable_seed, step_generator
from lightning_modules.ranks import RankSlice
from lightning_modules.training import Blocks, Optimisation, TrainedModule, accepts_fields


class ConditionalGenerator(nn.Module):
    """The generator and its conditioning: what is averaged."""

    def __init__(self, generator: Generator, conditioning: LabelConditioning) -> None:
        super().__init__()
        self.generator, self.conditioning = generator, conditioning

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Standard normal noise [B, Z] and labels int64 [B, F] -> x [B, C, H, W]."""
        return self.generator(noise, self.conditioning(labels))


class ConditionalDiscriminator(nn.Module):
    """The discriminator and a conditioning of its own; it computes in float32."""

    def __init__(self, network: Discriminator, conditioning: LabelConditioning) -> None:
        super().__init__()
        self.network, self.conditioning = network, conditioning

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, C, H, W] and labels int64 [B, F] -> logits [B, 1, h, w], positive for real, and features."""
        with torch.autocast(x.device.type, enabled=False):
            return self.network(x.float(), self.conditioning(labels))

    def reconstruction_error(self, features: Tensor, x: Tensor) -> Tensor:
        """That of the network."""
        with torch.autocast(x.device.type, enabled=False):
            return self.network.reconstruction_error(features, x.float())


@accepts_fields(optimisation=Optimisation)
class PairGAN(TwoOptimisers, TrainedModule):
    """A generator of images and masks, trained against a discriminator that sees both as channels of one image.

    Source: SinGAN-Seg, Thambawita et al. 2022 (arXiv 2107.00471), section 3.1: the mask is a fourth channel. Differs
    from the paper: one generator for all images and not one for each; the networks are those of networks/gan.py. Hinge
    losses; the discriminator sees everything through a differentiable augmentation; labels condition both networks,
    and all of them unknown is the unconditional model. Images without masks, or with masks unknown in places, train
    along: there the discriminator sees 0 in the mask of the image and of the generated one beside it.

    Batches hold `image` float32 [B, 3, H, W] in [0, 1], `labels` int64 [B, F] and, with mask_levels, `mask`
    int64 [B, H, W], -1 for unknown. Everything random in a step is a function of (seed, epoch, batch) and of the place
    in the batch of all ranks, so that a resumed run equals an uninterrupted one. Optimisation is manual, as
    adversarial.py has it; the average follows the generator's steps.

    Args:
        generator, discriminator: of the same sizes.
        conditioning: labels -> vectors; the discriminator has its copy, which learns by itself.
        augmentation: of what the discriminator sees.
        mask_levels: names of the levels of masks, background first; () for images alone.
        disc_learning_rate: the discriminator's; None takes the generator's.
        reconstruction_weight: of the error by which the discriminator reconstructs real images, beside its own loss.
        gradient_clip: largest norm of the gradient of either optimiser; None does not clip.
        ema_decay: of the averaged weights; see AveragedNetwork.
        seed: of noise, augmentation and hidden labels.

    Raises:
        ValueError: networks of other channels than the levels need.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        conditioning: LabelConditioning,
        augmentation: DifferentiableAugmentation,
        mask_levels: Sequence[str] = (),
        optimisation: Optimisation = Optimisation(),
        disc_learning_rate: float | None = None,
        reconstruction_weight: float = 1.0,
        gradient_clip: float | None = None,
        ema_decay: float = 0.999,
        seed: int = 0,
    ) -> None:
        super().__init__(optimisation, Blocks(), seed)
        wanted = num_channels(len(mask_levels))
        for name, network in (("generator", generator), ("discriminator", discriminator)):
            if network.num_channels != wanted:
                raise UserError(
                    f"the {name} has num_channels={network.num_channels}, and {len(mask_levels)} mask_levels need "
                    f"{wanted}: 3 and one for each level but the background."
                )
        self.network = ConditionalGenerator(generator, conditioning)
        self.ema = AveragedNetwork(self.network, ema_decay)
        self.discriminator = ConditionalDiscriminator(discriminator, copy.deepcopy(conditioning))
        self.augmentation, self.mask_levels = augmentation, tuple(mask_levels)
        self.disc_learning_rate, self.reconstruction_weight = disc_learning_rate, reconstruction_weight
        self.gradient_clip = gradient_clip
        self.sampling: dict[str, Any] = {}  # nothing to choose: an image takes one pass
        self.automatic_optimization = False
        self.register_buffer("skipped_steps", torch.zeros((), dtype=torch.int64))

    # --- sampling -------------------------------------------------------------------------------------------------

    takes_masks = False  # it makes masks of its own

    @property
    def image_size(self) -> int:
        """Pixels along a side of what it makes."""
        return self.network.generator.image_size

    def sample_by(self, **settings: Any) -> None:
        """For what diffusion chooses by settings; here there are none.

        Raises:
            ValueError: any setting.
        """
        if settings:
            raise UserError(
                f"{', '.join(f'{name}={value}' for name, value in settings.items())}: a GAN makes an image in one "
                "pass, and has no such settings. Remedy: leave them out."
            )

    def sample(
        self,
        condition: Condition | Mapping[str, Tensor] | Tensor,
        seeds: Sequence[int] | Tensor,
        num_steps: int | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """The images of `sample_pairs`, float32 [B, 3, H, W] in [0, 1]."""
        return self.sample_pairs(condition, seeds, num_steps, guidance).images

    @torch.no_grad()
    def sample_pairs(
        self,
        condition: Condition | Mapping[str, Tensor] | Tensor,
        seeds: Sequence[int] | Tensor,
        num_steps: int | None = None,
        guidance: float | None = None,
    ) -> Pairs:
        """Images and masks from the averaged weights; pair i follows from condition i and seed i.

        Args:
            condition: what the images are to show; a batch, or its labels int64 [B, F] alone, will do.
            seeds: one an image, each in [0, 2**32).
            num_steps, guidance: of generators that take steps; they change nothing here.

        Raises:
            ValueError: labels out of range, another number of seeds than of conditions.
        """
        condition = Condition.of(condition)
        self.network.conditioning.check(condition.labels)
        if len(seeds) != len(condition):
            raise UserError(f"{len(seeds)} seeds for {len(condition)} rows of labels: give one an image.")
        with torch.autocast(self.device.type, enabled=False):
            return pairs_of(self.ema.network(self._noise_of(seeds), condition.labels.to(self.device)))

    def _noise_of(self, seeds: Sequence[int] | Tensor) -> Tensor:
        return draw_noise((self.network.generator.noise_dim,), image_generators(seeds), self.device)

    # --- training -------------------------------------------------------------------------------------------------

    def _channels(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """x of a batch, and where in it nothing is known, bool [B, C, H, W]."""
        images, size = batch["image"], self.image_size
        if tuple(images.shape[-2:]) != (size, size):
            raise UserError(
                f"images are {images.shape[-2]} x {images.shape[-1]} pixels, and the generator makes {size} x {size}: "
                f"set data.image_size={size}."
            )
        x = channels_of(images, batch.get("mask"), len(self.mask_levels))
        unknown = torch.zeros_like(x, dtype=torch.bool)
        if self.mask_levels:
            unknown[:, 3:] = (batch["mask"] < 0)[:, None]
        return x, unknown

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """A step of the generator, then one of the discriminator on the same images."""
        labels = batch["labels"]
        real, unknown = self._channels(batch)
        generator = step_generator(self.device, "gan", self.seed, 0, self.current_epoch, batch_idx)
        part, num, size = RankSlice.of_module(self), len(labels), self.network.generator.noise_dim
        noise = part.of(lambda all: torch.randn(all, size, generator=generator, device=self.device), num)
        hidden = part.of(lambda all: self.network.conditioning.draw_hidden(all, generator), num)
        draws = [part.of(lambda all: self.augmentation.draw(all, generator), num) for _ in range(3)]
        shown = labels.masked_fill(hidden, UNKNOWN)
        fake = self.network(noise, shown).float().masked_fill(unknown, 0.0)
        losses = {"loss": self._generator_step(fake, shown, draws[0])}
        losses |= self._discriminator_step(real, fake.detach(), shown, draws[1:])
        losses["skipped_steps"] = self.skipped_steps.float()
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach(), on_step=True, on_epoch=False, prog_bar=name == "loss",
                     sync_dist=True, batch_size=num)  # fmt: skip

    def _generator_step(self, fake: Tensor, labels: Tensor, draws: Tensor) -> Tensor:
        self.discriminator.requires_grad_(False)
        logits, _ = self.discriminator(self.augmentation(fake, draws), labels)
        loss = generator_hinge(logits)
        if self._step_counted(loss):
            self.ema.update(self.network)
        self.discriminator.requires_grad_(True)
        return loss

    def _discriminator_step(
        self, real: Tensor, fake: Tensor, labels: Tensor, draws: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        real, fake = (self.augmentation(x, each) for x, each in zip((real, fake), draws, strict=True))
        logits, features = self.discriminator(torch.cat([real, fake]), labels.repeat(2, 1))
        of_real, of_fake = logits.chunk(2)
        found = {
            "discriminator": discriminator_hinge(of_real, of_fake),
            "reconstruction": self.discriminator.reconstruction_error(features[: len(real)], real),
        }
        self._step_discriminator(found["discriminator"] + self.reconstruction_weight * found["reconstruction"])
        return found | {"logits_real": of_real.mean(), "logits_fake": of_fake.mean()}

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Log the discriminator's loss on real images and those of the averaged weights, whose seeds follow from ids.

        Where it rises far above that of training, the discriminator knows its training images by heart.
        """
        labels = batch["labels"]
        real, unknown = self._channels(batch)
        seeds = [stable_seed("validation", self.seed, image) for image in batch["id"]]
        fake = self.ema.network(self._noise_of(seeds), labels).float().masked_fill(unknown, 0.0)
        of_real, of_fake = (self.discriminator(x, labels)[0] for x in (real, fake))
        self.log("val/discriminator", discriminator_hinge(of_real, of_fake), on_step=False, on_epoch=True,
                 sync_dist=True, batch_size=len(labels))  # fmt: skip

    def configure_optimizers(self) -> Any:
        """AdamW with its schedule for the generator, and one at a constant rate for the discriminator.

        Raises:
            ValueError: a strategy or precision that two optimisers do not work with.
        """
        if hasattr(self.trainer.strategy, "shard"):
            raise UserError(
                f"strategy {type(self.trainer.strategy).__name__} shares out weights, and a GAN is trained with whole "
                "ones. Remedy: strategy=single or ddp."
            )
        scheduled = self.scheduled(self.adamw([(self.network, self.optimisation.weight_decay)]))
        second = self._discriminator_optimizer(self.disc_learning_rate)
        return [scheduled["optimizer"], second], [scheduled["lr_scheduler"]["scheduler"]]
