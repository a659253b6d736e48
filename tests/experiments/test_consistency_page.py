"""The page on consistency: what is undefined says why, what is few is marked, real images are the ceiling."""

from callbacks.metrics.estimate import Estimate
from experiments.annotation.page import page, rows

SIZES = {"num_images": 30, "num_positive": 5}
MEASURED = {"accuracy": Estimate(0.9, **SIZES), "auroc": Estimate(0.8125, 0.75, 0.875, **SIZES)}
UNDEFINED = {
    "recall": Estimate(float("nan"), why="no image is at level 1", **SIZES),
    "auroc": Estimate(float("nan"), why="only level 0 occurs", **SIZES),
}


def text(found, real, not_told=()) -> str:
    return page(found, real, {"set": "`x`"}, ["Heed this."], not_told, "Where they are from.")


def test_what_is_undefined_says_why():
    assert rows({"is_gc": UNDEFINED}) == [["`is_gc`\\*", "30", "5", "", "", "undefined", "", "undefined"]]
    said = text({"is_gc": UNDEFINED}, {}).split("## Undefined figures")[1].strip().splitlines()
    assert said == ["- synthetic, `is_gc`: recall: no image is at level 1",
                    "- synthetic, `is_gc`: AUROC: only level 0 occurs"]  # fmt: skip
    assert text({"is_gc": MEASURED}, {}).endswith("## Undefined figures\n\nNone.\n")


def test_the_ceiling_is_beside_the_synthetic_images_and_has_a_table_of_its_own():
    said = text({"is_gc": MEASURED}, {"is_gc": MEASURED})
    row = "| `is_gc`\\* | 30 | 5 | 0.900 |  |  |  | 0.812 [0.750, 0.875] |"
    assert f"{row} 0.812 [0.750, 0.875] |\n" in said and f"{row}\n" in said
    assert f"{row} no ceiling |\n" in text({"is_gc": MEASURED}, {})


def test_what_no_annotator_tells_and_what_is_to_be_heeded_are_named():
    said = text({"is_gc": MEASURED}, {}, ["dr_grade", "eye_side"])
    assert "- Not told by any annotator, and so not measured: dr_grade, eye_side.\n" in said
    assert "- Heed this.\n" in said and "- set: `x`\n" in said and "Not told by" not in text({"is_gc": MEASURED}, {})
