"""Misclassified images, the surest mistakes first, each beside where the network looked."""

from collections.abc import Callable

import numpy as np
import torch

from callbacks.gathered import Gathered
from callbacks.metrics.decisions import median_level
from callbacks.saliency import Explained, can_be_explained, grad_cam, overlaid

NUM_SHOWN = 6  # mistakes of each kind


def mistakes(levels: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Rows that are missed and rows that are false alarms, the surest mistakes first.

    Levels int [N], -1 unknown, and probabilities [N, K]: an image is missed where it is at level 1 or more and the
    probability of that is least, if below one half; and the other way round.
    """
    above = probabilities[:, 1:].sum(axis=1)
    missed, alarms = (levels >= 1) & (above < 0.5), (levels == 0) & (above > 0.5)
    order = np.argsort(above, kind="stable")
    return {"missed": order[missed[order]][:NUM_SHOWN], "false alarm": order[::-1][alarms[order[::-1]]][:NUM_SHOWN]}


def gallery(
    network: Explained,
    image_of: Callable[[str], np.ndarray],
    found: Gathered,
    columns: dict[str, int],
    place: int,
    name: str,
) -> tuple[np.ndarray, list[str]] | None:
    """Rows of images uint8 [R, C, S, S, 3] and their captions: mistakes of a finding, below each where was looked.

    None where there is no mistake. `place` is the finding's first threshold among the logits; `image_of` gives a
    photograph uint8 [S, S, 3] by its id.
    """
    rows, captions = [], []
    for kind, chosen in mistakes(found.labels[:, columns[name]], found.probabilities[name]).items():
        if len(chosen) == 0:
            continue
        pictures = np.stack([image_of(found.ids[row]) for row in chosen])
        blank = np.full((NUM_SHOWN - len(chosen), *pictures.shape[1:]), 255, dtype=np.uint8)
        rows.append(np.concatenate([pictures, blank]))
        captions.append(f"{name} {kind}{_levels(found, columns[name], name, chosen)}")
        if can_be_explained(network):
            device = next(iter(network.parameters())).device
            images = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(device).float() / 255
            heat = grad_cam(network, images, torch.full((len(chosen),), place, device=device))
            if heat is None:
                continue
            seen = np.stack([overlaid(picture, each) for picture, each in zip(pictures, heat, strict=True)])
            rows.append(np.concatenate([seen, blank]))
            captions.append("where it looked" if heat.any() else "where it looked: nothing spoke for it")
    return (np.stack(rows), captions) if rows else None


def _levels(found: Gathered, column: int, name: str, chosen: np.ndarray) -> str:
    """Of a grade the true level of each image and the median one that it was taken for, from left to right."""
    if found.probabilities[name].shape[1] == 2:
        return ""
    taken = median_level(found.probabilities[name][chosen])
    pairs = zip(found.labels[chosen, column].tolist(), taken.tolist(), strict=True)
    return ": " + ", ".join(f"{level} as {other}" for level, other in pairs)
