"""Segmentation studies: which cells there are and of what words, what is refused, what the tables say, and resuming."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hydra.utils import instantiate
from paired_sets import write_pairs
from refusals import refuses
from synthetic_sets import write_set
from tiny_runs import DATA, TRAINER

from callbacks.metrics.bootstrap import patient_weights
from datamodules.synthetic.lineage import patient_codes, write_trained_on
from experiments import cells
from experiments.assembly import build_datamodule, plain
from experiments.cells import Cell, check
from experiments.composition import compose_config
from experiments.report import config_text
from experiments.segmentation.cells import MIXED, REAL, SYNTHETIC, Arm, arms, check_job, trainings
from experiments.segmentation.materials import OF_REAL_DATA, look
from experiments.segmentation.outcome import compare, read, resampled, results
from experiments.segmentation.page import tables
from experiments.segmentation.testing import measure_on, place

REAL_DATA = ["data=phantom_masks", "data.num_images=60", "data.fractions={train: 0.5, val: 0.25, test: 0.25}"]
COMMON = ["data.image_size=16", "data.batch_size=4", "data.epoch_size=8", "trainer.max_epochs=3",
          "data.cache_workers=1", "trainer.accelerator=cpu"]  # fmt: skip
JOB = {
    "real": REAL_DATA, "sets": {"joint": "sets/joint", "painted": "sets/2024"}, "gated": ["painted"], "tests": {},
    "common": COMMON, "budgets": [4, 8, None], "ratios": [1, 3], "seeds": [5, 6], "architectures": ["Unet", "FPN"],
    "num_replicates": 50,
}  # fmt: skip


def test_there_is_a_cell_for_each_arm_budget_architecture_and_seed(tmp_path):
    found = trainings(tmp_path, JOB, 30, split_seed=7)
    assert len(arms(JOB)) == 1 + 2 * 2 * 2 and len(found) == 9 * 3 * 2 * 2 == len({each.cell.folder for each in found})
    assert [each.seed for each in found] == [5] * 54 + [6] * 54, "whole seeds first"
    by_name = {each.cell.name: each for each in found}
    assert by_name["real_all_FPN_seed6"].num_real == 30 and by_name["real_8_Unet_seed5"].num_synthetic == 0
    mixed = by_name["mixed_paintedx3_8_FPN_seed6"]
    assert mixed.arm == Arm(MIXED, "painted", 3) and (mixed.num_real, mixed.num_synthetic) == (8, 24)
    assert {word for word in mixed.cell.words if word.startswith(("data.", "mix", "seed", "model"))} >= {
        "data.num_train=8", "mix=synthetic", "data.synthetic.ratio=3.0", "data.synthetic.num_images=24",
        "data.synthetic.accepted=true", "data.synthetic.root='sets/2024'", "seed=6", "data.seed=7",
        "model.network.architecture=FPN",
    }  # fmt: skip
    alone = by_name["synthetic_jointx1_4_Unet_seed5"].cell.words
    assert not any(word.startswith("data.num_train") for word in alone), (
        "validation and test stay, training is generated"
    )
    assert {"data.synthetic.ratio=inf", "data.synthetic.num_images=4", "data.synthetic.accepted=false"} <= set(alone)
    assert by_name["synthetic_jointx3_all_Unet_seed5"].num_synthetic == 90


def test_budgets_are_nested_and_alike_in_all_arms_and_the_split_is_that_of_the_study(tmp_path):
    job = JOB | {"sets": {"joint": str(write_pairs(tmp_path / "set", 24, 16))}, "gated": [], "architectures": ["Unet"]}
    found = [each for each in trainings(tmp_path, job | {"ratios": [1]}, 30, split_seed=7) if each.budget is not None]
    check([each.cell for each in found[:2]])
    seen = {}
    for each in found:
        cfg = compose_config([*each.cell.command, f"cache_dir={tmp_path / 'cache'}"])
        data = instantiate(cfg.data.module)
        data.prepare_data()
        data.setup()
        sides = [tuple(sorted(data.manifest.select(split).ids)) for split in ("train", "val", "test")]
        seen[each.arm.kind, each.budget, each.seed] = sides
        if each.arm.kind != REAL:
            shown = {name for batch in data.train_dataloader() for name in batch["id"]}
            generated = set(data.synthetic.manifest.ids)
            assert len(generated) == each.budget and shown & generated
            assert (shown <= generated) == (each.arm.kind == SYNTHETIC)
            assert all("mask" in batch and (batch["mask"] < 3).all() for batch in data.train_dataloader())
    assert len({tuple(sides[1:]) for sides in seen.values()}) == 1, "one split for all"
    for seed in (5, 6):
        small, large = (set(seen[REAL, budget, seed][0]) for budget in (4, 8))
        assert small < large and (len(small), len(large)) == (4, 8)
        assert all(set(seen[MIXED, budget, seed][0]) == set(seen[REAL, budget, seed][0]) for budget in (4, 8))
    assert set(seen[REAL, 8, 5][0]) != set(seen[REAL, 8, 6][0]), "a seed draws others"


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"seeds": []}, ["job.seeds", "empty"]),
        ({"sets": {}}, ["job.sets", "empty"]),
        ({"budgets": [8, 8]}, ["job.budgets", 8, "twice"]),
        ({"budgets": [0]}, ["job.budgets", 0]),
        ({"ratios": [1.5]}, ["job.ratios", 1.5]),
        ({"gated": ["other"]}, ["job.gated", "other", "joint"]),
        ({"real": []}, ["job.real", "kvasir_seg"]),
        ({"common": ["data.num_train=3"]}, ["job.common", "data.num_train=3"]),
        ({"real": [*REAL_DATA, "seed=3"]}, ["job.real", "seed=3"]),
    ],
)
def test_lists_that_mean_nothing(change, facts):
    with refuses(ValueError, *facts):
        check_job(JOB | change)


@pytest.fixture
def looked(tmp_path, composed):
    """`looked(**changes)` looks at a study of one set of 24 pairs, half of which are accepted."""
    pairs = write_pairs(tmp_path / "pairs", 24, 16, [place % 2 == 0 for place in range(24)])

    def build(**changes):
        job = JOB | {"sets": {"joint": str(pairs)}, "gated": [], "budgets": [4, 8], "ratios": [1, 3]} | changes
        check_job(job)
        return look(job, composed("+exp=segmentation_study", f"cache_dir={tmp_path / 'cache'}"))

    build.pairs = pairs
    return build


def test_what_there_is(looked):
    found = looked(tests={"others": ["data=phantom_masks", "data.num_images=20", "data.seed=9"]})
    assert found.levels == ("background", "disc", "cup") and (found.num_steps, found.batch_size) == (6, 4)
    assert found.image_size == 16 and 20 < found.num_train < 40
    others = found.tests["others"].preview()["splits"]
    assert others["test"]["num_images"] == 20, "all of a set without an official split"


def test_data_that_do_not_fit_are_said_before_the_first_cell(looked, tmp_path):
    without = write_set(tmp_path / "without", 24, 2, 4, 16)
    for changes, facts in [
        ({"sets": {"plain": str(without)}}, ["job.sets.plain", without, "no masks", "background, disc, cup"]),
        ({"real": [*REAL_DATA, "data.masks=[vessel]"]}, ["job.sets.joint", "background, vessel"]),
        ({"real": ["data=phantom"]}, ["no masks", "phantom_masks"]),
        ({"budgets": [4, 900]}, ["job.budgets", 900, "training images"]),
        ({"budgets": [2]}, ["job.budgets", 2, "data.batch_size=4"]),
        ({"budgets": [12]}, ["job.sets.joint", 24, 36]),
        ({"budgets": [8], "gated": ["joint"]}, ["job.sets.joint", "12 accepted", 24]),
        ({"ratios": [9]}, ["data.synthetic.ratio=9", "data.batch_size=4"]),
        ({"common": [*COMMON, "data.epoch_size=null"]}, ["data.epoch_size", "job.common"]),
        ({"real": [*REAL_DATA, "data.fractions={train: 0.5, val: 0.5, test: 0.0}"]}, ["test split", "job.real"]),
        ({"tests": {OF_REAL_DATA: ["data=phantom_masks"]}}, [f"job.tests.{OF_REAL_DATA}"]),
        ({"tests": {"x": ["data=phantom_masks", "data.masks=[vessel]", "data.seed=3"]}}, ["job.tests.x", "vessel"]),
        ({"tests": {"same": ["data=phantom_masks", "data.num_images=60"]}}, ["test patients", "of this study"]),
    ]:
        with refuses(ValueError, *facts):
            looked(**changes)


def test_held_out_patients_who_trained_the_generator(looked, tmp_path):
    data = build_datamodule(compose_config(["+exp=segmenter_train", *REAL_DATA, f"cache_dir={tmp_path / 'cache'}"]))
    [(source, manifest)] = data.parts()
    write_trained_on(looked.pairs / "trained_on.parquet", patient_codes(manifest.select("train"), source))
    looked()
    write_trained_on(looked.pairs / "trained_on.parquet", patient_codes(manifest.select("test").take([0]), source))
    with refuses(ValueError, manifest.select("test").patients[0], looked.pairs, "data.fractions"):
        looked()


def finish(cell, values, level="disc"):
    """Leave what segmenter_train would of a cell: Dice by id, patients of two images each."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / "config.yaml").write_text(config_text(plain(compose_config(cell.command))))
    rows = [{"id": f"i{place}", "patient": f"p{place // 2}", "split": split, "level": level, "dice": dice,
             "iou": dice / (2 - dice)} for split, base in (("val", 50), ("test", 0))
            for place, dice in enumerate(values, base)]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), cell.folder / "masks.parquet")
    (cell.folder / "record.json").write_text(json.dumps({"status": "finished"}))


def a_study(root, **changes):
    job = (
        JOB | {"sets": {"joint": "x"}, "gated": [], "architectures": ["Unet"], "budgets": [8], "ratios": [1]} | changes
    )
    return trainings(root, job, 30, 0)


def test_a_gain_that_is_the_same_everywhere_has_no_interval_however_wide_that_of_the_figure(tmp_path):
    found, stream = a_study(tmp_path), np.random.default_rng(0)
    real = {seed: stream.uniform(0.2, 0.8, 12) for seed in (5, 6)}
    for each in found:
        finish(each.cell, real[each.seed] + {REAL: 0, SYNTHETIC: -0.15, MIXED: 0.1}[each.arm.kind])
    seen = {each.arm.kind: each for each in results(found, [], 400, 0)}
    mean = np.mean([real[5], real[6]])
    for kind, gap in ((REAL, 0), (SYNTHETIC, -0.15), (MIXED, 0.1)):
        one = seen[kind].figures["dice"]
        assert one.value == pytest.approx(mean + gap) and one.high - one.low > 0.05
        assert (one.num_images, one.num_seeds) == (12, 2)
        if kind != REAL:
            difference, p_value = seen[kind].differences["dice"]
            assert (difference.value, difference.low, difference.high) == pytest.approx((gap,) * 3)
            assert p_value == pytest.approx(2 / 401)
    assert not seen[REAL].differences
    [dice, less, *_] = tables(list(seen.values()))
    assert dice.header == ["trained on", "8"] and [row[0] for row in dice.rows] == [str(arm) for arm in arms(a_job())]
    assert less.rows[1] == ["joint: real + synthetic, 1 : 1", "+0.100 [+0.100, +0.100], p 0.005"]
    iou = seen[MIXED].figures["iou"].value
    assert iou == pytest.approx(np.mean([(v + 0.1) / (2 - v - 0.1) for v in (*real[5], *real[6])]))


def a_job():
    return JOB | {"sets": {"joint": "x"}, "ratios": [1]}


def test_the_bootstrap_has_the_variance_of_both_draws():
    """Of values a_s + b_n, seeds and patients drawn anew, it is var(a) / S + var(b) / N, in closed form."""
    stream = np.random.default_rng(1)
    of_seeds, of_images = stream.normal(0, 0.1, 4), stream.normal(0, 0.3, 40)
    values = of_seeds[:, None] + of_images
    weights = patient_weights([f"p{place}" for place in range(40)], 6000, 3)
    wanted = of_seeds.var() / 4 + of_images.var() / 40
    assert resampled(values, weights, 3).var() == pytest.approx(wanted, rel=0.08)
    assert resampled(values[:1], weights, 3).var() == pytest.approx(of_images.var() / 40, rel=0.08)
    assert resampled(values, weights, 3).mean() == pytest.approx(values.mean(), abs=0.01)


def test_patients_are_drawn_whole():
    """Two images of a patient that are alike count as one: the interval is that of the patients alone."""
    stream = np.random.default_rng(2)
    of_patients = stream.normal(0, 1, 20)
    twice, once = np.repeat(of_patients, 2), patient_weights([f"p{n:02d}" for n in range(20)], 500, 0)
    both = patient_weights([f"p{n // 2:02d}" for n in range(40)], 500, 0)
    assert resampled(twice[None], both, 0) == pytest.approx(resampled(of_patients[None], once, 0))


def test_a_real_difference_of_chance_has_zero_in_its_interval():
    stream = np.random.default_rng(4)
    values = {Arm(REAL): stream.uniform(0, 1, (3, 60)), Arm(MIXED, "a", 1): stream.uniform(0, 1, (3, 60))}
    values = {arm: {"dice": one, "iou": one} for arm, one in values.items()}
    weights = patient_weights([f"p{place}" for place in range(60)], 1000, 0)
    difference, p_value = compare(values, Arm(MIXED, "a", 1), weights, 0)[1]["dice"]
    assert difference.low < 0 < difference.high and p_value > 0.05


def test_cells_of_other_images_are_not_compared(tmp_path):
    found = a_study(tmp_path, seeds=[5])
    for each in found:
        finish(each.cell, np.linspace(0.1, 0.9, 8 if each.arm.kind == MIXED else 9))
    with refuses(ValueError, found[2].cell.folder, 8, 9):
        results(found, [], 10, 0)


def test_images_without_a_mask_do_not_count_and_levels_are_averaged(tmp_path):
    [each, *_] = a_study(tmp_path, seeds=[5])
    each.cell.folder.mkdir(parents=True)
    rows = [
        {"id": name, "patient": "p", "split": "test", "level": level, "dice": dice, "iou": dice}
        for name, level, dice in (("b", "disc", 0.2), ("a", "disc", None), ("b", "cup", 0.6), ("a", "cup", None))
    ]
    pq.write_table(pa.Table.from_pylist(rows), each.cell.folder / "masks.parquet")
    seen = read(each, OF_REAL_DATA)
    assert seen.ids == ["b"] and seen.values["dice"] == pytest.approx([0.4])
    (each.cell.folder / "masks.parquet").write_bytes(b"PAR1")
    with refuses(ValueError, each.cell.folder / "masks.parquet", f"delete {each.cell.folder}"):
        read(each, OF_REAL_DATA)


def test_killed_and_resumed_it_gives_the_same_tables(command, here, monkeypatch):
    """Cells are made up; a study that was stopped before its fifth ends as the one that was not."""
    pairs = write_pairs(here / "pairs", 24, 16)
    words = ["+exp=segmentation_study", f"job.real=[{','.join(map(repr, REAL_DATA))}]", f"+job.sets.joint={pairs}",
             f"job.common=[{','.join(map(repr, COMMON))}]", "job.budgets=[4]", "job.ratios=[1,2]", "job.seeds=[0,1]",
             "job.num_replicates=50", "cache_dir=cache"]  # fmt: skip
    ran: list[str] = []

    def made_up(arguments, stopped_before=None, **options):
        given = [word for word in arguments[3:] if not word.startswith(("cache_dir=", "resume="))]
        cell = Cell(Path(compose_config(given).output_dir), tuple(given[:-1]))
        if len(ran) == stopped_before:
            raise KeyboardInterrupt
        ran.append(cell.name)
        seed = sum(map(ord, cell.name))
        finish(cell, np.random.default_rng(seed).uniform(0.3, 0.9, 6))
        return SimpleNamespace(returncode=0)

    def started_by(start):
        monkeypatch.setattr(cells, "subprocess", SimpleNamespace(run=start, STDOUT=-2))

    started_by(made_up)
    assert command(*words, "output_dir=whole").code == 0
    assert len(ran) == 10 == len(set(ran))
    ran.clear()
    started_by(lambda *arguments, **options: made_up(*arguments, stopped_before=4, **options))
    assert command(*words, "output_dir=stopped").code != 0
    started_by(made_up)
    again = command(*words, "output_dir=stopped", "resume=auto")
    assert again.code == 0, again.err
    assert len(ran) == 10 == len(set(ran)), "none was run twice"
    for name in ("study.json", "study.csv", "study.png"):
        assert Path("stopped", name).read_bytes() == Path("whole", name).read_bytes(), name
    told = json.loads(Path("whole/study.json").read_text())
    assert told["num_cells"] == 10 and told["num_steps"] == 6 and len(told["results"]) == 5
    assert {(each["arm"], each["ratio"], each["num_synthetic"]) for each in told["results"]} == {
        ("real", 0, 0), ("synthetic", 1, 4), ("synthetic", 2, 8), ("mixed", 1, 4), ("mixed", 2, 8)
    }  # fmt: skip
    assert told["published"]["iou"]["real only"]["16"] == 0.5263
    page = Path("whole/study.html").read_text()
    assert "2310.16794" in page and "joint: real + synthetic, 2 : 1" in page


def test_further_data_are_measured_as_the_test_split_is(command, here):
    """A segmenter on its own test split once more: the figures are those that segmenter_train left."""
    words = ["+exp=segmenter_train", *DATA, *TRAINER, "trainer.max_epochs=1", "data.image_size=32", "model/init=random",
             "model.network.encoder=tu-resnet10t", "+model.network.options.decoder_channels=[8,8,8,8,8]",
             "model.segmenter.warmup_steps=1", "job.num_replicates=0"]  # fmt: skip
    assert command(*words, "output_dir=out").code == 0
    data = build_datamodule(compose_config(words))
    data.prepare_data()
    data.setup()
    cell = Cell(Path("out"), ())
    measure_on(cell, "same", data, ("background", "disc", "cup"), torch.device("cpu"))
    names = ["id", "patient", "level", "dice", "iou"]
    wanted = [row for row in pq.read_table("out/masks.parquet").to_pylist() if row["split"] == "test"]
    seen = {(row["id"], row["level"]): row for row in pq.read_table(place(cell, "same")).to_pylist()}
    assert len(wanted) == len(seen) > 2
    for row in wanted:
        assert {name: row[name] for name in names} == pytest.approx(
            {name: seen[row["id"], row["level"]][name] for name in names}
        )
    before = place(cell, "same").stat().st_mtime_ns
    measure_on(cell, "same", data, ("background", "disc", "cup"), torch.device("cpu"))
    assert place(cell, "same").stat().st_mtime_ns == before, "not measured twice"
    data.fingerprint = "of other data"
    measure_on(cell, "same", data, ("background", "disc", "cup"), torch.device("cpu"))
    assert place(cell, "same").stat().st_mtime_ns > before
