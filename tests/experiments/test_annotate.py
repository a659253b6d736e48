"""`+exp=annotate`: beside the conditions and never over them, gone on with, of an ensemble, measured by its ceiling."""

import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from annotators import write_predictions, write_run
from omegaconf import OmegaConf
from PIL import Image
from refusals import refuses
from sklearn.metrics import roc_auc_score
from synthetic_sets import write_set
from tiny_runs import run_process

from datamodules.findings import NAMES
from datamodules.synthetic import SyntheticSet
from experiments.annotate import annotate
from experiments.annotation.annotators import load_annotators, thresholds_of
from experiments.annotation.measuring import notes_of
from experiments.annotation.real_reference import real_images
from experiments.card.facts import gather
from experiments.composition import compose_config
from experiments.loading import load_classifier
from experiments.session import Run
from lightning_modules.annotator import Annotator, at_size

QUICK = ["+exp=annotate", "trainer.accelerator=cpu", "job.num_replicates=20", "job.batch_size=2"]
SHARDS = [f"shard-{number:05d}-of-00003.parquet" for number in range(3)]
REAL = {"dr_grade": [0, 1, 2, 3, 4, 0], "is_gc": [0, 1, 0, 1, 0, 0]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set of 13 images in 3 shards; classifiers `a` and `b` at two sizes, of which `a` has real images."""
    folder = tmp_path_factory.mktemp("made")
    write_set(folder / "set", num_images=13, num_shards=3, group_rows=3, unknown=["is_gc"])
    write_run(folder / "a", ["is_gc", "dr_grade", "eye_side"], image_size=32)
    write_run(folder / "b", ["dr_grade", "is_amd", "is_fundus"], image_size=24, seed=1)
    write_predictions(folder / "a", ["00", "01", "10", "11", "20", "21"], REAL | {"eye_side": [0, 1] * 3})
    return folder


@pytest.fixture
def root(made, tmp_path):
    """The set, of the test's own."""
    return Path(shutil.copytree(made / "set", tmp_path / "set"))


@pytest.fixture
def words(made, root):
    return [*QUICK, f"job.dataset={root}", f"job.annotators=[{made / 'a'},{made / 'b'}]"]


@pytest.fixture(scope="module")
def config(made):
    return compose_config([*QUICK, "job.dataset=x", f"job.annotators=[{made / 'a'},{made / 'b'}]"])


@pytest.fixture
def run(here, root, config):
    """`run(job={}, …)` runs the job on the set within this process, without the command line; returns its metrics."""

    def job(job=None, **changes):
        given = {"output_dir": "out", **changes, "job": {"dataset": str(root), **(job or {})}}
        return annotate(Run(OmegaConf.merge(config, given)))

    return job


def hashes(root, *patterns):
    files = [path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def pictures(root, shard):
    """Images of a shard, float32 [N, 3, S, S], decoded here."""
    files = [row["bytes"] for row in pq.read_table(root / "data" / shard).column("image").to_pylist()]
    arrays = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def test_annotations_are_what_the_classifiers_say_and_the_rest_is_untouched(command, here, root, words, made):
    before = hashes(root, "data/*", "*.parquet", "*.json", "checksums/*")
    result = command(*words, "output_dir=out")
    assert result.code == 0, result.err
    assert before.items() <= hashes(root, "data/*", "*.parquet", "*.json", "checksums/*").items()
    members = [load_classifier(made / name) for name in "ab"]
    for shard in SHARDS:
        table, images = pq.read_table(root / "annotations" / shard), pictures(root, shard)
        told = pq.read_table(root / "data" / shard)
        assert table.column("id").equals(told.column("id"))
        said = [member.probabilities(at_size(images, size)) for member, size in zip(members, (32, 24), strict=True)]
        grade = ((said[0]["dr_grade"] + said[1]["dr_grade"]) / 2).numpy()
        stored = np.stack([table.column(f"p_dr_grade_{level}").to_numpy() for level in range(5)], axis=1)
        assert np.allclose(stored, grade, atol=1e-6)
        assert np.allclose(table.column("p_is_gc").to_numpy(), said[0]["is_gc"][:, 1], atol=1e-6)
        assert np.allclose(table.column("p_is_amd").to_numpy(), said[1]["is_amd"][:, 1], atol=1e-6)
        assert table.column("is_em").null_count == len(images)
        assert all(text.endswith("about a synthetic image.") for text in table.column("advice").to_pylist())
    assert {path.name for path in (here / "out").iterdir()} == {"config.yaml", "record.json"}
    assert {path.name for path in here.iterdir()} <= {"out", "set"}
    record = json.loads((here / "out/record.json").read_text())
    assert record["status"] == "finished" and record["metrics"]["images_annotated"] == 13
    assert "told by none, and left empty: is_aon" in result.out


def test_consistency_is_of_condition_and_annotation_beside_the_ceiling(run, root):
    metrics = run({"thresholds": {"eye_side": 0.3}})
    told = json.loads((root / "consistency.json").read_text())
    conditions = np.concatenate([pq.read_table(root / "data" / s).column("eye_side").to_numpy() for s in SHARDS])
    tables = [pq.read_table(root / "annotations" / shard) for shard in SHARDS]
    chance, seen = (np.concatenate([one.column(c).to_numpy() for one in tables]) for c in ("p_eye_side", "eye_side"))
    eye = told["synthetic"]["findings"]["eye_side"]
    assert eye["auroc"]["value"] == metrics["consistency/auroc_eye_side"]
    assert eye["auroc"]["value"] == pytest.approx(roc_auc_score(conditions, chance))
    assert np.array_equal(seen, chance >= 0.3)
    assert eye["accuracy"]["value"] == pytest.approx((seen == conditions).mean())
    assert told["thresholds"] == {"is_amd": 0.5, "is_gc": 0.5, "is_fundus": 0.5, "eye_side": 0.3}
    unknown = told["synthetic"]["findings"]["is_gc"]
    assert unknown["num_images"] == 0
    assert unknown["auroc"] == {"value": None, "low": None, "high": None, "why": "known of no image"}
    real = told["real"]["findings"]
    assert told["real"]["num_images"] == 6 and told["real"]["num_patients"] == 3
    assert real["is_gc"]["num_positive"] == 2 and real["is_gc"]["auroc"]["value"] is not None
    assert real["is_amd"]["num_images"] == real["dr_grade"]["num_images"] == 0, "b left no predictions"
    assert any("b: there is no predictions.parquet" in note for note in told["notes"])
    assert any("No ceiling for dr_grade, is_amd, is_fundus: an annotator" in note for note in told["notes"])
    assert set(told["not_told"]) == set(NAMES) - {"dr_grade", "is_gc", "is_amd", "is_fundus", "eye_side"}
    with Image.open(root / "consistency.png") as picture:
        assert picture.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    assert "| `eye_side`\\* | 13 |" in (root / "consistency.md").read_text()
    facts = gather(SyntheticSet(root))  # as a card reads it
    assert facts.consistency == told and len(facts.annotations.told["annotators"]) == 2


def test_what_is_there_is_not_done_again_and_what_is_damaged_is(run, root):
    assert run()["images_annotated"] == 13
    first = hashes(root, "annotations/*.parquet")
    paths = [root / "annotations" / shard for shard in SHARDS]
    times = [path.stat().st_mtime_ns for path in paths]
    assert "images_annotated" not in run()
    assert [path.stat().st_mtime_ns for path in paths] == times
    paths[0].write_bytes(paths[0].read_bytes()[:-9])
    paths[2].unlink()
    assert run()["images_annotated"] == 8
    assert hashes(root, "annotations/*.parquet") == first
    assert [path.stat().st_mtime_ns == time for path, time in zip(paths, times, strict=True)] == [False, True, False]


def test_a_run_that_is_stopped_leaves_whole_shards_and_is_gone_on_with(command, run, here, root, words, monkeypatch):
    step, calls = Annotator.predict_step, []

    def stopping(self, batch, batch_idx):
        calls.append(batch["shard"])
        if len(calls) == 5:  # in the middle of the second shard
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(Annotator, "predict_step", stopping)
        stopped = command(*words, "output_dir=out")
    assert stopped.code == 130 and "resume=auto" in stopped.err
    assert json.loads((here / "out/record.json").read_text())["status"] == "interrupted"
    assert [path.name for path in sorted((root / "annotations").glob("*.parquet"))] == SHARDS[:1]
    assert not (root / "annotations/annotation.json").exists() and not (root / "consistency.json").exists()
    assert run()["images_annotated"] == 8
    assert len(json.loads((root / "annotations/annotation.json").read_text())["files"]) == 3


def test_annotations_of_others_are_replaced_only_when_told(run, here, root, made):
    run()
    files = ("annotations/**/*", "consistency.*")
    before = hashes(root, *files)
    alone = {"annotators": [str(made / "a")]}
    with refuses(ValueError, root / "annotations", "a (", "b (", "job.overwrite=true"):
        run(alone, output_dir="two")
    assert not (here / "two").exists() and hashes(root, *files) == before
    run(alone | {"overwrite": True}, output_dir="two")
    table = pq.read_table(root / "annotations" / SHARDS[0])
    assert table.column("is_amd").null_count == table.num_rows
    told = json.loads((root / "annotations/annotation.json").read_text())
    assert told["findings"] == ["dr_grade", "is_gc", "eye_side"]


@pytest.mark.parametrize(
    ("job", "changes", "facts"),
    [
        ({"annotators": []}, {}, ["job.annotators", "empty"]),
        ({"annotators": ["{made}/a", "{made}/a/checkpoints/best.ckpt"]}, {}, ["job.annotators", "/best.ckpt", "twice"]),
        ({"annotators": ["{made}/c"]}, {}, ["checkpoint '", "/c'"]),
        ({"dataset": "{made}/a"}, {}, ["/a'", "recipe.json", "+exp=synthesize"]),
        ({}, {"output_dir": "{root}"}, ["output_dir=", "/set ", "job.dataset"]),
        ({}, {"output_dir": "{root}/annotations/run"}, ["output_dir=", "/set/annotations/run ", "job.dataset"]),
        ({"thresholds": {"is_em": 0.3}}, {}, ["job.thresholds", "is_em", "is_gc"]),
        ({"thresholds": {"dr_grade": 0.3}}, {}, ["job.thresholds", "dr_grade", "median"]),
        ({"thresholds": {"is_gcc": 0.3}}, {}, ["'is_gcc'", "'is_gc'"]),
        ({"thresholds": 1.5}, {}, ["job.thresholds", "is_amd", 1.5]),
        ({"batch_size": 0}, {}, ["job.batch_size=0"]),
        ({}, {"ckpt": "{made}/a/checkpoints/best.ckpt"}, ["annotate", "ckpt", "job.annotators"]),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_written(run, here, root, made, job, changes, facts):
    def placed(value):
        if isinstance(value, list):
            return [placed(one) for one in value]
        return value.format(made=made, root=root) if isinstance(value, str) else value

    before = hashes(root, "**/*")
    with refuses((ValueError, FileNotFoundError), *facts):
        run({key: placed(value) for key, value in job.items()}, **{key: placed(v) for key, v in changes.items()})
    assert hashes(root, "**/*") == before and not (here / "out").exists()


def test_thresholds_by_name_can_be_typed():
    cfg = compose_config([*QUICK, "job.dataset=x", "+job.thresholds.is_gc=0.3"])
    assert cfg.job.thresholds == {"is_gc": 0.3}


@pytest.mark.parametrize("fault", ["no manifest", "a short shard"])
def test_a_set_that_is_not_whole_is_refused(run, root, fault):
    path = root / "data" / SHARDS[1]
    if fault == "no manifest":
        (root / "manifest.json").unlink()
        facts = [f"'{root}'", "manifest.json"]
    else:
        path.write_bytes(path.read_bytes()[:-20])
        facts = [path, f"{path.stat().st_size} bytes"]
    with refuses(ValueError, *facts, "resume=auto"):
        run()
    assert not (root / "annotations").exists()


def test_the_ceiling_of_an_ensemble_is_the_mean_over_what_all_have(made, tmp_path):
    folders = [Path(shutil.copytree(made / name, tmp_path / name)) for name in "ab"]
    ids = ["00", "01", "10", "11", "20", "21"]
    first = write_predictions(folders[0], ids, REAL | {"eye_side": [0] * 6}, seed=1)
    others = ["10", "11", "20", "21", "30", "31"]
    grades = [2, 3, 1, 0, 4, 4]  # of 20 another than the first run has
    labels = {"dr_grade": grades, "is_amd": [0, 1] * 3, "is_fundus": [1] * 6}
    second = write_predictions(folders[1], others, labels, seed=2)
    findings = {"dr_grade": 5, "is_amd": 2, "is_gc": 2}
    found = real_images(load_annotators([str(folder) for folder in folders]), findings)
    rows = {name: place for place, name in enumerate(sorted({*ids, *others}))}
    assert len(found) == 8 and found.patients == [f"p{name[0]}" for name in rows]
    both = [rows[name] for name in ("10", "11", "21")]
    grade = found.labels[:, 0]
    assert grade[both].tolist() == [2, 3, 0] and (np.delete(grade, both) == -1).all()
    mean = (first["dr_grade"][[2, 3, 5]] + second["dr_grade"][[0, 1, 3]]) / 2
    assert np.allclose(found.probabilities["dr_grade"][both], mean)
    assert (found.labels[:, 1] >= 0).sum() == 6 and (found.labels[:, 2] >= 0).sum() == 6
    assert found.notes == ["dr_grade: 1 real images are left out, labelled otherwise elsewhere."]


def test_a_ceiling_needs_the_test_split_and_says_whose_weights_it_is_of(made, tmp_path):
    folder = Path(shutil.copytree(made / "a", tmp_path / "a"))
    write_predictions(folder, ["00", "01"], {"dr_grade": [0, 1], "is_gc": [0, 1], "eye_side": [0, 1]}, split="val")
    shutil.copy(folder / "checkpoints/best.ckpt", folder / "checkpoints/last.ckpt")
    findings = {"dr_grade": 5, "is_gc": 2}
    found = real_images(load_annotators([str(folder)]), findings)
    assert len(found) == 0 and any("a: predictions.parquet has no test split." in note for note in found.notes)
    write_predictions(folder, ["00", "01"], {"dr_grade": [0, 1], "is_gc": [0, 1], "eye_side": [0, 1]})
    last = real_images(load_annotators([str(folder / "checkpoints/last.ckpt")]), findings)
    assert len(last) == 2 and last.notes == ["a: the ceiling is that of best.ckpt, and last.ckpt annotated."]


def test_a_reader_is_told_of_filters_and_of_enlarged_images(made, root):
    recipe = {"annotators": [{"run": "a", "weights": "abc", "image_size": 64}]}
    real = real_images(load_annotators([str(made / "a")]), {"is_gc": 2})
    data = SyntheticSet(root)
    assert notes_of(data, recipe, real) == [
        "a was trained on 64 px and sees the images of 32 px enlarged: it may tell less of them than of real ones."
    ]
    data.recipe["filter"] = {"annotators": ["abc"], "findings": ["is_gc"]}
    assert "the very annotators that are asked here" in notes_of(data, recipe, real)[0]
    data.recipe["filter"]["annotators"] = ["def"]
    assert "other annotators did not agree with" in notes_of(data, recipe, real)[0]


def test_thresholds_are_for_all_or_by_name():
    findings = {"dr_grade": 5, "is_gc": 2, "eye_side": 2}
    assert thresholds_of(0.4, findings) == {"is_gc": 0.4, "eye_side": 0.4}
    assert thresholds_of({"is_gc": 0.2}, findings) == {"is_gc": 0.2, "eye_side": 0.5}


@pytest.mark.slow
def test_two_processes_write_what_one_writes(root, words, tmp_path):
    """Also where one of them has nothing to do. Each has one thread: sums in another order are other bytes."""
    one = run_process(*words, "output_dir=one", cwd=tmp_path)
    assert one.code == 0, one.err
    first = hashes(root, "annotations/*.parquet")
    shutil.rmtree(root / "annotations")
    two = ["trainer.devices=2", "strategy=ddp"]
    result = run_process(*words, *two, "output_dir=two", cwd=tmp_path)
    assert result.code == 0, result.err
    assert hashes(root, "annotations/*.parquet") == first
    assert result.out.count("── consistency") == 1
    assert json.loads((tmp_path / "two/record.json").read_text())["num_processes"] == 2
    (root / "annotations" / SHARDS[1]).unlink()
    rest = run_process(*words, *two, "output_dir=three", cwd=tmp_path)
    assert rest.code == 0 and hashes(root, "annotations/*.parquet") == first, rest.err
