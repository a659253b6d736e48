"""Whether what was painted into a region is what a real image has there, beside what strangers' images have there.

Letters: N painted images, M real ones, H held-out ones, S pixels along a side, p pixels of a region.

Two images are as far apart in a region as their values there are, once each channel has mean 0 and all values together
have deviation 1: the root of the mean square, from 0 (the same but for brightness and contrast) to 2; strangers lie
about at the root of 2. A painted image is compared with every real one, and so is each held-out image, in the same
region: were it as much of a stranger as those are, its rank among them would be any with the same chance.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from callbacks.metrics.bootstrap import interval, patient_weights
from callbacks.metrics.estimate import Estimate
from datamodules.errors import UserError

BETTER = {"nearer_share": "min", "nearest": "max"}
NEAR = 0.05  # share of the held-out images of which a painted one that is nearer than all others counts as near
FEWEST = round(1 / NEAR) - 1  # held-out images that such a rank needs
OWN = -1  # number of the image that was painted in, among the real ones


@dataclass
class Nearest:
    """The nearest real image of each painted one, and of each held-out image in the same region.

    Attributes:
        distance: float [N].
        real: int [N], the real image's number, OWN for that which was painted in.
        held_out: float [N, H], NaN for a held-out image that is not to be compared.
    """

    distance: np.ndarray
    real: np.ndarray
    held_out: np.ndarray

    @property
    def ranks(self) -> np.ndarray:
        """Share of the held-out images that are as near, the painted one among them, float [N]; 1 with none at all."""
        usable = (~np.isnan(self.held_out)).sum(1)
        return (1 + (self.held_out <= self.distance[:, None]).sum(1)) / (1 + usable)


def region_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between pixels of a region, [n, p, 3] and [m, p, 3], float64 [n, m]; of one that is flat it is the root of 2."""
    a, b = _normalised(a), _normalised(b)
    return np.sqrt(np.maximum(2 - 2 * a @ b.T, 0))


def nearest_real(
    painted: np.ndarray,
    regions: np.ndarray,
    sources: np.ndarray,
    held_out: np.ndarray,
    usable: np.ndarray,
    real: Iterable[np.ndarray],
) -> Nearest:
    """Look for the nearest real image in each region.

    Args:
        painted, sources: uint8 [N, S, S, 3], images after and before; the latter are real images too.
        regions: bool [N, S, S].
        held_out: uint8 [H, S, S, 3], images that the generator has not seen.
        usable: bool [N, H], those that are compared: of other people than the source.
        real: the real images uint8 [m, S, S, 3], some at a time.
    """
    queries = [np.concatenate([painted[n][None], held_out])[:, region] for n, region in enumerate(regions)]
    own = zip(queries, sources, regions, strict=True)
    best = np.stack([region_distances(query, source[region][None])[:, 0] for query, source, region in own])
    found, first = np.full(len(painted), OWN), 0
    for chunk in real:
        for n, region in enumerate(regions):
            apart = region_distances(queries[n], chunk[:, region])
            if apart[0].min() < best[n, 0]:
                found[n] = first + int(apart[0].argmin())
            best[n] = np.minimum(best[n], apart.min(1))
        first += len(chunk)
    return Nearest(best[:, 0], found, np.where(usable, best[:, 1:], np.nan))


def region_copies(
    found: Nearest, patients: Sequence[str], num_replicates: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Figures with intervals over the patients [N] whose images were painted in.

    `nearer_share`: share of the painted images that are nearer to a real one than all but NEAR of the held-out images
    are; of strangers' images NEAR of them are expected to be. `nearest`: mean distance to the nearest real image, and
    `nearest_held_out` that of the held-out ones in the same regions.

    Raises:
        UserError: no image.
    """
    if not len(found.distance):
        raise UserError("there is no painted image to compare with real ones.")
    weights = patient_weights(patients, num_replicates, seed).astype(np.float64)
    few = int((~np.isnan(found.held_out)).sum(1).min())
    known = few >= FEWEST
    values = {
        "nearer_share": (found.ranks <= NEAR).astype(np.float64) if known else np.full(len(found.ranks), np.nan),
        "nearest": found.distance,
        "nearest_held_out": np.nanmean(found.held_out, axis=1) if few else np.full(len(found.ranks), np.nan),
    }
    with np.errstate(invalid="ignore"):
        drawn = {name: (weights @ value) / weights.sum(1) for name, value in values.items()}
    facts = {"num_images": len(found.distance), "num_patients": len(set(patients)), "seed": seed}
    why = None if known else f"{few} held-out images of other patients, and {FEWEST} are needed"
    return {
        name: interval(
            float(value.mean()),
            drawn[name],
            name=name,
            better=BETTER.get(name),
            why=why if name == "nearer_share" else None,
            **facts,
        )
        for name, value in values.items()
    }


def _normalised(values: np.ndarray) -> np.ndarray:
    """[n, p, 3] -> float64 [n, 3 p], of length 1; 0 where all are alike."""
    values = values.astype(np.float64)
    values = (values - values.mean(1, keepdims=True)).reshape(len(values), -1)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, length, out=np.zeros_like(values), where=length > 1e-9)
