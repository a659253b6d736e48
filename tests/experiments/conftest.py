"""Makes the tiny runs importable, and runs the one entry point within this process."""

import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from tiny_runs import Result

from datamodules import phantom
from experiments.run import main
from experiments.runs import FOLDER_VARIABLE, RESUME_VARIABLE


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
