"""`+exp=export_model` as a whole: what it leaves, what it says, and that nothing half-written is left."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from checkpoints import DIT, PLAIN_KL, autoencoder, classifier, generator, saved
from PIL import Image
from refusals import refuses

from callbacks.files import whole_folder
from experiments import export_model as job
from experiments.model_export import agreement

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("experiments", "lightning_modules", "datamodules", "callbacks"):
            raise ImportError(f"{name} is not to be had here")

sys.meta_path.insert(0, Blocked())
"""


def code_of(card: Path) -> str:
    """All Python of a card, in order."""
    return "\n".join(re.findall(r"```python\n(.*?)```", card.read_text("utf-8"), re.DOTALL))


def run_card(folder: Path, more: str) -> str:
    """Run the code of a card in its folder, in a process that cannot import this package, and then some more."""
    command = [sys.executable, "-I", "-c", f"{BLOCKED}\n{code_of(folder / 'README.md')}\n{more}"]
    environment = {**os.environ, "HF_MODULES_CACHE": str(folder.parent / "modules"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    return result.stdout


def head(card: Path) -> dict:
    return yaml.safe_load(card.read_text("utf-8").split("---\n")[1])


def untouched(monkeypatch, change=lambda answer: answer) -> None:
    """Instead of a fresh process: what a folder gives is what the original gives, changed."""

    def read(kind, folder, request):
        assert kind == "generator"
        module = untouched.module
        module, found = untouched.module, []
        for call in request:
            mine = {"num_steps": call.get("num_inference_steps"), "guidance": call.get("guidance_scale")}
            names = module.network.conditioning.names
            labels = torch.tensor([[row.get(name, -1) for name in names] for row in call["labels"]])
            found.append(change(module.sample(labels, call["seeds"], **mine)))
        return found

    monkeypatch.setattr(agreement, "read", read)


@pytest.fixture
def checkpoint(here) -> Path:
    untouched.module = generator()
    return saved(untouched.module, here / "run/checkpoints/best.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("denoiser", [None, DIT], ids=["unet", "dit"])
def test_a_generator(command, here, denoiser):
    module = generator(**({} if denoiser is None else {"denoiser": denoiser}))
    saved(module, here / "run/checkpoints/best.ckpt")
    result = command("+exp=export_model", "ckpt=run", "output_dir=out", "job.license=cc-by-nc-4.0", "job.title=Mine")
    assert result.code == 0, result.err
    print(*(line for line in result.out.splitlines() if "differ by" in line), sep="\n")
    assert "the pipeline: 3 images (seeds [0, 1, 2], 2 steps, guidance 1.5) differ by" in result.out
    report = json.loads((here / "out/export.json").read_text("utf-8"))
    assert report["kind"] == "generator" and report["weights"] == "averaged"
    assert [one["agrees"] for one in report["comparisons"]] == [True, True]
    assert all(one["largest_difference"] <= 1e-5 == one["tolerance"] for one in report["comparisons"])
    card = here / "out/model/README.md"
    assert head(card)["license"] == "cc-by-nc-4.0" and head(card)["library_name"] == "diffusers"
    assert "![Images painted by this model" in card.read_text("utf-8")
    with Image.open(here / "out/model/samples.png") as grid:
        assert grid.width > 4 * 128 and grid.height > 2 * 128
    assert "# Mine" in card.read_text("utf-8") and "not for diagnosis" in card.read_text("utf-8").lower()
    more = (
        "import torch\n"
        'rows = [{"diabetic_retinopathy": 3, "glaucoma": 1}, {"eye": "left"}]\n'
        'images = pipeline(rows, seeds=[11, 12], output_type="pt").images\n'
        'torch.save(images, "../images.pt")\n'
    )
    said = run_card(here / "out/model", more)
    assert "(4, 16, 16, 3)" in said and (here / "out/model/fundus_1.png").is_file()
    labels = torch.full((2, 16), -1)
    labels[0, 0], labels[0, 7], labels[1, 15] = 3, 1, 1
    images = torch.load(here / "out/images.pt")
    torch.testing.assert_close(images, module.sample(labels, [11, 12]), rtol=0, atol=1e-5)
    assert not list((here / "out").glob(".*"))


@pytest.mark.slow
def test_a_classifier(command, here):
    saved(classifier(), here / "classifier.ckpt")
    result = command("+exp=export_model", "ckpt=classifier.ckpt", "output_dir=out")
    assert result.code == 0, result.err
    report = json.loads((here / "out/export.json").read_text("utf-8"))
    print(*(line for line in result.out.splitlines() if "differ by" in line), sep="\n")
    assert [one["tolerance"] for one in report["comparisons"]] == [1e-5, 1e-3]
    assert head(here / "out/model/README.md")["library_name"] == "timm"
    said = run_card(here / "out/model", "")
    assert "dr_grade {'none': 0." in said and "'is_gc': array(" in said


@pytest.mark.slow
@pytest.mark.parametrize("words", [PLAIN_KL, []], ids=["plain", "shortcut"])
def test_an_autoencoder(command, here, words):
    saved(autoencoder(*words), here / "vae.ckpt")
    result = command("+exp=export_model", "ckpt=vae.ckpt", "output_dir=out")
    assert result.code == 0, result.err
    assert re.search(r"torch.Size\(\[1, 4, \d, \d\]\)", run_card(here / "out/model", ""))


@pytest.mark.parametrize("change", [lambda images: images + 1e-4, lambda images: images * torch.nan])
def test_a_bound_that_is_broken_leaves_nothing(command, here, checkpoint, monkeypatch, change):
    untouched(monkeypatch, change)
    result = command("+exp=export_model", "ckpt=run", "output_dir=out")
    assert result.code == 1 and "error: the pipeline is not the original: on the same input 3 images" in result.err
    assert "1e-05 is put up with" in result.err and "DIFFERS" in result.out
    assert json.loads((here / "out/record.json").read_text("utf-8"))["status"] == "failed"
    assert {path.name for path in (here / "out").iterdir()} == {"config.yaml", "record.json", "error.log"}


def test_a_crash_leaves_nothing_and_what_was_killed_is_cleared(command, here, checkpoint, monkeypatch):
    untouched(monkeypatch)
    (here / "out/.model.123.part/unet").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(job, "card", lambda *arguments: 1 / 0)
        result = command("+exp=export_model", "ckpt=run", "output_dir=out")
    assert result.code == 1 and "ZeroDivisionError" in result.err
    assert {path.name for path in (here / "out").iterdir()} == {"config.yaml", "record.json"}
    result = command("+exp=export_model", "ckpt=run", "output_dir=out", "resume=auto")
    assert result.code == 0, result.err
    names = {path.name for path in (here / "out/model").iterdir()}
    parts = {"vae", "label_embedder", "unet", "guide", "scheduler"}
    code = {"LICENSE-CODE", "pipeline.py", "spacing.py"}
    assert names == parts | code | {"README.md", "samples.png", "model_index.json"}
    modes = {path.stat().st_mode & 0o777 for path in (here / "out/model").rglob("*") if path.is_file()}
    assert modes == {(here / "out").stat().st_mode & 0o666}, "whoever may read the folder may read its files"
    again = command("+exp=export_model", "ckpt=run", "output_dir=out", "resume=auto")
    assert again.code == 1 and "out/model is there already, and is not written over" in again.err
    again = command("+exp=export_model", "ckpt=run", "output_dir=out")
    assert again.code == 1 and "Give another. Or, where something is left to do in it: resume=auto." in again.err
    (here / "out/model").rename(here / "elsewhere")
    again = command("+exp=export_model", "ckpt=run", "output_dir=out", "resume=auto")
    assert again.code == 0 and (here / "out/model/README.md").is_file(), again.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "ckpt is not given: name a checkpoint of ddpm_train, vae_train or classifier_train"),
        (["ckpt=lost.ckpt"], "'lost.ckpt' does not exist"),
        (["ckpt=empty"], "empty/checkpoints/best.ckpt' does not exist"),
        (["ckpt=other.ckpt"], "ckpt=other.ckpt: it does not say what it is of"),
        (["ckpt=run", "job.weights=average"], "job.weights='average' is unknown. Known: averaged, raw."),
        (["ckpt=run", "job.license=cc-by"], "job.license='cc-by' is no licence of the Hugging Face Hub"),
        (["ckpt=run", "resume=run/checkpoints/best.ckpt"], "export_model trains nothing: leave resume out"),
    ],
)
def test_what_is_said_before_anything_is_written(command, here, checkpoint, words, said):
    torch.save({"state_dict": {}}, here / "other.ckpt")
    (here / "empty").mkdir()
    result = command("+exp=export_model", "output_dir=out", *words)
    assert result.code == 1 and said in result.err and "Traceback" not in result.err, result.err
    assert not (here / "out/model").exists()


def test_a_folder_is_whole_or_not_there(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "in/model") as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt
    assert not list((tmp_path / "in").iterdir())
    with whole_folder(tmp_path / "in/model") as folder:
        (folder / "deep").mkdir()
        (folder / "deep/file").write_text("whole")
        assert not (tmp_path / "in/model").exists()
    assert (tmp_path / "in/model/deep/file").read_text() == "whole"
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["model"]
    with refuses(FileExistsError, tmp_path / "in/model", "already"), whole_folder(tmp_path / "in/model"):
        pass


def test_a_difference_that_is_no_number_does_not_agree():
    for value, agrees in ((0.0, True), (1e-5, True), (2e-5, False), (float("nan"), False), (float("inf"), False)):
        comparison = agreement.Comparison("it", "images", {}, value, 1e-5)
        assert comparison.agrees == agrees == comparison.plain()["agrees"]
        json.loads(json.dumps(comparison.plain(), allow_nan=False))
    assert agreement.largest_difference(torch.zeros(2), torch.zeros(3)) == float("inf")
