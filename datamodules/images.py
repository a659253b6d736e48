"""From a photograph on disk to a square: reading, and cropping to the field of view that field_of_view.py finds.

Letters: H, W height and width in pixels; S side of the square in pixels.
"""

from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

from datamodules.bit_depth import colour_to_eight, grey_to_eight
from datamodules.errors import UserError
from datamodules.field_of_view import FieldOfView, check_rgb
from datamodules.image_files import ImageError, Plain, opened, read_bytes, without_metadata

VERSION = 4  # changes whenever the same file would give other pixels; every image cache depends on it


def read_image(file: str | Path | BinaryIO, min_side: int | None = None) -> np.ndarray:
    """Read an image file as uint8 [H, W, 3] RGB, upright according to its EXIF orientation.

    With `min_side`, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size (much faster) as long as its shorter side
    keeps at least so many pixels. Raises ImageError with the reason: empty, not an image, truncated; and OSError or
    MemoryError where the machine cannot read at the moment (a share that is away, no memory), which says nothing of
    the image.
    """
    try:
        plain = without_metadata(read_bytes(file))
        with opened(plain) as image:
            if min_side is not None and plain.kind == "JPEG":
                scale = max(s for s in (1, 2, 4, 8) if s == 1 or min(image.size) // s >= min_side)
                image.draft("RGB", (image.width // scale, image.height // scale))
            image.load()
            return np.ascontiguousarray(_upright(_to_rgb(image, plain), plain.orientation))
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, … on damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if "out of memory" in str(error).lower() or getattr(error, "code", None) == cv2.Error.StsNoMem:
            raise MemoryError(f"no memory to decode {file}: {error}") from error
        raise ImageError(f"cannot be decoded: {str(error) or type(error).__name__}") from error


def _to_rgb(image: Image.Image, plain: Plain) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":  # grey of 10 to 16 bits, or float
        grey = grey_to_eight(np.asarray(image), plain.bits, image.mode == "F")
        return np.repeat(grey[:, :, None], 3, axis=2)
    if plain.depth == 16 and image.mode in ("RGB", "RGBA"):
        high = np.asarray(image)
        eight = colour_to_eight(high, plain)
        image = image if eight is high else Image.fromarray(eight)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels [H, W, 3] as an EXIF orientation says, 1 to 8."""
    if orientation >= 5:
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    return rgb[:, ::-1] if orientation in (2, 3, 6, 7) else rgb


def square_crop(rgb: np.ndarray, fov: FieldOfView, size: int) -> np.ndarray:
    """Crop uint8 [H, W, 3] to the square around the disc and resample to uint8 [size, size, 3] by area.

    What lies outside the disc, or was cut off by the sensor, is black.
    """
    check_rgb(rgb)
    square = resize(_square(rgb, fov, size), size)
    square[_outside(size)] = 0
    return square


def crop_levels(levels: np.ndarray, fov: FieldOfView, size: int, outside: int = 0) -> np.ndarray:
    """Crop a mask uint8 [H, W] as `square_crop` crops its image, to uint8 [size, size].

    A pixel has the level that covers most of it, the lower one where two cover the same. What lies outside the disc, or
    was cut off by the sensor, has the level `outside`.
    """
    square = resize_levels(_square(levels, fov, size, outside), size)
    square[_outside(size)] = outside
    return square


def _square(pixels: np.ndarray, fov: FieldOfView, size: int, outside: int = 0) -> np.ndarray:
    """The square around the disc, [2 r, 2 r, …], `outside` where it leaves the frame."""
    if size < 1 or fov.radius < 1:
        raise UserError(f"size is {size} and fov.radius {fov.radius}: both must be at least 1 pixel.")
    side = max(1, round(2 * fov.radius))
    left, top = round(fov.x + 0.5 - side / 2), round(fov.y + 0.5 - side / 2)
    square = np.full((side, side, *pixels.shape[2:]), outside, dtype=np.uint8)
    x0, x1 = max(0, left), min(pixels.shape[1], left + side)
    y0, y1 = max(0, top), min(pixels.shape[0], top + side)
    if x0 < x1 and y0 < y1:
        square[y0 - top : y1 - top, x0 - left : x1 - left] = pixels[y0:y1, x0:x1]
    return square


def _outside(size: int) -> np.ndarray:
    """Which pixels of a square lie outside its disc, bool [size, size]."""
    offset = np.arange(size) + 0.5 - size / 2
    return np.hypot(offset[:, None], offset[None, :]) > size / 2


def whole_frame(rgb: np.ndarray, size: int) -> np.ndarray:
    """Pad uint8 [H, W, 3] to a square with black and resample it to [size, size, 3]: no field of view is sought."""
    check_rgb(rgb)
    return resize(_padded(rgb), size)


def whole_levels(levels: np.ndarray, size: int) -> np.ndarray:
    """Pad and resample a mask uint8 [H, W] as `whole_frame` does its image."""
    return resize_levels(_padded(levels), size)


def _padded(pixels: np.ndarray) -> np.ndarray:
    side = max(pixels.shape[:2])
    top, left = (side - pixels.shape[0]) // 2, (side - pixels.shape[1]) // 2
    square = np.zeros((side, side, *pixels.shape[2:]), dtype=np.uint8)
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return square


def resize(square: np.ndarray, size: int) -> np.ndarray:
    """Resample uint8 [S, S, 3] to [size, size, 3]: by area when it shrinks, by cubic interpolation when it grows."""
    if square.shape[0] == size:
        return square
    method = cv2.INTER_AREA if square.shape[0] > size else cv2.INTER_CUBIC
    return cv2.resize(square, (size, size), interpolation=method)


def resize_levels(square: np.ndarray, size: int) -> np.ndarray:
    """Resample a mask uint8 [S, S] to [size, size]: each pixel has the level that covers most of it."""
    if square.shape[0] == size:
        return square
    levels = np.unique(square)
    shares = np.stack([resize((square == level).astype(np.float32), size) for level in levels])
    return levels[shares.argmax(axis=0)]
