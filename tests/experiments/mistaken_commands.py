"""Commands that cannot be run, each with what it takes to make the mistake and a part of what must be said.

docs/errors.md holds every message as it is printed: `SYNFUNDUS_WRITE_DOCS=1 pytest tests/experiments/test_errors.py`
writes it anew.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from datamodules.phantom import render


@dataclass(frozen=True)
class Mistake:
    """Words as a reader types them, what lies in the working folder, and what the message must hold."""

    words: str
    says: str
    prepare: Callable[[Path], None] | None = None
    code: int = 1
    why: str = ""  # said in the documentation where the words do not tell it


def camera(index: int) -> Image.Image:
    """A phantom as a camera shows it: larger, on black."""
    photograph = Image.new("RGB", (300, 260))
    photograph.paste(Image.fromarray(render(seed=0, index=index, image_size=64).image).resize((240, 240)), (30, 10))
    return photograph


def photographs(folder: Path, rows: int = 12, **changes) -> None:
    """`photos/eye_0.jpg` … and `photos/labels.csv`; changes: column -> (row, value), or None to leave it out."""
    (folder / "photos").mkdir()
    table = [{"id": f"e{i}", "path": f"eye_{i}.jpg", "patient": f"p{i // 2}", "dr_grade": i % 5} for i in range(rows)]
    for name, change in changes.items():
        if change is None:
            table = [{key: value for key, value in row.items() if key != name} for row in table]
        else:
            table[change[0]][name] = change[1]
    for i in range(rows):
        camera(i).save(folder / f"photos/eye_{i}.jpg", quality=95)
    with open(folder / "photos/labels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)


def with_changes(**changes) -> Callable[[Path], None]:
    return lambda folder: photographs(folder, **changes)


def truncated(folder: Path) -> None:
    photographs(folder)
    path = folder / "photos/eye_3.jpg"
    path.write_bytes(path.read_bytes()[:2000])


def not_fundus(folder: Path) -> None:
    photographs(folder)
    Image.new("RGB", (300, 260), (200, 180, 40)).save(folder / "photos/eye_5.jpg")


def empty(folder: Path) -> None:
    (folder / "photos").mkdir()
    (folder / "photos/notes.txt").write_text("no image")


CSV = "+exp=ddpm_train data=csv data.root=photos data.table=labels.csv"
FOLDER = "+exp=ddpm_train data=folder data.root=photos"

WORDS = [
    Mistake("", "no experiment is named", code=2),
    Mistake("+exp=ddpm_tran", "did you mean ddpm_train", code=2),
    Mistake("exp=ddpm_train", "write +exp=ddpm_train", code=2),
    Mistake("+exp=ddpm_train seed", "cannot read the command line", code=2),
    Mistake("+exp=ddpm_train modle=kl", "did you mean model or", code=2),
    Mistake("+exp=ddpm_train model/denoiser=unet_xl", "did you mean unet_xs", code=2),
    Mistake("+exp=ddpm_train data.imag_size=128", "did you mean image_size", code=2),
    Mistake("+exp=ddpm_train data.image_size=large", "a whole number is needed", code=2),
    Mistake("+exp=ddpm_train data.flip=no", "true or false is needed", code=2),
    Mistake("+exp=ddpm_train data.image_size=a(b)", "put it in quotes", code=2),
    Mistake("+exp=ddpm_train data=folder data.root=", "data.root is empty", code=2),
    Mistake("+exp=ddpm_train data=union data.root=photos data.sources=drive,idrid", "for a list write", code=2),
    Mistake("+exp=ddpm_train --config-dir=my_options", "there is no such folder", code=2),
    Mistake("+exp=ddpm_train data=csv", "data.root, data.table must be given", code=2),
    Mistake("+exp=ddpm_train model.denoiser._target_=my_package.MyUNet", "cannot import 'my_package'", code=2),
    Mistake("+exp=ddpm_train model.diffusion.scheduler=dddim", "Did you mean 'ddim'?"),
    Mistake("+exp=ddpm_train callbacks.frechet.extractor.name=efficientnet_lite", "did you mean"),
    Mistake("+exp=export_model", "ckpt is not given"),
]
SIZES = [
    Mistake("+exp=ddpm_train data.image_size=70", "Nearest sizes: 68 and 72"),
    Mistake("+exp=ddpm_train data.num_images=20 data.batch_size=64", "data.batch_size=64 on 1 process(es) is more"),
    Mistake("+exp=ddpm_train trainer.num_nodes=2", "nothing says where the nodes meet"),
    Mistake("+exp=ddpm_train data.num_images=8 data.batch_size=2 autoencoder.batch_size=2", "split is empty"),
    Mistake("+exp=ddpm_train trainer.max_epochs=1 model.diffusion.warmup_steps=100", "warmup_steps=100"),
    Mistake("+exp=ddpm_train autoencoder.pretrained=vae.ckpt", "vae.ckpt"),
    Mistake("+exp=ddpm_train strategy=fsdp", "did you mean fsdp2", code=2),
    Mistake("+exp=ddpm_train autoencoder=gan strategy=deepspeed_zero2", "strategy=single, ddp or fsdp2"),
    Mistake("+exp=ddpm_train strategy=deepspeed_zero2 trainer.precision=16-mixed", "trainer.precision=bf16-mixed"),
    Mistake("+exp=ddpm_train strategy=deepspeed_zero3 compile=true", "strategy=fsdp2, or compile=false"),
    Mistake("+exp=ddpm_train checkpoint_keep_last=0", "must be at least 1"),
]
FILES = [
    Mistake("+exp=ddpm_train data=folder data.root=/nowhere", "data.root is '/nowhere', which does not exist"),
    Mistake(FOLDER, "no image", empty, why="The folder holds no image."),
    Mistake("+exp=ddpm_train data=csv data.root=photos data.table=lables.csv", "there is no such file", photographs),
    Mistake(CSV, "has no column path", with_changes(path=None), why="The table has no column `path`."),
    Mistake(CSV, "'7' is not a level of dr_grade", with_changes(dr_grade=(4, 7)), why="A grade of 7."),
    Mistake(CSV, "'e3'", with_changes(id=(6, "e3")), why="Two rows have the same id."),
    Mistake(CSV, "outside", with_changes(path=(2, "../eye_2.jpg")), why="A path leads outside the root."),
    Mistake(CSV, "there is no such file", with_changes(path=(2, "eye_99.jpg")), why="A photograph is missing."),
    Mistake(FOLDER, "data.max_rejected=1", truncated, why="A JPEG is cut off."),
    Mistake(FOLDER, "data.max_rejected=1", not_fundus, why="An image shows no fundus."),
    Mistake(
        f"{FOLDER} +data.augment=[{{_target_:torchvision.transforms.v2.RandomRotation,degree:10}}]",
        "got an unexpected keyword argument 'degree'",
        photographs,
    ),
]
