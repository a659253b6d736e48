"""`+exp=dataset_card`: the card of a tiny set says what its files say, and its code runs."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import RepoCard
from refusals import refuses
from released_sets import annotate, conditions, filtered
from synthetic_sets import write_set

from datamodules.findings import FINDINGS
from experiments.card.tables import acceptance_rows, share
from experiments.card.writing import OWN_BEGIN, OWN_END, SIZES, size_category, write_card
from experiments.composition import compose_config
from experiments.dataset_card import dataset_card
from experiments.session import Run
from experiments.synthesis.levels import accepted_text, levels_text

SIDE = 32
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUNNER = """
import json, sys
for number, code in enumerate(json.load(sys.stdin)):
    print(f"block {number}", flush=True)
    exec(compile(code, f"block {number}", "exec"), {"__name__": "card"})
"""


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Twenty-four phantoms in three shards; `is_pm` is known of none."""
    return write_set(tmp_path / "set", num_images=24, group_rows=4, side=SIDE, unknown=["is_pm"])


def text_of(dataset: Path, *settings: str | None) -> str:
    return write_card(dataset, *settings).read_text("utf-8")


def head_of(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def table_below(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its two first lines."""
    lines = text.split(heading)[1].split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith("| ---"))
    rows = [line for line in lines[start + 1 :]]
    rows = rows[: next(n for n, line in enumerate(rows) if not line.startswith("|"))]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def consistency(value: float) -> dict:
    """What annotate leaves of one finding that is measured, and one of which nothing can be."""
    figure = {"value": value, "low": value - 0.05, "high": value + 0.05}
    undefined = {"value": None, "low": None, "high": None, "why": "only level 0 occurs"}
    metrics = ("accuracy", "precision", "recall", "kappa")
    counts = {"num_images": 24, "num_patients": 24, "num_positive": 5}
    synthetic = {"is_gc": counts | dict.fromkeys(metrics, figure) | {"auroc": figure},
                 "dr_grade>=2": counts | {"auroc": undefined}}  # fmt: skip
    real = {"is_gc": {"auroc": {"value": 0.987, "low": None, "high": None}}}
    return {"synthetic": {"findings": synthetic}, "real": {"findings": real}, "notes": ["Heed this."]}


# -- its code


def test_every_block_of_python_runs_in_the_sets_folder(dataset, tmp_path):
    """Datasets, DuckDB, pandas and pyarrow load the set from this folder, without a network."""
    seen = annotate(dataset)
    blocks = [code for language, code in FENCE.findall(text_of(dataset, "cc-by-4.0")) if language == "python"]
    assert len(blocks) == 8
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(blocks), text=True, capture_output=True,
        cwd=dataset, env=environment, timeout=240,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    said = re.split(r"^block \d+\n", result.stdout, flags=re.MULTILINE)[1:]
    first = pq.read_table(dataset / "data" / "shard-00000-of-00003.parquet", columns=["id", "dr_grade"]).to_pylist()
    assert "num_rows: 24" in said[0]
    assert f"{first[0]['id']} ({SIDE}, {SIDE}) DR grade {first[0]['dr_grade']}" in said[0]
    assert said[1].splitlines() == [f"{row['id']} ({SIDE}, {SIDE})" for row in first[:3]]
    assert f"'id': '{first[0]['id']}'" in said[2] and f"'is_gc': {bool(seen['is_gc'][0])}" in said[2]
    grades = conditions(dataset)[:, 0]
    counted = [(int(a), int(b)) for a, b in re.findall(r"│\s+(\d+) │\s+(\d+) │\n", said[3])]
    assert counted == [(grade, int((grades == grade).sum())) for grade in np.unique(grades)]
    joined = [tuple(map(int, row)) for row in re.findall(r"│\s+(\d+) │\s+(\d+) │\s+(\d+) │\n", said[4])]
    assert joined == [(grade, (grade + 1) % 5, int((grades == grade).sum())) for grade in np.unique(grades)]
    assert first[1]["id"] in said[5] and said[6] == said[1] and said[7] == "6 files are whole\n"


@pytest.mark.parametrize("folder", ["data", "annotations"])
def test_the_block_on_checksums_finds_a_damaged_file(dataset, folder):
    annotate(dataset)
    text = text_of(dataset)
    shard = dataset / folder / "shard-00001-of-00003.parquet"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    code = next(code for _, code in FENCE.findall(text) if "hashlib" in code)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=dataset)
    assert result.returncode and f"{folder}/shard-00001-of-00003.parquet is damaged" in result.stderr


def test_the_commands_to_train_on_it_are_known(dataset):
    code = next(code for language, code in FENCE.findall(text_of(dataset)) if "classifier_train" in code)
    text = re.sub(r"<(\w+)>", r"\1", code.replace("<folder>", str(dataset)).replace("\\\n", " "))
    alone, mixed = (compose_config(shlex.split(line)[3:]) for line in text.strip().splitlines())
    assert alone.data.source.root == mixed.data.synthetic.source.root == str(dataset)
    assert mixed.data.source.table == "csv" and mixed.data.synthetic.ratio == 1


# -- its head


def test_head_is_what_the_hub_reads(dataset):
    head = head_of(text_of(dataset, "cc-by-nc-sa-4.0", "Eyes: a set"))
    assert head["license"] == "cc-by-nc-sa-4.0" and head["pretty_name"] == "Eyes: a set"
    assert head["size_categories"] == ["n<1K"] and head["task_categories"] == ["image-classification"]
    default = {"config_name": "default", "default": True,
               "data_files": [{"split": "train", "path": "data/*.parquet"}]}  # fmt: skip
    assert head["configs"] == [default]
    annotate(dataset)
    annotations = {"config_name": "annotations", "data_files": [{"split": "train", "path": "annotations/*.parquet"}]}
    assert head_of(text_of(dataset))["configs"] == [default, annotations]


@pytest.mark.parametrize(
    ("num_images", "category"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (9999, "1K<n<10K"), (10_000, "10K<n<100K"),
     (10**6, "1M<n<10M"), (10**7, "10M<n<100M"), (10**10, SIZES[-1])],
)  # fmt: skip
def test_size_categories(num_images, category):
    assert size_category(num_images) == category


def test_licences(dataset):
    assert "license" not in head_of(text_of(dataset))
    assert "none chosen yet" in text_of(dataset)
    own = head_of(text_of(dataset, "other: Terms of our clinic"))
    assert own["license"] == "other" and own["license_name"] == "Terms of our clinic"
    assert head_of(text_of(dataset))["license_name"] == "Terms of our clinic", "it stays"
    for wrong in ("cc-by-4", "CC BY 4.0", "other:"):
        with refuses(ValueError, f"job.license={wrong!r}", "apache-2.0"):
            write_card(dataset, wrong)
    with refuses(ValueError, "job.license='cc-by-4'", "'cc-by-4.0'"):
        write_card(dataset, "cc-by-4")


@pytest.mark.parametrize("title", ["no: [1", "a long title --- " * 9 + "with dashes ---"])
def test_a_title_that_yaml_would_read_otherwise_is_kept(dataset, title):
    text = text_of(dataset, None, title)
    assert RepoCard(text).data.pretty_name == title and text_of(dataset) == text


# -- what it says


def test_counts_are_those_of_the_plan_and_of_the_annotations(dataset):
    seen = annotate(dataset, untold=["is_em", "is_pm"])
    seen["is_gc"][3] = None
    shard = dataset / "annotations" / "shard-00000-of-00003.parquet"
    table = pq.read_table(shard)
    column = pa.array(seen["is_gc"][: table.num_rows], pa.int8()).cast(pa.bool_())
    pq.write_table(table.set_column(table.column_names.index("is_gc"), "is_gc", column), shard, row_group_size=4)
    rows = table_below(text_of(dataset), "## What is in it")
    told, wanted = conditions(dataset), []
    for place, finding in enumerate(FINDINGS):
        for level, name in [*enumerate(finding.levels), (-1, "unknown")]:
            numbers = [int((told[:, place] == level).sum()), seen[finding.name].count(None if level < 0 else level)]
            cells = [f"{number} ({100 * number / 24:.1f} %)" if number else "0" for number in numbers]
            title = name if level < 0 else f"{level} {name}"
            if finding.name == "is_em" and numbers[0]:
                cells[1] = "not told"
            if finding.name == "is_pm" and level == -1:
                cells, title = ["not told"] * 2, ""
            if any(numbers) and not (finding.name == "is_em" and level == -1):
                wanted.append([f"`{finding.name}`", finding.title, title, *cells])
    assert rows == wanted
    assert "The generator was never told `is_pm`:" in text_of(dataset)


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0"), (1, "1 (< 0.1 %)"), (1000, "1,000 (0.1 %)"), (999_999, "999,999 (> 99.9 %)"),
     (10**6, "1,000,000 (100.0 %)")],
)  # fmt: skip
def test_shares_are_0_and_100_percent_only_where_they_are_so(number, said):
    assert share(number, 10**6) == said


def test_a_set_that_is_not_annotated_says_so(dataset):
    text = text_of(dataset)
    assert "It was not measured: the images are not annotated." in text
    assert "annotations/" not in text and "consistency.json" not in text
    annotate(dataset, finish=False)
    text = text_of(dataset)
    assert "Annotating the images has been begun and is not finished" in text and len(head_of(text)["configs"]) == 1


def test_consistency_has_intervals_and_notes(dataset):
    annotate(dataset)
    assert "How far annotations and conditions agree was not measured." in text_of(dataset)
    (dataset / "consistency.json").write_text(json.dumps(consistency(0.8125)))
    text = text_of(dataset)
    figure = "0.812 [0.762, 0.863]"
    rows = table_below(text, "## Do the images show what was asked for?")
    assert rows == [
        ["`is_gc`", "24", "5", *[figure] * 5, "0.987"],
        ["`dr_grade>=2`", "24", "5", *[""] * 4, "undefined", ""],
    ]
    assert "- Heed this." in text and f"Annotators: a (weights `{'9' * 32}`)" in text
    assert "/home/someone" not in text
    assert "(consistency.png)" not in text, "there is none"
    (dataset / "consistency.png").write_bytes(b"x")
    assert "![AUROC of every finding](consistency.png)" in text_of(dataset)


def test_what_was_accepted_is_told_by_level():
    counts = {
        "is_gc": np.array([[8, 8], [4, 0], [1, 1]]),
        "dr_grade": np.array([[5, 2], [0, 0], [1, 1], [0, 0], [0, 0], [0, 0]]),
    }
    rows, terminal = acceptance_rows(counts), accepted_text(counts)
    assert ["`is_gc`", "1 present", "4", "0"] in rows
    assert ["`is_gc`", "0 absent", "8", "8 (100.0 %)"] in rows and ["`is_gc`", "unknown", "1", "1 (100.0 %)"] in rows
    assert [row[0] for row in rows].count("`dr_grade`") == 2
    assert "is_gc 1:  0 of 4 (0%)" in terminal and "dr_grade 0:  2 of 5 (40%)" in terminal
    assert "no image of is_gc 1 was accepted" in terminal
    plan = {finding.name: np.arange(len(finding.levels) + 1) for finding in FINDINGS}
    assert re.search(r"is_gc +1: 1   unknown: 2\n", levels_text(plan))


def test_acceptance_is_counted(dataset):
    attempts = [1, 2, 3, 1] * 6
    accepted = [True, True, True, False] * 6
    assert "No filter was used" in text_of(dataset)
    filtered(dataset, attempts, accepted)
    text = text_of(dataset)
    assert "had to agree in `dr_grade`, `is_gc`." in text
    assert "It accepted 18 (75.0 %) of the images in the end, 6 (25.0 %) at the first attempt; 42 were drawn" in text
    assert "1.75 an image" in text and "| `accepted` | bool |" in text


def test_privacy_is_the_verdict_or_a_warning(dataset):
    assert "No privacy audit was run: do not release images of a generator trained on private" in text_of(dataset)
    (dataset / "privacy.json").write_text(json.dumps({"verdict": "No copies found at 512 px.", "other": [1]}))
    text = text_of(dataset)
    assert "has its figures): No copies found at 512 px." in text and "No privacy audit was run" not in text
    (dataset / "privacy.json").write_text("{}")
    assert "which holds no verdict: read it before any release" in text_of(dataset)
    (dataset / "privacy.json").write_text("{")
    with refuses(ValueError, dataset / "privacy.json", "JSON"):
        write_card(dataset)


def test_patients_are_told_only_where_they_are_carried(dataset):
    assert "| patients in its training | 3 (hashes" in text_of(dataset)
    (dataset / "trained_on.parquet").unlink()
    assert "trained_on.parquet" not in text_of(dataset)


def test_the_day_is_that_of_the_record(dataset):
    record = {"sessions": [{"start": "2026-01-30T10:00:00+00:00"}, {"start": "x", "end": "2026-02-01T08:00:00+00:00"}],
              "versions": {"synfundus": "0.1.0"}, "code": {"commit": "c0ffee" * 6, "changed": True}}  # fmt: skip
    (dataset / "record.json").write_text(json.dumps(record))
    text = text_of(dataset, None, None, "2.1.0")
    assert "| version | 2.1.0, 2026-02-01 |" in text and head_of(text)["version"] == "2.1.0"
    assert "| made by | synfundus 0.1.0, revision c0ffeec0ffee, with changes |" in text


# -- written again


def test_written_twice_it_is_the_same_and_keeps_a_persons_words(dataset):
    path = write_card(dataset, "cc-by-4.0", "Eyes", "3.0.0")
    once = path.read_bytes(), (dataset / "samples" / "contact_sheet.png").read_bytes()
    assert write_card(dataset) == path
    assert (path.read_bytes(), (dataset / "samples" / "contact_sheet.png").read_bytes()) == once
    own = "## Citation\n\nCite us: \\1 {{ x }} | <b> \u200f.\n"
    path.write_text(path.read_text("utf-8").replace(OWN_BEGIN + "\n", f"{OWN_BEGIN}\n{own}"), encoding="utf-8")
    annotate(dataset)
    text = text_of(dataset)
    assert f"{OWN_BEGIN}\n{own}{OWN_END}" in text and "annotations/*.parquet" in text
    assert head_of(text)["license"] == "cc-by-4.0"
    assert (head_of(text)["pretty_name"], head_of(text)["version"]) == ("Eyes", "3.0.0")


def test_a_readme_of_another_hand_is_not_written_over(dataset):
    (dataset / "README.md").write_text("# Mine\n")
    with refuses(ValueError, dataset / "README.md", OWN_BEGIN, OWN_END):
        write_card(dataset)
    assert (dataset / "README.md").read_text() == "# Mine\n"


def test_a_set_that_is_not_complete_gets_no_card(tmp_path):
    dataset = write_set(tmp_path / "set", complete=False)
    with refuses(ValueError, f"'{dataset}'", "manifest.json", "resume=auto"):
        write_card(dataset)
    assert not (dataset / "README.md").exists()


def test_annotations_that_lack_a_file_are_refused(dataset):
    annotate(dataset)
    (dataset / "annotations" / "shard-00002-of-00003.parquet").unlink()
    with refuses(ValueError, dataset / "annotations", "annotation.json", "shard-00002-of-00003.parquet", "1 of 3"):
        write_card(dataset)


def test_the_job_keeps_its_record_apart(dataset, tmp_path):
    before = (dataset / "record.json").read_text()
    words = ["+exp=dataset_card", f"job.dataset={dataset}", f"output_dir={tmp_path / 'out'}", "job.license=mit"]
    assert dataset_card(Run(compose_config(words)))["card/num_images"] == 24
    assert json.loads((tmp_path / "out" / "record.json").read_text())["status"] == "finished"
    assert (dataset / "record.json").read_text() == before
    with refuses(ValueError, f"output_dir={dataset}/card", "job.dataset"):
        dataset_card(Run(compose_config([*words, f"output_dir={dataset}/card"])))
