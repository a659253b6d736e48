"""Code of a card that loads the set: each block runs as it is in the set's folder."""

DATASETS = """
from pathlib import Path

from datasets import load_dataset

folder = str(Path(".").resolve())
images = load_dataset(folder, split="train")
print(images)
print(images[0]["id"], images[0]["image"].size, "DR grade", images[0]["dr_grade"])
"""
STREAMED = """
from pathlib import Path

from datasets import load_dataset

folder = str(Path(".").resolve())
for row in load_dataset(folder, split="train", streaming=True).take(3):
    print(row["id"], row["image"].size)
"""
ANNOTATIONS = """
from pathlib import Path

from datasets import load_dataset

folder = str(Path(".").resolve())
annotations = load_dataset(folder, "annotations", split="train")
print(annotations[0])
"""
DUCKDB = """
import duckdb

print(duckdb.sql("SELECT dr_grade, count(*) AS images FROM 'data/*.parquet' GROUP BY dr_grade ORDER BY dr_grade"))
"""
DUCKDB_JOINED = '''
import duckdb

told_and_seen = """
    SELECT told.dr_grade AS told, seen.dr_grade AS seen, count(*) AS images
    FROM 'data/*.parquet' AS told JOIN 'annotations/*.parquet' AS seen USING (id)
    GROUP BY ALL ORDER BY ALL
"""
print(duckdb.sql(told_and_seen))
'''
PANDAS = """
import pandas as pd

conditions = pd.read_parquet("data", columns=["id", "dr_grade", "is_gc", "eye_side"])
print(conditions.head())
"""
PYARROW = """
import io
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

shard = pq.ParquetFile(sorted(Path("data").glob("*.parquet"))[0])
for row in shard.read_row_group(0, columns=["id", "image"]).slice(0, 3).to_pylist():
    print(row["id"], Image.open(io.BytesIO(row["image"]["bytes"]), formats=("PNG", "JPEG", "WEBP")).size)
"""
CHECKSUMS = """
import hashlib
import json
from pathlib import Path

files = json.loads(Path("manifest.json").read_text("utf-8"))["files"]
for file in files:
    with open(file["file"], "rb") as shard:
        assert hashlib.file_digest(shard, "sha256").hexdigest() == file["sha256"], f"{file['file']} is damaged"
print(f"{len(files)} files are whole")
"""
SYNFUNDUS = """
python -m experiments.run +exp=classifier_train data=synthetic data.root=<folder>
python -m experiments.run +exp=classifier_train data=csv data.root=<photographs> data.table=<csv> \\
  mix=synthetic data.synthetic.root=<folder> data.synthetic.ratio=1.0
"""


def block(code: str, language: str = "python") -> str:
    """Fenced code."""
    return f"```{language}\n{code.strip()}\n```"


def checksums(annotated: bool) -> str:
    """Code that compares every file with its checksum, those of the annotations too."""
    first, rest = CHECKSUMS.split("for file in files")
    more = 'files += json.loads(Path("annotations/annotation.json").read_text("utf-8"))["files"]\n'
    return f"{first}{more if annotated else ''}for file in files{rest}"


def loading(annotated: bool) -> list[str]:
    """The section on loading, paragraph by paragraph."""
    parts = [
        "Each block runs as it is in the set's folder. From elsewhere put the folder's path in; for a set on the "
        "Hugging Face Hub `folder` is its name there, as `owner/name`.",
        "With [datasets](https://huggingface.co/docs/datasets), which keeps a copy of all images in its cache:",
        block(DATASETS),
        "The same without a copy, shard by shard:",
        block(STREAMED),
    ]
    if annotated:
        parts += ["The annotations, row for row in the order of the images:", block(ANNOTATIONS)]
    parts += ["Counts by SQL, with [DuckDB](https://duckdb.org), which reads no image for them:", block(DUCKDB)]
    if annotated:
        parts += ["What the generator was told against what the annotator saw:", block(DUCKDB_JOINED)]
    return [
        *parts,
        "Columns as a table, with pandas:",
        block(PANDAS),
        "Images of one row group, with pyarrow and Pillow:",
        block(PYARROW),
        "With the code that made it, to train on these images alone, or on one beside each photograph of your own:",
        block(SYNFUNDUS, "bash"),
    ]
