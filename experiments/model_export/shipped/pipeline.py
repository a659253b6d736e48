# SPDX-License-Identifier: Apache-2.0
"""Paints fundus photographs from findings: a pipeline of diffusers, which needs diffusers and torch alone.

    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    image = pipeline({"diabetic_retinopathy": "severe", "glaucoma": 1}, seeds=0).images[0]

Legend:
    B images    C, h, w latent channels and cells    x_t latents at timestep t, standardised by channel
"""

import inspect
from collections.abc import Sequence
from typing import Any, Union

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    ImagePipelineOutput,
    SchedulerMixin,
    UNet2DModel,
)
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor, nn

from .spacing import LARGEST_SIGMA, spaced_timesteps

SEED_LIMIT = 2**32  # torch's CPU generator keeps the low 32 bits of a seed: seed and seed + 2**32 would draw the same


class FundusPipeline(DiffusionPipeline):
    """Latent diffusion conditioned on findings, with classifier-free guidance.

    Args:
        vae: latents to images; its config has the mean and the deviation of each latent channel.
        label_embedder: findings to vectors.
        scheduler: any of diffusers that steps through the timesteps of training.
        unet: the denoiser, where it is diffusers' U-Net; else None.
        transformer: the denoiser, where it is a transformer: (x_t, t [B], cond [B, D]) -> prediction; else None.
        guide: a classifier of noised latents, by whose gradient images come nearer to their findings; None without.
        num_inference_steps, guidance_scale: of an image, unless a call says otherwise.
        spacing: of the timesteps, "trailing" as the scheduler has it; "log_snr" or "karras" where it takes timesteps.
        guidance_low, guidance_high: fractions of the timesteps between which guidance acts, 0 the clean end.
        classifier_scale, classifier_low, classifier_high: the same of guidance by the guide; 0 is none.
        classifier_findings: names of the findings that it acts on, or weights by name; None for all.
        guidance_rescale: share to which the deviation of a guided prediction is brought back to that without guidance.
    """

    model_cpu_offload_seq = "label_embedder->unet->transformer->guide->vae"
    _optional_components = ["unet", "transformer", "guide"]

    def __init__(
        self,
        vae: AutoencoderKL,
        label_embedder: nn.Module,
        scheduler: SchedulerMixin,
        unet: UNet2DModel = None,  # without "| None", which diffusers 0.35 does not read
        transformer: nn.Module = None,
        guide: nn.Module = None,
        num_inference_steps: int = 50,
        spacing: str = "trailing",
        guidance_scale: float = 1.0,
        guidance_low: float = 0.0,
        guidance_high: float = 1.0,
        classifier_scale: float = 0.0,
        classifier_low: float = 0.0,
        classifier_high: float = 1.0,
        classifier_findings: Union[list, dict] = None,  # noqa: UP007 (older diffusers read no "|")
        guidance_rescale: float = 0.0,
    ):
        super().__init__()
        self.register_modules(
            vae=vae, label_embedder=label_embedder, scheduler=scheduler, unet=unet, transformer=transformer, guide=guide
        )
        self.register_to_config(
            num_inference_steps=num_inference_steps,
            spacing=spacing,
            guidance_scale=guidance_scale,
            guidance_low=guidance_low,
            guidance_high=guidance_high,
            classifier_scale=classifier_scale,
            classifier_low=classifier_low,
            classifier_high=classifier_high,
            classifier_findings=classifier_findings,
            guidance_rescale=guidance_rescale,
        )
        self.image_processor = VaeImageProcessor()

    @property
    def findings(self) -> list[dict[str, Any]]:
        """What can be asked for: name, title and names of the levels of each finding."""
        return list(self.label_embedder.config.findings)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, h, w."""
        if self.unet is not None:
            return self.unet.config.out_channels, self.unet.config.sample_size, self.unet.config.sample_size
        config = self.transformer.config
        return config.latent_channels, config.latent_size, config.latent_size

    @torch.no_grad()
    def __call__(
        self,
        labels: Any,
        seeds: int | Sequence[int] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        classifier_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Paint images; image i follows from labels i and seed i, whatever else is painted with it.

        Args:
            labels: findings by name, one mapping an image, e.g. {"diabetic_retinopathy": 3, "glaucoma": "present"};
                what is not named is unknown, which the model was trained with too: it draws it as it is in its
                training images. One mapping with several seeds is painted that often.
            seeds: one an image, each in [0, 2**32); None draws them at random, or noise from `generator`.
            guidance_scale: 1 is none, 0 leaves the labels out, above 1 they show more, and images vary less; given, it
                is the only guidance, unless classifier_scale is given too.
            classifier_scale: of guidance by the guide, where the model has one; 0 is none.
            generator: instead of seeds, as other pipelines take it; on the CPU it draws the same on every device.
            latents: first noise [B, C, h, w], instead of drawing it.
            output_type: "pil", "np" [B, H, W, 3] or "pt" [B, 3, H, W] in [0, 1]; or "latent".

        Raises:
            ValueError: findings or levels that there are not, numbers that mean nothing.
        """
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        if classifier_scale is None:
            classifier_scale = self.config.classifier_scale if guidance_scale is None else 0.0
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        self._check(steps, scale, output_type)
        labels = self.label_embedder.encode(labels)
        generators = self._generators(seeds, generator, len(labels))
        if len(labels) == 1:
            labels = labels.expand(len(generators), -1)
        device = self._execution_device
        if latents is None:
            noise = [torch.randn(*self.latent_shape, generator=g, device=g.device) for g in generators]
            latents = torch.stack([one.to(device) for one in noise])
        elif tuple(latents.shape) != (len(labels), *self.latent_shape):
            raise ValueError(f"latents are {list(latents.shape)}; need {[len(labels), *self.latent_shape]}.")
        x_0 = self._denoise(
            latents.to(device, torch.float32), labels.to(device), steps, scale, classifier_scale, generators
        )
        if output_type == "latent":
            images = x_0
        else:
            images = self.image_processor.postprocess(self._decode(x_0), output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _denoise(
        self, noise: Tensor, labels: Tensor, steps: int, scale: float, classifier_scale: float,
        generators: list[torch.Generator],
    ) -> Tensor:  # fmt: skip
        """From noise to x_0, float32 throughout."""
        unknown = torch.full_like(labels, -1)
        conds = {1.0: self.label_embedder(labels), 0.0: self.label_embedder(unknown)}
        both = self.label_embedder(labels, unknown)
        num_timesteps = self.scheduler.config.num_train_timesteps
        low, high = (bound * (num_timesteps - 1) for bound in (self.config.guidance_low, self.config.guidance_high))
        scheduler = self._scheduler(steps)
        stepping = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
        x_t = noise * scheduler.init_noise_sigma
        for timestep in self.progress_bar(scheduler.timesteps):
            model_input = scheduler.scale_model_input(x_t, timestep)
            t = torch.full((len(x_t),), float(timestep), device=x_t.device)
            w = scale if low <= timestep <= high else 1.0
            prediction = (
                self._predict(model_input, t, conds[w]) if w in conds else self._guided(model_input, t, both, w)
            )
            if self.guide is not None and classifier_scale:
                prediction = prediction + classifier_scale * self._towards(labels, model_input, t, scheduler)
            x_t = scheduler.step(prediction, timestep, x_t, return_dict=False, **stepping)[0]
        return x_t

    def _towards(self, labels: Tensor, x_t: Tensor, t: Tensor, scheduler: SchedulerMixin) -> Tensor | float:
        """What the guide adds to a prediction (Dhariwal & Nichol 2021, algorithm 2); 0 where it does not act."""
        timestep, last = float(t[0]), scheduler.config.num_train_timesteps - 1
        alpha_bar = float(scheduler.alphas_cumprod[int(timestep)])
        sigma = ((1 - alpha_bar) / max(alpha_bar, 1e-12)) ** 0.5
        acts = self.config.classifier_low * last <= timestep <= self.config.classifier_high * last
        if not acts or sigma > LARGEST_SIGMA:
            return 0.0
        wanted = self.config.classifier_findings
        if isinstance(wanted, list | tuple):
            wanted = dict.fromkeys(wanted, 1.0)
        weights = None if wanted is None else [float(wanted.get(name, 0.0)) for name in self.label_embedder.names]
        by_kind = {"epsilon": -((1 - alpha_bar) ** 0.5), "sample": (1 - alpha_bar) / alpha_bar**0.5,
                   "v_prediction": -sigma}  # fmt: skip
        return by_kind[scheduler.config.prediction_type] * self.guide.gradient(x_t, t, labels, weights)

    def _scheduler(self, steps: int) -> SchedulerMixin:
        """The scheduler with its timesteps; DPM-Solver++ of first order where DDIM, its like, would leave noise."""
        scheduler, spaced = self.scheduler, self.config.spacing != "trailing"
        if spaced and isinstance(scheduler, DPMSolverMultistepScheduler):
            scheduler.set_timesteps(timesteps=spaced_timesteps(scheduler.alphas_cumprod, steps, self.config.spacing))
            return scheduler
        if isinstance(scheduler, DDIMScheduler) and scheduler.config.num_train_timesteps % steps:
            scheduler = DPMSolverMultistepScheduler.from_config(scheduler.config, solver_order=1)
        scheduler.set_timesteps(steps)
        return scheduler

    def _guided(self, x_t: Tensor, t: Tensor, both: Tensor, w: float) -> Tensor:
        """uncond + w (cond - uncond), in one pass (Ho & Salimans 2022); `both` [2 B, D] is cond, then uncond."""
        with_labels, without = self._predict(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        found, rescale = without + w * (with_labels - without), self.config.guidance_rescale
        if rescale == 0:
            return found
        deviation, wanted = (part.flatten(1).std(1).view(-1, 1, 1, 1) for part in (found, with_labels))
        return found * (1 - rescale + rescale * wanted / deviation)

    def _predict(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        if map_size := self.label_embedder.config.map_size:
            cond, maps = cond[:, :-map_size], cond[:, -map_size:]
            x_t = torch.cat([x_t, maps.view(x_t.shape)], dim=1)
        if self.unet is not None:
            return self.unet(x_t.to(self.unet.dtype), t, class_labels=cond, return_dict=False)[0].float()
        return self.transformer(x_t.to(self.transformer.dtype), t, cond).float()

    def _decode(self, x_0: Tensor) -> Tensor:
        """Standardised latents to images in [-1, 1]."""
        mean, std = (
            torch.tensor(values, device=x_0.device).view(1, -1, 1, 1)
            for values in (self.vae.config.latents_mean, self.vae.config.latents_std)
        )
        return self.vae.decode((x_0 * std + mean).to(self.vae.dtype), return_dict=False)[0].float()

    def _check(self, steps: int, scale: float, output_type: str) -> None:
        num_timesteps = self.scheduler.config.num_train_timesteps
        if not 1 <= steps <= num_timesteps:
            raise ValueError(f"num_inference_steps={steps} must be in 1..{num_timesteps}, the timesteps of training.")
        if scale < 0:
            raise ValueError(f"guidance_scale={scale} must be 0 (unconditional), 1 (conditional) or more (guided).")
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type={output_type!r} must be pil, np, pt or latent.")

    def _generators(self, seeds: Any, generator: Any, num_labels: int) -> list[torch.Generator]:
        """One an image."""
        if seeds is not None and generator is not None:
            raise ValueError("give seeds or generator, and not both: either says what the noise is.")
        if generator is not None:
            given = list(generator) if isinstance(generator, list | tuple) else [generator] * num_labels
        else:
            if seeds is None:
                seeds = torch.randint(SEED_LIMIT, (num_labels,)).tolist()
            seeds = [int(seed) for seed in ([seeds] if isinstance(seeds, int) else seeds)]
            if not all(0 <= seed < SEED_LIMIT for seed in seeds):
                raise ValueError(f"seeds={seeds}: each must be in [0, 2**32), or two seeds would paint one image.")
            given = [torch.Generator().manual_seed(seed) for seed in seeds]
        if not given or num_labels not in (1, len(given)):
            raise ValueError(f"{len(given)} seeds or generators for {num_labels} labels: give one an image.")
        return given
