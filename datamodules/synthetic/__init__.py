"""A synthetic set on disk: its recipe, plan, shards, checksums, annotations and counts; layout.py names the files."""

from datamodules.synthetic.set import SyntheticSet
from datamodules.synthetic.tables import SyntheticSetError

__all__ = ["SyntheticSet", "SyntheticSetError"]
