"""A folder of one's own mirrors experiments/conf/: its experiments and options are found, and its mistakes named."""

from importlib import resources
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.composition import CommandError, check_command, compose_config
from experiments.known_keys import ADMITS
from experiments.typed_text import OPTIONS

OWN = "# @package _global_\n# My own.\ndefaults:\n  - inspect_data\n  - _self_\nname: own\n"
HOW = [["hydra.searchpath=[file://mine]"], ["--config-dir", "mine"], ["--config-dir=mine"]]


@pytest.fixture
def mine(here):
    """Writes files of a folder `mine` in the working folder."""

    def write(name: str, text: str, encoding: str = "utf-8") -> None:
        (here / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "mine" / name).write_text(text, encoding)

    return write


def refused(*words: str) -> str:
    with pytest.raises(CommandError) as caught:
        check_command(list(words))
    return str(caught.value)


@pytest.mark.parametrize("how", HOW)
def test_an_experiment_is_found_and_listed(mine, how):
    mine("exp/own.yaml", OWN)
    mine("exp/2024_01.yaml", OWN)
    assert check_command([*how, "+exp=own", "seed=1"]) == [*how, "+exp=own", "seed=1"]
    assert "+exp='2024_01'" in check_command(["+exp=2024_01", *how, "seed=1"])
    assert "did you mean own?" in refused("+exp=onw", *how)
    assert "  own                        My own." in refused(*how)


@pytest.mark.parametrize("place", ["pkg://", "pkg://no.such", "pkg://..", "file://nowhere"])
def test_a_folder_that_is_none_is_named(here, place):
    said = refused(f"hydra.searchpath=[{place}]", "+exp=inspect_data")
    assert said.startswith(("hydra.searchpath names ", "hydra.searchpath or --config-dir names ")) and place in said


@pytest.mark.parametrize("how", HOW)
def test_a_misspelt_key_is_one_there_too(mine, how):
    mine("exp/own.yaml", OWN)
    mine("data/mine.yaml", "defaults: [folder]\nroot: photos\n")
    assert "'data.imag_size': did you mean image_size" in refused(*how, "+exp=own", "data=mine", "data.imag_size=3")
    assert "'trainr.x': did you mean trainer" in refused(*how, "+exp=own", "trainr.x=3")


def test_an_option_declares_what_it_admits(mine):
    mine("exp/own.yaml", OWN)
    option = "defaults: [folder]\nroot: photos\nshares: {a: 1}\nlimit: 3\n"
    words = ["--config-dir=mine", "+exp=own", "data=mine"]
    mine("data/mine.yaml", option)
    assert "unknown key 'data.shares.b'" in refused(*words, "+data.shares.b=2")
    assert "data.limit=none: a whole number is needed" in refused(*words, "data.limit=none")
    mine("data/mine.yaml", f"# any keys: shares\n# any kind: limit\n{option}")
    check_command([*words, "+data.shares.b=2", "data.limit=none"])


def test_every_key_that_is_declared_is_there():
    folder = Path(str(resources.files(OPTIONS)))
    declared = [(file, keys) for file in folder.rglob("*.yaml") for _, keys in ADMITS.findall(file.read_text("utf-8"))]
    assert len(declared) == len({file for file, _ in declared}) + 1 > 5, "annotate.yaml has both"
    for file, keys in declared:
        option = OmegaConf.load(file)
        for key in map(str.strip, keys.split(",")):
            *above, last = key.split(".")
            node = OmegaConf.select(option, ".".join(above)) if above else option
            assert last in node, f"{file.name} has no {key}"


def test_both_ways_at_once(mine, here):
    mine("exp/own.yaml", OWN)
    (here / "more" / "data").mkdir(parents=True)
    (here / "more" / "data" / "mine.yaml").write_text("defaults: [folder]\nroot: photos\n")
    check_command(["--config-dir=mine", "hydra.searchpath=[file://more]", "+exp=own", "data=mine"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OWN.replace("# @package _global_\n", ""), "# @package _global_"),
        (OWN + " - a\nb: [\n", "own.yaml"),
        (OWN + "# é\n", "own.yaml"),
        (OWN + "data:\n  root: 2024_01\n", "data.root=202401: text is needed here"),
        ("", "# @package _global_"),
    ],
)
def test_a_file_that_is_none_is_named(mine, text, said):
    mine("exp/own.yaml", text, "latin-1")
    assert said in refused("--config-dir=mine", "+exp=own", "data=folder", *([] if "root" in text else ["data.root=x"]))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("--config-dir=nowhere", "nowhere, and there is no such folder"),
        ("hydra.searchpath=[file://nowhere]", "nowhere, and there is no such folder"),
        ("hydra.searchpath=[pkg://no.where]", "pkg://no.where, which is no package"),
        ("hydra.searchpath=mine", "write hydra.searchpath=[file://FOLDER]"),
    ],
)
def test_a_folder_that_is_not_there(how, said):
    assert said in refused("+exp=inspect_data", how)


def test_the_command_takes_it(mine, command):
    mine("exp/own.yaml", OWN)
    result = command("--config-dir", "mine", "+exp=own", "--cfg", "job")
    assert result.code == 0 and "name: own" in result.out
    assert compose_config(["+exp=own", "hydra.searchpath=[file://mine]"]).name == "own"
