"""`job.case=guidance`: what the scale of guidance gives and costs, of one generator.

The generator is `ckpt`, the data those that it learnt from. `job.vary` names what is varied of its sampling, over
`job.scales`; the rest stays its own, and so do labels and seeds. A scale is too high where the agreement no longer
rises, or where images lose variety: the distance rises and the coverage falls.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from callbacks.files import write_atomically, write_text
from datamodules.errors import UserError
from experiments.benchmarks.common import FILE, circumstances, write_figures
from experiments.benchmarks.generators import generator_of, measures_of, said, trainer_with_data
from experiments.report import heading, say
from experiments.reports.figures import COLOURS, empty_figure, pixels
from experiments.reports.render import markdown_table
from experiments.session import Run
from lightning_modules.names import check_name

VARIED = ("classifier_scale", "guidance", "guidance_rescale")


def compare_guidance(run: Run) -> dict[str, float]:
    """Measure the images at each scale; writes benchmark.json, benchmark.md and benchmark.png.

    Raises:
        ValueError: no generator, data of another size than it makes, no scales, or one that means nothing.
    """
    generator, cfg, output_dir, job = generator_of(run), run.cfg, run.output_dir, run.job
    varied, scales = check_name("job.vary", job["vary"], VARIED), sorted(set(job["scales"]))
    if not scales:
        raise UserError("job.scales is empty: name one at least.")
    own = dict(generator.sampling)
    for scale in scales:
        generator.sample_by(**own | {varied: scale})  # what means nothing is said now
    trainer, points = trainer_with_data(run, generator), []
    with run.recorded() as record:
        measures = measures_of(run, trainer)
        for scale in scales:
            say(f"{varied} {scale:g}: distance, coverage and agreement of {job['num_images']} images")
            points.append({"scale": scale, **measures.of(generator, own | {varied: scale})})
        facts = {name: job[name] for name in ("num_images", "num_real")}
        found = {"varied": varied, "own": own, "points": points, **measures.facts()}
        everything = {"case": "guidance", "ckpt": str(cfg.ckpt), **found, **facts, **circumstances(run, generator)}
        write_figures(output_dir, everything)
        write_text(output_dir / "benchmark.md", f"# {varied}: what its scale gives and costs\n\n{table(found)}\n")
        write_atomically(output_dir / "benchmark.png", Image.fromarray(figure(found)).save)
        metrics = {"benchmark/agreement": max((point["agreement"] or 0.0) for point in points)}
        record.finish("finished", metrics)
    say("\n".join([heading("done"), table(found), f"figure:       {output_dir / 'benchmark.png'}",
                   f"everything:   {output_dir / FILE}"]))  # fmt: skip
    return metrics


def table(found: Mapping[str, Any]) -> str:
    """Markdown: a row a scale, a column a figure."""
    rows = [[f"{point['scale']:g}", f"{point[found['distance']]:.4g}", said(point.get(found["coverage"])),
             said(point["agreement"])] for point in found["points"]]  # fmt: skip
    table = markdown_table([found["varied"], found["distance"], "coverage", "agreement"], rows)
    return f"{table}\n\nAgreement of real validation images: {said(found['agreement_real'])}."


def figure(found: Mapping[str, Any]) -> np.ndarray:
    """uint8 [H, W, 3]: agreement, distance and coverage over the scale; real images' agreement as a line."""
    drawn = empty_figure(9.0, 2.8)
    names = (("agreement", "agreement with the labels"), (found["distance"], "Fréchet distance"),
             (found["coverage"], "coverage"))  # fmt: skip
    for axes, (key, words) in zip(drawn.subplots(1, 3), names, strict=True):
        _draw(axes, found["points"], key)
        axes.axvline(found["own"][found["varied"]], color="0.6", linestyle=":", linewidth=1)
        axes.set_xlabel(found["varied"], fontsize=8)
        axes.set_ylabel(words, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        if key == "agreement" and found["agreement_real"] is not None:
            axes.axhline(found["agreement_real"], color="0.3", linestyle="--", linewidth=1, label="real images")
            axes.legend(fontsize=7)
    return pixels(drawn)


def _draw(axes: Axes, points: Sequence[Mapping[str, Any]], key: str) -> None:
    known = [(point["scale"], point[key]) for point in points if point.get(key) is not None]
    axes.plot(*zip(*known, strict=True) if known else ([], []), color=COLOURS[0], marker="o", markersize=3)
