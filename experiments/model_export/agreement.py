"""An exported folder against the original on the same input: the folder is loaded by a process that has only it."""

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules import phantom
from datamodules.errors import UserError
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.classifier import Classifier
from lightning_modules.conditioning import LabelConditioning
from lightning_modules.latent_diffusion import LatentDiffusion

READERS = Path(__file__).parent / "readers"
EXACT, BY_ONNX = 1e-5, 1e-3  # largest difference of images and of probabilities that is put up with
SEEDS = ([0, 1, 2], [3, 4, 5])
OTHER_GUIDANCE, OTHER_STEPS = 3.0, 4
BATCHES = (1, 3)
ALONE = """
import runpy
import sys

for room in ("experiments", "lightning_modules", "datamodules", "callbacks"):
    sys.modules[room] = None  # to import it fails, as where the folder is taken to
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Comparison:
    """What was compared, on which input, and the largest difference that was found and is put up with."""

    what: str
    of: str
    inputs: dict[str, Any]
    largest_difference: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether it is small enough; what is not a number is not."""
        return self.largest_difference <= self.tolerance

    def plain(self) -> dict[str, Any]:
        """For export.json."""
        number = self.largest_difference if math.isfinite(self.largest_difference) else None
        return {**asdict(self), "largest_difference": number, "agrees": self.agrees}

    def __str__(self) -> str:
        """A line."""
        said = "" if self.agrees else "  DIFFERS"
        return (
            f"{self.what}: {self.of} differ by {self.largest_difference:.2g} at most (bound {self.tolerance:g}){said}"
        )


def check(comparisons: Sequence[Comparison]) -> None:
    """See that every bound holds.

    Raises:
        ValueError: one is broken.
    """
    for comparison in comparisons:
        if not comparison.agrees:
            raise UserError(
                f"{comparison.what} is not the original: on the same input {comparison.of} differ by "
                f"{comparison.largest_difference:.2g}, and {comparison.tolerance:g} is put up with. Nothing was "
                "exported. Remedy: see that the checkpoint's weights are finite; else report it, with record.json."
            )


def compare_generator(module: LatentDiffusion, folder: Path) -> list[Comparison]:
    """Images of fixed seeds: by the sampling of the checkpoint, and by other steps and guidance.

    Args:
        module: its averaged weights are those that were exported, and it samples in float32.
    """
    num_timesteps = module.objective.schedule.num_timesteps
    settings = ({}, {"num_steps": min(OTHER_STEPS, num_timesteps), "guidance": OTHER_GUIDANCE})
    rows, labels = asked_for(module.network.conditioning)
    given = {"num_steps": "num_inference_steps", "guidance": "guidance_scale"}  # ours: theirs
    calls = [
        {"labels": rows, "seeds": seeds, **{given[name]: value for name, value in mine.items()}}
        for seeds, mine in zip(SEEDS, settings, strict=True)
    ]
    painted = read("generator", folder, calls)
    found = []
    for images, seeds, mine in zip(painted, SEEDS, settings, strict=True):
        used = {name: mine.get(name, module.sampling[name]) for name in given}
        difference = largest_difference(images, module.sample(labels, seeds, **mine))
        inputs = {"seeds": seeds, "labels": rows, **used, "scheduler": module.sampling["scheduler"]}
        said = f"{len(seeds)} images (seeds {seeds}, {used['num_steps']} steps, guidance {used['guidance']:g})"
        found.append(Comparison("the pipeline", said, inputs, difference, EXACT))
    return found


def asked_for(conditioning: LabelConditioning) -> tuple[list[dict[str, int]], Tensor]:
    """Three conditions, by name and as labels: nothing is told; every finding is at its first level; at its last."""
    last = dict(zip(conditioning.names, (levels - 1 for levels in conditioning.levels), strict=True))
    rows = [{}, dict.fromkeys(last, 0), last]
    return rows, torch.tensor([[row.get(name, -1) for name in last] for row in rows])


def compare_autoencoder(module: Autoencoder, folder: Path, image_size: int) -> list[Comparison]:
    """Reconstructions of phantoms."""
    images = phantoms(3, image_size)
    difference = largest_difference(read("autoencoder", folder, images), module.reconstruct(images))
    inputs = {"phantoms": 3, "seed": 0, "image_size": image_size}
    return [Comparison("the autoencoder", "reconstructions of 3 phantoms", inputs, difference, EXACT)]


def compare_classifier(module: Classifier, folder: Path, image_size: int) -> list[Comparison]:
    """Probabilities of all levels of all findings, of phantoms, in batches of one and of three."""
    images = phantoms(sum(BATCHES), image_size)
    batches = list(images.split(BATCHES))
    wanted = [module.probabilities(batch) for batch in batches]
    found = []
    for what, answers in read("classifier", folder, batches).items():
        pairs = [(answer[name], own[name]) for answer, own in zip(answers, wanted, strict=True) for name in own]
        difference = max((largest_difference(*pair) for pair in pairs), key=lambda value: (math.isnan(value), value))
        inputs = {"phantoms": len(images), "batches": list(BATCHES), "seed": 0, "image_size": image_size}
        title, bound = {"timm": ("backbone and heads", EXACT), "onnx": ("model.onnx", BY_ONNX)}[what]
        found.append(Comparison(title, f"probabilities of {len(images)} phantoms", inputs, difference, bound))
    return found


def phantoms(num: int, image_size: int) -> Tensor:
    """Procedural photographs float32 [num, 3, H, W] in [0, 1]."""
    images = np.stack([phantom.render(0, index, image_size).image for index in range(num)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() / 255


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Largest absolute difference of two tensors; infinite for those of other shapes."""
    return float((first - second).abs().max()) if first.shape == second.shape else math.inf


def read(kind: str, folder: Path, request: Any) -> Any:
    """What a fresh process makes of a request with the folder alone; it cannot import this package.

    Raises:
        RuntimeError: it fails, which is our defect: the folder does not load.
    """
    with tempfile.TemporaryDirectory() as scratch:
        question, answer = Path(scratch, "request.pt"), Path(scratch, "answer.pt")
        torch.save(request, question)
        words = [str(READERS / f"{kind}.py"), str(folder.resolve()), str(question), str(answer)]
        command = [sys.executable, "-P", "-c", ALONE, *words]
        result = subprocess.run(command, cwd=scratch, env=_environment(scratch), capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"the exported {kind} does not load:\n{result.stderr.strip()}")
        return torch.load(answer, weights_only=True)


def _environment(scratch: str) -> Mapping[str, str]:
    """No network, and the code of the folder is not left in the caches of the user."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": scratch, "CUDA_VISIBLE_DEVICES": ""}
