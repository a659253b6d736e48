"""The names that initialisation.py had before, for option files of one's own that name them."""

from lightning_modules.initialisation import CheckpointInit as CheckpointStart
from lightning_modules.initialisation import ImageNetInit as ImageNetStart
from lightning_modules.initialisation import RandomInit as RandomStart

__all__ = ["CheckpointStart", "ImageNetStart", "RandomStart"]
