"""How a latent diffusion model makes images: its settings, checked, and the way from labels and seeds to pixels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from datamodules.errors import UserError
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.condition import Condition, Pairs
from lightning_modules.conditional_denoiser import ConditionalDenoiser
from lightning_modules.diffusion.objective import Objective
from lightning_modules.diffusion.sampling import (
    ClassifierGuidance,
    build_scheduler,
    check_interval,
    check_sampling,
    default_spacing,
    draw_noise,
    sample,
)
from lightning_modules.ema import AveragedNetwork
from lightning_modules.masks import MaskCode
from lightning_modules.names import check_name
from lightning_modules.randomness import image_generators

SAMPLING_PRECISIONS = ("32", "bf16")
CLASSIFIER_SCALE = 8.0  # from where labels are followed no better, and up to where images lose no variety


def weights_of(findings: Sequence[str] | Mapping[str, float] | None) -> dict[str, float]:
    """`classifier_findings` as weights by name; names alone have 1.

    Raises:
        ValueError: a text, which is neither.
    """
    if isinstance(findings, str):
        raise UserError(f"classifier_findings={findings}: a list is needed, [{findings}], or weights by name.")
    if isinstance(findings, Mapping):
        return dict(findings)
    return dict.fromkeys(findings or (), 1.0)


def plain_findings(findings: Any) -> list[str] | dict[str, float] | None:
    """The same in plain containers, as they go into checkpoints and recipes."""
    if findings is None:
        return None
    return weights_of(findings) if isinstance(findings, Mapping) else list(findings)


@dataclass(frozen=True)
class Sampling:
    """How images are sampled.

    Args:
        spacing: None is `default_spacing` of the scheduler.
        guidance: weight of classifier-free guidance; 1 is none.
        guidance_interval: fractions of the timesteps in which it acts, 0 the clean end.
        classifier_scale: of guidance by the guide; 0 is none, of None CLASSIFIER_SCALE where there is a guide.
        classifier_interval: as guidance_interval.
        classifier_findings: those that it acts on: names, or names with weights (the products of powers of Liu et al.
            2022, arXiv 2206.01714); None for all.
        guidance_rescale: share to which the deviation of what classifier-free guidance predicts is brought back to
            that without guidance (Lin et al. 2024, arXiv 2305.08891, eq. 14 to 16).
        sampling_precision: "32", or "bf16" for autocast; the sampler's state is float32 in both.
    """

    scheduler: str = "ddim"
    num_steps: int = 50
    spacing: str | None = "trailing"
    guidance: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    classifier_scale: float | None = 0.0
    classifier_interval: tuple[float, float] = (0.0, 1.0)
    classifier_findings: Sequence[str] | Mapping[str, float] | None = None
    guidance_rescale: float = 0.0
    sampling_precision: str = "32"

    def settings(self, has_guide: bool) -> dict[str, Any]:
        """What is sampled by, in plain containers, as recipes hold it: nothing is left to be chosen."""
        low, high = self.guidance_interval
        scale = CLASSIFIER_SCALE if has_guide else 0.0
        return {
            "scheduler": self.scheduler,
            "num_steps": self.num_steps,
            "spacing": default_spacing(self.scheduler) if self.spacing is None else self.spacing,
            "guidance": self.guidance,
            "guidance_interval": (low, high),
            "classifier_scale": scale if self.classifier_scale is None else self.classifier_scale,
            "classifier_interval": tuple(self.classifier_interval),
            "classifier_findings": plain_findings(self.classifier_findings),
            "guidance_rescale": self.guidance_rescale,
            "precision": self.sampling_precision,
        }


class LatentSampling:
    """Mixin of LatentDiffusion: `sampling` are the settings by which `sample` samples unless told otherwise."""

    autoencoder: Autoencoder
    network: ConditionalDenoiser
    ema: AveragedNetwork
    objective: Objective
    device: torch.device
    sampling: dict[str, Any]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, h, w of the latents that the denoiser was built for."""
        denoiser = self.network.denoiser
        return denoiser.latent_channels, denoiser.latent_size, denoiser.latent_size

    @property
    def image_size(self) -> int:
        """Pixels along a side of the images."""
        return self.latent_shape[-1] * self.autoencoder.downsampling

    @property
    def mask_levels(self) -> tuple[str, ...]:
        """Names of the levels of its masks, background first; () for a generator without masks."""
        masks = self.ema.network.masks
        return () if masks is None else masks.levels

    @property
    def takes_masks(self) -> bool:
        """Whether it paints images for masks that are given; one that does not may make masks of its own."""
        return bool(self.mask_levels) and self.mask_code is None

    @property
    def mask_code(self) -> MaskCode | None:
        """How masks are denoised with images; None where they are not."""
        masks = self.ema.network.masks
        return masks if isinstance(masks, MaskCode) else None

    def standardise(self, raw: Tensor) -> Tensor:
        """Latents [B, C, h, w] with unit variance; the channels of a mask's code have it already."""
        if self.mask_code is None:
            return self.autoencoder.standardise(raw)
        num = self.autoencoder.latent_channels
        return torch.cat([self.autoencoder.standardise(raw[:, :num]), raw[:, num:]], dim=1)

    def sample_by(self, **settings: Any) -> None:
        """Change how `sample` samples unless told otherwise: any of the keys of `sampling`.

        With another scheduler the spacing is that scheduler's default, unless it is given too.

        Raises:
            ValueError: unknown names, or a sampling that means nothing.
        """
        if settings.get("scheduler", self.sampling["scheduler"]) != self.sampling["scheduler"]:
            settings = {"spacing": default_spacing(settings["scheduler"]), **settings}
        sampling = {**self.sampling, **settings}
        for name in settings:
            check_name("sampling", name, self.sampling)
        self._check_sampling(sampling)
        self.sampling = sampling

    def _check_sampling(self, sampling: Mapping[str, Any]) -> None:
        check_name("sampling_precision", sampling["precision"], SAMPLING_PRECISIONS)
        names = ("scheduler", "num_steps", "spacing", "guidance", "guidance_interval")
        check_sampling(*(sampling[name] for name in names), self.objective.schedule.num_timesteps)
        scale = sampling["classifier_scale"]
        check_interval("classifier_interval", sampling["classifier_interval"])
        for name, weight in weights_of(sampling["classifier_findings"]).items():
            check_name("classifier_findings", name, self.network.conditioning.names)
            if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 <= weight < math.inf:
                raise UserError(f"classifier_findings.{name}={weight} must be a weight, 0 or more.")
        rescale = sampling["guidance_rescale"]
        if not isinstance(rescale, int | float) or isinstance(rescale, bool) or not 0 <= rescale <= 1:
            raise UserError(f"guidance_rescale={rescale} must be a number from 0 (none) to 1.")
        if scale < 0 or (scale and self.network.guide is None):
            raise UserError(
                f"classifier_scale={scale:g} must be 0, or more where the model has a guide: it was trained "
                f"{'without' if self.network.guide is None else 'with'} model.guide."
            )

    @torch.no_grad()
    def sample(
        self,
        condition: Condition | Mapping[str, Tensor] | Tensor,
        seeds: Sequence[int] | Tensor,
        num_steps: int | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Images float32 [B, 3, H, W] in [0, 1] from the averaged weights; image i follows from condition i and seed i.

        Args:
            condition: what the images are to show; a batch, or its labels int64 [B, F] alone, will do. Clusters that it
                does not name are drawn as often as in training, where the generator knows any.
            seeds: one an image, each in [0, 2**32).
            num_steps: None takes that of `sampling`.
            guidance: weight of classifier-free guidance, and then without the guide; None takes both of `sampling`.

        Raises:
            ValueError: labels or masks out of range, another number of seeds than of conditions, a sampling that means
                nothing.
        """
        return self.sample_pairs(condition, seeds, num_steps, guidance).images

    @torch.no_grad()
    def sample_pairs(
        self,
        condition: Condition | Mapping[str, Tensor] | Tensor,
        seeds: Sequence[int] | Tensor,
        num_steps: int | None = None,
        guidance: float | None = None,
    ) -> Pairs:
        """As `sample`, with the masks: those that were asked for, or those that were denoised with the images.

        A generator that was trained without masks gives None for them.
        """
        condition = Condition.of(condition)
        with self._precision():
            return self._pairs(self._sample_latents(condition, seeds, num_steps, guidance), condition)

    def _precision(self) -> torch.autocast:
        """In which the networks compute when they sample."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.sampling["precision"] == "bf16")

    def _pairs(self, x_0: Tensor, condition: Condition) -> Pairs:
        """Images of standardised latents, and masks: those asked for, those of the code, or none."""
        network, num = self.ema.network, self.autoencoder.latent_channels
        images = self.autoencoder.decode(self.autoencoder.unstandardise(x_0[:, :num]))
        if network.masks is None:
            return Pairs(images, None)
        if self.mask_code is None:
            return Pairs(images, None if condition.mask is None else condition.mask.to(self.device))
        return Pairs(images, network.masks.harden(network.masks.decode(x_0[:, num:])))

    def _generators(self, condition: Condition, seeds: Sequence[int] | Tensor) -> list[torch.Generator]:
        """One generator an image of a condition, which is checked."""
        network = self.ema.network
        network.conditioning.check(condition.labels)
        if network.masks is not None and condition.mask is not None:
            network.masks.check(condition.mask, self.image_size)
        if network.clusters is not None and condition.cluster is not None:
            network.clusters.check(condition.cluster, len(condition))
        generators = image_generators(seeds)
        if len(generators) != len(condition):
            raise UserError(f"{len(generators)} seeds for {len(condition)} rows of labels: give one an image.")
        return generators

    def _asked(self, condition: Condition, guidance: float | None) -> dict[str, Any]:
        """What a `Prediction` is told of a condition on this device, and of how it is guided."""
        network, settings, guide = self.ema.network, self.sampling, None
        if settings["classifier_scale"] and guidance is None:
            wanted = settings["classifier_findings"]
            gradient = network.guidance_gradient(condition.labels, None if wanted is None else weights_of(wanted))
            guide = ClassifierGuidance(gradient, settings["classifier_scale"], settings["classifier_interval"])
        return {
            "cond": network.condition(condition),
            "uncond": network.condition(network.conditioning.unknown(len(condition))),
            "guidance": settings["guidance"] if guidance is None else guidance,
            "interval": settings["guidance_interval"],
            "classifier": guide,
            "rescale": settings["guidance_rescale"],
        }

    def _sample_latents(
        self, condition: Condition, seeds: Sequence[int] | Tensor, num_steps: int | None, guidance: float | None
    ) -> Tensor:
        """Standardised latents [B, C, h, w] of the images."""
        settings, generators = self.sampling, self._generators(condition, seeds)
        if self.ema.network.clusters is not None and condition.cluster is None:
            condition = replace(condition, cluster=self.ema.network.clusters.drawn(seeds))
        noise, condition = draw_noise(self.latent_shape, generators, self.device), condition.to(self.device)
        steps = settings["num_steps"] if num_steps is None else num_steps
        return sample(
            self.ema.network.denoise,
            noise,
            scheduler=build_scheduler(settings["scheduler"], self.objective, steps),
            num_steps=steps,
            generators=generators,
            spacing=settings["spacing"],
            **self._asked(condition, guidance),
        )
