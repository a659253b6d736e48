"""Files of somebody else, made up at random: nothing of theirs is called, nothing lands outside of the folder, no
secret leaves the environment, and what cannot be used ends in a sentence.

`SYNFUNDUS_FUZZ_SECONDS=3600 python -m pytest -m slow -s tests/experiments/test_fuzz.py` tries for an hour.
"""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from checkpoints import saved
from foreign_checkpoints import MAKERS, TRAINED_ON, go_on, read, training
from foreign_files import INTERPOLATIONS, NAMES, SECRET, SECRET_VARIABLE, changed, damaged, tensors, tree_of, trees
from fuzzing import Watcher, search
from hypothesis import strategies as st
from released_sets import annotate, rewrite
from synthetic_sets import write_set

from datamodules.sources.csv import CsvSource
from experiments import errors
from experiments.composition import compose_config
from experiments.dataset_card import dataset_card
from experiments.dataset_export import dataset_export
from experiments.runs import newest_whole
from experiments.session import Run
from lightning_modules.checkpoint import CONFIG_KEY, TRAINED_ON_KEY, load_state
from lightning_modules.checkpoint_shards import REST, ShardedState
from lightning_modules.initialisation import CheckpointInit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]


@pytest.fixture(scope="module")
def watcher():
    return Watcher()


@pytest.fixture
def safely(watcher, tmp_path, monkeypatch):
    """`safely(run)`: it ends well, or in a sentence that names a file of the folder; nothing else happens."""
    root = tmp_path / "a" / "b" / "here"
    root.mkdir(parents=True)
    (tmp_path / "victim.txt").write_text("mine\n")
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    monkeypatch.chdir(root)
    said: list[str] = []
    for module in (errors, *(m for name, m in sys.modules.items() if name.startswith("experiments."))):
        for name in ("say", "say_error"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, said.append)

    def call(run: Callable[[], Any], names: Path = root) -> int:
        said.clear()
        before = tree_of(tmp_path, without=root)
        with watcher.within(root):
            status = errors.report_errors(run)  # whatever it does not explain fails the test, with its traceback
        assert tree_of(tmp_path, without=root) == before
        text = "\n".join(map(str, said))
        assert SECRET not in text
        if status:
            assert names.name in text, text
        for path in root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert SECRET.encode() not in path.read_bytes(), path
        return status

    call.root = root
    return call


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, bytes]:
    """The bytes of a checkpoint of every kind."""
    folder = tmp_path_factory.mktemp("good")
    return {kind: saved(make(), folder / f"{kind}.ckpt").read_bytes() for kind, make in MAKERS.items()}


def test_checkpoints_whose_contents_are_others(safely, checkpoints):
    path = safely.root / "foreign.ckpt"
    contents = {}
    for kind, content in checkpoints.items():
        path.write_bytes(content)
        contents[kind] = torch.load(path, weights_only=True)

    def contents_of_checkpoints(data):
        kind = data.draw(st.sampled_from(sorted(contents)))
        content = dict(contents[kind])
        part = data.draw(st.sampled_from(["config", "config", "config", "state_dict", "trained on", "other"]))
        if part == "config":
            content[CONFIG_KEY] = data.draw(changed(content[CONFIG_KEY]))
        elif part == "state_dict":
            weights = dict(content["state_dict"])
            name = data.draw(st.sampled_from(sorted(weights)))
            others = {"shape": torch.zeros(1), "values": weights[name] * torch.nan, "kind": data.draw(trees),
                      "tensor": data.draw(tensors)}  # fmt: skip
            weights[name] = others[data.draw(st.sampled_from(sorted(others)))]
            content["state_dict"] = weights if data.draw(st.integers(0, 3)) else data.draw(trees)
        elif part == "trained on":
            name = data.draw(st.sampled_from(sorted(TRAINED_ON)))
            content[TRAINED_ON_KEY] = TRAINED_ON | {name: data.draw(st.one_of(tensors, tensors, trees))}
        else:
            content[data.draw(st.sampled_from([CONFIG_KEY, TRAINED_ON_KEY, *content]))] = data.draw(trees)
        torch.save(content, path)
        safely(lambda: read(kind, path), path)

    search(contents_of_checkpoints, data=st.data())


def test_checkpoints_that_are_damaged(safely, checkpoints):
    path = safely.root / "foreign.ckpt"

    def bytes_of_checkpoints(data):
        kind = data.draw(st.sampled_from(sorted(checkpoints)))
        path.write_bytes(data.draw(damaged(checkpoints[kind])))
        safely(lambda: read(kind, path), path)

    search(bytes_of_checkpoints, data=st.data())


def test_checkpoints_that_training_goes_on_from(safely):
    path = safely.root / "run/checkpoints/foreign.ckpt"
    path.parent.mkdir(parents=True)
    last = path.with_name("last.ckpt")
    last.touch()
    content = training(path.parent)

    def parts_of_training(data):
        torch.save(data.draw(changed(content)), path)
        safely(lambda: go_on(path), path)
        safely(lambda: newest_whole(path.parent.parent), last)

    search(parts_of_training, data=st.data())


def test_checkpoints_in_shares(safely):
    path = safely.root / "foreign.ckpt"
    shares, rest = ShardedState(training(path.parent)), path / REST
    content = {"sizes": shares.write(path), "rest": shares.rest}
    torch.save(content, rest)
    whole = {file: file.read_bytes() for file in path.iterdir()}

    def files_of_shares(data):
        for file, held in whole.items():
            file.write_bytes(held)
        if data.draw(st.booleans()):
            torch.save(data.draw(changed(content)), rest)
        else:
            file = data.draw(st.sampled_from(sorted(whole)))
            file.write_bytes(data.draw(damaged(whole[file])))
        safely(lambda: load_state(path), path)
        safely(lambda: go_on(path), path)

    search(files_of_shares, data=st.data())


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    """A whole set of four images in two shards, annotated."""
    root = write_set(tmp_path_factory.mktemp("released") / "set", num_images=4, num_shards=2, side=16)
    annotate(root)
    return root


def use(root: Path, form: str) -> list[Callable[[], Any]]:
    """What is done with a set that somebody gives away: it is exported, and a card is written for it."""
    export = compose_config(["+exp=dataset_export", f"job.dataset={root}", f"job.format={form}",
                             f"output_dir={root.parent}/export", "job.num_workers=1"])  # fmt: skip
    card = compose_config(["+exp=dataset_card", f"job.dataset={root}", f"output_dir={root.parent}/card"])
    return [lambda: dataset_export(Run(export)), lambda: dataset_card(Run(card))]


LINKS = ["set/.lock", "set/.progress", "set/samples", "set/README.md", "set/manifest.json", "set/annotations",
         "set/checksums", "export/images", "export/labels.csv", "export/export.json", "export/record.json",
         "export/config.yaml", "export/.lock", "card/record.json", "card/error.log"]  # fmt: skip


def test_sets_whose_files_are_others(safely, released):
    ways = {form: use(safely.root / "set", form) for form in ("folder", "synfundus1m")}
    files = [path.relative_to(released) for path in sorted(released.rglob("*")) if path.is_file()]

    def files_of_sets(data):
        for name in ("set", "export", "card"):
            place = safely.root / name
            place.unlink() if place.is_symlink() else shutil.rmtree(place, ignore_errors=True)
        root = shutil.copytree(released, safely.root / "set")
        for _ in range(data.draw(st.integers(1, 2))):
            file = root / data.draw(st.sampled_from(files))
            how = data.draw(st.sampled_from(["tree", "tree", "bytes", "name", "link"]))
            if how == "tree" and file.suffix == ".json":
                content: Any = {}
                with contextlib.suppress(OSError, ValueError):  # damaged a moment ago
                    content = json.loads(file.read_text())
                text = json.dumps(data.draw(changed(content)), ensure_ascii=True)
                with contextlib.suppress(OSError):
                    file.write_text(text)
            elif how == "name":
                with contextlib.suppress(Exception):  # damaged a moment ago
                    rename(root, data.draw(st.sampled_from([*NAMES, *INTERPOLATIONS])))
            elif how == "link":
                link = safely.root / data.draw(st.sampled_from(LINKS))
                if not link.parent.is_symlink():
                    shutil.rmtree(link) if link.is_dir() and not link.is_symlink() else link.unlink(missing_ok=True)
                    link.parent.mkdir(exist_ok=True)
                    link.symlink_to(data.draw(st.sampled_from(["../../../victim.txt", "../../..", "/nowhere"])))
            elif file.is_file():
                file.write_bytes(data.draw(damaged(file.read_bytes())))
        for run in data.draw(st.sampled_from(sorted(ways.items())))[1]:
            safely(run, Path(safely.root.name))

    search(files_of_sets, data=st.data())


def rename(root: Path, name: str) -> None:
    """Give the first image of every shard that id, and that path."""

    def change(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        rows[0]["id"], rows[0]["image"]["path"] = name, f"{name}.png"
        return pa.Table.from_pylist(rows, schema=table.schema)

    rewrite(root, change)


cells = st.one_of(st.sampled_from([*NAMES, *INTERPOLATIONS, "0.png", "./0.png", "1.png", "/etc/hostname"]),
                  st.integers(-2, 6).map(str), st.text(max_size=6))  # fmt: skip
HEADER = ["path", "patient", "id", "split", "dr_grade", "is_gc"]


def test_tables_of_any_text(safely):
    from PIL import Image

    for name in ("0.png", "1.png"):
        Image.new("RGB", (16, 16), (90, 60, 30)).save(safely.root / name)
    (safely.root / "link.png").symlink_to("../../../victim.txt")

    def tables(header, rows, separator, data):
        lines = [separator.join(header), *(separator.join(row[: len(header)]) for row in rows)]
        content = "\n".join(lines).encode("utf-8", "surrogatepass")
        table = safely.root / "t.csv"
        table.write_bytes(data.draw(st.one_of(st.just(content), damaged(content))))
        safely(lambda: CsvSource(safely.root, "t.csv").index(), Path("t.csv"))

    search(
        tables,
        header=st.permutations(HEADER).map(list),
        rows=st.lists(st.lists(cells, min_size=6, max_size=6), max_size=4),
        separator=st.sampled_from([",", ";", "\t"]),
        data=st.data(),
    )


def test_files_of_weights(safely, checkpoints):
    from safetensors.torch import save

    network = torch.nn.Linear(3, 2)
    good = {"x.safetensors": save(network.state_dict())}
    path = safely.root / "x.pth"
    torch.save({"model": network.state_dict(), "epoch": 3}, path)
    good["x.pth"] = path.read_bytes()

    def files_of_weights(data):
        name = data.draw(st.sampled_from(sorted(good)))
        path = safely.root / name
        if name.endswith(".pth") and data.draw(st.booleans()):
            torch.save(data.draw(st.one_of(trees, st.builds(lambda tree: {"model": tree}, trees))), path)
        else:
            path.write_bytes(data.draw(damaged(good[name])))
        safely(lambda: CheckpointInit(str(path))(torch.nn.Linear(3, 2)), path)

    search(files_of_weights, data=st.data())
