"""Latent diffusion: noise to the latents of a frozen autoencoder, given labels.

Legend:
    B batch    F findings    C, h, w latent channels and cells
    x_0        standardised latents; x_t noised ones (letters as in diffusion/objective.py)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from datamodules.errors import UserError
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.clusters import ClusterConditioning
from lightning_modules.condition import Condition
from lightning_modules.conditional_denoiser import ConditionalDenoiser, check_parts
from lightning_modules.conditioning import UNKNOWN, LabelConditioning
from lightning_modules.diffusion.objective import Objective
from lightning_modules.diffusion.sampling import draw_noise
from lightning_modules.ema import AveragedNetwork
from lightning_modules.label_maps import LabelMaps, LabelSums
from lightning_modules.latent_inpainting import LatentInpainting
from lightning_modules.latent_sampling import Sampling
from lightning_modules.masks import MaskCode, MaskMaps
from lightning_modules.networks.kl import NETWORK_KEY, network_config
from lightning_modules.networks.latent_classifier import LatentClassifier
from lightning_modules.randomness import image_generators, seed_global_stream, stable_seed, step_generator
from lightning_modules.ranks import RankSlice
from lightning_modules.training import Blocks, Optimisation, TrainedModule, accepts_fields

GUIDE_DECAY = 0.05
LOSSES = ("guide",)  # logged beside the denoiser's; less is better
GUIDE_WEIGHT = 0.01  # of the guide's loss: AdamW's steps do not depend on it, and clipping looks at the denoiser alone


class NoiseSample(NamedTuple):
    """What is drawn at random for each image of a batch."""

    of_posterior: Tensor  # standard normal [B, C, h, w]: where in the posterior x_0 lies
    t: Tensor  # timesteps int64 [B]
    eps: Tensor  # standard normal [B, C, h, w]


@dataclass(frozen=True)
class Parts:
    """What a denoiser may have beside its conditioning by labels; None for none.

    Args:
        label_maps: further channels of the denoiser, which has as many `map_channels`; see `fit_label_maps`. None for
            none.
        guide: classifier of noised latents that is trained along with the denoiser, and by whose gradient `sample` is
            guided, with a weight decay of its own, GUIDE_DECAY: it learns few labels by heart. None for none.
        masks: MaskMaps, with which masks are a condition as labels are; or MaskCode, with which images and masks are
            denoised together, so that the latents have the code's channels behind the autoencoder's. None for none.
        clusters: with which the cluster of an image, known by its id, is a condition. None for none.
    """

    label_maps: LabelMaps | None = None
    guide: LatentClassifier | None = None
    masks: MaskMaps | MaskCode | None = None
    clusters: ClusterConditioning | None = None


@accepts_fields(parts=Parts, optimisation=Optimisation, sampling=Sampling, blocks=Blocks)
class LatentDiffusion(LatentInpainting, TrainedModule):
    """Trains a conditional denoiser on the latents of an autoencoder; samples images with its averaged weights.

    Source: Rombach et al. 2022 (arXiv 2112.10752), section 3.2. Differs from the paper: latents are standardised by
    channel, and the posterior is sampled anew each step.

    Batches hold `image` [B, 3, H, W] in [0, 1], which the frozen autoencoder encodes, or raw `latent_mean` and
    `latent_std` [B, C, h, w]; `labels` int64 [B, F]; and `mask` int64 [B, H, W] where there are `masks`.
    Everything random in a step but dropout is a function
    of (seed, epoch, batch) and of the place in the batch of all ranks, so that a resumed run equals an uninterrupted
    one, and several processes train as one with their batch would. The autoencoder is in the state_dict.

    Args:
        autoencoder: trained, its latents measured; it is frozen and loses its perceptual network and discriminator.
        denoiser: (x_t, t float32 [B] in 0..T-1, cond [B, D]) -> prediction; has `latent_channels`, `latent_size` and
            `cond_dim`.
        conditioning: labels -> cond.
        objective: what the denoiser predicts and how errors weigh; the sampler shares its schedule.
        parts: what else there is beside the denoiser; given field by field too.
        sampling: how `sample` samples unless told otherwise; the attribute `sampling` holds it as a dict.
        ema_decay: of the averaged weights; see AveragedNetwork.
        seed: of noise, timesteps, hidden labels and dropout.

    Raises:
        ValueError: parts that do not fit together; unknown names; a sampling that means nothing.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        denoiser: nn.Module,
        conditioning: LabelConditioning,
        objective: Objective,
        parts: Parts = Parts(),
        optimisation: Optimisation = Optimisation(),
        sampling: Sampling = Sampling(),
        ema_decay: float = 0.9999,
        seed: int = 0,
        channels_last: bool = False,
        blocks: Blocks = Blocks(),
    ):
        super().__init__(optimisation, blocks, seed)
        check_parts(autoencoder, denoiser, conditioning, parts.label_maps, parts.masks)
        autoencoder.drop_judges()
        autoencoder.freeze()
        self.autoencoder = autoencoder
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = ConditionalDenoiser(
            denoiser, conditioning, parts.label_maps, parts.guide, parts.masks, memory_format, parts.clusters
        )
        self.ema = AveragedNetwork(self.network, ema_decay)
        self.objective = objective
        self.sampling = sampling.settings(parts.guide is not None)
        self._check_sampling(self.sampling)

    def train(self, mode: bool = True) -> "LatentDiffusion":
        """Set the mode of what is learnt; the autoencoder stays in eval mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    # --- training -------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Spread what is learnt, and its averages, over the processes, where the strategy does that."""
        averaged = self.ema.network
        both = (self.network, averaged)
        parts = [part for one in both for part in (one.denoiser, one.conditioning, one.guide, one.clusters)]
        self.prepare(self.network.denoiser, parts)

    def on_fit_start(self) -> None:
        """Refuse to train on latents of unknown scale.

        Raises:
            ValueError: the autoencoder's latents were never measured; a timestep has no weight.
        """
        self.objective.check_trainable()
        if not self.autoencoder.measured:
            raise UserError(
                "the autoencoder's latents were never measured, so they cannot be standardised: call "
                "autoencoder.measure_latents(batches) over the training images before training on them."
            )

    def fit_label_maps(self, batches: Iterable[Mapping[str, Any]]) -> int:
        """Fit the label maps to training batches, as `training_step` takes them; returns the number of images.

        Raises:
            ValueError: no image.
        """
        maps = self.network.label_maps
        sums = LabelSums(maps)
        for batch in batches:
            with torch.no_grad():
                mean, _ = self._posterior(batch)
                sums.add(batch["labels"], self.standardise(mean.to(self.device)))
        maps.fit(sums)
        self.ema.network.label_maps.load_state_dict(maps.state_dict())
        return sums.num_images

    def fit_mask_code(self, masks: Iterable[Tensor]) -> None:
        """Fit the code of masks, where there is one, to masks int64 [B, H, W] of training images; see MaskCode.fit."""
        self.network.masks.fit(masks)
        self.ema.network.masks.load_state_dict(self.network.masks.state_dict())

    def fit_clusters(self, centres: Tensor, counts: Tensor) -> None:
        """Take the clusters' centres [K, E] and their numbers of training images; see ClusterConditioning.fit."""
        for network in (self.network, self.ema.network):
            network.clusters.fit(centres, counts)

    def _posterior(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the raw latents, float32 [B, C, h, w] each; that of a mask's code is 0."""
        if "latent_mean" in batch:
            mean, std = batch["latent_mean"].float(), batch["latent_std"].float()
        else:
            mean, std = self.autoencoder.encode(batch["image"])
        if self.network.masks is not None and "mask" not in batch:
            raise UserError(
                "the model has masks (model.masks), and the images come without any. Remedy: data with masks, or "
                "model/masks=none."
            )
        if self.mask_code is not None:
            code = self.mask_code.encode(batch["mask"].to(self.device)).to(mean.device)
            mean, std = torch.cat([mean, code], dim=1), torch.cat([std, torch.zeros_like(code)], dim=1)
        size, denoiser = self.latent_shape, self.network.denoiser
        if tuple(mean.shape[1:]) != size:
            raise UserError(
                f"latents are {tuple(mean.shape[1:])} but the denoiser was built for {size}: set its latent_size to "
                f"{mean.shape[-1]}, or data.image_size to {denoiser.latent_size * self.autoencoder.downsampling}."
            )
        return mean, std

    def _noised(self, posterior: tuple[Tensor, Tensor], draws: "NoiseSample") -> tuple[Tensor, Tensor]:
        """x_0 and x_t of a batch."""
        mean, std = posterior
        x_0 = self.standardise(mean + std * draws.of_posterior)
        return x_0, self.objective.q_sample(x_0, draws.eps, draws.t)

    def _loss(
        self, network: nn.Module, noised: tuple[Tensor, Tensor], shown: Condition | Tensor, draws: "NoiseSample"
    ) -> Tensor:
        """Mean loss of the denoiser on a batch."""
        x_0, x_t = noised
        return self.objective.loss(network(x_t, draws.t, shown), x_0, draws.eps, draws.t).mean()

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch."""
        labels, posterior = batch["labels"], self._posterior(batch)
        seed_global_stream(self.seed, self.global_rank, self.current_epoch, batch_idx)  # dropout
        generator = step_generator(self.device, "diffusion", self.seed, 0, self.current_epoch, batch_idx)
        part = RankSlice.of_module(self)
        draws = self.training_draws(len(labels), generator, part)
        hidden = part.of(lambda num: self.network.conditioning.draw_hidden(num, generator), len(labels))
        shown = self._shown(self._given(batch), hidden, part, generator)
        losses = self.losses(posterior, labels, shown, draws)
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach(), on_step=True, on_epoch=False, prog_bar=name == "loss",
                     sync_dist=True, batch_size=len(labels))  # fmt: skip
        return losses["loss"] + GUIDE_WEIGHT * losses.get("guide", 0.0)

    def _given(self, batch: Mapping[str, Any]) -> Condition:
        """What the images of a batch show, with the clusters that they are in."""
        given, clusters = Condition.of(batch), self.network.clusters
        return given if clusters is None else replace(given, cluster=clusters.of(batch["id"]))

    def _shown(self, given: Condition, hidden: Tensor, part: RankSlice, generator: torch.Generator) -> Condition:
        """What the denoiser sees of a condition: without the labels that are hidden, and some masks and clusters."""
        mask, cluster, labels = None, None, given.labels.masked_fill(hidden, UNKNOWN)
        if isinstance(self.network.masks, MaskMaps):
            off = part.of(lambda num: self.network.masks.draw_hidden(num, generator), len(labels)) | hidden.all(dim=1)
            mask = given.mask.masked_fill(off[:, None, None], UNKNOWN)
        if self.network.clusters is not None:
            off = part.of(lambda num: self.network.clusters.draw_hidden(num, generator), len(labels)) | hidden.all(
                dim=1
            )
            cluster = given.cluster.masked_fill(off, UNKNOWN)
        return Condition(labels, mask, cluster)

    def losses(
        self, posterior: tuple[Tensor, Tensor], labels: Tensor, shown: Condition | Tensor, draws: "NoiseSample"
    ) -> dict[str, Tensor]:
        """`loss` of the denoiser, which sees the condition `shown`, and `guide` of the guide, where there is one."""
        noised = self._noised(posterior, draws)
        found = {"loss": self._loss(self.network, noised, shown, draws)}
        if self.network.guide is not None:
            found["guide"] = self.network.guide_loss(noised[1], draws.t, labels)
        return found

    def training_draws(self, num: int, generator: torch.Generator, part: RankSlice) -> "NoiseSample":
        """Noise and timesteps of this part's `num` images."""
        shape, device = self.latent_shape, generator.device

        def noise() -> Tensor:
            return part.of(lambda total: torch.randn(total, *shape, generator=generator, device=device), num)

        of_posterior = noise()
        t = part.of(lambda total: self.objective.draw_timesteps(total, generator), num)
        return NoiseSample(of_posterior, t, noise())

    def _validation_draws(self, ids: Sequence[str]) -> "NoiseSample":
        """Noise and timesteps that follow from the images' ids: the same in any batch, on any process."""
        generators = image_generators([stable_seed("validation", self.seed, image) for image in ids])
        t = self.objective.timesteps_at(torch.cat([torch.rand(1, generator=generator) for generator in generators]))
        of_posterior, eps = (draw_noise(self.latent_shape, generators, self.device) for _ in range(2))
        return NoiseSample(of_posterior, t.to(self.device), eps)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Loss of the averaged weights; each image has noise and a timestep of its own, the same in every epoch."""
        labels = batch["labels"]
        draws = self._validation_draws(batch["id"])
        noised = self._noised(self._posterior(batch), draws)
        options = {"on_step": False, "on_epoch": True, "sync_dist": True, "batch_size": len(labels)}
        shown = self._given(batch)
        self.log("val/loss", self._loss(self.ema.network, noised, shown, draws), prog_bar=True, **options)
        if self.ema.network.guide is not None:
            self.log("val/guide", self.ema.network.guide_loss(noised[1], draws.t, labels), **options)

    def optimizer_of(self, network: ConditionalDenoiser) -> Optimizer:
        """AdamW over what a network like ours learns, each part with its weight decay."""
        learnt = [network.denoiser, network.conditioning, *([] if network.clusters is None else [network.clusters])]
        parts = [(nn.ModuleList(learnt), self.optimisation.weight_decay)]
        return self.adamw(parts if network.guide is None else [*parts, (network.guide, GUIDE_DECAY)])

    def on_train_start(self) -> None:
        """Take up the optimiser of a checkpoint as this strategy can have it.

        Raises:
            ValueError: label maps, a mask code or clusters were never fitted; strategies that share out weights load
                them only now.
        """
        if self.mask_code is not None and not self.mask_code.fitted:
            raise UserError("the code of masks was never fitted: call fit_mask_code(masks) over training masks.")
        if self.network.label_maps is not None and not self.network.label_maps.fitted:
            raise UserError("the label maps were never fitted: call fit_label_maps(batches) over training images.")
        if self.network.clusters is not None and not self.network.clusters.fitted:
            raise UserError("the clusters were never fitted: call fit_clusters(centres, counts) of training images.")
        super().on_train_start()

    def configure_optimizers(self) -> Any:
        """The optimiser with its schedule."""
        return self.scheduled(self.optimizer_of(self.network))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add how the autoencoder's network was built too."""
        checkpoint[NETWORK_KEY] = network_config(self.autoencoder.network)
        super().on_save_checkpoint(checkpoint)
