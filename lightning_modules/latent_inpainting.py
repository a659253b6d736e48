"""How a latent diffusion model paints a region of an image anew, and leaves every other pixel as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.errors import UserError
from lightning_modules.condition import Condition, Pairs
from lightning_modules.diffusion.repaint import check_resampling, repaint
from lightning_modules.diffusion.sampling import Prediction, build_scheduler, draw_noise, set_timesteps
from lightning_modules.latent_sampling import LatentSampling
from lightning_modules.masks import UNKNOWN
from lightning_modules.regions import check_region, pasted, touched_cells
from lightning_modules.style import check_strength, with_style


@dataclass(frozen=True)
class Inpainting:
    """How a region is painted.

    Args:
        jump_length: steps that a jump of `repaint` goes back.
        num_resamples: times that each part of the way is gone; 1 never jumps.
        feather: pixels inside the region's border over which what is painted passes into the image.
        style: strength of `with_style` by which what is painted takes colour and texture of the image; 0 is none.

    Raises:
        UserError: a number that means nothing.
    """

    jump_length: int = 2
    num_resamples: int = 4
    feather: int = 0
    style: float = 0.0

    def __post_init__(self) -> None:
        check_resampling(self.jump_length, self.num_resamples)
        check_strength(self.style)
        if self.feather < 0:
            raise UserError(f"feather={self.feather} must be at least 0: pixels inside the region's border.")


class LatentInpainting(LatentSampling):
    """Mixin of LatentDiffusion."""

    @torch.no_grad()
    def inpaint(
        self,
        images: Tensor,
        where: Tensor,
        condition: Condition | Mapping[str, Tensor] | Tensor,
        seeds: Sequence[int] | Tensor,
        inpainting: Inpainting = Inpainting(),
        num_steps: int | None = None,
        guidance: float | None = None,
    ) -> Pairs:
        """Paint images anew inside a region, as a condition asks; every pixel outside is returned bit for bit.

        The latents of the cells that the region touches are sampled by `repaint`, at the timesteps of the generator's
        own sampling. Its steps are of first order: those of DDIM for "ddim" and for "dpm_solver", whose second order
        hangs on the step before, which a jump makes void; and ancestral ones for "ddpm".

        Args:
            images: float32 [B, 3, H, W] in [0, 1].
            where: the region, bool [B, H, W]. Take in what is to vanish with a margin (`dilated`): the latents of a
                known cell have seen some pixels around it.
            condition: as of `sample`. Where masks are denoised with images, the pixels of its mask that are known stay
                as they are, and those that are unknown (-1, or all without a mask) are sampled.
            seeds: one an image.

        Returns:
            The images, on the generator's device, and the masks: those asked for, or sampled where they are unknown.

        Raises:
            UserError: a region of another shape, or that is empty or covers an image; what `sample` refuses.
        """
        condition, settings = Condition.of(condition).to(self.device), self.sampling
        images, where = images.to(self.device), where.to(self.device)
        check_region(images, where, self.image_size)
        generators = self._generators(condition, seeds)
        num_steps = settings["num_steps"] if num_steps is None else num_steps
        scheduler = build_scheduler(settings["scheduler"], self.objective, num_steps)
        set_timesteps(scheduler, num_steps, settings["spacing"])
        with self._precision():
            known, unknown = self._known(images, where, condition.mask)
            x_0 = repaint(
                Prediction(self.ema.network.denoise, scheduler, **self._asked(condition, guidance)),
                draw_noise(self.latent_shape, generators, self.device),
                known,
                unknown,
                self.objective,
                scheduler.timesteps.tolist(),
                generators,
                float(settings["scheduler"] == "ddpm"),
                inpainting.jump_length,
                inpainting.num_resamples,
            )
            painted, masks = self._pairs(x_0, condition)
            painted = with_style(painted, images, self.autoencoder, inpainting.style)
        if masks is not None and condition.mask is not None:
            masks = torch.where(condition.mask == UNKNOWN, masks, condition.mask)
        return Pairs(pasted(images, painted, where, inpainting.feather), masks)

    def _known(self, images: Tensor, where: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Standardised latents [B, C, h, w] of images and masks, and which of them are to be sampled, bool."""
        known, _ = self.autoencoder.encode(images)
        cell = self.autoencoder.downsampling
        unknown = touched_cells(where, cell).expand_as(known)
        if self.mask_code is not None:
            mask = torch.full_like(where, UNKNOWN, dtype=torch.int64) if mask is None else mask
            code = self.mask_code.encode(mask)
            known = torch.cat([known, code], dim=1)
            unknown = torch.cat([unknown, touched_cells(mask == UNKNOWN, cell).expand_as(code)], dim=1)
        return self.standardise(known), unknown
