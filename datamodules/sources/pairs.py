"""What sets of images with one mask each share: finding the mask of every image; and what all polyp sets state."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from datamodules.sources.harmonise import Always
from datamodules.sources.public import LayoutError, PublicSource

log = logging.getLogger(__name__)


class PolypSource(PublicSource):
    """Colonoscopy images with a mask of the polyp: no fundus photographs, so whole frames without a field of view."""

    rules = (Always("is_fundus", 0),)
    frame = "whole"
    mask_levels = ("background", "polyp")


def pairs(source: PublicSource, images: Mapping[str, str], masks: Mapping[str, str], origin: Path) -> list[dict]:
    """Rows of `id` (the file's name), `path` and `mask` from paths by name, as `images_below` gives them.

    Raises LayoutError for an image without a mask unless the source is `partial`, which leaves `mask` blank. Masks
    without an image are counted in the log. `origin` is where the masks are sought, for messages.
    """
    missing = [path for key, path in images.items() if key not in masks]
    if missing and (not source.partial or len(missing) == len(images)):
        here = sorted(masks.values())[:4]
        raise LayoutError(
            f"{source.title}: there is no mask of {missing[0]!r} in {str(origin)!r} ({len(missing)} of {len(images)} "
            f"images have none); it holds {here}, … Remedy: complete the download, or go on with images that have no "
            f"mask: data.partial=true. {source.about}"
        )
    if missing:
        log.warning("%s: %d of %d images have no mask in %s", source.title, len(missing), len(images), origin)
    unused = len(masks.keys() - images.keys())
    if unused:
        log.warning("%s: %d masks in %s belong to no image", source.title, unused, origin)
    return [{"id": Path(path).stem, "path": path, "mask": masks.get(key, "")} for key, path in images.items()]


def renamed(source: PublicSource, files: Mapping[str, str], name: Callable[[str], str]) -> dict[str, str]:
    """Paths by another name than the file's; raises LayoutError where two files get the same one."""
    found: dict[str, str] = {}
    for key, path in files.items():
        other = found.setdefault(name(key), path)
        if other != path:
            raise LayoutError(
                f"{source.title}: {other!r} and {path!r} are both of the image {name(key)!r}. Remedy: remove one."
            )
    return found
