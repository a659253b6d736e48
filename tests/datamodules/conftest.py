"""Small fake fundus photographs and datasets with the real layouts; makes the modules beside it importable."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

# Fixtures that several files share; those of a session are computed once.
from dr_miniatures import ddr, ddr_segmentation, deepdrid, eyepacs, idrid, jsiec, messidor2, retina_kaggle  # noqa: F401
from fundus_training import make  # noqa: F401
from glaucoma_miniatures import made  # noqa: F401
from multi_miniatures import brset, eyeq, mbrset, odir5k, odir_images, rfmid  # noqa: F401
from numbered import numbered  # noqa: F401
from polyp_miniatures import cvc_clinicdb, cvc_colondb, etis_larib, hyperkvasir, kvasir_seg, polypgen, pranet  # noqa: F401
from shard_files import open_shards, shard_phantoms, shard_root, shard_tables  # noqa: F401

from datamodules.findings import NAMES
from datamodules.manifest import Manifest

pytest.register_assert_rewrite("people")


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


@pytest.fixture
def save_small(save_photograph) -> Callable[[Path], Path]:
    """`save_small(path)` draws one of 60 x 50 pixels into a file."""
    return lambda path: save_photograph(path, width=60, height=50, radius=23)


@pytest.fixture
def save_all(tmp_path, save_small) -> Callable[..., Path]:
    """`save_all(*names)` draws photographs below the test's root, with junk beside the first, and gives the root."""

    def save(*names: str) -> Path:
        for name in names:
            save_small(tmp_path / name)
        beside = (tmp_path / names[0]).parent
        (beside / "__MACOSX").mkdir()
        for junk in ("Thumbs.db", "._hidden.jpg", "__MACOSX/._a.jpg"):
            (beside / junk).write_text("")
        return tmp_path

    return save


@pytest.fixture
def labels_of() -> Callable[[Manifest], dict[str, dict[str, int]]]:
    """`labels_of(manifest)` gives, for each id, its known labels."""

    def known(manifest):
        rows = zip(manifest.ids, manifest.labels.tolist(), strict=True)
        return {name: {f: level for f, level in zip(NAMES, row, strict=True) if level >= 0} for name, row in rows}

    return known


@pytest.fixture
def table_root(tmp_path, save_small) -> Path:
    """A root with three photographs: `a.png`, `b/c.png`, `d.png`."""
    for name in ("a.png", "b/c.png", "d.png"):
        save_small(tmp_path / "root" / name)
    return tmp_path / "root"


@pytest.fixture
def synfundus(tmp_path, save_small) -> Path:
    """A root in the layout of SynFundus-1M, with four images in their parts and one in a wrong part."""
    root = tmp_path / "synfundus"
    for name in ("Part0/0.png", "Part0/1.jpg", "Part1/50000.png", "Part19/1000001.png"):
        save_small(root / name)
    save_small(root / "Part0/77000.png")  # in the wrong part
    header = "idx,dr_grade,is_amd,is_fundus,is_macular_readable,eye_side"
    rows = ["0,0,0,1,1,0", "1,4,1,1,0,1", "2,3,0,1,1,0", "50000,2,1,0,,1", "77000,0,0,0,0,0", "1000001,1,0,1,1,0"]
    (root / "SynFundus-1M_annotation.csv").write_text("\n".join([header, *rows]) + "\n")
    (root / "SynFundus-1M_gen_cond.csv").write_text("dr_grade,is_amd,eye_side\n1,1,1\n2,0,0\n3,0,0\n")
    return root
