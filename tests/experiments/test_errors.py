"""Every mistake is answered by a sentence that names it and the remedy; docs/errors.md has the sentences verbatim."""

import csv
import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mistaken_commands import FILES, FOLDER, SIZES, WORDS, Mistake, not_fundus, truncated
from tiny_runs import AUTOENCODER, DDPM_TRAIN, UNET, VAE_TRAIN

from datamodules.errors import UserError

DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"
TITLES = {"words": "Words", "sizes": "Sizes and parts that do not fit", "files": "Photographs and tables",
          "runs": "Runs, checkpoints and machines"}  # fmt: skip
SEEN: dict[str, list[str]] = {name: [] for name in TITLES}
INTRODUCTION = """# What each error means

A mistake is answered by one message on stderr and a non-zero exit status: 2 where the words of the command mean
nothing, 1 where the run cannot start or go on. The traceback goes to `error.log` in the run's folder;
`SYNFUNDUS_TRACEBACK=1` prints it, and so does a run of several processes that fails while it trains. What else has a
traceback on the screen is a defect of ours: please report it.

Everything below is printed by the tests, which compare it with this page. All commands begin with
`python -m experiments.run`; `photos` is a folder in the working folder `/home/you`.
"""
# Sizes at which a mistake is found in seconds; never shown, as no message depends on them.
TINY = [*AUTOENCODER, *UNET, "model.conditioning.dim=16", "trainer.accelerator=cpu"]


@pytest.fixture(scope="module", autouse=True)
def document():
    yield
    if os.environ.get("SYNFUNDUS_WRITE_DOCS"):
        parts = [f"## {TITLES[name]}\n\n" + "\n".join(entries) for name, entries in SEEN.items()]
        DOCUMENT.write_text("\n".join([INTRODUCTION, *parts]))


def message(err: str, here: Path) -> str:
    """From `error:` on, as a reader in /home/you sees it."""
    assert "Traceback" not in err and "Error executing job" not in err, err
    said = err[err.index("error: ") :].rstrip()
    lines = [line.rstrip() for line in said.splitlines() if not line.startswith(("(traceback: ", "(SYNFUNDUS_TRACE"))]
    return "\n".join(lines).replace(os.path.realpath(here), "/home/you").replace(str(here), "/home/you")


def documented(section: str, words: str, said: str, why: str = "") -> None:
    """The page has this entry; or, when it is being written, gets it."""
    said = re.sub(r"(?<=Experiments:\n)(  .*\n)+", "  …\n", said)  # which are in docs/experiments.md
    entry = f"`{words or '(nothing)'}`{'  ' if why else ''}\n{why + chr(10) if why else ''}\n```\n{said}\n```\n"
    SEEN[section].append(entry)
    if not os.environ.get("SYNFUNDUS_WRITE_DOCS"):
        how = "write it anew: SYNFUNDUS_WRITE_DOCS=1 pytest tests/experiments/test_errors.py"
        assert entry in DOCUMENT.read_text(), f"docs/errors.md lacks this entry; {how}\n{entry}"


def make(mistake: Mistake, command, here: Path, section: str, *hidden: str) -> str:
    if mistake.prepare:
        mistake.prepare(here)
    words = mistake.words.split()
    result = command(*hidden, *words)
    said = message(result.err, here)
    assert result.code == mistake.code and mistake.says in said, said
    documented(section, mistake.words, said, mistake.why)
    return said


@pytest.mark.parametrize("mistake", WORDS, ids=lambda mistake: mistake.words)
def test_words_that_mean_nothing(mistake, command, here):
    make(mistake, command, here, "words")
    assert not list(here.rglob("*.ckpt"))


@pytest.mark.parametrize("mistake", SIZES, ids=lambda mistake: mistake.words)
def test_parts_that_do_not_fit(mistake, command, here):
    given = {word.split("=")[0] for word in mistake.words.split()}
    small = ["data.num_images=40", "data.batch_size=8", "data.epoch_size=null", "data.image_size=16"]
    hidden = [word for word in [*TINY, *small] if word.split("=")[0] not in given]
    make(mistake, command, here, "sizes", *hidden)
    assert not list(here.glob("runs/*/*/checkpoints/*.ckpt"))


@pytest.mark.parametrize("mistake", FILES, ids=lambda mistake: mistake.why or mistake.words)
def test_photographs_and_tables(mistake, command, here):
    make(mistake, command, here, "files", *TINY, "data.image_size=16", "data.batch_size=4", "data.cache_workers=1",
         "autoencoder.batch_size=4")  # fmt: skip


@pytest.mark.parametrize(("prepare", "path"), [(truncated, "eye_3.jpg"), (not_fundus, "eye_5.jpg")])
def test_rejected_images_are_listed_and_may_be_allowed(command, here, prepare, path):
    prepare(here)
    words = [*FOLDER.split()[1:], "+exp=vae_train", *TINY_VAE, "output_dir=out"]
    stopped = command(*words)
    assert stopped.code == 1
    with open(here / "out/rejected.csv", newline="") as file:
        [row] = csv.DictReader(file)
    assert row["path"] == path and len(row["reason"]) > 10 and row["reason"] in stopped.err
    allowed = command(*words[:-1], "output_dir=allowed", "data.max_rejected=1")
    assert allowed.code == 0, allowed.err
    assert "1 images are rejected: allowed/rejected.csv" in allowed.out
    assert path in (here / "allowed/rejected.csv").read_text()


TINY_VAE = [word for word in VAE_TRAIN[1:] if not word.startswith(("data.num_images", "data.batch_size"))]
TINY_VAE += [
    "data.batch_size=4",
    "data.epoch_size=16",
    "trainer.max_epochs=1",
    "data.fractions={train:0.6,val:0.3,test:0.1}",
]


def test_a_folder_that_holds_a_run(command, here):
    words = [*VAE_TRAIN, "trainer.max_epochs=1", "output_dir=runs/mine"]
    assert command(*words).code == 0
    said = message(command(*words).err, here)
    documented("runs", "+exp=vae_train output_dir=runs/mine", said, "The same command a second time.")


def test_a_checkpoint_that_is_not_there(command, here):
    assert command(*VAE_TRAIN, "trainer.max_epochs=1", "output_dir=runs/mine").code == 0
    words = "+exp=vae_train resume=runs/mine/checkpoints/lst.ckpt"
    said = message(command(*words.split()).err, here)
    assert "best.ckpt, last.ckpt" in said
    documented("runs", words, said)


def test_a_checkpoint_that_is_cut_short(command, here):
    (here / "runs/mine/checkpoints").mkdir(parents=True)
    torch.save({"state_dict": {"weight": torch.zeros(1000)}}, here / "runs/mine/checkpoints/last.ckpt")
    os.truncate(here / "runs/mine/checkpoints/last.ckpt", 2000)
    words = "+exp=vae_train resume=runs/mine/checkpoints/last.ckpt"
    result = command(*VAE_TRAIN, *words.split()[1:])
    assert result.code == 1
    documented("runs", words, message(result.err, here), "A checkpoint is cut off.")


def test_a_checkpoint_of_another_architecture(command, here):
    words = [*VAE_TRAIN, "trainer.max_epochs=1"]
    assert command(*words, "output_dir=runs/mine").code == 0
    more = "resume=runs/mine/checkpoints/last.ckpt model.autoencoder.latent_channels=8"
    result = command(*words, *more.split())
    said = message(result.err, here)
    assert result.code == 1 and "model.autoencoder.latent_channels: 8 here, 4 there" in said
    documented("runs", f"+exp=vae_train {more}", said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is no mistake here")
def test_a_gpu_that_is_not_there(command, here):
    result = command(*[word for word in DDPM_TRAIN if "accelerator" not in word], "trainer=gpu")
    assert result.code == 1 and "── data" not in result.out, "seen before anything heavy"
    documented("runs", "+exp=ddpm_train trainer=gpu", message(result.err, here), "There is no GPU.")


def test_disk_full_before_the_cache(command, here, monkeypatch):
    import datamodules.cache as cache

    full = cache.shutil.disk_usage(here)._replace(free=1000)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: full)
    result = command(*VAE_TRAIN)
    said = message(result.err, here)
    assert result.code == 1 and "the disk of the image cache is full" in said and said.count("\n") == 0
    documented("runs", "+exp=vae_train", said, "The disk is full when the photographs are cached.")


def test_disk_full_while_a_checkpoint_is_written(command, here, monkeypatch):
    import callbacks.files as atomic

    def fail(*args, **kwargs):
        monkeypatch.setattr(atomic, "write_atomically", fail)  # nothing else can be written either
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", fail)
    words = "+exp=vae_train output_dir=runs/mine"
    result = command(*VAE_TRAIN, *words.split()[1:])
    said = message(result.err, here)
    assert result.code == 1 and said.startswith("error: the disk is full") and said.count("\n") == 0
    documented("runs", words, said, "The disk is full when a checkpoint is written.")


def test_a_defect_of_ours_keeps_its_traceback(command, monkeypatch):
    import experiments.vae_train as job

    def broken(run):
        raise AssertionError("ours")

    monkeypatch.setattr(job, "vae_train", broken)
    result = command(*VAE_TRAIN)
    assert result.code == 1 and "Traceback" in result.err and "AssertionError: ours" in result.err


def test_a_failure_within_a_library_keeps_its_traceback(command, here, monkeypatch):
    """Only UserError is a user's mistake: a ValueError of torch or pyarrow says nothing to whoever typed the words."""

    def broken(cfg):
        return np.zeros(3).reshape(2, 2)

    monkeypatch.setattr("experiments.inspect_data.build_datamodule", broken)
    result = command("+exp=inspect_data", "output_dir=out")
    assert result.code == 1 and "Traceback" in result.err and "cannot reshape" in result.err
    assert "error: cannot reshape" not in result.err

    def mistaken(cfg):
        raise UserError("data.root=nowhere: there is no such folder.")

    monkeypatch.setattr("experiments.inspect_data.build_datamodule", mistaken)
    result = command("+exp=inspect_data", "output_dir=other")
    assert result.code == 1 and "error: data.root=nowhere" in result.err and "Traceback (most" not in result.err
