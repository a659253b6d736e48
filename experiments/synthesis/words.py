"""`plan=<file>`: the path of a table or a YAML file, turned into the option that takes it."""

from collections.abc import Iterable
from pathlib import Path

TABLES = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".xlsx")
PREVALENCES = (".yaml", ".yml")


def plan_spelt_out(words: Iterable[str]) -> list[str]:
    """The words of a command line, `plan=<table>` and `plan=<file.yaml>` replaced by option and path."""
    found = []
    for word in words:
        key, _, value = word.partition("=")
        ending = Path(value.strip("'\"")).suffix.lower()
        if key == "plan" and ending in TABLES:
            found += ["plan=table", f"plan.path={value}"]
        elif key == "plan" and ending in PREVALENCES:
            found += ["plan=prevalences", f"plan.file={value}"]
        else:
            found.append(word)
    return found
