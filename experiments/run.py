"""The one entry point: `python -m experiments.run +exp=NAME [group=option] [key=value]`."""

import errno
import os
import sys
import traceback
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.composition import CommandError, check_command, locate, register_resolvers
from experiments.report import config_text, heading, say, say_error
from experiments.runs import settle

USER_ERRORS = (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


@hydra.main(version_base="1.3", config_path="conf", config_name="run")
def run(cfg: DictConfig) -> None:
    """Settle the run's folder, print the configuration, and hand over to the job."""
    given = any(word.startswith("output_dir=") for word in HydraConfig.get().overrides.task)
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    folder = settle(config, given)
    config["output_dir"] = cfg.output_dir = str(folder.output_dir)
    cfg.resume = folder.checkpoint or cfg.resume
    say(heading(f"{cfg.name}: configuration"))
    say(config_text(OmegaConf.to_container(cfg, resolve=True)))
    say(heading(f"output folder: {folder.output_dir}"))
    if folder.note:
        say(folder.note)
    locate(cfg.job._target_)(cfg, folder.checkpoint)


def main() -> int:
    """Check the command line, run it, and turn a user's mistake into a sentence. Returns the exit status."""
    register_resolvers()
    try:
        if "--help" not in sys.argv[1:]:
            check_command(sys.argv[1:])
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that errors reach the lines below as they are
        run()
    except CommandError as error:
        say_error(f"error: {error}")
        return 2
    except USER_ERRORS as error:
        return _explain(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _explain(OSError(f"the disk is full: {error}. Free space, then go on with the same command and resume=auto."))
    return 0


def _explain(error: Exception) -> int:
    """Print a mistake without its traceback, which goes to a file or, if asked for, to the screen."""
    say_error(f"error: {error}")
    folder = os.environ.get("SYNFUNDUS_OUTPUT_DIR")
    text = "".join(traceback.format_exception(error))
    if os.environ.get("SYNFUNDUS_TRACEBACK"):
        say_error(text)
    elif folder and Path(folder).is_dir():
        Path(folder, "error.log").write_text(text, encoding="utf-8")
        say_error(f"(traceback: {folder}/error.log)")
    else:
        say_error("(SYNFUNDUS_TRACEBACK=1 shows the traceback)")
    return 1


if __name__ == "__main__":
    sys.exit(main())
