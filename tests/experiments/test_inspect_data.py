"""What is looked at before training: the numbers are right, the pictures are whole, and the page is safe to open."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from html_page import Page, check_self_contained
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.mask_outlines import OUTLINES
from datamodules import phantom
from datamodules.findings import FINDINGS, NAMES
from datamodules.manifest import Manifest
from experiments.composition import compose_config
from experiments.inspect_data import inspect_data
from experiments.session import Run

PHANTOMS = ["data.num_images=60", "data.image_size=32", "data.cache_workers=1"]
SCRIPT = "<script>alert(1)</script>.png"  # a folder and a file
IMAGE = '<img src=x onerror="alert(2)">.png'
TABLE = f"""path,patient,split,dr_grade,is_dme,is_gc
a.png,p1,train,0,0,0
b.png,p1,train,2,,0
c.png,p2,val,0,1,
d.png,p3,test,2,0,
{SCRIPT},</td><b>p4,test,,1,
"{IMAGE.replace('"', '""')}",p5,train,1,,
"""


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def save(path: Path, index: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(phantom.render(0, index, 96).image).save(path)


def inspected(folder: Path, *words: str) -> Path:
    """Run the job on these data; the folder of its run."""
    given = [f"output_dir={folder / 'out'}", f"cache_dir={folder / 'cache'}", "data.cache_workers=1", *words]
    inspect_data(Run(compose_config(["+exp=inspect_data", *given])))
    return folder / "out"


@pytest.fixture(scope="module")
def table_run(tmp_path_factory) -> Path:
    """A run on a table with a duplicate on both sides of the split, a broken file, and names that mean harm."""
    folder = tmp_path_factory.mktemp("table")
    for index, name in enumerate(("a.png", "b.png", "c.png", "d.png")):
        save(folder / "photos" / name, 2 * index)
    save(folder / "photos" / SCRIPT, 0)  # as a.png
    (folder / "photos" / IMAGE).write_bytes((folder / "photos" / "b.png").read_bytes()[:500])
    (folder / "photos" / "t.csv").write_text(TABLE)
    return inspected(folder, "data=csv", f"data.root={folder / 'photos'}", "data.table=t.csv", "job.num_columns=3")


# -- from end to end


def test_phantoms(command, here):
    result = command("+exp=inspect_data", "output_dir=out", *PHANTOMS)
    assert result.code == 0, result.err
    for line in ("phantom: 60 images of 30 patients at 32 px", "caching phantom at 32 px", "── what there is",
                 "60 of 30 patients, 0 rejected", "out/contact_sheet.png", "out/counts.csv", "out/report.html",
                 "everything:   out"):  # fmt: skip
        assert line in result.out + result.err, line
    manifest = Manifest.read(here / "out" / "manifest.parquet")
    assert len(manifest) == 60
    counts = rows_of(here / "out" / "counts.csv")
    of_glaucoma = [row for row in counts if row["finding"] == "is_gc" and row["level"] == "1"]
    assert sum(int(row["images"]) for row in of_glaucoma) == (manifest.labels[:, NAMES.index("is_gc")] == 1).sum()
    assert rows_of(here / "out" / "rejected.csv") == []
    page = Page(here / "out" / "report.html")
    check_self_contained(page)
    for text in ("phantom at 32 px", "python -m experiments.run +exp=inspect_data output_dir=out", "Glaucoma"):
        assert text in page.text, text
    record = json.loads((here / "out" / "record.json").read_text())
    assert record["status"] == "finished" and record["metrics"]["data/num_images"] == 60
    assert record["fingerprints"]["split"] in page.text and record["fingerprints"]["data"] in page.text
    check_board(here / "out")


def check_board(output_dir: Path) -> None:
    """TensorBoard has the pictures of the folder, and the counts."""
    board = EventAccumulator(str(output_dir / "tensorboard"), size_guidance={"images": 0, "tensors": 0})
    board.Reload()
    assert set(board.Tags()["images"]) == {"data/contact_sheet", "data/cooccurrence"}
    for name in ("contact_sheet", "cooccurrence"):
        shown = board.Images(f"data/{name}")[0]
        with Image.open(output_dir / f"{name}.png") as picture:
            assert (shown.width, shown.height) == picture.size and min(picture.size) > 200
    text = board.Tensors("data/counts/text_summary")[0].tensor_proto.string_val[0].decode()
    assert re.search(r"\| is_fundus \| yes \| \d+ \| \d+ \| \d+ \|", text)


def test_counts_are_those_counted_by_hand(table_run):
    counts = {(r["finding"], r["level"], r["split"]): (r["images"], r["patients"], r["name"])
              for r in rows_of(table_run / "counts.csv")}  # fmt: skip
    assert len(counts) == 3 * sum(len(finding.levels) + 1 for finding in FINDINGS)
    by_hand = {
        ("dr_grade", "0"): "1 1 0",
        ("dr_grade", "1"): "0 0 0",  # the broken file is not counted
        ("dr_grade", "2"): "1 0 1",
        ("dr_grade", "-1"): "0 0 1",
        ("is_dme", "0"): "1 0 1",
        ("is_dme", "1"): "0 1 1",
        ("is_dme", "-1"): "1 0 0",
        ("is_gc", "0"): "2 0 0",
        ("is_gc", "-1"): "0 1 2",
        ("is_amd", "-1"): "2 1 2",
    }
    for (finding, level), images in by_hand.items():
        assert " ".join(counts[finding, level, split][0] for split in ("train", "val", "test")) == images, finding
    assert counts["is_gc", "0", "train"] == ("2", "1", "absent")  # both eyes of p1
    assert counts["is_amd", "-1", "test"] == ("2", "2", "unknown")
    assert counts["dr_grade", "2", "test"] == ("1", "1", "moderate")


def test_a_duplicate_across_splits_is_named(table_run):
    found = rows_of(table_run / "duplicates.csv")
    assert len(found) == 1 and found[0].pop("similarity") >= "0.9"
    assert found[0] == {
        "kind": "exact",
        "first_id": "a.png",
        "first_source": "csv",
        "first_split": "train",
        "first_patient": "p1",
        "second_id": SCRIPT,
        "second_source": "csv",
        "second_split": "test",
        "second_patient": "</td><b>p4",
        "crosses_splits": "yes",
        "crosses_patients": "yes",
        "contradicts": "is_dme",
    }
    page = Page(table_run / "report.html")
    assert "Duplicates in two splits: 1 pair." in page.text
    assert "Copies whose labels contradict each other: 1 pair" in page.text
    assert (
        "exact, in two splits, contradict in is_dme" in page.text
        and f"{SCRIPT} (csv, test, patient </td><b>p4)" in page.text
    )
    pair = next(image for image, (_, given) in zip(page.images(), tags(page, "img"), strict=True)
                if given["alt"].startswith("a.png beside"))  # fmt: skip
    left, right = np.split(np.asarray(pair)[:, [*range(128), *range(132, 260)]].astype(float), 2, axis=1)
    assert np.abs(left - right).mean() < 3 and left.std() > 20


def tags(page: Page, name: str) -> list[tuple[str, dict]]:
    return [(tag, given) for tag, given in page.elements if tag == name]


def test_names_that_mean_harm_are_shown_as_they_are(table_run):
    assert {row["path"] for row in rows_of(table_run / "rejected.csv")} == {IMAGE}
    page = Page(table_run / "report.html")
    check_self_contained(page)
    assert SCRIPT in page.text and IMAGE in page.text
    assert "<script" not in page.markup and "<img src=x" not in page.markup
    assert "Rejected: 1 file. Training stops at them unless it is told data.max_rejected=1." in page.text
    assert "Licence and address are not on record: csv." in page.text


def test_every_picture_has_room_for_its_images(table_run):
    with Image.open(table_run / "contact_sheet.png") as sheet:
        rows = 1 + 2 + 2 + 1  # any; two grades; two of oedema; one of glaucoma
        assert sheet.height == rows * 132 + 4 and sheet.width > 3 * 132
    strips = [image for image in Page(table_run / "report.html").images() if image.height == 128][1:]  # after the pair
    assert len(strips) == rows and {image.width for image in strips} == {3 * 132 - 4}
    record = json.loads((table_run / "record.json").read_text())
    assert record["metrics"]["data/num_duplicates_across_splits"] == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [(["data.image_size=64", "job.find_duplicates=false"], "job.find_duplicates=false"),
     (["data.image_size=63"], "images are compared at 64 px or more, and data.image_size=63")],
    ids=["told", "small"],
)  # fmt: skip
def test_duplicates_that_nobody_looks_for(command, here, monkeypatch, words, why):
    def must_not(*arguments, **options):
        raise AssertionError("it was told not to")

    monkeypatch.setattr("datamodules.duplicate_report.find_duplicates", must_not)
    result = command("+exp=inspect_data", "output_dir=out", "data.num_images=4", "data.cache_workers=1", *words)
    assert result.code == 0, result.err
    assert f"not looked for: {why}" in result.out
    assert not (here / "out" / "duplicates.csv").exists()
    assert Page(here / "out" / "report.html").text.count(f"Nobody looked for duplicates: {why}.") == 1


def test_a_run_that_breaks_says_so_and_can_be_run_again(command, here, monkeypatch):
    words = ["+exp=inspect_data", "output_dir=out", "data.num_images=6", "data.image_size=16", "data.cache_workers=1"]
    with monkeypatch.context() as broken:
        broken.setattr("experiments.inspect_data.page", lambda found: 1 / 0)
        result = command(*words)
    assert result.code == 1
    record = json.loads((here / "out" / "record.json").read_text())
    assert record["status"] == "failed" and "ZeroDivisionError" in record["error"]
    assert command(*words, "resume=auto").code == 0
    record = json.loads((here / "out" / "record.json").read_text())
    assert record["status"] == "finished" and "error" not in record and len(record["sessions"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [(["job.num_columns=0"], "job.num_columns=0: a row of images needs at least 1"),
     (["ckpt=x.ckpt"], "inspect_data has no weights: leave ckpt out")],
    ids=["columns", "weights"],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_is_read(command, here, words, said):
    result = command("+exp=inspect_data", "output_dir=out", *PHANTOMS, *words)
    assert result.code == 1 and said in result.err and not (here / "cache").exists()


# -- masks, unions, published counts


def save_chase(root: Path) -> None:
    for index, name in enumerate(("Image_01L", "Image_01R", "Image_02L")):
        save(root / f"{name}.jpg", index)
        mask = np.zeros((96, 96), np.uint8)
        mask[40:56, 10:86] = 255
        Image.fromarray(mask).save(root / f"{name}_1stHO.png")


def test_masks_are_outlined_and_published_counts_compared(tmp_path):
    save_chase(tmp_path / "chase")
    out = inspected(tmp_path, "data=chase_db1", f"data.root={tmp_path / 'chase'}", "data.image_size=64")
    sheet = np.asarray(Image.open(out / "contact_sheet_masks.png"))
    plain = np.asarray(Image.open(out / "contact_sheet.png"))
    green = (sheet == OUTLINES[0]).all(axis=2)
    assert green[: len(plain)].sum() > 200 and not (plain == OUTLINES[0]).all(axis=2).any()
    assert green[len(plain) :].sum() > 100, "the legend"
    same = (sheet[: len(plain)] == plain).all(axis=2)
    assert 0.8 < same.mean() < 1, "the same images, but for the lines"
    page = Page(out / "report.html")
    check_self_contained(page)
    assert re.search(r"CHASE_DB1\s*images\s*3\s*28\s*-25", page.text)
    assert "https://researchinnovation.kingston.ac.uk" in page.text and "vessel" in page.text
    assert "CHASE_DB1: other counts than published." in page.text


def test_a_union_is_counted_by_source(tmp_path):
    save_chase(tmp_path / "chase_db1")
    for index in range(2):
        save(tmp_path / "aptos2019" / "train_images" / f"{index}.png", 10 + index)
    (tmp_path / "aptos2019" / "train.csv").write_text("id_code,diagnosis\n0,2\n1,4\n")
    words = ["data=union", f"data.root={tmp_path}", "data.sources=[chase_db1,aptos2019]", "data.image_size=64"]
    out = inspected(tmp_path, *words)
    page = Page(out / "report.html")
    check_self_contained(page)
    cells = [row for row in table_rows(page.markup) if row[:1] in (["chase_db1"], ["aptos2019"])]
    assert [row[4:] for row in cells[:2]] == [["3", "2", "is_fundus, eye_side"], ["2", "2", "dr_grade, is_fundus"]]
    assert ["CHASE_DB1", "images", "3", "28", "-25"] in table_rows(page.markup)
    assert ["APTOS 2019", "images", "2", "3,662", "-3,660"] in table_rows(page.markup)


def table_rows(markup: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", markup)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_real_photographs_with_vessels(shared_data, tmp_path):
    out = inspected(tmp_path, "data=chase_db1", f"data.root={shared_data / 'CHASE_DB1'}", "data.image_size=64")
    page = Page(out / "report.html")
    check_self_contained(page)
    assert "As published: CHASE_DB1 (4 counts)." in page.text and "None found." in page.text


def test_what_the_data_say_in_the_log_is_on_the_page(tmp_path):
    for index, name in enumerate(("a.png", "b.png", "c.png")):
        save(tmp_path / "photos" / name, 2 * index)
    (tmp_path / "photos" / "t.csv").write_text("path,patient,Age,dr_grad\na.png,p,70,1\nb.png,q,60,0\nc.png,r,50,0\n")
    out = inspected(tmp_path, "data=csv", f"data.root={tmp_path / 'photos'}", "data.table=t.csv", "data.image_size=32")
    text = Page(out / "report.html").text
    assert "From the log: " in text and "column 'Age' is not used" in text and "did you mean 'dr_grade'?" in text
