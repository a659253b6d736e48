"""Latent diffusion: noise to the latents of a frozen autoencoder, given labels.

Legend:
    B batch    F findings    C, h, w latent channels and cells
    x_0        standardised latents; x_t noised ones (letters as in diffusion/objective.py)
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from lightning_modules.autoencoder import Autoencoder
from lightning_modules.blocks import prepare_blocks
from lightning_modules.checkpoint import check_architecture, write_facts
from lightning_modules.conditioning import UNKNOWN, LabelConditioning
from lightning_modules.diffusion.objective import Objective
from lightning_modules.diffusion.sampling import SCHEDULERS, build_scheduler, check_sampling, draw_noise, sample
from lightning_modules.ema import AveragedNetwork
from lightning_modules.names import check_name
from lightning_modules.networks.kl import NETWORK_KEY, network_config
from lightning_modules.optimisation import adamw, lr_scheduler
from lightning_modules.randomness import image_generators, seed_global_stream, stable_seed, step_generator
from lightning_modules.ranks import Part

SAMPLING_PRECISIONS = ("32", "bf16")


class ConditionalDenoiser(nn.Module):
    """The denoiser and the conditioning it was trained with: what is learnt, and what is averaged."""

    def __init__(self, denoiser: nn.Module, conditioning: LabelConditioning):
        super().__init__()
        self.denoiser, self.conditioning = denoiser, conditioning

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """x_t [B, C, h, w], t int64 or float [B], labels int64 [B, F] -> prediction [B, C, h, w]."""
        return self.denoiser(x_t, t.float(), self.conditioning(labels))


class Draws(NamedTuple):
    """What is drawn at random for each image of a batch."""

    of_posterior: Tensor  # standard normal [B, C, h, w]: where in the posterior x_0 lies
    t: Tensor  # timesteps int64 [B]
    eps: Tensor  # standard normal [B, C, h, w]


class LatentDiffusion(L.LightningModule):
    """Trains a conditional denoiser on the latents of an autoencoder; samples images with its averaged weights.

    Source: Rombach et al. 2022 (arXiv 2112.10752), section 3.2. Differs from the paper: latents are standardised by
    channel, and the posterior is sampled anew each step.

    Batches hold `image` [B, 3, H, W] in [0, 1], which the frozen autoencoder encodes, or raw `latent_mean` and
    `latent_std` [B, C, h, w]; and `labels` int64 [B, F]. Everything random in a step but dropout is a function
    of (seed, epoch, batch) and of the place in the batch of all ranks, so that a resumed run equals an uninterrupted
    one, and several processes train as one with their batch would. The autoencoder is in the state_dict.

    Args:
        autoencoder: trained, its latents measured; it is frozen and loses its perceptual network and discriminator.
        denoiser: (x_t, t float32 [B] in 0..T-1, cond [B, D]) -> prediction; has `latent_channels`, `latent_size` and
            `cond_dim`.
        conditioning: labels -> cond.
        objective: what the denoiser predicts and how errors weigh; the sampler shares its schedule.
        ema_decay: of the averaged weights; see AveragedNetwork.
        decay_steps: end of lr_schedule "cosine"; None takes the Trainer's number of steps.
        scheduler, num_steps, guidance, guidance_interval: how `sample` samples unless told otherwise; `sampling` holds
            them. The interval is in fractions of the timesteps, 0 the clean end.
        sampling_precision: "32", or "bf16" for autocast; the sampler's state is float32 in both.
        seed: of noise, timesteps, hidden labels and dropout.
        activation_checkpointing, compile_blocks: train the denoiser's blocks with less memory, or faster, as
            `recompute` and `compile_blocks` of blocks.py have it.

    Raises:
        ValueError: parts that do not fit together; unknown names; a sampling that means nothing.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        denoiser: nn.Module,
        conditioning: LabelConditioning,
        objective: Objective,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        lr_schedule: str = "constant",
        decay_steps: int | None = None,
        ema_decay: float = 0.9999,
        scheduler: str = "ddim",
        num_steps: int = 50,
        guidance: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        sampling_precision: str = "32",
        seed: int = 0,
        channels_last: bool = False,
        activation_checkpointing: bool = False,
        compile_blocks: bool = False,
    ):
        super().__init__()
        _check_parts(autoencoder, denoiser, conditioning)
        check_name("scheduler", scheduler, SCHEDULERS)
        check_name("sampling_precision", sampling_precision, SAMPLING_PRECISIONS)
        low, high = guidance_interval
        check_sampling(num_steps, guidance, (low, high), objective.schedule.num_timesteps)
        autoencoder.drop_judges()
        autoencoder.freeze()
        self.autoencoder = autoencoder
        self.network = ConditionalDenoiser(denoiser, conditioning)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.memory_format)
        self.ema = AveragedNetwork(self.network, ema_decay)
        self.objective = objective
        self.learning_rate, self.betas, self.weight_decay = learning_rate, betas, weight_decay
        self.warmup_steps, self.lr_schedule, self.decay_steps = warmup_steps, lr_schedule, decay_steps
        self.sampling = {
            "scheduler": scheduler,
            "num_steps": num_steps,
            "guidance": guidance,
            "guidance_interval": (low, high),
            "precision": sampling_precision,
        }
        self.seed = seed
        self.activation_checkpointing, self.compile_blocks = activation_checkpointing, compile_blocks
        self.config: dict[str, Any] | None = None  # resolved configuration, plain containers; goes into checkpoints
        self.trained_on: dict[str, Tensor] | None = None  # as write_facts has it; goes into checkpoints

    def train(self, mode: bool = True) -> "LatentDiffusion":
        """Set the mode of what is learnt; the autoencoder stays in eval mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    # --- training -------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Spread what is learnt, and its averages, over the processes, where the strategy does that."""
        if self.trainer.training:
            prepare_blocks(self.network.denoiser, self.activation_checkpointing, self.compile_blocks)
        shard = getattr(self.trainer.strategy, "shard", None)
        for network in (self.network, self.ema.network) if shard else ():
            shard(network.denoiser)
            shard(network.conditioning)

    def on_fit_start(self) -> None:
        """Refuse to train on latents of unknown scale.

        Raises:
            ValueError: the autoencoder's latents were never measured.
        """
        if not self.autoencoder.measured:
            raise ValueError(
                "the autoencoder's latents were never measured, so they cannot be standardised: call "
                "autoencoder.measure_latents(batches) over the training images before training on them."
            )

    def _posterior(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the raw latents, float32 [B, C, h, w] each."""
        if "latent_mean" in batch:
            mean, std = batch["latent_mean"].float(), batch["latent_std"].float()
        else:
            mean, std = self.autoencoder.encode(batch["image"])
        size, denoiser = self.latent_shape, self.network.denoiser
        if tuple(mean.shape[1:]) != size:
            raise ValueError(
                f"latents are {tuple(mean.shape[1:])} but the denoiser was built for {size}: set its latent_size to "
                f"{mean.shape[-1]}, or data.image_size to {denoiser.latent_size * self.autoencoder.downsampling}."
            )
        return mean, std

    def _loss(self, network: nn.Module, posterior: tuple[Tensor, Tensor], labels: Tensor, draws: "Draws") -> Tensor:
        """Mean loss of a batch."""
        mean, std = posterior
        x_0 = self.autoencoder.standardise(mean + std * draws.of_posterior)
        x_t = self.objective.q_sample(x_0, draws.eps, draws.t).contiguous(memory_format=self.memory_format)
        return self.objective.loss(network(x_t, draws.t, labels), x_0, draws.eps, draws.t).mean()

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch."""
        labels, posterior = batch["labels"], self._posterior(batch)
        seed_global_stream(self.seed, self.global_rank, self.current_epoch, batch_idx)  # dropout
        generator = step_generator(self.device, "diffusion", self.seed, 0, self.current_epoch, batch_idx)
        part = Part.of_module(self)
        draws = self.training_draws(len(labels), generator, part)
        hidden = part.of(lambda num: self.network.conditioning.draw_hidden(num, generator), len(labels))
        loss = self._loss(self.network, posterior, labels.masked_fill(hidden, UNKNOWN), draws)
        self.log("train/loss", loss.detach(), on_step=True, on_epoch=False, prog_bar=True, sync_dist=True,
                 batch_size=len(labels))  # fmt: skip
        return loss

    def training_draws(self, num: int, generator: torch.Generator, part: Part) -> "Draws":
        """Noise and timesteps of this part's `num` images."""
        shape, device = self.latent_shape, generator.device

        def noise() -> Tensor:
            return part.of(lambda total: torch.randn(total, *shape, generator=generator, device=device), num)

        of_posterior = noise()
        t = part.of(lambda total: self.objective.draw_timesteps(total, generator), num)
        return Draws(of_posterior, t, noise())

    def _validation_draws(self, ids: Sequence[str]) -> "Draws":
        """Noise and timesteps that follow from the images' ids: the same in any batch, on any process."""
        generators = image_generators([stable_seed("validation", self.seed, image) for image in ids])
        t = self.objective.timesteps_at(torch.cat([torch.rand(1, generator=generator) for generator in generators]))
        of_posterior, eps = (draw_noise(self.latent_shape, generators, self.device) for _ in range(2))
        return Draws(of_posterior, t.to(self.device), eps)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then average the weights: once an optimiser step, however many batches it gathers."""
        super().optimizer_step(*args, **kwargs)
        if getattr(self.trainer.strategy, "is_step", True):
            self.ema.update(self.network)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Loss of the averaged weights; each image has noise and a timestep of its own, the same in every epoch."""
        labels = batch["labels"]
        loss = self._loss(self.ema.network, self._posterior(batch), labels, self._validation_draws(batch["id"]))
        self.log("val/loss", loss, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=len(labels))

    def configure_optimizers(self) -> Any:
        """AdamW over denoiser and conditioning; the rate's course counts optimiser steps."""
        optimizer = adamw(self.network.parameters(), self.learning_rate, self.betas, self.weight_decay)
        decay_steps = self.decay_steps
        if decay_steps is None and self.lr_schedule == "cosine":
            decay_steps = self.trainer.estimated_stepping_batches
        scheduler = lr_scheduler(optimizer, self.lr_schedule, self.warmup_steps, decay_steps or 0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # --- sampling -------------------------------------------------------------------------------------------------

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, h, w of the latents that the denoiser was built for."""
        denoiser = self.network.denoiser
        return denoiser.latent_channels, denoiser.latent_size, denoiser.latent_size

    def sample_by(self, **settings: Any) -> None:
        """Change how `sample` samples unless told otherwise: any of the keys of `sampling`.

        Raises:
            ValueError: unknown names, or a sampling that means nothing.
        """
        sampling = {**self.sampling, **settings}
        for name in settings:
            check_name("sampling", name, self.sampling)
        check_name("scheduler", sampling["scheduler"], SCHEDULERS)
        check_name("sampling_precision", sampling["precision"], SAMPLING_PRECISIONS)
        num_timesteps = self.objective.schedule.num_timesteps
        check_sampling(sampling["num_steps"], sampling["guidance"], sampling["guidance_interval"], num_timesteps)
        self.sampling = sampling

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        seeds: Sequence[int] | Tensor,
        num_steps: int | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Images float32 [B, 3, H, W] in [0, 1] from the averaged weights; image i follows from labels i and seed i.

        Args:
            labels: int64 [B, F], -1 for unknown.
            seeds: one an image, each in [0, 2**32).
            num_steps, guidance: None takes those of `sampling`.

        Raises:
            ValueError: labels out of range, another number of seeds than of labels, a sampling that means nothing.
        """
        network, settings = self.ema.network, self.sampling
        network.conditioning.check(labels)
        generators = image_generators(seeds)
        if len(generators) != len(labels):
            raise ValueError(f"{len(generators)} seeds for {len(labels)} rows of labels: give one an image.")
        noise = draw_noise(self.latent_shape, generators, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings["precision"] == "bf16"):
            x_0 = sample(
                lambda x_t, t, cond: network.denoiser(x_t.contiguous(memory_format=self.memory_format), t, cond),
                noise,
                network.conditioning(labels.to(self.device)),
                network.conditioning(network.conditioning.unknown(len(labels))),
                build_scheduler(settings["scheduler"], self.objective),
                settings["num_steps"] if num_steps is None else num_steps,
                settings["guidance"] if guidance is None else guidance,
                settings["guidance_interval"],
                generators,
            )
            return self.autoencoder.decode(self.autoencoder.unstandardise(x_0))

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add whose photographs trained it, and both configurations: the checkpoint suffices to rebuild the module."""
        checkpoint[NETWORK_KEY] = network_config(self.autoencoder.network)
        write_facts(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another architecture with an error that says what differs."""
        check_architecture(self, checkpoint)


def _check_parts(autoencoder: Autoencoder, denoiser: nn.Module, conditioning: LabelConditioning) -> None:
    if denoiser.latent_channels != autoencoder.latent_channels:
        raise ValueError(
            f"the denoiser's latent_channels={denoiser.latent_channels} are not the autoencoder's "
            f"{autoencoder.latent_channels}."
        )
    if denoiser.cond_dim != conditioning.dim:
        raise ValueError(f"the denoiser's cond_dim={denoiser.cond_dim} is not conditioning.dim={conditioning.dim}.")
