"""Draws a contact sheet: for every finding several phantoms, each beside its masks, and one real photograph to compare.

python -m datamodules.phantom.contact_sheet --out docs/images/phantom_contact_sheet.png
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from datamodules.findings import NUM_LEVELS
from datamodules.phantom.labels import READABLE
from datamodules.phantom.rendering import Phantom, render

HEALTHY = dict.fromkeys(NUM_LEVELS, 0) | dict.fromkeys(("is_fundus", *READABLE), 1)
ROWS: tuple[tuple[str, dict[str, int]], ...] = (
    ("no finding", {}),
    ("DR mild", {"dr_grade": 1}),
    ("DR moderate", {"dr_grade": 2}),
    ("DR severe", {"dr_grade": 3}),
    ("DR proliferative", {"dr_grade": 4}),
    ("DME", {"dr_grade": 2, "is_dme": 1}),
    ("AMD", {"is_amd": 1}),
    ("AON", {"is_aon": 1}),
    ("CRP", {"is_crp": 1}),
    ("DM", {"is_dm": 1}),
    ("EM", {"is_em": 1}),
    ("GC", {"is_gc": 1}),
    ("HtR", {"is_htr": 1}),
    ("PM", {"is_pm": 1}),
    ("RVO", {"is_rvo": 1}),
    ("macula unreadable", {"is_macular_readable": 0}),
    ("disc unreadable", {"is_optic_disc_readable": 0}),
    ("retina unreadable", {"is_retinal_region_readable": 0}),
    ("all unreadable", dict.fromkeys(READABLE, 0)),
    ("not a fundus", {"is_fundus": 0} | dict.fromkeys(READABLE, 0)),
)
COLOURS = {
    "artery": (255, 70, 70),
    "vein": (80, 110, 255),
    "disc": (255, 255, 255),
    "cup": (255, 230, 0),
    "fovea": (0, 255, 160),
}
_SIGN_COLOURS = ((0, 255, 255), (255, 0, 255), (120, 255, 0), (255, 150, 0))


def overlay(phantom: Phantom) -> np.ndarray:
    """The picture, dimmed, with arteries, veins and signs filled and disc, cup and fovea outlined; uint8 [S, S, 3]."""
    image = (phantom.image * 0.45).astype(np.uint8)
    for name, mask in phantom.masks.items():
        if name in ("artery", "vein"):
            image[mask > 0] = (0.35 * image[mask > 0] + 0.65 * np.array(COLOURS[name])).astype(np.uint8)
        elif name in COLOURS:
            outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            image = cv2.drawContours(np.ascontiguousarray(image), outlines, -1, COLOURS[name], 1)
    signs = [name for name in phantom.masks if name not in COLOURS and name not in ("field", "vessel")]
    for number, name in enumerate(signs):
        where = phantom.masks[name] > 0
        image[where] = (0.3 * image[where] + 0.7 * np.array(_SIGN_COLOURS[number % 4])).astype(np.uint8)
    return image


def photograph(size: int) -> np.ndarray:
    """The fundus photograph that scikit-image carries (CC0), uint8 [size, size, 3]."""
    from skimage.data import retina

    return cv2.resize(retina(), (size, size), interpolation=cv2.INTER_AREA)


def contact_sheet(num_phantoms: int = 3, image_size: int = 112, seed: int = 0) -> np.ndarray:
    """Rows of ``ROWS``, RGB uint8: caption, ``num_phantoms`` pictures each with its overlay, the real photograph."""
    real = photograph(image_size)
    lines = []
    for caption, findings in ROWS:
        cells = [_caption(caption, image_size)]
        for number in range(num_phantoms):
            labels = HEALTHY | findings | {"eye_side": number % 2}
            phantom = render(seed, 2 * number + number % 2, image_size, labels)
            cells += [phantom.image, overlay(phantom)]
        lines.append(np.concatenate([*cells, real], axis=1))
    return np.concatenate(lines, axis=0)


def _caption(text: str, size: int) -> np.ndarray:
    cell = np.full((size, size, 3), 255, np.uint8)
    for row, word in enumerate(text.split()):
        place = (4, size // 2 + int(size * 0.16 * row))
        cv2.putText(cell, word, place, cv2.FONT_HERSHEY_SIMPLEX, size / 290, (0, 0, 0), 1, cv2.LINE_AA)
    return cell


def main() -> None:
    """Write the sheet to the path given by ``--out``."""
    parser = argparse.ArgumentParser(description="Draw a contact sheet of phantoms with their masks.")
    parser.add_argument("--out", type=Path, required=True, help="the PNG or JPEG file to write")
    parser.add_argument("--num-phantoms", type=int, default=3, help="phantoms in a row")
    parser.add_argument("--image-size", type=int, default=112, help="side of a picture in pixels")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    sheet = contact_sheet(chosen.num_phantoms, chosen.image_size, chosen.seed)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    # 32 levels a colour: two fifths of the size, and no channel off by more than 4 of 255
    Image.fromarray((sheet & 0xF8) | 4).save(chosen.out, optimize=True)


if __name__ == "__main__":
    main()
