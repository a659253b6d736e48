"""The one entry point: `python -m experiments.run +exp=NAME [group=option] [key=value]`."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.backbone_names import spelt_out
from experiments.composition import check_command, locate, register_resolvers
from experiments.mistakes import explained, heard
from experiments.quiet import silence
from experiments.report import config_text, heading, say
from experiments.runs import settle
from experiments.synthesis.words import plan_spelt_out


def start(cfg: DictConfig) -> None:
    """Settle the run's folder, print the configuration, and hand over to the job."""
    given = any(word.startswith("output_dir=") for word in HydraConfig.get().overrides.task)
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    folder = settle(config, given)
    cfg.output_dir = str(folder.output_dir)
    cfg.resume = folder.checkpoint or cfg.resume
    say(heading(f"{cfg.name}: configuration"))
    say(config_text(OmegaConf.to_container(cfg, resolve=True)))
    say(heading(f"output folder: {folder.output_dir}"))
    if folder.note:
        say(folder.note)
    locate(cfg.job._target_)(cfg, folder.checkpoint)


@hydra.main(version_base="1.3", config_path="conf", config_name="run")
def run(cfg: DictConfig) -> None:
    """What Hydra calls, once for each combination of a sweep."""
    status = explained(start, cfg)
    if status:
        sys.exit(status)  # past Hydra, which would print more


def main() -> int:
    """Check the command line, then run it. Returns the exit status: 2 for words that mean nothing, 1 for a failure."""
    register_resolvers()
    silence()
    status = explained(_check)
    if status == 0:
        with heard():
            run()
    return status


def _check() -> None:
    """See that the words mean something, and put a network's name and a plan's file where Hydra looks for them."""
    sys.argv[1:] = plan_spelt_out(spelt_out(sys.argv[1:]))
    check_command(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
