"""A user's mistake becomes a sentence and an exit status; whatever else fails keeps its traceback."""

import inspect
import os
import re
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pydoc import locate
from types import FrameType
from typing import Any

import torch
from hydra.errors import InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException

from callbacks.files import write_text
from callbacks.shutdown import WARNINGS
from datamodules.errors import UserError
from experiments.composition import INTERPOLATION, CommandError
from experiments.disk_full import refused
from experiments.memory import from_a_worker, refused_memory
from experiments.report import say_error
from experiments.runs import FOLDER_VARIABLE, status_of

TRACEBACK_VARIABLE = "SYNFUNDUS_TRACEBACK"  # if set, tracebacks are printed
MISTAKES = (
    UserError,
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
    MisconfigurationException,
)


def report_errors(function: Callable[..., Any], *arguments: Any) -> int:
    """Call, and return the exit status: 0, or 2 for a wrong command and 1 for another mistake, which are explained.

    Raises:
        Exception: what is no mistake of the user's.
    """
    try:
        function(*arguments)
    except CommandError as error:
        say_error(f"error: {error}")
        return 2
    except MISTAKES as error:
        return _explain(error, _plain(str(error)))
    except InstantiationException as error:
        cause = error.__cause__
        if "Error locating target" in str(error):
            said = str(error).splitlines()
            target, place = said[0].partition(", set env var")[0], said[-1].removeprefix("full_key: ")
            return _explain(error, f"{target} (in {place}): no such module or name. Remedy: correct the dotted path.")
        if not isinstance(cause, (ValueError, *MISTAKES)) and not _wrong_arguments(cause):  # by the configured values
            return _explain_refusal(error)
        place = str(error).splitlines()[-1].removeprefix("full_key: ")
        return _explain(cause, f"{cause} (in {place}){_what_it_takes(error)}")
    except KeyboardInterrupt as error:
        say_error("\ninterrupted: go on with the same command and resume=auto.")
        return 128 + (error.number if isinstance(error, Terminated) else signal.SIGINT)
    except Exception as error:
        return _explain_refusal(error)
    return 0


class Terminated(KeyboardInterrupt):
    """SIGTERM, or a queue's warning, where a run does not listen to it itself."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def stop_on_signal() -> Iterator[None]:
    """Answer SIGTERM and a queue's warning as Ctrl-C: a run that is stopped while it reads data says how to go on."""
    process = os.getpid()

    def leave(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a worker that was forked from this one
            os._exit(128 + number)
        raise Terminated(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, *WARNINGS)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wrong_arguments(error: BaseException | None) -> bool:
    """Whether what a `_target_` was called with is not what it takes, rather than something broken inside it."""
    if not isinstance(error, TypeError):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    return frames[-1][0].f_globals.get("__name__", "").startswith(("hydra.", "torchvision."))


def _what_it_takes(error: InstantiationException) -> str:
    """The arguments of a `_target_` that was called with others; nothing for another mistake."""
    target = re.search(r"Error in call to target '([\w.]+)'", str(error))
    if target is None or not _wrong_arguments(error.__cause__):
        return ""
    try:
        names = [name for name in inspect.signature(locate(target[1])).parameters if name != "self"]
    except (ValueError, TypeError, ImportError):
        return ""
    return f". Remedy: it takes {', '.join(names)}."


def _explain_refusal(error: Exception) -> int:
    """Explain what the memory, the disk or the system refused; whatever else it is, is raised."""
    message = refused_memory(error) or refused(error)
    if message is None:
        raise error
    return _explain(error, message)


def _explain(error: Exception, message: str) -> int:
    """Print a mistake; its traceback goes to a file or, if asked for, to the screen."""
    say_error(f"error: {message}")
    folder = os.environ.get(FOLDER_VARIABLE)
    text = "".join(traceback.format_exception(error))
    if os.environ.get(TRACEBACK_VARIABLE) or _is_one_of_several():  # all is on the screen
        say_error(text)
    elif folder and Path(folder).is_dir() and status_of(Path(folder)) != "finished":  # a finished run is left as it is
        try:
            write_text(Path(folder, "error.log"), text)
            say_error(f"(traceback: {folder}/error.log)")
        except OSError:  # the disk is full
            say_error(f"({TRACEBACK_VARIABLE}=1 shows the traceback)")
    else:
        say_error(f"({TRACEBACK_VARIABLE}=1 shows the traceback)")
    return 1


def _is_one_of_several() -> bool:
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def _plain(text: str) -> str:
    """What a resolver of the configuration said, without what OmegaConf puts around it."""
    text = from_a_worker(text)
    if text.startswith("Interpolation key "):
        return f"{' '.join(text.split())}. {INTERPOLATION}"
    found = re.match(r"\w+ raised while resolving interpolation: (.*?)(\n\s*full_key: .*)?$", text, re.DOTALL)
    return found.group(1) if found else text
