"""The documentation says what is: its links, commands, keys and tables hold, and its code runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from doc_pages import FENCE, RUN, blocks, commands
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.findings import FINDINGS
from experiments.backbone_names import spelt_out
from experiments.composition import check_command, compose_config, experiments

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CHECKED = [page for page in PAGES if page.name != "errors.md"]  # its commands are mistaken on purpose
TRIED = ("adding-a-backbone.md", "adding-a-dataset.md", "adding-a-callback.md")
ROOMS = ("lightning_modules", "datamodules", "callbacks", "experiments")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SETTING = re.compile(r"[+~]{0,2}([a-z][\w/.]*(?:@[\w.]+)?)=(.*)", re.DOTALL)
ADDED_BY_THE_PAGES = ("model/denoiser=conv", "model.denoiser.width=48")


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def known_keys(composed) -> set[str]:
    """Dotted keys that any experiment or source has."""
    commands = [[f"+exp={name}"] for name in experiments()]
    commands.append(["+exp=ddpm_train", "data=csv", "data.root=.", "data.table=t.csv"])
    commands.append(["+exp=ddpm_train", "data=synfundus1m", "data.root=."])
    commands.append(["+exp=ddpm_train", "data=union", "data.root=.", "data.sources=[idrid]"])
    return {key for words in commands for key in leaves(composed(*words), "")}


def leaves(node, prefix: str) -> list[str]:
    found = []
    for key in node:
        child = None if node._get_node(key)._is_interpolation() else node._get_node(key)
        found.append(f"{prefix}{key}")
        if hasattr(child, "keys") and not child._is_none():
            found += leaves(child, f"{prefix}{key}.")
    return found


def option_exists(group: str, option: str) -> bool:
    return (ROOT / "experiments" / "conf" / group.split("@")[0] / f"{option}.yaml").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}: {file.name} has no such heading"


@pytest.mark.parametrize("page", CHECKED, ids=lambda page: page.name)
def test_experiments_that_are_named_exist(page):
    named = set(re.findall(r"\+exp=([a-z]\w*)", page.read_text(encoding="utf-8")))
    own = {"drift_train"} if page.name in TRIED else set()
    assert named <= set(experiments()) | own


@pytest.mark.parametrize("page", [page for page in CHECKED if page.name not in TRIED], ids=lambda page: page.name)
def test_commands_compose(page):
    for block in blocks(page):
        for command in commands(block.text) if block.language == "bash" else ():
            found = re.search(rf"{RUN}(.*)", command)
            words = [] if found is None else shlex.split(re.sub(r"=<(\w+)>", r"=\1", found[1]), comments=True)
            if any(word.startswith("+exp=") for word in words):
                compose_config(spelt_out(word for word in words if "=" in word or word.startswith("~")))


@pytest.mark.parametrize("page", CHECKED, ids=lambda page: page.name)
def test_sweeps_compose(page):
    for block in blocks(page):
        for command in commands(block.text) if block.language == "sh" else ():
            found = re.search(rf"{RUN} (-m .*)", command)
            if found is not None:
                if "submitit" in command:
                    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
                check_command(shlex.split(found[1]))


def test_the_batch_script_is_one_and_composes(tmp_path):
    """Its last command, as the shell makes it of the variables of a job and of words behind the script."""
    script = ROOT / "docs/slurm/train.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    (tmp_path / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/activate").touch()
    job = {"SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "x", "SLURM_JOB_ID": "7"}
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SYNFUNDUS_VENV": str(tmp_path)}
    words = ["data=csv", "data.root=/photos", "data.table=/photos/labels.csv"]
    done = subprocess.run(["bash", script, *words], env={**os.environ, **job, **path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[:4] == ["--kill-on-bad-exit=1", "python", "-m", "experiments.run"]
    cfg = compose_config(spelt_out(said[4:]))
    assert (cfg.trainer.devices, cfg.trainer.num_nodes, cfg.resume, cfg.output_dir) == (4, 2, "auto", "runs/x-7")
    settings = re.findall(r"^#SBATCH (\S+)", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"--ntasks-per-node=4", "--nodes=2", "--requeue", "--signal=USR1@180"} <= set(settings)


@pytest.mark.parametrize("page", CHECKED, ids=lambda page: page.name)
def test_settings_that_are_mentioned_exist(page, known_keys):
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        for word in code.split() if "(" not in code else ():  # else it is Python
            setting = SETTING.fullmatch(word)
            if setting is None or word in ADDED_BY_THE_PAGES:
                continue
            key, value = setting.groups()
            if (ROOT / "experiments" / "conf" / key.split("@")[0]).is_dir() and key != "exp":
                assert option_exists(key, value) or not value.isidentifier(), f"{page.name}: {word} is no option"
            elif key != "exp" and not word.startswith(("+", "hydra.")):
                assert key in known_keys, f"{page.name}: {word} is no setting of any experiment"


def rows_of_keys() -> list[list[str]]:
    """The cells of the table of keys."""
    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8").split("## The keys a user types")[1]
    return [line.split("|") for line in text.split("###")[0].splitlines() if line.startswith("| ")][1:]


def test_keys_in_the_table_of_keys_exist(known_keys):
    for row in rows_of_keys():
        for key in re.findall(r"`([^`]+)`", row[1]):
            group = ROOT / "experiments" / "conf" / key.split("@")[0]
            assert key.removeprefix("~") in known_keys or group.is_dir(), f"{key} is no key"


def test_defaults_in_the_table_of_keys_are_those_of_ddpm_train():
    cfg = compose_config(["+exp=ddpm_train"])
    num_compared = 0
    for row in rows_of_keys():
        keys, defaults = re.findall(r"`([^`]+)`", row[1]), row[2].replace("`", "").strip().split(", ")
        for key, default in zip(keys, defaults, strict=len(keys) == len(defaults)):
            value = OmegaConf.select(cfg, key) if re.fullmatch(r"[\w.]+", key) else None
            if key in ("output_dir", "cache_dir", "data.root", "data.table") or isinstance(value, DictConfig):
                continue
            if re.fullmatch(r"[\w.]+", key):
                value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
                assert yaml.safe_load(default) in (value, str(value)) or default == str(value), f"{key} is {value}"
                num_compared += 1
    assert num_compared > 20


def test_numbers_of_parameters_are_those_of_the_presets():
    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) M \|", text, re.MULTILINE))
    given = {"latent_channels": 4, "latent_size": 16, "cond_dim": 256}
    for group, arguments in (("denoiser", given), ("autoencoder", {})):
        for file in (ROOT / "experiments" / "conf" / "model" / group).glob("*.yaml"):
            with torch.device("meta"):
                cfg = compose_config(["+exp=ddpm_train", f"model/{group}={file.stem}"])
                network = instantiate(cfg.model[group], **arguments)
            millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
            told = table[file.stem]
            assert f"{millions:.{len(told.partition('.')[2])}f}" == told, f"{file.stem} has {millions:.3g} M"


def test_table_of_findings_is_that_of_the_code():
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", text.split("## Findings")[1], re.MULTILINE)
    levels = [", ".join(f"{i} {level}" for i, level in enumerate(finding.levels)) for finding in FINDINGS]
    wanted = [(f.name, f.title, level, f.description) for f, level in zip(FINDINGS, levels, strict=True)]
    assert rows[: len(wanted)] == wanted


def test_every_option_is_in_the_tables_of_presets():
    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    for group in ("model/denoiser", "model/autoencoder", "exp"):
        for file in (ROOT / "experiments" / "conf" / group).glob("*.yaml"):
            assert f"| `{file.stem}` |" in text, f"docs/experiments.md does not have {group}={file.stem}"


def test_every_file_of_the_rooms_is_in_the_architecture():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for room in ROOMS:
        for file in (ROOT / room).glob("*.py"):
            known = file.name == "__init__.py" or f"{file.name}`" in text
            assert known, f"docs/architecture.md lacks {room}/{file.name}"


@pytest.mark.slow
def test_code_of_the_pages_on_adding_runs(tmp_path):
    """A copy of the rooms stands for the reader's checkout; every block of the three pages is run there."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    network = timm.create_model("mobilenetv3_small_050", pretrained=False)
    torch.save(network.state_dict(), tmp_path / "mobilenet.pth")  # stands for a file that a reader has
    script = Path(__file__).with_name("doc_pages.py")
    command = [sys.executable, str(script), *(str(ROOT / "docs" / name) for name in TRIED)]
    environment = {**os.environ, "SYNFUNDUS_CACHE": "cache", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=570)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    assert [f"ran {name}" for name in TRIED] == re.findall("^ran .*$", result.stdout, re.MULTILINE)
