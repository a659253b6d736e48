"""docs/datasets.md holds what the code says of the public datasets.

Written anew by `SYNFUNDUS_WRITE_DOCS=1 pytest tests/docs/test_public_datasets.py`.
"""

import os
from pathlib import Path

import yaml

from datamodules.sources.catalogue import harmonisation_table, layout_list, provenance_table, public_sources

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "datasets.md"
OPTIONS = ROOT / "experiments" / "conf" / "data"
HEAD = """# Public datasets

What each reader takes, and what its labels become. This page is printed from the code (`datamodules/sources/`): the
rules below are the ones that are applied. How to name your folders is in [data.md](data.md). Counts are the published
ones; a run says in its log where yours differ. Nothing is downloaded for you.
"""
BEFORE_LABELS = """A finding that a dataset has no line for is unknown in its images: nobody looked. Unknown is never
absent, and ungradable is a readability (`is_retinal_region_readable` 0), never a grade. A blank cell is unknown. A cell
that is not listed is an error that names its file and row.
"""


def test_the_page_of_public_datasets_says_what_the_code_does():
    parts = [HEAD, "## Where they come from\n", provenance_table(), "\n## How they lie\n", layout_list(),
             "\n## What their labels become\n", BEFORE_LABELS, harmonisation_table(), ""]  # fmt: skip
    page = "\n".join(parts)
    if os.environ.get("SYNFUNDUS_WRITE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
    how = "write it anew: SYNFUNDUS_WRITE_DOCS=1 pytest tests/docs/test_public_datasets.py"
    assert PAGE.read_text(encoding="utf-8") == page, how


def test_every_reader_says_where_its_data_come_from_and_has_its_option():
    for name, source in public_sources().items():
        for attribute in ("title", "licence", "address", "layout", "trap", "rules", "published"):
            assert getattr(source, attribute), f"{name} has no {attribute}"
        assert "|" not in source.licence + source.address + source.title
        option = yaml.safe_load((OPTIONS / f"{name}.yaml").read_text(encoding="utf-8"))
        assert option["source"]["_target_"] == f"{source.__module__}.{source.__name__}"
    assert len(public_sources()) >= 36
