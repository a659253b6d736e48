"""What the card of an exported model says is of the model: figures, data, code, licences, files, and what it lacks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from callbacks.metrics.estimate import to_json
from callbacks.metrics.evaluation import evaluate
from callbacks.run_record import RunRecord
from experiments.model_export import agreement, code_licence, samples
from experiments.model_export.card import Model, card, files
from experiments.model_export.run_folder import evaluation, figures, software
from experiments.model_export.training import training_facts
from lightning_modules.checkpoint import CONFIG_KEY, TRAINED_ON_KEY

PHANTOMS = {"_target_": "datamodules.sources.phantom.PhantomSource"}
PHOTOGRAPHS = {"_target_": "datamodules.sources.csv.CsvSource", "name": "clinic"}
FINDINGS = [
    {"name": "is_gc", "title": "Glaucoma", "levels": ["absent", "present"]},
    {"name": "dr_grade", "title": "Diabetic retinopathy", "levels": ["none", "mild", "severe"]},
]
COLUMNS = "global_step,figure,fd,num_images,num_real,num_steps,guidance,scheduler,reference_split\n"


def state(source=PHOTOGRAPHS, facts=None, **config) -> dict:
    """What a card reads of a checkpoint."""
    known = {} if facts is None else {TRAINED_ON_KEY: facts}
    return {CONFIG_KEY: {"data": {"source": source, "image_size": 16}, **config}, "global_step": 7, **known}


def facts(own=26, seen=26) -> dict:
    """52 images, of `own` patients, among `seen` of all networks."""
    told = {
        "patients": torch.arange(seen),
        "labels": torch.zeros(1, 16, dtype=torch.int8),
        "counts": torch.tensor([52]),
    }
    return told | ({} if own is None else {"own_patients": own})


def text(folder: Path, kind: str = "generator", licence: str | None = None, evaluation=None, **of_the_state) -> str:
    findings = [] if kind == "autoencoder" else FINDINGS
    model = Model(kind, state(**of_the_state), "averaged", "0" * 16, 16, findings, {}, evaluation or {})
    return card(model, {"unet": torch.nn.Linear(2, 2)}, [], folder, licence, None)


# -- figures


def run(folder: Path, rows: str = "") -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    if rows:
        (folder / "frechet.csv").write_text(COLUMNS + rows)
    return folder / "checkpoints" / "best.ckpt"


def test_a_figure_is_that_of_the_checkpoints_own_step(tmp_path):
    path = run(tmp_path)
    own = state() | {"synfundus_measured": {"monitor": "val/loss", "value": 0.1663}}
    assert figures(path, own) == {"`val/loss` of this checkpoint": "0.1663, on the run's own validation split"}
    of_another = {"monitor": "val/loss", "current_score": torch.tensor(0.1734), "best_k_models": {str(path): 0.1734}}
    assert figures(path, state() | {"callbacks": {"ModelCheckpoint": of_another}}) == {}, "it may be of another step"


def test_a_distance_is_told_with_what_it_was_measured_on(tmp_path):
    row = "7,val/fd_x,78.61,128,1000,10,1.0,dpm_solver,train\n3,val/fd_x,90.0,128,1000,10,1.0,dpm_solver,train\n"
    path = run(tmp_path / "run", row)
    own = {"synfundus_measured": {"monitor": "val/fd_x", "value": 78.61}}
    assert figures(path, state() | own) == {
        "`val/fd_x` of this checkpoint": "78.61, of 128 painted images, 10 steps of `dpm_solver`, guidance 1, against "
        "1,000 images of the train split"
    }
    assert figures(run(tmp_path / "alone"), state() | own) == {}, "without its settings it is left out"
    other = {"synfundus_measured": {"monitor": "val/fd_x", "value": 60.0}}
    assert figures(path, state() | other) == {}, "the table is of another run"


@pytest.mark.parametrize("column", ["reference_split", "num_real", "guidance"])
def test_a_distance_of_an_earlier_version_is_left_out(tmp_path, column):
    """Its frechet.csv has fewer columns, or columns that are empty in its rows."""
    names, cells = COLUMNS.strip().split(","), ["7", "val/fd_x", "78.6", "9", "9", "1", "1.0", "dpm_solver", "train"]
    place = names.index(column)
    path = run(tmp_path, ",".join(cells) + "\n")
    assert len(figures(path, state())) == 1
    (tmp_path / "frechet.csv").write_text(COLUMNS + ",".join([*cells[:place], "", *cells[place + 1 :]]) + "\n")
    assert figures(path, state()) == {}
    rows = [[cell for number, cell in enumerate(row) if number != place] for row in (names, cells)]
    (tmp_path / "frechet.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    assert figures(path, state()) == {}


def test_what_a_run_measured_of_a_classifier_is_told(tmp_path):
    """By the evaluation that classifier_train writes."""
    levels = np.array([[0], [0], [1], [1], [-1]])
    chances = np.array([0.1, 0.6, 0.4, 0.9, 0.5])
    found = evaluate(levels, {"is_gc": np.stack([1 - chances, chances], 1)}, {"is_gc": 2}, list("abcde"), 0)
    path = run(tmp_path)
    (tmp_path / "evaluation.json").write_text(json.dumps({"val": to_json(found), "test": {}}))
    said = text(tmp_path, "classifier", evaluation=evaluation(path))
    assert "How well it tells them" in said and "| `is_gc` | 4 | 2 | 0.750 |" in said
    assert evaluation(path.with_name("last.ckpt")) == {}, "it is of the best checkpoint"


def test_a_sharded_checkpoint_keeps_its_evaluation_and_its_record(tmp_path):
    path, record = run(tmp_path), RunRecord(str(tmp_path), {"seed": 1})
    (path.parent / "shards" / "best-00000007-abcdef").mkdir(parents=True)
    path.symlink_to("shards/best-00000007-abcdef")
    record.start()
    (tmp_path / "evaluation.json").write_text(json.dumps({"val": {"is_gc": {"num_images": 4}}}))
    assert evaluation(path) == {"val": {"is_gc": {"num_images": 4}}}
    assert software(path)["trained with"] == software(path)["exported with"]


def test_the_code_is_named_by_the_record_that_a_run_writes(tmp_path):
    path, record = run(tmp_path), RunRecord(str(tmp_path), {"seed": 1})
    record.start()
    assert software(path)["trained with"] == software(path)["exported with"]


def test_the_code_is_named_by_the_record(tmp_path):
    path = run(tmp_path)
    assert software(path)["trained with"] == "SynFundus; the record of the run is not beside the checkpoint"
    told = {"versions": {"synfundus": "0.1.0"}, "code": {"commit": "4a45e0c", "changed": True}}
    (tmp_path / "record.json").write_text(json.dumps(told))
    assert software(path)["trained with"] == "SynFundus 0.1.0, revision `4a45e0c` with changes"
    assert software(path)["exported with"].startswith("SynFundus")


# -- training data


def test_the_denoisers_images_are_told_apart_from_the_autoencoders():
    found = training_facts("generator", state(facts=facts(26, 1624), autoencoder={"pretrained": "/home/me/a.ckpt"}))
    assert found["training images of the denoiser"] == "52 of 26 patients"
    assert found["patients seen by any of its networks"].startswith("1,624, through the weights it began with")
    assert found["began with"].startswith("an autoencoder, which was trained before this run")
    assert "/home/me" not in str(found)
    same = training_facts("generator", state(facts=facts(), autoencoder={"pretrained": None}))
    assert same["autoencoder trained on"] == "the data of the same run"
    assert not {"patients seen by any of its networks", "began with"} & set(same)


def test_an_older_checkpoint_has_no_number_of_its_own_patients():
    found = training_facts("generator", state(facts=facts(None, 1624)))
    assert found["training images of the denoiser"] == "52"
    assert found["patients seen by any of its networks"] == "1,624"


def test_a_card_names_no_folder_of_its_maker():
    unknown = {"unknown": ["the checkpoint '/home/me/vae.ckpt' does not say whose photographs trained it"]}
    found = training_facts("generator", state(facts=facts() | unknown))
    assert found["not known of its training"].startswith("the checkpoint 'vae.ckpt' does not say")


# -- words


@pytest.mark.parametrize("kind", ["generator", "autoencoder", "classifier"])
def test_a_model_of_phantoms_says_so_first(tmp_path, kind):
    said = text(tmp_path, kind, source=PHANTOMS).split("\n\n")
    assert said[2].startswith("**This model was trained on procedural phantoms only")
    assert "for trying the software, not for research on disease" in said[2]
    assert "phantoms only" not in text(tmp_path, kind), "one of photographs does not"
    begun = {"source": PHANTOMS, "ckpt": "other.ckpt"}
    assert "phantoms only" not in text(tmp_path, kind, **begun), "what it began with may have seen photographs"
    union = {"sources": {"a": PHANTOMS, "b": PHOTOGRAPHS}}
    assert "phantoms only" not in text(tmp_path, kind, source=union)


def test_a_generator_does_not_promise_what_is_asked_for(tmp_path):
    limits = text(tmp_path).split("## Known limits")[1]
    assert "A finding that is asked for need not be visible" in limits and "not proven by the export" in limits
    assert "`+exp=annotate`" in limits and "strengthens" in limits


def test_the_hub_is_told_what_it_does(tmp_path):
    tags = {kind: yaml.safe_load(text(tmp_path, kind).split("---\n")[1]).get("pipeline_tag")
            for kind in ("generator", "autoencoder", "classifier")}  # fmt: skip
    assert tags == {
        "generator": "unconditional-image-generation",
        "autoencoder": None,
        "classifier": "image-classification",
    }


def test_blank_bounds_and_further_rows_are_explained(tmp_path):
    def row(low):
        return {"auroc": {"value": 0.728, "low": low, "high": low}, "num_images": 9, "num_positive": 2}

    rows = {"dr_grade": row(None), "dr_grade_referable": row(0.5), "macro": row(0.5)}
    said = text(tmp_path, "classifier", evaluation={"test": rows})
    assert "| 0.728 |" in said and "fewer than 90 % of the bootstrap's replicates had a value" in said
    assert "`dr_grade_referable`: diabetic retinopathy of grade 2" in said and "`macro`: the mean over" in said
    assert "`macro`: " not in text(tmp_path, "classifier", evaluation={"test": {"is_gc": row(0.5)}})


# -- files


def test_every_file_is_listed_and_has_a_use(tmp_path):
    for name in ("pipeline.py", "samples.png", "vae/config.json", "vae/folded_autoencoder.py", "unet/x.safetensors",
                 "label_embedder/label_embedder.py", "transformer/fundus_dit.py"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    code_licence.write_licence(tmp_path)
    found = {name.strip("`"): use for name, use in files(tmp_path)}
    there = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(found) == there | {"README.md"} and all(found.values())


def test_shipped_code_has_a_licence_of_its_own(tmp_path):
    code_licence.write_licence(tmp_path)
    assert not list(tmp_path.iterdir()) and "The code in this folder" not in text(tmp_path), "there is no code"
    (tmp_path / "pipeline.py").touch()
    code_licence.write_licence(tmp_path)
    assert "Apache License" in (tmp_path / "LICENSE-CODE").read_text()
    said = text(tmp_path)
    assert "`pipeline.py`" in said and "under Apache-2.0 (`LICENSE-CODE`)" in said


def test_the_licence_is_found_without_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(code_licence, "CHECKOUT", tmp_path)
    (tmp_path / "LICENSE").write_text("of another package")
    found = code_licence.licence_file()
    assert found is None or "Apache License" in found.read_text()


def test_shipped_files_name_their_licence():
    root = Path(code_licence.__file__).parents[2]
    shipped = [*(root / "experiments/model_export/shipped").glob("[a-z]*.py")]
    shipped += [root / f"lightning_modules/networks/{name}.py" for name in ("dit", "folded", "latent_classifier")]
    shipped += [root / "lightning_modules/diffusion/spacing.py"]
    assert len(shipped) == 7
    for path in shipped:
        assert path.read_text("utf-8").startswith("# SPDX-License-Identifier: Apache-2.0\n"), path


# -- samples


def test_a_sample_shows_levels_that_were_trained_on():
    counts = {"dr_grade": {0: 5, 1: 2}, "is_gc": {0: 5, 1: 2}}
    assert samples.conditions(FINDINGS, counts) == ({"dr_grade": 0}, {"dr_grade": 1})
    assert samples.conditions(FINDINGS, {}) == ({"dr_grade": 0}, {"dr_grade": 2})
    assert samples.conditions(FINDINGS, {"dr_grade": {0: 7}, "is_gc": {0: 5, 1: 2}}) == ({"is_gc": 0}, {"is_gc": 1})


def test_a_grid_is_painted_by_the_folder_and_its_labels_are_stated(tmp_path, monkeypatch):
    asked = []

    def read(kind, folder, request):
        asked.append((kind, folder, request))
        return [torch.rand(8, 3, 16, 16)]

    monkeypatch.setattr(agreement, "read", read)
    (tmp_path / "model_index.json").write_text('{"num_inference_steps": 10, "guidance_scale": 1.5}')
    assert samples.FILE not in text(tmp_path)
    samples.write_samples(tmp_path, FINDINGS, {})
    rows = [{"dr_grade": 0}] * 4 + [{"dr_grade": 2}] * 4
    assert asked == [("generator", tmp_path, [{"labels": rows, "seeds": [0, 1, 2, 3, 0, 1, 2, 3]}])]
    said = text(tmp_path)
    assert said.index("](samples.png)") < said.index("## Use")
    assert "in 10 steps, guidance 1.5. Asked for: row 1: Diabetic retinopathy: none; row 2: Diabetic" in said
