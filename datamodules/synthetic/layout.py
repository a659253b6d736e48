"""Names of the files and folders of a synthetic set: nothing else spells them.

plan.parquet          a row an image: index, seed, condition (plan.py)
recipe.json           what made it, written before the first shard and never changed
data/                 shard-00000-of-00008.parquet …
checksums/            shard-00000-of-00008.json …, written before the shard appears
manifest.json         the recipe and all checksums, written when every shard is there
trained_on.parquet    hashes of the patients that the generator was trained on (trained_on.py)
annotations/          beside the conditions, what a classifier says of the images (annotations.py)
consistency.json      how far conditions and annotations agree; consistency.md and .png, for people
privacy.json          the verdict of a privacy audit
README.md             the card, with samples/contact_sheet.png
"""

from pathlib import Path

RECIPE, MANIFEST, PLAN, TRAINED_ON = "recipe.json", "manifest.json", "plan.parquet", "trained_on.parquet"
DATA, CHECKSUMS, ANNOTATIONS = "data", "checksums", "annotations"
CONSISTENCY, CONSISTENCY_PAGE, CONSISTENCY_FIGURE = "consistency.json", "consistency.md", "consistency.png"
PRIVACY, CARD, CONTACT_SHEET = "privacy.json", "README.md", "samples/contact_sheet.png"
CHECKSUM_SHAPE = {"file": str, "sha256": str, "num_rows": int, "num_bytes": int}  # what is written of a shard


def shard_names(num_shards: int) -> list[str]:
    """`shard-00000-of-00008` …, as Hugging Face datasets names them, without their ending."""
    return [f"shard-{number:05d}-of-{num_shards:05d}" for number in range(num_shards)]


def shard_file(root: Path, name: str) -> Path:
    """Where a shard of a set lies."""
    return root / DATA / f"{name}.parquet"


def checksum_file(root: Path, name: str) -> Path:
    """Where the checksum of a shard lies; `root` is the folder of the set, or that of its annotations."""
    return root / CHECKSUMS / f"{name}.json"


def shard_places(root: Path, num_shards: int) -> list[tuple[Path, Path]]:
    """Where all shards and their checksums lie, in order."""
    return [(shard_file(root, name), checksum_file(root, name)) for name in shard_names(num_shards)]
