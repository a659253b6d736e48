"""`+exp=synthesize`: from a checkpoint to a set that can be stopped anywhere, checked, and read by others."""

import fcntl
import hashlib
import io
import json
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from datamodules.findings import NAMES
from datamodules.synthetic import SyntheticSet
from datamodules.synthetic.lineage import read_trained_on
from experiments.loading import load_classifier, load_generator
from experiments.synthesis.dry_run import operations
from experiments.synthesize import seen
from lightning_modules.synthesizer import Synthesizer

SMALL = ["num_images=23", "job.images_per_shard=6", "job.images_per_row_group=4", "job.batch_size=4",
         "trainer.accelerator=cpu"]  # fmt: skip
WORDS = ["+exp=synthesize", "output_dir=set", *SMALL]


@pytest.fixture
def make(command, generator):
    """Run synthesize with the tiny generator and these words besides."""
    return lambda *words: command(*WORDS, f"ckpt={generator}", *words)


@pytest.fixture(scope="module")
def whole(command_once, generator, tmp_path_factory) -> Path:
    """A set that was made in one go."""
    folder = tmp_path_factory.mktemp("whole") / "set"
    assert command_once(*WORDS, f"ckpt={generator}", f"output_dir={folder}").code == 0
    return folder


def pixels_of(folder: Path) -> np.ndarray:
    rows = [row for shard in SyntheticSet(folder).shards for row in pq.read_table(shard).to_pylist()]
    return np.stack([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows])


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("data/*"))}


def test_every_row_of_the_plan_becomes_its_image(whole, generator):
    plan = pq.read_table(whole / "plan.parquet")
    found = SyntheticSet(whole)
    rows = [row for shard in found.shards for row in pq.read_table(shard).to_pylist()]
    assert [row["index"] for row in rows] == list(range(23)) == plan.column("index").to_pylist()
    assert [row["seed"] for row in rows] == plan.column("seed").to_pylist()
    for name in NAMES:
        assert [row[name] for row in rows] == plan.column(name).to_pylist(), name
    assert len({row["id"] for row in rows}) == 23
    # One by one, the generator makes what the shards hold, to the last bit but one of a byte.
    module = load_generator(generator)
    for number, pixels in enumerate(pixels_of(whole)):
        labels = torch.tensor([[rows[number][name] for name in NAMES]])
        alone = module.sample(labels, [rows[number]["seed"]])[0].permute(1, 2, 0).numpy() * 255
        assert np.abs(alone - pixels).max() <= 1


def test_the_manifest_says_what_is_there(whole, generator):
    found = SyntheticSet(whole)
    manifest = found.manifest
    assert manifest["num_images"] == 23 and len(manifest["files"]) == 4
    for file in manifest["files"]:
        content = (whole / file["file"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest() and file["num_bytes"] == len(content)
    assert list(found.verify()) == []
    assert manifest["generator"]["image_size"] == 16 and manifest["sampling"]["num_steps"] == 2
    assert str(generator.parent) not in json.dumps(manifest)  # a set is given away: no paths of this machine
    assert json.loads((whole / "record.json").read_text())["status"] == "finished"
    codes = read_trained_on(whole)
    assert codes is not None and len(codes) == len(np.unique(codes)) > 5


def test_a_set_that_is_whole_is_looked_at_and_left_alone(make, whole, here):
    shutil.copytree(whole, here / "set")
    before = {path: path.stat().st_mtime_ns for path in (here / "set/data").iterdir()}
    result = make("resume=auto")
    assert result.code == 0, result.err
    assert {path: path.stat().st_mtime_ns for path in (here / "set/data").iterdir()} == before


def test_a_set_begun_before_a_setting_was_added_goes_on(make, whole, here):
    shutil.copytree(whole, here / "set")
    for name in ("recipe.json", "manifest.json"):
        found = json.loads((here / "set" / name).read_text())
        assert found["sampling"].pop("guidance_rescale") == 0
        (here / "set" / name).write_text(json.dumps(found))
    assert make("resume=auto").code == 0
    assert "guidance_rescale is 0.0 there and 0.5 here" in make("resume=auto", "job.guidance_rescale=0.5").err


def test_truncated_altered_and_lost_shards_are_named_and_made_again(make, whole, here):
    shutil.copytree(whole, here / "set")
    shards = SyntheticSet(here / "set").shards
    shards[0].write_bytes(shards[0].read_bytes()[:-1])
    content = bytearray(shards[1].read_bytes())
    content[len(content) // 2] ^= 1
    shards[1].write_bytes(bytes(content))
    shards[2].unlink()
    (here / "set/checksums" / f"{shards[3].stem}.json").unlink()
    faults = dict(SyntheticSet(here / "set").verify())
    assert set(faults) == {shard.stem for shard in shards}
    result = make("resume=auto")
    assert result.code == 0, result.err
    for shard, said in ((shards[0], "bytes, and"), (shards[1], "sha256 differs"), (shards[3], "no checksum")):
        [line] = [line for line in result.out.splitlines() if shard.name in line]
        assert said in line and "made again" in line
    assert checksums(here / "set") == checksums(whole)
    assert not list(SyntheticSet(here / "set").verify())


def test_without_verifying_sizes_alone_are_looked_at(make, whole, here):
    shutil.copytree(whole, here / "set")
    shard = SyntheticSet(here / "set").shards[1]
    content = bytearray(shard.read_bytes())
    content[content.rindex(b"parquet-cpp")] ^= 1  # the writer's name, which no reader needs
    shard.write_bytes(bytes(content))
    result = make("resume=auto", "job.verify=false")
    assert result.code == 0, result.err
    assert shard.read_bytes() == bytes(content)


@pytest.mark.parametrize("batch_size", [1, 23])
def test_images_do_not_depend_on_the_batch_size(make, whole, here, batch_size):
    assert make(f"job.batch_size={batch_size}").code == 0
    apart = np.abs(pixels_of(here / "set").astype(int) - pixels_of(whole))
    assert apart.max() <= 1


def test_a_checkpoint_may_be_moved_and_renamed(make, whole, here, generator):
    shutil.copytree(whole, here / "set")
    shutil.copy(generator, here / "moved.ckpt")
    SyntheticSet(here / "set").shards[0].unlink()
    result = make("resume=auto", "ckpt=moved.ckpt")
    assert result.code == 0, result.err
    assert checksums(here / "set") == checksums(whole)


def test_another_recipe_in_the_same_folder_is_refused(make, whole, here):
    shutil.copytree(whole, here / "set")
    before = checksums(here / "set")
    for words, said in ((["job.guidance=3.0"], "sampling.guidance is 1.5 there and 3.0 here"),
                        (["job.image_format=webp"], "image.format"),
                        (["job.images_per_shard=5"], "shards.")):  # fmt: skip
        result = make("resume=auto", *words)
        assert result.code == 1 and said in result.err and "another output_dir" in result.err, result.err
    assert checksums(here / "set") == before
    for words, said in ((["num_images=24"], "plan.made_by.num_images"), (["plan=balanced"], "plan.made_by")):
        result = make("resume=auto", *words)
        assert result.code == 1 and said in result.err, result.err
    (here / "set/plan.parquet").unlink()
    result = make("resume=auto")
    assert result.code == 1 and "put it back" in result.err


def test_a_plan_that_a_start_has_left_without_a_recipe_is_written_anew(make, here):
    assert make("job.images_per_shard=0").code == 1 and not (here / "set/plan.parquet").exists()
    (here / "set").mkdir(exist_ok=True)
    (here / "set/plan.parquet").write_bytes(b"half a plan")
    result = make("num_images=5", "plan=balanced")
    assert result.code == 0, result.err
    assert SyntheticSet(here / "set").manifest["num_images"] == 5


def test_while_shards_are_made_again_the_set_is_not_complete(make, whole, here, monkeypatch):
    shutil.copytree(whole, here / "set")
    SyntheticSet(here / "set").shards[2].unlink()
    (here / "set/checksums" / f"{SyntheticSet(here / 'set').names[1]}.json").write_text("")  # as a power cut leaves it
    (here / "set/data/.shard-00001-of-00004.elsewhere-1.part").write_bytes(b"left by a kill")
    step, there = Synthesizer.predict_step, []

    def seen(self, batch, batch_idx=0):
        there.append((here / "set/manifest.json").exists())
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Synthesizer, "predict_step", seen)
    assert make("resume=auto").code == 0
    assert there and not any(there)
    assert checksums(here / "set") == checksums(whole) and not list((here / "set/data").glob(".*"))
    assert not list(SyntheticSet(here / "set").verify())


def test_processes_whose_first_was_killed_are_seen(make, here):
    (here / "set/.progress").mkdir(parents=True)
    with open(here / "set/.progress/at_work", "w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        result = make()
    assert result.code == 1 and "still at work" in result.err and "by kill" in result.err


def test_a_second_run_in_the_same_folder_is_refused(make, here):
    (here / "set").mkdir()
    with open(here / "set/.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = make()
    assert result.code == 1 and "another run is at work in 'set'" in result.err


def test_a_table_is_the_plan_and_its_faults_are_named_by_row(make, here):
    (here / "mine.csv").write_text("is_gc,dr_grade,seed\n1,0,5\n0,4,6\n,2,7\n")
    result = make("plan=mine.csv", "num_images=null")
    assert result.code == 0, result.err
    rows = [row for shard in SyntheticSet(here / "set").shards for row in pq.read_table(shard).to_pylist()]
    assert [(row["is_gc"], row["dr_grade"], row["seed"]) for row in rows] == [(1, 0, 5), (0, 4, 6), (-1, 2, 7)]
    (here / "bad.csv").write_text("is_gc\n1\n3\n")
    result = make("plan=bad.csv", "num_images=null", "output_dir=other")
    assert result.code == 1 and "row 3, column 'is_gc': '3' is not a level" in result.err
    assert not (here / "other/plan.parquet").exists()
    (here / "worse.csv").write_text("is_glaucoma\n1\n")
    result = make("plan=worse.csv", "num_images=null", "output_dir=other")
    assert result.code == 1 and "column 'is_glaucoma' is not a finding" in result.err


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(make, here, generator):
    result = make("job.dry_run=true", "num_images=1000000")
    assert result.code == 0, result.err
    assert "images a second" in result.out and "1,000,000 images" in result.out and "hours" in result.out
    assert not (here / "set").exists()
    module = load_generator(generator)
    with_classifier = operations(module)
    module.sample_by(classifier_scale=0.0)
    guide, x_t = module.ema.network.guide, torch.zeros(1, *module.latent_shape, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        guide.log_likelihood(x_t, torch.zeros(1), torch.zeros(1, len(NAMES), dtype=torch.int64)).sum().backward()
    more = module.sampling["num_steps"] * counter.get_total_flops()
    assert with_classifier - operations(module) == pytest.approx(more, rel=0.05)
    with FlopCounterMode(display=False) as counter:  # the whole of it, where the dry run extrapolates
        module.sample(module.network.conditioning.unknown(1), [0], num_steps=7)
    module.sample_by(num_steps=7)
    assert operations(module) == counter.get_total_flops() > 0
    module.sample_by(guidance=2.0, guidance_interval=(0.2, 0.7))
    with FlopCounterMode(display=False) as counter:
        module.sample(module.network.conditioning.unknown(1), [0])
    assert operations(module) == counter.get_total_flops()
    assert module.sampling["guidance_interval"] == (0.2, 0.7)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["num_images=0"], "num_images=0"),
        (["num_images=null"], "num_images=None"),
        (["job.batch_size=0"], "batch_size=0"),
        (["job.images_per_shard=0"], "images_per_shard=0"),
        (["job.num_steps=0"], "num_steps=0"),
        (["job.guidance_interval=[0.5]"], "must be two fractions"),
        (["job.image_quality=90"], "png is lossless"),
        (["num_images=1e3"], "num_images=1000.0 must be a whole number"),
        (["job.images_per_shard=2.5"], "must be a whole number"),
        (["job.guidance_interval=5"], "must be two fractions"),
        (["job.filter.findings=[is_gc]"], "without job.filter.annotators"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, words, said):
    result = make(*words)
    assert result.code == 1 and said in result.err, result.err


def test_a_checkpoint_of_something_else_is_refused(command, here):
    result = command(*WORDS)
    assert result.code == 1 and "ckpt is not given" in result.err


def test_a_full_disk_stops_the_run_and_going_on_completes_it(make, whole, here, monkeypatch):
    """A disk of its own that is really full, where this process may mount one."""
    (here / "set").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", "set"], cwd=here, capture_output=True)
    if mounted.returncode:
        pytest.skip(
            "no small disk can be mounted here; tests/callbacks/test_shard_writer.py has one that says it is full"
        )
    try:
        result = make()
        assert result.code == 1 and "the disk is full" in result.err and "resume=auto" in result.err, result.err
        assert not list((here / "set/data").glob(".*"))  # what is half made is taken away
        subprocess.run(["mount", "-o", "remount,size=2m", "set"], cwd=here, check=True)
        result = make("resume=auto")
        assert result.code == 0, result.err
        assert checksums(here / "set") == checksums(whole)
    finally:
        subprocess.run(["umount", "-l", "set"], cwd=here, check=True)


def test_images_are_drawn_again_until_the_annotator_agrees(make, here, annotator):
    words = [f"job.filter.annotators=[{annotator}]", "job.filter.findings=[eye_side]", "job.filter.max_attempts=3"]
    result = make(*words)
    assert result.code == 0, result.err
    found, judge = SyntheticSet(here / "set"), load_classifier(annotator)
    rows = [row for shard in found.shards for row in pq.read_table(shard).to_pylist()]
    planned = pq.read_table(here / "set/plan.parquet").column("seed").to_pylist()
    images = torch.from_numpy(pixels_of(here / "set")).permute(0, 3, 1, 2) / 255
    seen = judge.probabilities(images)["eye_side"][:, 1]
    for row, seed, chance in zip(rows, planned, seen.tolist(), strict=True):
        assert (row["seed"] == seed) == (row["attempts"] == 1)
        assert row["accepted"] or row["attempts"] == 3
        if abs(chance - 0.5) > 0.02:  # what is judged here has been rounded to bytes
            assert row["accepted"] == ((chance >= 0.5) == row["eye_side"])
    metrics = json.loads((here / "set/record.json").read_text())["metrics"]
    assert metrics["accepted_share"] == pytest.approx(np.mean([row["accepted"] for row in rows]))
    assert metrics["attempts"] == pytest.approx(np.mean([row["attempts"] for row in rows])) and metrics["attempts"] > 1
    assert "accepted: " in result.out
    again = make("output_dir=other", *words[:1], "job.filter.findings=[is_gcc]")
    assert again.code == 1 and "Did you mean 'is_gc'" in again.err


def test_ctrl_c_says_how_to_go_on(make, here, monkeypatch):
    step, calls = Synthesizer.predict_step, []

    def interrupted(self, batch, batch_idx=0):
        calls.append(batch_idx)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Synthesizer, "predict_step", interrupted)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    result = make()
    assert result.code == 130 and "resume=auto" in result.err
    assert json.loads((here / "set/record.json").read_text())["status"] == "interrupted"
    assert len(list((here / "set/data").iterdir())) == 1  # of 4: the first, and nothing half made


def test_labels_of_other_findings_are_no_plan(capsys):
    facts = {"labels": torch.zeros(2, len(NAMES), dtype=torch.int8), "counts": torch.tensor([3, 1])}
    assert seen(SimpleNamespace(trained_on=facts)).counts.tolist() == [3, 1]
    assert seen(SimpleNamespace(trained_on=facts | {"labels": torch.zeros(2, 3, dtype=torch.int8)})) is None
    assert "training labels of 3 findings, and 16 are known here" in capsys.readouterr().out
    assert seen(SimpleNamespace(trained_on=None)) is None
