"""Augmentation on the device: transforms of torchvision.transforms.v2, image and mask together, drawn anew each time.

Every image of a batch comes with a number, which is a function of (seed, pass over the data, row): its transforms are
drawn from a random stream of that seed, so that batch size, rank and where a run was resumed change nothing.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from datamodules.errors import UserError


class Augmentation:
    """Apply v2 transforms, one after the other, to each image float32 [3, S, S] in [0, 1] and its mask int64 [S, S].

    What moves pixels moves those of both; a mask has the nearest pixel's level, and what comes from outside the frame
    is black, and background in the mask. A mask that is unknown (-1) stays unknown. The result is cut to [0, 1].

    Raises:
        ValueError: what is no v2 transform, or mirrors the image, which would leave `eye_side` as it was.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        for transform in transforms:
            if not isinstance(transform, v2.Transform):
                raise UserError(
                    f"data.augment holds {transform!r}, which is no transform of torchvision.transforms.v2. Remedy: "
                    "name one, as {_target_: torchvision.transforms.v2.RandomRotation, degrees: 10}."
                )
            if any(isinstance(part, v2.RandomHorizontalFlip) for part in _parts(transform)):
                raise UserError(
                    "data.augment holds RandomHorizontalFlip, which would show a right eye as a left one and leave "
                    "eye_side as it was. Remedy: data.flip=true, which changes both."
                )
        self.transforms = tuple(transforms)

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.transforms)

    def __repr__(self) -> str:
        """The transforms with their settings."""
        return ", ".join(map(repr, self.transforms))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with `image` [B, 3, S, S] and `mask` [B, S, S] changed where it has `draw` int64 [B]; takes it out.

        Raises ValueError for a transform that changes the size.
        """
        draws = batch.pop("draw", None)
        if draws is None or not self.transforms:
            return batch
        images, masks = [], []
        with isolate_rng():
            for row, draw in enumerate(draws.tolist()):
                torch.manual_seed(draw)
                sample = {"image": tv_tensors.Image(batch["image"][row])}
                if "mask" in batch:
                    sample["mask"] = tv_tensors.Mask(batch["mask"][row])
                sample = self._transformed(sample)
                images.append(sample["image"].as_subclass(Tensor))
                masks.append(sample["mask"].as_subclass(Tensor) if "mask" in sample else None)
        batch["image"] = torch.stack(images).clamp_(0, 1).to(torch.float32, memory_format=torch.contiguous_format)
        if "mask" in batch:
            unknown = (batch["mask"] < 0).flatten(1).all(dim=1)
            batch["mask"] = torch.where(unknown[:, None, None], batch["mask"], torch.stack(masks))
        return batch

    def _transformed(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        for transform in self.transforms:
            size = sample["image"].shape
            sample = transform(sample)
            if sample["image"].shape != size:
                raise UserError(
                    f"data.augment holds {transform!r}, which makes {list(sample['image'].shape)} of {list(size)}. "
                    "Remedy: transforms that keep the size; RandomResizedCrop with size=data.image_size does."
                )
        return sample


def _parts(transform: Any) -> Iterator[Any]:
    """A transform, and those that it is made of."""
    yield transform
    for part in getattr(transform, "transforms", ()):
        yield from _parts(part)
