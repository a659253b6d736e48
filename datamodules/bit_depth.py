"""Images of more than 8 bits a sample as 8: which value is white.

Cameras of 10 to 14 bits write files of 16, often with the value that they measured: white is then 1023, 4095 or 16383
of 65535. What a file declares counts first. Of grey the least depth that holds the brightest pixel is taken. Colour is
taken for less than 16 bits only on evidence in the pixels, else a photograph that is dark would become bright.
"""

import cv2
import numpy as np

from datamodules.image_files import ImageError, Plain

DEPTHS = (8, 10, 12, 14, 16)
FULL = 65535.0
LEAST_SURE = 1 << 14  # colour with a brighter sample is of 16 bits: of 14 it would be beyond white


def grey_to_eight(grey: np.ndarray, bits: int | None, floating: bool) -> np.ndarray:
    """Grey [H, W] of whole numbers, or of floating point, as uint8."""
    if floating:
        grey = np.nan_to_num(grey.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        white = next((float(top) for top in (1, *_whites()) if grey.max() <= top), grey.max())
    else:
        white = _told(grey, bits) or next((top for top in _whites() if grey.max() <= top), grey.max())
    return _scaled(grey, white)


def colour_to_eight(rgb: np.ndarray, plain: Plain) -> np.ndarray:
    """Colour of 16 bits a sample as uint8 [H, W, 3 or 4]; `rgb` is what its high bytes are, uint8 [H, W, 3 or 4].

    Raises ImageError where it may as well be dark as of fewer bits.
    """
    if rgb[..., :3].max() >= LEAST_SURE >> 8:
        return rgb
    deep = cv2.imdecode(np.frombuffer(plain.content, np.uint8), cv2.IMREAD_UNCHANGED)
    whole = deep is not None and deep.dtype == np.uint16 and deep.ndim == 3 and deep.shape[:2] == rgb.shape[:2]
    if whole and deep.shape[2] >= rgb.shape[2]:
        deep = deep[..., [2, 1, 0, 3][: rgb.shape[2]]]
    samples = deep[..., :3] if whole else None
    if samples is None or (samples >> 8 != rgb[..., :3]).any():  # damaged, or of a layout that OpenCV does not know
        raise ImageError("dark colour of 16 bits a sample, whose low bits cannot be read; save it with 8 bits")
    white = _told(samples, plain.bits) or _reached(samples)
    if white is None:
        raise ImageError(
            f"colour of 16 bits a sample whose brightest is {samples.max()} of 65535: dark, or of 10 to 14 bits, which "
            "nothing in the file tells; save it with 8 bits, or with its depth (PNG: sBIT; TIFF: MaxSampleValue)"
        )
    return rgb if white == FULL else _scaled(deep, white)


def _whites() -> list[float]:
    return [float((1 << depth) - 1) for depth in DEPTHS]


def _told(samples: np.ndarray, bits: int | None) -> float | None:
    """White, where the file declares its bits, or where all samples are those of 8 bits brought to 16."""
    top = int(samples.max())
    if bits == 16:
        return FULL
    if bits is not None and 8 <= bits < 16 and top < 1 << bits and _step(samples) < 16 - bits:
        return float((1 << bits) - 1)
    high, low = samples >> 8, samples & 255
    return FULL if 255 < top <= FULL and ((low == 0).all() or (low == high).all()) else None


def _reached(samples: np.ndarray) -> float | None:
    """White of less than 16 bits, where the brightest sample is exactly that: of the depth itself, or of 8 bits or more
    that were brought to it by a shift.
    """
    top, step = int(samples.max()), _step(samples)
    for depth in DEPTHS[:-1]:
        if step <= depth - 8 and top == (1 << depth) - (1 << step):
            return float((1 << depth) - 1)
    return None


def _step(samples: np.ndarray) -> int:
    """How many of the low bits are zero in all samples."""
    used = int(np.bitwise_or.reduce(samples, axis=None))
    return (used & -used).bit_length() - 1 if used else 16


def _scaled(samples: np.ndarray, white: float) -> np.ndarray:
    return np.clip(samples / white * 255.0 + 0.5, 0, 255).astype(np.uint8)
