"""What every test may use: real photographs, no network; makes synthetic_sets.py importable."""

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # test processes share the cores: two threads of each would spin
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a background job of a shell; what it starts would be as deaf
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, str(Path(__file__).parent))

import pytest
from filelock import FileLock
from omegaconf import DictConfig

from experiments.composition import CommandError, compose_config


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What belongs to the full matrix is slow."""
    for item in items:
        if item.get_closest_marker("full"):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs (`rahim-dr`, `DRIVE`, …), from SYNFUNDUS_TEST_DATA or beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SYNFUNDUS_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real photographs are not here: {folder} (set SYNFUNDUS_TEST_DATA to their folder)")
    return folder


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`made_once(name, make)` is a folder that `make(folder)` filled, once for all processes of a test session."""
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = root / f"once_{name}", root / f"once_{name}.done"
        with FileLock(root / f"once_{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def composed() -> Callable[..., DictConfig]:
    """`composed(*words)` is the configuration of a command; keys that must be given and are not get the value x."""

    def compose(*words: str) -> DictConfig:
        try:
            return compose_config(words)
        except CommandError as error:
            missing = re.findall(r"([\w.]+)=VALUE", str(error))
            if not missing:
                raise
            return compose_config([*words, *(f"{key}=x" for key in missing)])

    return compose
