"""`+exp=dataset_export job.format=nnunet`: tiny sets and phantoms as a dataset of nnU-Net with folds."""

import csv
import json
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from refusals import refuses
from released_sets import filtered, pictures
from synthetic_sets import encode, write_set
from test_export_pairs import column, masks, with_masks

from datamodules.findings import NAMES
from datamodules.manifest import Manifest
from datamodules.sources.phantom import PhantomSource
from datamodules.splits import split_by_patient
from datamodules.synthetic import SyntheticSet
from datamodules.synthetic.lineage import patient_codes, write_trained_on
from experiments import dataset_export as job
from experiments.composition import compose_config
from experiments.export import pictures as writing
from experiments.export.folds import folds_of, splits_of
from experiments.export.nnunet import folder_name, values_of
from experiments.session import Run

SIDE, SEED = 32, 7  # of which 24 phantoms are of 12 patients, one of them for testing
MASKS = ("vessel", "disc")
REAL = ["data=phantom", "data.num_images=24", "data.masks=[vessel,disc]"]
FOLDER = "Dataset501_Fundus"


@pytest.fixture
def dataset(tmp_path) -> Path:
    return write_set(tmp_path / "set", 5, 2, side=SIDE, masks=MASKS)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory) -> Path:
    """The images of the phantoms, read once for all tests."""
    return tmp_path_factory.mktemp("cache")


@cache
def configuration() -> DictConfig:
    return compose_config(["+exp=dataset_export", "job.format=nnunet"])


@pytest.fixture
def export(cache_dir, tmp_path):
    def run(*words: str, real: list[str] | None = REAL, out: str = "out", **settings) -> Path:
        given = OmegaConf.from_dotlist([f"output_dir={tmp_path / out}", f"cache_dir={cache_dir}", *words])
        own = {"seed": SEED, "job": {"real": real, **settings}}
        job.dataset_export(Run(OmegaConf.merge(configuration(), own, given)))
        return tmp_path / out

    return run


def real() -> tuple[PhantomSource, Manifest]:
    """The source of the real pairs, and its index with splits."""
    source = PhantomSource(24, SEED, MASKS)
    return source, split_by_patient(source.index(), {"train": 0.8, "val": 0.1, "test": 0.1}, SEED)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def splits(out: Path) -> list[dict[str, list[str]]]:
    return read(out / "nnUNet_preprocessed" / FOLDER / "splits_final.json")


def cases(out: Path) -> list[dict[str, str]]:
    with open(out / FOLDER / "cases.csv", newline="") as file:
        return list(csv.DictReader(file))


# -- the files


def test_both_kinds_lie_where_nnunet_looks_for_them_with_their_pixels(dataset, export):
    out = export(f"job.dataset={dataset}")
    source, index = real()
    test = set(index.rows("test").tolist())
    assert 0 < len(test) < 24
    ours = [f"{SyntheticSet(dataset).id_prefix}{n:08d}" for n in range(5)]
    training = [*ours, *(f"real-{n:08d}" for n in range(24) if n not in test)]
    assert names(out / FOLDER) == ["cases.csv", "dataset.json", "imagesTr", "imagesTs", "labelsTr", "labelsTs"]
    assert names(out / FOLDER / "imagesTr") == sorted(f"{case}_0000.png" for case in training)
    assert names(out / FOLDER / "labelsTr") == sorted(f"{case}.png" for case in training)
    assert names(out / FOLDER / "imagesTs") == [f"real-{n:08d}_0000.png" for n in sorted(test)]
    assert names(out / FOLDER / "labelsTs") == [f"real-{n:08d}.png" for n in sorted(test)]
    for case, pixels, levels in zip(ours, pictures(dataset), masks(dataset), strict=True):
        assert (out / FOLDER / "imagesTr" / f"{case}_0000.png").read_bytes() == pixels
        np.testing.assert_array_equal(Image.open(out / FOLDER / "labelsTr" / f"{case}.png"), levels)
    for number in (0, 11, *test):
        kind, path = "Ts" if number in test else "Tr", index.paths[number]
        image = Image.open(out / FOLDER / f"images{kind}" / f"real-{number:08d}_0000.png")
        np.testing.assert_array_equal(image, source.read(path, SIDE))
        mask = Image.open(out / FOLDER / f"labels{kind}" / f"real-{number:08d}.png")
        assert (image.mode, mask.mode) == ("RGB", "L")
        np.testing.assert_array_equal(mask, source.read_mask(path, "vessel|disc", SIDE))


def test_dataset_json_says_what_nnunet_asks_for(dataset, export):
    assert read(export(f"job.dataset={dataset}") / FOLDER / "dataset.json") == {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "vessel": 1, "disc": 2},
        "numTraining": 5 + 24 - len(real()[1].rows("test")),
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
        "name": FOLDER,
    }


def test_the_table_says_whose_each_case_is(dataset, export):
    rows = cases(export(f"job.dataset={dataset}"))
    _, index = real()
    assert list(rows[0]) == ["case", "kind", "id", "patient", "split", "fold", "seed", *NAMES]
    made = [row for row in rows if row["kind"] == "synthetic"]
    assert [row["seed"] for row in made] == [str(seed) for seed in column(dataset, "seed")]
    assert {(row["patient"], row["split"], row["fold"]) for row in made} == {("", "train", "")}
    taken = {row["id"]: row for row in rows if row["kind"] == "real"}
    assert list(taken) == index.ids and [row["patient"] for row in taken.values()] == index.patients
    for row, split, labels in zip(taken.values(), index.splits, index.labels, strict=True):
        assert (row["split"] == "test") == (split == "test") == (row["fold"] == "")
        assert [int(row[name] or -1) for name in NAMES] == labels.tolist()


# -- folds


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_part_patients_and_generated_cases_only_train(dataset, export, folds):
    out = export(f"job.dataset={dataset}", folds=folds)
    rows, found = {row["case"]: row for row in cases(out)}, splits(out)
    assert len(found) == folds
    training = {case for case, row in rows.items() if row["split"] == "train"}
    made = {case for case, row in rows.items() if row["kind"] == "synthetic"}
    for number, fold in enumerate(found):
        patients = [{rows[case]["patient"] for case in fold[side] if case not in made} for side in ("train", "val")]
        assert fold["val"] and patients[0].isdisjoint(patients[1])
        assert made <= set(fold["train"]) and made.isdisjoint(fold["val"])
        assert set(fold["train"]) | set(fold["val"]) == training and set(fold["train"]).isdisjoint(fold["val"])
        assert {rows[case]["fold"] for case in fold["val"]} == {str(number)}
    validated = [case for fold in found for case in fold["val"]]
    assert sorted(validated) == sorted(training - made)
    sizes = [len({rows[case]["patient"] for case in fold["val"]}) for fold in found]
    assert max(sizes) - min(sizes) <= 1


def test_one_fold_is_the_split_of_the_data(dataset, export):
    words = [*REAL, "data.fractions={train: 0.5, val: 0.4, test: 0.1}"]
    out = export(f"job.dataset={dataset}", folds=1, real=words)
    index = split_by_patient(real()[0].index(), {"train": 0.5, "val": 0.4, "test": 0.1}, SEED)
    (fold,) = splits(out)
    assert fold["val"] == [f"real-{row:08d}" for row in index.rows("val")] != []
    assert len(fold["train"]) == 5 + len(index.rows("train"))


def test_folds_depend_on_seed_and_patients_alone():
    rows = [{"path": f"{n}", "patient": f"p{n // 2}", "split": "train"} for n in range(40)]
    manifest, back = Manifest.from_rows(rows), Manifest.from_rows(rows[::-1])
    np.testing.assert_array_equal(folds_of(manifest, 4, 1), folds_of(back, 4, 1)[::-1])
    assert (folds_of(manifest, 4, 1) != folds_of(manifest, 4, 2)).any()
    assert np.bincount(folds_of(manifest, 4, 1)).tolist() == [10, 10, 10, 10]
    assert splits_of({"a": 0, "b": 1, "c": -1}, ["s"], 2) == [
        {"train": ["b", "c", "s"], "val": ["a"]}, {"train": ["a", "c", "s"], "val": ["b"]},
    ]  # fmt: skip


def test_real_alone_and_synthetic_alone(dataset, export):
    out = export("job.num_workers=1", real=[*REAL, f"data.image_size={SIDE}"])
    assert {row["kind"] for row in cases(out)} == {"real"} and len(splits(out)) == 5
    alone = export(f"job.dataset={dataset}", real=None, out="alone")
    assert {row["kind"] for row in cases(alone)} == {"synthetic"}
    assert names(alone) == [FOLDER, "config.yaml", "export.json", "record.json"], "nothing is there to validate on"


def test_several_sets_and_accepted_images_alone(dataset, export, tmp_path):
    other = write_set(tmp_path / "other", 4, 1, side=SIDE, seed=1, masks=MASKS)
    for each, number in ((dataset, 5), (other, 4)):
        filtered(each, [1] * number, [row != 0 for row in range(number)])
    out = export(f"job.dataset={dataset}", "job.only_accepted=true", real=None, more_datasets=[str(other)])
    assert [row["id"] for row in cases(out)] == [*column(dataset, "id")[1:], *column(other, "id")[1:]]
    assert read(out / FOLDER / "dataset.json")["numTraining"] == 7 == len(names(out / FOLDER / "labelsTr"))


# -- unknown pixels


def test_unknown_pixels_become_the_ignore_label(dataset, export):
    with_masks(dataset, lambda levels, number: np.where(np.arange(SIDE) < number, 255, levels).astype(np.uint8))
    out = export(f"job.dataset={dataset}", real=None)
    assert read(out / FOLDER / "dataset.json")["labels"] == {"background": 0, "vessel": 1, "disc": 2, "ignore": 3}
    prefix = SyntheticSet(dataset).id_prefix
    mask = np.array(Image.open(out / FOLDER / "labelsTr" / f"{prefix}00000004.png"))
    assert (mask[:, :4] == 3).all() and (mask[:, 4:] < 3).all()
    export(f"job.dataset={dataset}", "resume=auto", real=None)
    assert read(out / FOLDER / "dataset.json")["labels"]["ignore"] == 3


# -- stopping, going on


def test_going_on_gives_what_an_uninterrupted_run_gives(dataset, export, monkeypatch):
    original, written = writing.write_pair, []

    def stop_after_two(*given):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(original(*given))

    whole = export(f"job.dataset={dataset}", out="whole")
    monkeypatch.setattr(writing, "write_pair", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        export(f"job.dataset={dataset}", "job.num_workers=1")
    monkeypatch.setattr(writing, "write_pair", original)
    out = whole.parent / "out"
    assert not (out / FOLDER / "dataset.json").exists() and not (out / "nnUNet_preprocessed").exists()
    cut, kept = (out / FOLDER / "labelsTr" / f"real-{number:08d}.png" for number in (0, 1))
    cut.write_bytes(cut.read_bytes()[:-3])
    stamp = kept.stat().st_mtime_ns
    export(f"job.dataset={dataset}", "resume=auto")
    assert kept.stat().st_mtime_ns == stamp
    of_runs = ("record.json", "config.yaml")
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file() and path.name not in of_runs]
    assert len(files) == 2 * 29 + 5, "two of each case, cases, dataset, splits, rejected and export"
    assert [file for file in files if (out / file).read_bytes() != (whole / file).read_bytes()] == []
    assert read(out / "record.json")["metrics"] == {
        "export/num_written": 4, "export/num_there": 25, "export/num_real_training": 24 - len(real()[1].rows("test")),
        "export/num_real_test": len(real()[1].rows("test")), "export/num_synthetic": 5,
    }  # fmt: skip


def test_splits_go_where_they_are_wanted_and_others_there_stay(dataset, export, tmp_path):
    there = tmp_path / "preprocessed"
    out = export(f"job.dataset={dataset}", preprocessed=str(there))
    file = there / FOLDER / "splits_final.json"
    assert len(read(file)) == 5 and not (out / "nnUNet_preprocessed").exists()
    file.write_text('[{"train": ["a"], "val": ["b"]}]')
    with refuses(ValueError, file, "job.preprocessed"):
        export(f"job.dataset={dataset}", preprocessed=str(there), out="second")
    assert read(file) == [{"train": ["a"], "val": ["b"]}]


# -- what is refused


@pytest.mark.parametrize("number", [0, 1000, -1, 1.5, True, "501", None])
def test_a_number_that_nnunet_has_not_is_refused(number):
    with refuses(ValueError, f"job.number={number} ", "1 to 999"):
        folder_name(number, "Fundus")


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "_a", None, "x" * 65])
def test_a_name_that_is_no_folder_is_refused(name):
    with refuses(ValueError, f"job.name={name}:"):
        folder_name(7, name)
    assert folder_name(7, "Optic_disc-2") == "Dataset007_Optic_disc-2"


def test_levels_that_differ_are_named(dataset, export):
    with refuses(ValueError, dataset, "background, vessel, disc", "job.real", "background, disc, vessel."):
        export(f"job.dataset={dataset}", real=[*REAL[:2], "data.masks=[disc,vessel]"])


@pytest.mark.parametrize("name", ["background", "ignore"])
def test_a_level_with_a_name_of_nnunets_is_refused(name):
    with refuses(ValueError, "the set", repr(name)):
        values_of({"the set": ["background", "disc", name]})


def test_fewer_patients_than_folds_are_refused(dataset, export):
    index = real()[1]
    number = index.num_patients - index.select("test").num_patients
    with refuses(ValueError, f"job.folds={number + 1}", f"{number} patients"):
        export(f"job.dataset={dataset}", folds=number + 1)
    with refuses(ValueError, "job.folds=0"):
        export(f"job.dataset={dataset}", folds=0, out="none")


def test_a_test_patient_who_trained_the_generator_is_refused_and_a_validated_one_is_told(dataset, export, capsys):
    source, index = real()
    write_trained_on(dataset / "trained_on.parquet", patient_codes(index.select("test"), source))
    with refuses(ValueError, index.select("test").patients[0], f"the generator of '{dataset}'"):
        export(f"job.dataset={dataset}")
    write_trained_on(dataset / "trained_on.parquet", patient_codes(index.select("train"), source))
    export(f"job.dataset={dataset}", out="second")
    seen, all_of = (len(set(patients)) for patients in (index.select("train").patients, index.patients))
    number = all_of - len(set(index.select("test").patients))
    assert f"{seen} of {number} val patients" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("real_words", "facts"),
    [
        (["data=phantom", "data.num_images=4"], ["phantom", "no masks", "data.masks"]),
        (["data=shards", "data.root={set}"], ["shards", "generated", "job.dataset"]),
    ],
)
def test_real_data_without_masks_and_generated_ones_are_refused(dataset, export, real_words, facts):
    with refuses(ValueError, "job.real", *facts):
        export(f"job.dataset={dataset}", real=[word.format(set=dataset) for word in real_words])


def test_what_is_missing_is_said(dataset, export, tmp_path):
    with refuses(ValueError, "job.dataset", "job.real"):
        export(real=None)
    with refuses(ValueError, "job.real", "data.image_size"):
        export()
    with refuses(ValueError, "job.binary_masks=true", "job.format=pairs"):
        export(f"job.dataset={dataset}", "job.binary_masks=true")
    with refuses(ValueError, "no masks", tmp_path / "plain"):
        export(f"job.dataset={write_set(tmp_path / 'plain', 2, 1, side=SIDE)}")
    with refuses(ValueError, "same set", dataset):
        export(f"job.dataset={dataset}", more_datasets=[str(dataset)])
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_export_is_refused(dataset, export, tmp_path):
    export(f"job.dataset={dataset}", real=None)
    with refuses(ValueError, f"output_dir={tmp_path / 'out'}", "'Dataset501_Fundus' instead of 'Dataset502_Fundus'"):
        export(f"job.dataset={dataset}", "resume=auto", real=None, number=502)
    (tmp_path / "third" / "Dataset501_Mine").mkdir(parents=True)
    with refuses(ValueError, f"output_dir={tmp_path / 'third'}", "'Dataset501_Mine'"):
        export(f"job.dataset={dataset}", real=None, out="third")


# -- as a user types it


@pytest.mark.smoke
def test_the_command_says_what_to_do_with_it(command, here, dataset, cache_dir):
    words = ",".join(f"'{word}'" for word in REAL)
    given = ["job.format=nnunet", f"job.dataset={dataset}", f"job.real=[{words}]", f"seed={SEED}", "output_dir=out"]
    result = command("+exp=dataset_export", *given, f"cache_dir={cache_dir}")
    assert result.code == 0, result.err
    assert f"nnUNet_raw={here / 'out'} nnUNet_preprocessed={here / 'out' / 'nnUNet_preprocessed'}" in result.out
    assert "22 real and 5 generated for training, 2 real for testing" in result.out
    assert read(here / "out" / "record.json")["status"] == "finished"


# -- nnU-Net itself


@pytest.mark.slow
def test_nnunet_finds_nothing_wrong(dataset, export):
    if find_spec("nnunetv2") is None:
        pytest.skip("nnU-Net is not installed: pip install 'synfundus[nnunet]'")
    with_masks(dataset, lambda levels, number: np.where(np.arange(SIDE) < number, 255, levels).astype(np.uint8))
    out = export(f"job.dataset={dataset}")
    code = "from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity as verify\n"
    code += f"verify({str(out / FOLDER)!r}, 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0 and "verify_dataset_integrity Done" in done.stdout, done.stdout + done.stderr
    label = out / FOLDER / "labelsTr" / "real-00000000.png"
    label.write_bytes(encode(np.full((SIDE, SIDE), 9, dtype=np.uint8)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)
    assert done.returncode != 0 and label.name in done.stdout, "it looks at what is there"
