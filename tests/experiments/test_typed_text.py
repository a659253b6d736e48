"""What is typed for a path or a name is taken as it is, whatever Hydra or YAML would read in it."""

from importlib import resources
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from refusals import refuses

from experiments.composition import CommandError, check_command, compose_config
from experiments.typed_text import OPTIONS, as_typed, quoted, takes_text

ODD = ["2024_01", "2024", "20250101", "1e3", ".5", "0x10", "1:30", "2024-01-02", "inf", "nan", "true", "off", "yes",
       "a,b", "a=b", "a~b", "a(b", "(a)", "{a", "[a] b", "a#b", "#1", "$a", "a b", "Bob's", 'a"b', "Augenhintergrund ä",
       "照片", "a;b", "a&b", "a\nb", "C:\\photos\\", "\\\\server\\share", "x\x1b[31m"]  # fmt: skip


def read(word: str) -> object:
    """The value that Hydra reads in a word; of a sweep, the values."""

    def plain(value: object) -> object:
        if isinstance(value, list):
            return [plain(each) for each in value]
        if isinstance(value, dict):
            return {str(key): plain(each) for key, each in value.items()}
        return value.text if isinstance(value, QuotedString) else value

    override = OverridesParser.create().parse_override(word)
    if override.is_sweep_override():
        return [read(f"key={text}") for text in override.sweep_string_iterator()]
    return plain(override.value())


@pytest.mark.parametrize("text", [*ODD, "null"])
@pytest.mark.parametrize("key", ["data.root", "output_dir", "++data.synthetic.root"])
def test_a_path_stays_as_it_is_typed(key, text):
    [word] = as_typed([f"{key}={text}"])
    assert word.startswith(f"{key}=") and read(word) == text


@pytest.mark.parametrize("text", [text for text in ODD if not {",", "{", "\x1b"} & set(text)])
def test_so_it_does_in_lists_and_mappings_and_sweeps(text):
    [runs, own, groups] = as_typed(
        [f"job.runs=[{text},2]", f"+data.own.a={{root: {text}, table: 1}}", f"job.groups={{a: [{text}, 2]}}"]
    )
    assert read(runs) == [text, "2"]
    assert read(own) == {"root": text, "table": "1"}
    assert read(groups) == {"a": [text, "2"]}
    assert read(as_typed([f"data.root={text},7"], is_sweep=True)[0]) == [text, "7"]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data.root=range(2020,2022)", ["2020", "2021"]),
        ("data.root=choice(2024_01,2)", ["2024_01", "2"]),
        ("job.license='a,b',no", ["a,b", "no"]),
        ("+data.roots.idrid=1,2", ["1", "2"]),
        ("seed=1,2", [1, 2]),
        ("data=1_0,2", ["1_0", "2"]),
    ],
)
def test_a_sweep_that_is_asked_for_is_one(word, value):
    assert read(as_typed([word], is_sweep=True)[0]) == value


@pytest.mark.parametrize(
    "word",
    ["seed=7", "data.image_size=6_4", "ckpt=null", "data.root='2024 x'", 'data.root="7"', "output_dir=runs/${name}/1",
     "data.root=a\\,b", "~callbacks.frechet", "model/init=null", "data=csv", "job.runs=a,b", "--config-dir=7",
     "+data.roots={a}", "job.pretrain=['data=phantom','data.num_images=4000']", "trainer.devices=[0,1]"],
)  # fmt: skip
def test_other_words_and_what_is_in_quotes_stay(word):
    assert as_typed([word]) == [word]


def test_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/you")
    words = as_typed(["data.root=~/a", "job.runs=[~/a,b~]", "job.title=~/a", "data.root='~/a'"])
    assert [read(word) for word in words] == ["/home/you/a", ["/home/you/a", "b~"], "~/a", "~/a"]


def test_no_home(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with refuses(ValueError, "~/a", "HOME"):
        as_typed(["data.root=~/a"])


def test_the_configuration_has_the_text():
    words = ["+exp=inspect_data", "data=csv", "data.root=2024_01", "data.table=1.0", "output_dir=null", "cache_dir=7",
             "resume=true", "ckpt=1e3"]  # fmt: skip
    cfg = compose_config(words)
    assert (cfg.data.source.root, cfg.data.source.table, cfg.output_dir) == ("2024_01", "1.0", "null")
    assert (cfg.data.module.cache_dir, cfg.resume, cfg.ckpt) == ("7", "true", "1e3")
    assert check_command(words)[2:5] == ["data.root='2024_01'", "data.table='1.0'", "output_dir='null'"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("data.root=", "data.root is empty"),
        ("data.image_size=a(b", "\"key='value'\""),
        ("data.root=a/${b", "rename what has ${ in its own name"),
        ("+data.roots={a}", "at input '{a}'"),
        ("data.balance=[is_gc,", "a list is needed"),
    ],
)
def test_what_cannot_be_taken_says_how_it_is_written(word, said):
    with pytest.raises(CommandError) as caught:
        check_command(["+exp=inspect_data", "data=folder", "data.root=photos", word])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("word", "facts"),
    [
        ("name=choice(a,b),c", ["name=choice(a,b),c", "key=a,b,c"]),
        ("data.root=c,range(1,3)", ["data.root=c,range(1,3)", "key=a,b,c"]),
        ("seed=choice(1,2),3", ["seed=choice(1,2),3", "key=a,b,c"]),
        ("augment=glob(*)", ["augment", "'glob(*)'", "camera, geometry"]),
    ],
)
def test_a_sweep_that_cannot_be_taken_is_told_in_a_sentence(word, facts):
    with refuses(CommandError, *facts) as caught:
        check_command(["-m", "+exp=inspect_data", "data=folder", "data.root=photos", word])
    assert "\n" not in str(caught.value)


def test_quoted_survives_hydra():
    for text in [*ODD, "a\\'b", "\\"]:
        assert read(f"key={quoted(text)}") == text


NO_TEXT = {
    *("classifier_scale", "classifier_interval", "classifier_findings", "guidance_rescale", "repeat_threshold"),
    *("_target_", "augment", "cache_workers", "epoch_size", "conditions", "defaults", "gradient_clip_val", "benchmark"),
    *("limit_train_batches", "limit_val_batches", "num_steps", "guidance", "guidance_interval", "image_quality"),
    *("image_size", "images_per_shard", "num_workers", "num_images", "mean", "std", "output_subdir", "discriminator"),
    *("attention_levels", "perceptual", "label_maps", "guide", "ordinal", "agreement"),
    "options",  # of an architecture, of any kind
    *("labels", "feather", "max_images", "clusters", "disc_learning_rate", "gradient_clip", "num_train"),
    *("source", "threshold", "precision"),  # job.precision is text, in the option file only its last part is seen
}


def test_what_an_option_file_does_not_tell_is_declared():
    """A key whose value in conf/ is null, ???, [] or {} is among the paths and names, or known to be none."""

    def undeclared(node: dict, path: str):
        for key, value in node.items():
            name = f"{path}{key}"
            if isinstance(value, dict) and value:
                yield from undeclared(value, f"{name}.")
            elif value in (None, "???", [], {}) and not (takes_text(name) or key in NO_TEXT or "conditions." in name):
                yield name

    for file in Path(str(resources.files(OPTIONS))).rglob("*.yaml"):
        assert not list(undeclared(yaml.safe_load(file.read_text("utf-8")) or {}, "")), file
