"""Makes the tiny runs importable, and runs the one entry point within this process."""

import sys
from pathlib import Path

import pytest
from PIL import Image
from synthetic_sets import write_set

sys.path.insert(0, str(Path(__file__).parent))

from annotators import write_run
from tiny_runs import DATA, DDPM_TRAIN, TRAINER, VAE_TRAIN, Result, make_run, run_process

from datamodules import phantom
from experiments.run import main
from experiments.runs import FOLDER_VARIABLE, RESUME_VARIABLE


@pytest.fixture(scope="session")
def autoencoder(made_once) -> str:
    """The word that names the checkpoint of an autoencoder of 16 pixels, trained for an epoch."""
    folder = made_once("autoencoder", lambda folder: make_run(folder, *VAE_TRAIN, "trainer.max_epochs=1"))
    return f"autoencoder.pretrained={folder}/out/checkpoints/last.ckpt"


@pytest.fixture(scope="session")
def generator(made_once, autoencoder) -> Path:
    """The checkpoint of a generator of 16 pixels, hardly trained."""
    words = [
        *DDPM_TRAIN,
        autoencoder,
        "trainer.max_epochs=1",
        "~callbacks.frechet",
        "~callbacks.agreement",
        "~callbacks.sample_grid",
    ]
    return made_once("generator", lambda folder: make_run(folder, *words)) / "out/checkpoints/last.ckpt"


@pytest.fixture(scope="session")
def mask_generator(made_once) -> Path:
    """The checkpoint of a generator of 16 pixels, hardly trained, that is told masks of disc and cup."""
    words = [*DDPM_TRAIN, "data.masks=[disc,cup]", "model/masks=condition", "trainer.max_epochs=1",
             "~callbacks.frechet", "~callbacks.agreement", "~callbacks.sample_grid"]  # fmt: skip
    return made_once("mask_generator", lambda folder: make_run(folder, *words)) / "out/checkpoints/last.ckpt"


@pytest.fixture(scope="session")
def annotator(made_once) -> Path:
    """The folder of a run of classifier_train that tells eye side and glaucoma of 16 pixels, hardly trained."""
    words = ["+exp=classifier_train", *DATA, *TRAINER, "trainer.max_epochs=1", "model/backbone=resnet10t",
             "model/init=random", "model.findings=[eye_side,is_gc]", "job.num_replicates=20",
             "model.classifier.warmup_steps=1", "job.monitor=val/loss"]  # fmt: skip
    return made_once("annotator", lambda folder: make_run(folder, *words)) / "out"


@pytest.fixture(scope="session")
def command_once(tmp_path_factory):
    """As `command`, for fixtures that outlive a test: in a process of its own."""
    return lambda *words: run_process(*words, cwd=tmp_path_factory.mktemp("command"))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working folder, and no trace of earlier runs in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in (FOLDER_VARIABLE, RESUME_VARIABLE, "SYNFUNDUS_CACHE", "PL_GLOBAL_SEED"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> list[str]:
    """Words that name a folder of eight phantoms as JPEG files of 96 pixels."""
    folder = tmp_path_factory.mktemp("photographs")
    for index in range(8):
        Image.fromarray(phantom.render(0, index, 96).image).save(folder / f"{index}.jpg")
    return [f"data.root={folder}"]


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory) -> list[str]:
    """Words that name four folders of runs, two seeds of each of two settings, with what compare_runs reads."""
    root = tmp_path_factory.mktemp("runs")
    for name, seed, final in (("a", 0, 0.8), ("a", 1, 0.9), ("b", 0, 0.7), ("b", 1, 0.75)):
        folder = root / f"{name}{seed}"
        folder.mkdir()
        (folder / "metrics.csv").write_text(f"step,epoch,val/auroc\n0,0,0.5\n10,1,{final}\n")
        (folder / "record.json").write_text(f'{{"status": "finished", "seed": {seed}}}')
        config = f"seed: {seed}\nmodel: {{init: {name}}}\ndata: {{batch_size: 8}}\ntrainer: {{devices: 1}}\n"
        (folder / "config.yaml").write_text(config)
    return [f"job.runs=[{root}/*]"]


@pytest.fixture(scope="session")
def synthetic_set(tmp_path_factory) -> list[str]:
    """Words that name a whole set of twelve phantoms."""
    return [f"job.dataset={write_set(tmp_path_factory.mktemp('sets') / 'set')}"]


@pytest.fixture(scope="session")
def unseen_set(tmp_path_factory) -> list[str]:
    """Words that name a whole set of twelve phantoms that nobody has annotated, and a classifier."""
    folder = tmp_path_factory.mktemp("unseen")
    run = write_run(folder / "run", ["is_gc", "dr_grade"])
    return [f"job.dataset={write_set(folder / 'set')}", f"job.annotators=[{run}]"]


@pytest.fixture
def command(here, monkeypatch, capfd):
    """Run `python -m experiments.run` with these words within this process."""

    def run(*words: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["run.py", *words])
        capfd.readouterr()
        try:
            code = main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return Result(code, *capfd.readouterr())

    return run
