"""Strategies for files that somebody else may have written: trees, names, links and damaged bytes."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

SECRET_VARIABLE, SECRET = "SYNFUNDUS_FUZZ_SECRET", "s3cret-that-stays-here"
TRAP = "synfundus_trap"  # a module that no test imports: if it is imported, something foreign has been called
NAMES = ["..", ".", "", "../../escaped", "../escaped.json", "a/../../escaped", "sub/../../../escaped", "a\x00b",
         "a\nb", "=HYPERLINK(1)", "\x1b]0;x\x07", "x" * 300, "\ud800", "déjà", "shard-00000-of-00001", "~"]  # fmt: skip
TARGETS = [f"{TRAP}.call", f"{TRAP}.Network", "os.system", "builtins.eval", "builtins.exec", "subprocess.run",
           "torch.load", "torch.hub.load", "hydra.utils.instantiate", "hydra.utils.get_method",
           "importlib.import_module", "lightning_modules.checkpoint.load_state",
           "lightning_modules.checkpoint.torch.load",
           "lightning_modules.networks.unet.UNet", "lightning_modules.networks.unet.UNet.__init__.__globals__",
           "lightning_modules.networks.kl.kl_autoencoder", "lightning_modules.names", "torch.nn.Identity", "", ".", 7,
           "datamodules.files.write_text", "experiments.run.main"]  # fmt: skip
INTERPOLATIONS = [f"${{oc.env:{SECRET_VARIABLE}}}", "${evil}", "${oc.create:{_target_: os.system}}", "${model}",
                  "${oc.env:HOME}/x", "${..denoiser}", "${", "${finding_levels:}", "\\${x}"]  # fmt: skip
KEYS = ["_target_", "_args_", "_partial_", "_recursive_", "_convert_", "extra", "module", "channels", "evil", "files",
        "file", "sha256", "num_images", "image", "config", "model", "format", "annotators", "sessions"]  # fmt: skip

scalars = st.one_of(
    st.none(), st.booleans(), st.sampled_from([-1, 0, 1, 2, 3, 7, 2**31, 2**63, 10**30]), st.floats(width=32),
    st.sampled_from([*NAMES, *INTERPOLATIONS, *map(str, TARGETS)]), st.text(max_size=8),
)  # fmt: skip
calls = st.builds(
    lambda target, more: {"_target_": target, **more},
    st.sampled_from(TARGETS),
    st.dictionaries(st.sampled_from(KEYS[1:]), st.one_of(scalars, st.lists(scalars, max_size=2)), max_size=2),
)
trees = st.recursive(
    st.one_of(scalars, calls),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=4)), inner, max_size=3),  # fmt: skip
    ),
    max_leaves=8,
)


ODD = [
    torch.zeros(0), torch.zeros(1).to_sparse(), torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.complex64),
    torch.zeros(0, dtype=torch.int64), torch.tensor([0, 1]), torch.tensor([-1, 5]), torch.full((2,), 2**62),
    torch.zeros(2, 0, dtype=torch.int8), torch.zeros(2, 3, dtype=torch.int8), torch.zeros(0, 16, dtype=torch.int8),
    torch.full((2, 16), 100, dtype=torch.int8), torch.full((2, 16), -2, dtype=torch.int8), torch.tensor(True),
]  # fmt: skip
tensors = st.sampled_from(ODD)


def places(tree: Any, place: tuple = ()) -> Iterator[tuple]:
    """Every place in a tree, as the keys that lead to it, the outermost first."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in children:
        yield (*place, key)
        yield from places(child, (*place, key))


@st.composite
def changed(draw: Callable, tree: Any, most: int = 3) -> Any:
    """The tree with some of its parts replaced, taken out, or with parts beside them."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, most))):
        known = list(places(tree))
        if not known:
            return draw(trees)
        place = draw(st.sampled_from(known))
        parent = tree
        for key in place[:-1]:
            parent = parent[key]
        how = draw(st.sampled_from(["replace", "wrap", "remove", "add"]))
        if how == "replace":
            parent[place[-1]] = draw(trees)
        elif how == "wrap":  # behind containers, where a check that walks otherwise than a builder does not see it
            parent[place[-1]] = [[draw(calls)], parent[place[-1]]]
        elif how == "remove":
            del parent[place[-1]]
        elif isinstance(parent, dict):
            parent[draw(st.one_of(st.sampled_from(KEYS), st.text(max_size=4)))] = draw(trees)
        else:
            parent.append(draw(trees))
    return tree


@st.composite
def damaged(draw: Callable, content: bytes) -> bytes:
    """The bytes cut off, flipped, doubled, or others altogether."""
    how = draw(st.sampled_from(["cut", "flip", "zeros", "tail", "other"]))
    at = draw(st.integers(0, max(len(content) - 1, 0)))
    if how == "cut":
        return content[:at]
    if how == "flip" and content:
        return content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :]
    if how == "zeros":
        return content[:at] + bytes(min(64, len(content) - at)) + content[at + 64 :]
    if how == "tail":
        return content + draw(st.binary(max_size=16))
    return draw(
        st.sampled_from([b"", b"null", b"[]", b'"x"', b"{}", b"\xff\xfe{\x00", b"%!PS", b"PK\x03\x04", b"PAR1"])
    )


def tree_of(folder: Path, without: Path) -> dict[str, Any]:
    """What is below a folder, but for one folder in it: names with the bytes of files and the targets of links."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path == without or without in path.parents:
            continue
        found[str(path)] = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found
