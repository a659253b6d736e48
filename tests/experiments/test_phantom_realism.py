"""How near procedural photographs are to real ones, measured as two public sets are held against one another.

`pytest -s -m slow tests/experiments/test_phantom_realism.py` prints the figures.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from callbacks.features import build_extractor
from callbacks.metrics.frechet import frechet_distance
from datamodules.field_of_view import detect_field_of_view
from datamodules.images import read_image, square_crop
from datamodules.phantom import render

NUM_IMAGES, IMAGE_SIZE, NUM_DRAWS = 68, 128, 3  # 68: as many as DRIVE and CHASE_DB1 hold together


def _photographs(paths: list[Path]) -> np.ndarray:
    images = [read_image(path) for path in paths]
    return np.stack([square_crop(image, detect_field_of_view(image), IMAGE_SIZE) for image in images])


@pytest.fixture(scope="module")
def features():
    extractor = build_extractor("efficientnet_lite0", image_size=224)

    def extract(images: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            batches = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).split(34)
            return torch.cat([extractor(batch) for batch in batches])

    return extract


@pytest.mark.slow
def test_phantoms_are_at_most_twice_as_far_from_photographs_as_other_photographs_are(shared_data, features):
    real = sorted((shared_data / "rahim-dr").rglob("*.jpg"))
    draws = np.random.default_rng(0).permutation(len(real))
    chosen = features(_photographs([real[i] for i in draws[:NUM_IMAGES]]))
    others = features(_photographs([real[i] for i in draws[NUM_IMAGES : 2 * NUM_IMAGES]]))
    drive = sorted((shared_data / "DRIVE").glob("*/images/*"))
    chase = sorted((shared_data / "CHASE_DB1").glob("*.jpg"))
    assert len(drive) + len(chase) == NUM_IMAGES
    public = frechet_distance(features(_photographs([*drive, *chase])), chosen)
    itself = frechet_distance(others, chosen)
    phantoms = []
    for draw in range(NUM_DRAWS):
        numbers = range(draw * NUM_IMAGES, (draw + 1) * NUM_IMAGES)
        images = np.stack([render(0, number, IMAGE_SIZE).image for number in numbers])
        phantoms.append(frechet_distance(features(images), chosen))
    drawn = ", ".join(f"{figure:.1f}" for figure in phantoms)
    print(f"\nto 68 of rahim-dr: others of it {itself:.1f}, DRIVE + CHASE_DB1 {public:.1f}, phantoms {drawn}")
    assert itself < public
    assert np.mean(phantoms) <= 2 * public
