"""All that a denoiser is trained and averaged with: conditioning, label maps, masks, clusters, and the guide.

Legend: B batch, F findings, D width of a conditioning vector, C, h, w latent channels and cells.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.clusters import ClusterConditioning
from lightning_modules.condition import Condition
from lightning_modules.conditioning import LabelConditioning
from lightning_modules.diffusion.sampling import Gradient
from lightning_modules.label_maps import LabelMaps
from lightning_modules.masks import UNKNOWN, MaskCode, MaskMaps
from lightning_modules.networks.latent_classifier import LatentClassifier


class ConditionalDenoiser(nn.Module):
    """The denoiser, and what it was trained with: what is learnt, and what is averaged."""

    def __init__(
        self,
        denoiser: nn.Module,
        conditioning: LabelConditioning,
        label_maps: LabelMaps | None = None,
        guide: LatentClassifier | None = None,
        masks: MaskMaps | MaskCode | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        clusters: ClusterConditioning | None = None,
    ):
        super().__init__()
        self.denoiser, self.conditioning, self.label_maps, self.guide = denoiser, conditioning, label_maps, guide
        self.masks, self.memory_format, self.clusters = masks, memory_format, clusters
        self.to(memory_format=memory_format)

    def condition(self, given: Condition | Tensor) -> Tensor:
        """A condition, or labels int64 [B, F] alone -> [B, D], behind which lie, flat, the maps that there are.

        Those are [C, h, w] of the label maps and [M, h, w] of the mask.
        """
        given = Condition.of(given)
        parts = [self.conditioning(given.labels)]
        if self.clusters is not None:
            unknown = torch.full((len(given),), UNKNOWN, device=given.labels.device)
            parts[0] = parts[0] + self.clusters(unknown if given.cluster is None else given.cluster)
        if self.label_maps is not None:
            parts.append(self.label_maps(given.labels).flatten(1))
        if isinstance(self.masks, MaskMaps):
            parts.append(self.masks(self._mask(given)).flatten(1))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _mask(self, given: Condition) -> Tensor:
        """The mask that is asked for, of which every pixel is unknown where none is."""
        if given.mask is not None:
            return given.mask
        size = self.denoiser.latent_size * self.masks.cell
        return torch.full((len(given), size, size), UNKNOWN, device=given.labels.device)

    def denoise(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """x_t [B, C, h, w], t float [B], cond of `condition` -> prediction [B, C, h, w]."""
        if cond.shape[1] > self.conditioning.dim:
            cond, maps = cond.tensor_split([self.conditioning.dim], dim=1)
            x_t = torch.cat([x_t, maps.view(len(x_t), -1, *x_t.shape[2:])], dim=1)
        return self.denoiser(x_t.contiguous(memory_format=self.memory_format), t, cond)

    def forward(self, x_t: Tensor, t: Tensor, given: Condition | Tensor) -> Tensor:
        """x_t [B, C, h, w], t int64 or float [B], a condition or labels int64 [B, F] -> prediction [B, C, h, w]."""
        return self.denoise(x_t, t.float(), self.condition(given))

    def guide_loss(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the guide over the labels that are known, on average over all."""
        return -self.guide.log_likelihood(x_t, t.float(), labels).sum() / labels.numel()

    def guidance_gradient(self, labels: Tensor, weights: Mapping[str, float] | None = None) -> Gradient:
        """By x_t, of the log-probability that the guide gives to labels [B, F], by weights of the findings; None: 1.

        Findings that are not named have a weight of 0.
        """
        numbers = None if weights is None else [float(weights.get(name, 0.0)) for name in self.conditioning.names]
        return lambda x_t, t: self.guide.gradient(x_t, t, labels, numbers)


def check_parts(
    autoencoder: Autoencoder,
    denoiser: nn.Module,
    conditioning: LabelConditioning,
    label_maps: LabelMaps | None,
    masks: MaskMaps | MaskCode | None,
) -> None:
    """Raise UserError for parts of a latent diffusion model that do not fit together."""
    coded = masks.channels if isinstance(masks, MaskCode) else 0
    latents = autoencoder.latent_channels + coded
    if denoiser.latent_channels != latents:
        raise UserError(
            f"the denoiser's latent_channels={denoiser.latent_channels} are not the autoencoder's "
            f"{autoencoder.latent_channels}{f' and the mask code has {coded}' if coded else ''}."
        )
    if denoiser.cond_dim != conditioning.dim:
        raise UserError(f"the denoiser's cond_dim={denoiser.cond_dim} is not conditioning.dim={conditioning.dim}.")
    wanted = (0 if label_maps is None else latents) + (masks.channels if isinstance(masks, MaskMaps) else 0)
    if getattr(denoiser, "map_channels", 0) != wanted:
        raise UserError(
            f"the denoiser has map_channels={getattr(denoiser, 'map_channels', 0)}, and label maps and masks {wanted}: "
            "a denoiser of your own takes them as further channels of x_t, map_channels of its constructor."
        )
    if masks is not None and masks.cell != autoencoder.downsampling:
        raise UserError(
            f"the masks' cell={masks.cell} is not the autoencoder's downsampling {autoencoder.downsampling}."
        )
