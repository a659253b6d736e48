"""Real images with their masks, as the `data` options of `job.real` give them, for an export beside generated ones."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from omegaconf import DictConfig
from PIL import Image
from tqdm import tqdm

from callbacks.files import own_folder, write_atomically
from datamodules.dataset import RowsOf
from datamodules.errors import UserError
from datamodules.fundus import FundusDataModule
from datamodules.manifest import Manifest
from datamodules.sources.base import Source
from datamodules.synthetic.lineage import generators
from experiments.assembly import build_datamodule
from experiments.composition import compose_config
from experiments.decoded import decoded_rows, read_all
from experiments.export.masks import MaskValues
from experiments.export.pictures import Written, is_whole
from experiments.report import data_text, heading, say
from experiments.typed_text import quoted

PREFIX = "real-"  # of the case of a real pair
FOLDERS = {"train": ("imagesTr", "labelsTr"), "val": ("imagesTr", "labelsTr"), "test": ("imagesTs", "labelsTs")}


@dataclass(frozen=True)
class RealPairs:
    """Real images that have a mask: the row of each in the index of its source, what the manifest says, the pixels.

    `numbers` int64 [N]; `images` uint8 [N, S, S, 3]; `masks` uint8 [N, S, S, 1], levels, 255 for unknown.
    """

    source: Source
    manifest: Manifest
    numbers: np.ndarray
    images: RowsOf
    masks: RowsOf

    @property
    def cases(self) -> list[str]:
        """Names for nnU-Net: by number, since an id may be no name of a file."""
        return [f"{PREFIX}{number:08d}" for number in self.numbers]

    def files(self) -> list[tuple[str, str]]:
        """Of each pair the paths of its image and of its mask below the folder of the dataset."""
        folders = [FOLDERS[split] for split in self.manifest.splits]
        return [
            (f"{images}/{case}_0000.png", f"{labels}/{case}.png")
            for case, (images, labels) in zip(self.cases, folders, strict=True)
        ]

    def write(self, folder: Path, values: MaskValues, num_workers: int | None) -> Written:
        """Write every pair that is not there whole."""
        for name in {str(Path(path).parent) for paths in self.files() for path in paths}:
            own_folder(folder, name)

        def write(row: int, paths: tuple[str, str]) -> bool:
            image, mask = (folder / path for path in paths)
            if is_whole(image) and is_whole(mask):
                return False
            write_atomically(image, Image.fromarray(self.images[row]).save)
            greys = values(self.masks[row][..., 0], self.cases[row])
            write_atomically(mask, Image.fromarray(greys).save)
            return True

        with ThreadPoolExecutor(num_workers) as threads:
            work = threads.map(write, range(len(self.numbers)), self.files())
            num_new = sum(tqdm(work, "writing real pairs", len(self.numbers), unit="pair", dynamic_ncols=True))
        return Written(num_new, len(self.numbers) - num_new)


def real_config(words: Sequence[str], seed: int, cache_dir: str, image_size: int | None) -> DictConfig:
    """The configuration of the data options of `job.real`.

    Args:
        image_size: pixels along a side where the words do not tell; None where they must.

    Raises:
        ValueError: no word tells the size, and nothing else does.
    """
    given = {word.partition("=")[0] for word in words}
    if image_size is None and "data.image_size" not in given:
        raise UserError(
            "job.real does not say how large the images are to be. Remedy: 'data.image_size=512' among its words."
        )
    own = {"seed": str(seed), "cache_dir": quoted(cache_dir), "data.image_size": str(image_size)}
    added = [f"{key}={value}" for key, value in own.items() if key not in given]
    return compose_config(["+exp=inspect_data", *words, *added])


def real_datamodule(cfg: DictConfig) -> FundusDataModule:
    """The data module of real pairs, by its index alone.

    Raises:
        ValueError: the images are generated, or have no masks.
    """
    datamodule = build_datamodule(cfg)
    for source, _ in datamodule.parts():
        if generators(source):
            raise UserError(
                f"job.real names {source.name}, whose images are generated, and real pairs are validated on. Remedy: "
                "job.dataset for a synthetic set; a column 'patient' in shards of photographs."
            )
    say(heading(f"real pairs: {datamodule.source.name}"))
    say(data_text(datamodule.preview()))
    if not getattr(datamodule.source, "mask_levels", ()):
        raise UserError(
            f"job.real: {datamodule.source.name} has no masks. Remedy: a data option with masks (docs/datasets.md), or "
            "'data.masks=[vessel,disc]' for phantoms."
        )
    return datamodule


def read_real(datamodule: FundusDataModule, output_dir: Path) -> RealPairs:
    """Read all images once; those without a mask are left out, and counted in words.

    Raises:
        ValueError: no image has a mask, or the data are streamed.
    """
    source, index = datamodule.parts()[0]
    ids = index.table.column("id").combine_chunks()
    read_all(datamodule, output_dir)
    manifest, images, masks = decoded_rows(datamodule)
    if len(manifest) < len(datamodule.manifest):
        raise UserError(f"job.real: {source.name} is streamed, and pairs are read from a cache. Remedy: data=union.")
    told = manifest.table.column("mask").to_pylist() if masks is not None else []
    rows = np.array([row for row, mask in enumerate(told) if mask], dtype=np.int64)
    if not len(rows):
        raise UserError(f"job.real: none of the {len(manifest)} images of {source.name} has a mask.")
    if len(rows) < len(manifest):
        say(f"note: {len(manifest) - len(rows)} of {len(manifest)} real images have no mask, and are left out.")
    manifest = manifest.take(rows)
    numbers = pc.index_in(pa.array(manifest.ids, ids.type), value_set=ids).to_numpy()
    return RealPairs(
        source, manifest, numbers, RowsOf(images.array, images.rows[rows]), RowsOf(masks.array, masks.rows[rows])
    )
