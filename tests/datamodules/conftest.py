"""Small fake fundus photographs and datasets with the real layouts."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def draw_photograph(
    width: int = 242,
    height: int = 162,
    x: float | None = None,
    y: float | None = None,
    radius: float = 94,
    seed: int = 0,
) -> np.ndarray:
    """A reddish disc with a bright spot, dark lines and noise on a dark ground, uint8 [H, W, 3]."""
    stream = np.random.default_rng(seed)
    x, y = width / 2 if x is None else x, height / 2 if y is None else y
    ys, xs = np.mgrid[:height, :width].astype(np.float64)
    distance = np.hypot(xs - x, ys - y) / radius
    shade = 1 - 0.35 * distance**2 + 0.5 * np.exp(-((xs - x - radius / 2) ** 2 + (ys - y) ** 2) / (radius / 8) ** 2)
    shade -= 0.25 * np.exp(-(((ys - y) - 0.3 * (xs - x)) ** 2) / (radius / 30) ** 2)
    inside = 1 / (1 + np.exp((distance - 1) * radius))
    colour = np.array([200.0, 95.0, 45.0]) * stream.uniform(0.7, 1.1)
    image = colour * (shade * inside)[:, :, None] + stream.normal(4, 1.5, size=(height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture
def photograph() -> Callable[..., np.ndarray]:
    """`photograph(width=, height=, x=, y=, radius=, seed=)` draws one."""
    return draw_photograph


@pytest.fixture
def save_photograph() -> Callable[..., Path]:
    """`save_photograph(path, **drawing)` draws one into a file, making its folder."""

    def save(path: Path, **drawing) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_photograph(**drawing)).save(path)
        return path

    return save


@pytest.fixture(scope="session")
def drawn_once(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    for number in range(24):
        drawing = draw_photograph(width=120, height=100, radius=46, seed=number)
        Image.fromarray(drawing).save(root / f"P{number // 2:02d}_{'LR'[number % 2]}.png")
    return root


@pytest.fixture
def photographs(tmp_path, drawn_once) -> Path:
    """A folder of 24 photographs of 12 patients, `P00_L.png` … `P11_R.png`, of the test's own."""
    return Path(shutil.copytree(drawn_once, tmp_path / "photographs"))
