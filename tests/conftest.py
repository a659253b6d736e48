"""What every test may use: real photographs, no network; makes synthetic_sets.py importable."""

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # processes that share the cores have a thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a background job of a shell; what it starts would be as deaf
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, str(Path(__file__).parent))

import pytest
from omegaconf import DictConfig

from experiments.composition import CommandError, compose_config


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs (`rahim-dr`, `DRIVE`, …), from SYNFUNDUS_TEST_DATA or beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SYNFUNDUS_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real photographs are not here: {folder} (set SYNFUNDUS_TEST_DATA to their folder)")
    return folder


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
