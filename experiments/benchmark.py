"""`+exp=benchmark`: what the framework costs and what its choices save; `job.case` names the comparison."""

from datamodules.errors import UserError
from experiments.benchmarks.guidance import compare_guidance
from experiments.benchmarks.latents import compare_latents
from experiments.benchmarks.recipe import compare_recipes
from experiments.benchmarks.sampling import compare_sampling
from experiments.benchmarks.step import compare_step
from experiments.session import Run

CASES = {
    "step": compare_step,
    "latents": compare_latents,
    "sampling": compare_sampling,
    "guidance": compare_guidance,
    "recipe": compare_recipes,
}


def benchmark(run: Run) -> dict[str, float]:
    """Run the case; it prints a table and writes `<output_dir>/benchmark.json`. Returns its main figure.

    Raises:
        ValueError: no such case; settings that the case cannot use.
    """
    case = run.cfg.job.case
    if case not in CASES:
        raise UserError(f"job.case={case} is no case of the benchmark. Cases: {', '.join(CASES)}.")
    return CASES[case](run)
