"""The pairs of real data and of synthetic sets for nnU-Net: real cases are validated on, generated ones only train."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from callbacks.files import own_folder, write_json
from datamodules.errors import UserError
from datamodules.files import write_csv
from datamodules.findings import NAMES
from datamodules.fundus import FundusDataModule
from datamodules.manifest import Manifest
from datamodules.shards import ShardSource
from datamodules.synthetic import SyntheticSet
from datamodules.synthetic.lineage import generators
from experiments.export.claims import check_set, claim, facts_of_set
from experiments.export.folds import NO_FOLD, folds_of, splits_of
from experiments.export.layouts import NNUNET
from experiments.export.masks import MaskValues, levels_of_set
from experiments.export.nnunet import NnunetLayout, any_has, dataset_json, folder_name, keys_of, values_of, write_splits
from experiments.export.pictures import write_pictures
from experiments.export.real_pairs import RealPairs, read_real, real_config, real_datamodule
from experiments.export.tables import cells, lines, pieces
from experiments.lineage import WHOSE, check_ancestors
from experiments.report import heading, say
from experiments.session import Run

PREPROCESSED, SPLITS_FILE, CASES = "nnUNet_preprocessed", "splits_final.json", "cases.csv"


@dataclass(frozen=True)
class Folded:
    """Real pairs with the fold that each is validated in, int64 [N], NO_FOLD for none."""

    pairs: RealPairs
    folds: np.ndarray

    @property
    def training(self) -> dict[str, int]:
        """The fold of each case that is not for testing."""
        rows = zip(self.pairs.cases, self.folds.tolist(), self.pairs.manifest.splits, strict=True)
        return {case: fold for case, fold, split in rows if split != "test"}

    @property
    def table(self) -> dict[str, Sequence[Any]]:
        """The rows of cases.csv."""
        manifest = self.pairs.manifest
        keys = keys_of(self.pairs.cases, "real", manifest.ids) | {
            "patient": manifest.patients,
            "split": ["test" if split == "test" else "train" for split in manifest.splits],
            "fold": ["" if fold == NO_FOLD else fold for fold in self.folds.tolist()],
            "seed": [""] * len(manifest),
        }
        return keys | dict(zip(NAMES, map(cells, manifest.labels.T.tolist()), strict=True))

    def sides(self) -> Manifest:
        """The manifest with `val` as the split of every image that is validated on in a fold."""
        rows = zip(self.folds, self.pairs.manifest.splits, strict=True)
        column = pa.array([split if fold == NO_FOLD else "val" for fold, split in rows]).dictionary_encode()
        table = self.pairs.manifest.table
        return Manifest(table.set_column(table.column_names.index("split"), "split", column))


def export_nnunet(run: Run) -> dict[str, float]:
    """Write the pairs of `job.real` and of synthetic sets into `cfg.output_dir`; returns what the record keeps.

    Raises:
        ValueError: settings, sets or data that do not fit; names which.
    """
    job, output_dir = run.job, run.output_dir
    folder, datasets = folder_name(job["number"], job["name"]), _datasets(job)
    levels = {f"the set {str(dataset.root)!r}": levels_of_set(dataset, NNUNET) for dataset in datasets}
    datamodule = None
    if job["real"]:
        size = datasets[0].recipe["image"]["size"] if datasets else None
        datamodule = real_datamodule(real_config(job["real"], run.cfg.seed, run.cfg.cache_dir, size))
        levels["job.real"] = datamodule.source.mask_levels
    values = values_of(levels)
    owned = (f"{folder.partition('_')[0]}_*", f"{PREPROCESSED}/{folder}")
    claim(output_dir, _mark(run, folder, datasets, datamodule), datasets, owned)
    with run.recorded() as record:
        real = None
        if datamodule is not None:
            pairs = read_real(datamodule, output_dir / "real")
            real = Folded(pairs, folds_of(pairs.manifest, job["folds"], run.cfg.seed))
            _check_lineage(real, datasets)
        metrics = _write(run, folder, values, datasets, real)
        record.finish("finished", metrics)
    say(_summary(run, folder, metrics, real is not None))
    run.end()
    return metrics


def _datasets(job: Mapping[str, Any]) -> list[SyntheticSet]:
    """The synthetic sets of a job, checked."""
    if job["binary_masks"]:
        raise UserError("job.binary_masks=true is for job.format=pairs: labels of nnU-Net are 0, 1, 2.")
    roots = [root for root in (job["dataset"], *job["more_datasets"]) if root]
    if not roots and not job["real"]:
        raise UserError(
            "nothing to export: give job.dataset=<folder of a synthetic set>, "
            "\"job.real=['data=kvasir_seg','data.root=<folder>','data.image_size=512']\", or both."
        )
    datasets = [SyntheticSet(Path(root).expanduser()) for root in roots]
    for place, dataset in enumerate(datasets):
        check_set(dataset, job["only_accepted"])
        twin = next((other for other in datasets[:place] if other.id_prefix == dataset.id_prefix), None)
        if twin is not None:
            raise UserError(f"{str(twin.root)!r} and {str(dataset.root)!r} are the same set. Remedy: give it once.")
    return datasets


def _mark(
    run: Run, folder: str, datasets: Sequence[SyntheticSet], datamodule: FundusDataModule | None
) -> dict[str, Any]:
    """What the files of the folder are of."""
    job, real = run.job, {}
    if datamodule is not None:
        source, index = datamodule.parts()[0]
        real = {"index": index.fingerprint, "files": source.identity(), "folds": job["folds"], "seed": run.cfg.seed}
    sets = [facts_of_set(dataset) for dataset in datasets]
    return {"format": NNUNET, "folder": folder, "sets": sets, "only_accepted": job["only_accepted"],
            "real": job["real"], **real}  # fmt: skip


def _check_lineage(real: Folded, datasets: Sequence[SyntheticSet]) -> None:
    """Refuse test patients who trained a generator; say it of those who are validated on."""
    found = [ancestor for dataset in datasets for ancestor in generators(ShardSource(dataset.root))]
    for ancestor in found:
        if ancestor.codes is None:
            say(f"note: {ancestor.what} {WHOSE}: whether patients who are validated on are among them cannot be told.")
    check_ancestors([(real.pairs.source, real.sides())], found)


def _write(
    run: Run, folder: str, values: MaskValues, datasets: Sequence[SyntheticSet], real: Folded | None
) -> dict[str, float]:
    """Write images, masks, cases.csv, the splits where there are real cases, and dataset.json last; returns counts."""
    job, root = run.job, run.output_dir / folder
    for name in ("imagesTr", "labelsTr"):
        own_folder(root, name)
    written = [] if real is None else [real.pairs.write(root, values, job["num_workers"])]
    table = [] if real is None else [real.table]
    names = []
    for dataset in datasets:
        layout = NnunetLayout(folder, dataset.id_prefix)
        written.append(
            write_pictures(dataset, layout, run.output_dir, job["only_accepted"], job["num_workers"], values)
        )
        found = list(pieces(dataset, dataset.shards, layout, job["only_accepted"]))
        table, names = table + found, names + [name for piece in found for name in piece["case"]]
    write_csv(root / CASES, lines(table))
    labels = [root / "labelsTr" / f"{name}.png" for name in names]
    training = {} if real is None else real.training
    if real is not None:
        labels += [root / mask for _, mask in real.pairs.files()]
        own_folder(splits_folder(run), folder)
        write_splits(splits_folder(run) / folder / SPLITS_FILE, splits_of(training, names, job["folds"]))
    has_unknown = any_has(labels, values.unknown, job["num_workers"])
    write_json(root / "dataset.json", dataset_json(folder, values, has_unknown, len(training) + len(names)))
    return {
        "export/num_written": float(sum(one.num_new for one in written)),
        "export/num_there": float(sum(one.num_there for one in written)),
        "export/num_real_training": float(len(training)),
        "export/num_real_test": float(len(labels) - len(training) - len(names)),
        "export/num_synthetic": float(len(names)),
    }


def splits_folder(run: Run) -> Path:
    """What nnU-Net is given as nnUNet_preprocessed."""
    return Path(run.job["preprocessed"] or run.output_dir / PREPROCESSED).expanduser()


def _summary(run: Run, folder: str, metrics: Mapping[str, float], has_real: bool) -> str:
    """What was written, and how nnU-Net is run on it."""
    number, count = int(folder[7:10]), {name.rpartition("/")[2]: int(value) for name, value in metrics.items()}
    lines = {
        "cases": f"{count['num_real_training']} real and {count['num_synthetic']} generated for training, "
        f"{count['num_real_test']} real for testing",
        "files": f"{count['num_written']} cases written, {count['num_there']} were there",
        "dataset": str(run.output_dir / folder),
        "folds": f"{run.job['folds']} in {splits_folder(run) / folder / SPLITS_FILE}" if has_real else
        "none: without real cases there is nothing to validate on",
        "nnU-Net": f"export nnUNet_raw={run.output_dir.resolve()} nnUNet_preprocessed={splits_folder(run).resolve()}",
        "plan": f"nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity",
        "train": f"nnUNetv2_train {number} 2d {0 if has_real else 'all'}",
    }  # fmt: skip
    return "\n".join([heading("export"), *(f"  {name + ':':<16}{line}" for name, line in lines.items())])
