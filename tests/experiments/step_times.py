"""Times a step of the default generator under every strategy, on one process and on two; by hand, a quiet machine.

    python tests/experiments/step_times.py <folder> <autoencoder's checkpoint>

Prints the median over the steps after the tenth, by TensorBoard's clock.
"""

import os
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

WORDS = [
    "+exp=ddpm_train", "data.num_images=64", "data.epoch_size=960", "model.diffusion.warmup_steps=5",
    "~callbacks.frechet",
    "~callbacks.agreement", "~callbacks.sample_grid", "trainer.max_epochs=1", "trainer.log_every_n_steps=1",
]  # fmt: skip
# strategy, processes, threads of each, images a step of each
RUNS = [
    ("single", 1, 1, 8),
    ("single", 1, 1, 16),
    ("single", 1, 2, 16),
    *((name, 2, 1, 8) for name in ("ddp", "fsdp2", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")),
    ("ddp", 2, 1, 16),
]


def seconds_a_step(folder: Path, autoencoder: Path, run: tuple[str, int, int, int]) -> float:
    """Median time of a step of a run that is made for it."""
    strategy, num_processes, num_threads, batch_size = run
    at = folder / "-".join(map(str, run))
    words = [
        *WORDS, f"autoencoder.pretrained={autoencoder}", f"strategy={strategy}", f"trainer.devices={num_processes}",
        f"data.batch_size={batch_size}", f"output_dir={at}",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
    command = [sys.executable, "-m", "experiments.run", *words]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    events = EventAccumulator(str(next(at.rglob("events.out*")).parent)).Reload().Scalars("train/loss")
    return statistics.median(after - before for before, after in pairwise(event.wall_time for event in events[10:]))


if __name__ == "__main__":
    folder, autoencoder = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    for run in RUNS:
        seconds = seconds_a_step(folder, autoencoder, run)
        rate = run[1] * run[3] / seconds
        print(
            "{}, {} processes of {} threads, {} images each:".format(*run),
            f"{seconds:.4f} s, {rate:.1f} images a second",
        )
