"""A disk that takes no more is known by whatever a library raises because of it, and the file is named."""

import errno
import os
import resource
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from refusals import refuses
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from callbacks.atomic_checkpoint_io import to_file
from callbacks.csv_table import CsvTable
from callbacks.disk import naming, refusal
from callbacks.files import whole_folder, write_atomically

TENSORS = {"weight": torch.rand(20_000)}
NOISE = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)


def write_npz(path):
    with path.open("wb") as file:
        np.savez(file, a=NOISE)


WRITERS = {
    "torch, by a file": lambda path: to_file(TENSORS, path),
    "text": lambda path: path.write_text("x" * 100_000),
    "safetensors": lambda path: save_file(TENSORS, path),
    "Pillow": lambda path: Image.fromarray(NOISE).save(path, "png"),
    "Arrow": lambda path: pq.write_table(pa.table({"a": NOISE.ravel()}), path, use_dictionary=False),
    "numpy": write_npz,
}


@contextmanager
def no_file_above(num_bytes: int):
    """The system itself refuses: what it says for a full disk differs in the number alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_whoever_writes_the_number_and_the_file_are_told(tmp_path, write):
    path = tmp_path / "new" / "file.x"
    with no_file_above(20_000), pytest.raises(OSError) as caught:
        write_atomically(path, write)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert refusal(caught.value).filename == str(path)
    assert not list(path.parent.iterdir())


def test_of_a_folder_its_final_name_is_told(tmp_path):
    with no_file_above(20_000), pytest.raises(OSError) as caught, whole_folder(tmp_path / "model") as folder:
        save_file(TENSORS, folder / "model.safetensors")
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model", "model[1]"])
def test_what_a_killed_export_left_is_deleted_and_nothing_of_another(tmp_path, name):
    mine = tmp_path / "mine"
    for folder in (mine, tmp_path / f".{name}.7.part", tmp_path / f".{name}.v2.999.part"):
        folder.mkdir()
        (folder / "config.json").touch()
    (tmp_path / f".{name}.8.part").symlink_to(mine)
    with whole_folder(tmp_path / name) as folder:
        (folder / "weights").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"mine", f".{name}.v2.999.part", name}
    assert [path.name for path in mine.iterdir()] == ["config.json"]


def test_a_table_that_cannot_grow_is_named_and_keeps_its_rows(tmp_path):
    table = CsvTable(tmp_path / "metrics.csv")
    table.append({"step": 1, "loss": "a" * 100})
    with no_file_above(150), pytest.raises(OSError) as caught:
        table.append({"step": 2, "loss": "b" * 100})
    assert caught.value.filename == str(tmp_path / "metrics.csv")
    assert [row["step"] for row in CsvTable(tmp_path / "metrics.csv").read()] == ["1"]


def test_torch_that_opens_the_file_itself_loses_the_number(tmp_path):
    """What it says then is taken for a full disk, which it is most often."""
    with no_file_above(20_000), pytest.raises(RuntimeError) as caught:
        torch.save(TENSORS, tmp_path / "a.pt")
    assert refusal(caught.value).errno == errno.ENOSPC


def test_a_thread_of_tensorboard_tells_whoever_uses_its_writer_next(tmp_path):
    with no_file_above(20_000), pytest.raises(OSError) as caught:
        writer = SummaryWriter(tmp_path)
        writer.add_image("noise", NOISE, dataformats="HWC")
        writer.close()
    assert refusal(caught.value).errno == errno.EFBIG


class Full(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_worker_of_a_loader_tells_it_in_a_text():
    with pytest.raises(OSError) as caught:
        next(iter(DataLoader(Full(), num_workers=1)))
    found = refusal(caught.value)
    assert found.errno == errno.ENOSPC and "\n" not in str(found)


def full(path: str | None = None) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def test_the_first_file_is_told_though_what_happened_cannot_be_written_down_either():
    with pytest.raises(OSError) as caught:
        try:
            with naming("last.ckpt"):
                raise full()
        finally:
            raise full("record.json")
    assert refusal(caught.value).filename == "last.ckpt"


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), ValueError("no"), FileNotFoundError(2, "none"), None])
def test_another_error_is_none_of_a_full_disk(error):
    assert refusal(error) is None


def test_another_error_goes_through_as_it_is():
    with refuses(ValueError, "another"), naming("a"):
        raise ValueError("another")
