"""Pictures in a fundus camera's archive that show no fundus: the outer eye, blank frames, pages, noise."""

import cv2
import numpy as np

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def picture(rng: np.random.Generator, size: int) -> np.ndarray:
    """One of four kinds, uint8 [size, size, 3]."""
    work = max(192, min(2 * size, 1024), size)
    kinds = (_outer_eye, _blank, _page, _noise)
    image = kinds[int(rng.choice(4, p=[0.5, 0.2, 0.15, 0.15]))](rng, work)
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _outer_eye(rng: np.random.Generator, size: int) -> np.ndarray:
    """Skin, lids, sclera, iris, pupil and the flash's reflection."""
    skin = np.array([[205, 160, 130], [170, 120, 90], [110, 74, 54]])[rng.integers(3)] * rng.uniform(0.85, 1.1)
    image = np.empty((size, size, 3), np.float32)
    image[:] = skin
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    image *= (0.75 + 0.25 * np.cos(1.2 * axis[:, None] - 0.2))[..., None]
    centre = size * (0.5 + rng.normal(0, 0.04, 2))
    t = np.linspace(0, np.pi, 40)
    wide, high = size * rng.uniform(0.42, 0.52), size * rng.uniform(0.22, 0.34)
    upper = centre + np.stack([-wide * np.cos(t), -high * np.sin(t)], 1)
    lower = centre + np.stack([wide * np.cos(t), high * 0.8 * np.sin(t)], 1)
    opening = np.zeros((size, size), np.uint8)
    cv2.fillPoly(opening, [np.rint(np.concatenate([upper, lower]) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    eye = np.empty_like(image)
    eye[:] = (226, 212, 204)
    middle = np.rint(centre).astype(int).tolist()
    radius = size * rng.uniform(0.20, 0.25)
    iris = np.array([[92, 60, 36], [70, 100, 120], [96, 110, 70]])[rng.integers(3)] * rng.uniform(0.7, 1.2)
    cv2.circle(eye, middle, int(radius), (iris * 0.55).tolist(), -1, cv2.LINE_AA)
    cv2.circle(eye, middle, int(radius * 0.92), iris.tolist(), -1, cv2.LINE_AA)
    cv2.circle(eye, middle, int(radius * rng.uniform(0.3, 0.6)), (14, 10, 10), -1, cv2.LINE_AA)
    flash = [int(middle[0] + radius * 0.25), int(middle[1] - radius * 0.3)]
    cv2.circle(eye, flash, max(1, int(radius * 0.12)), (255, 255, 255), -1, cv2.LINE_AA)
    alpha = opening.astype(np.float32)[..., None] / 255
    image = image * (1 - alpha) + eye * alpha
    for k in range(8, 33):
        tip = upper[k] + (upper[k] - centre) * rng.uniform(0.25, 0.45)
        ends = np.rint(np.stack([upper[k], tip]) * 16).astype(np.int32)
        cv2.polylines(image, [ends], False, (30, 22, 18), max(1, size // 128), cv2.LINE_AA, 4)
    return cv2.GaussianBlur(image, (0, 0), size * 0.004) + rng.normal(0, 3, (size, size, 1)).astype(np.float32)


def _blank(rng: np.random.Generator, size: int) -> np.ndarray:
    """An even frame: nearly black, or washed out by a closed lid."""
    level = rng.uniform(0, 25) if rng.random() < 0.5 else rng.uniform(120, 235)
    image = np.empty((size, size, 3), np.float32)
    image[:] = level * np.array([1.0, rng.uniform(0.6, 1.0), rng.uniform(0.4, 1.0)])
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    image *= (1 + rng.normal(0, 0.2) * axis[None] + rng.normal(0, 0.2) * axis[:, None])[..., None]
    return image


def _page(rng: np.random.Generator, size: int) -> np.ndarray:
    """A report's page."""
    image = np.full((size, size, 3), int(rng.uniform(225, 255)), np.uint8)
    height = size * rng.uniform(0.04, 0.07)
    y = 1.5 * height
    while y < size - height:
        word = "".join(
            _LETTERS[k] if rng.random() > 0.17 else " " for k in rng.integers(26, size=int(rng.integers(8, 34)))
        )
        cv2.putText(
            image, word, (int(0.08 * size), int(y)), cv2.FONT_HERSHEY_SIMPLEX, height / 34, (30, 30, 34), 1, cv2.LINE_AA
        )
        y += height * 1.5
    return image


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Coloured static, as of a broken transfer, with torn rows."""
    coarse = rng.uniform(0, 255, (24, 24, 3)).astype(np.float32)
    image = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_NEAREST)
    fine = rng.normal(0, 40, (96, 96, 3)).astype(np.float32)
    image += cv2.resize(fine, (size, size), interpolation=cv2.INTER_NEAREST)
    image[int(size * rng.uniform(0.4, 0.9)) :] = rng.uniform(0, 140)
    return image
