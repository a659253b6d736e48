"""The one entry point: `python -m experiments.run +exp=NAME [group=option] [key=value]`."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from callbacks.watch import dismiss
from experiments import launch
from experiments.backbone_names import spelt_out
from experiments.composition import check_command, locate, register_resolvers
from experiments.machines import machine, note
from experiments.mistakes import explained, heard
from experiments.quiet import silence
from experiments.report import config_text, heading, say
from experiments.requeue import requeue_if_warned
from experiments.runs import RunFolder, settle
from experiments.synthesis.words import plan_spelt_out
from experiments.trainers import trial_trainer


def start(cfg: DictConfig) -> None:
    """Meet the other processes, if a launcher has started some, settle the run's folder, and go."""
    hydra_cfg = HydraConfig.get()
    given = any(word.startswith("output_dir=") for word in hydra_cfg.overrides.task)
    is_sweep, number = hydra_cfg.mode == RunMode.MULTIRUN, OmegaConf.select(hydra_cfg, "job.num") or 0
    if is_sweep and not given:
        cfg.output_dir = f"{cfg.output_dir}_{number}"  # jobs of a queue may begin in the same second
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    if launch.is_started_by_a_run():
        go(cfg, launch.inherited())
        return
    place = launch.Place.here(cfg.trainer.num_nodes)
    place.check(config["trainer"]["devices"], cfg.trainer.num_nodes)
    if place.size == 1:
        go(cfg, settle(config, given))
        return
    with launch.meeting(place, str(number), cfg.wait_minutes) as others:
        note(others.gather(machine(trial_trainer(cfg))))
        folder = others.agree(lambda: settle(config, given))
        if folder is not None:
            go(cfg, folder)


def go(cfg: DictConfig, folder: RunFolder) -> None:
    """Say what is going to be done, and where, and hand over to the job."""
    cfg.output_dir = str(folder.output_dir)
    cfg.resume = folder.checkpoint or cfg.resume
    say(heading(f"{cfg.name}: configuration"))
    say(config_text(OmegaConf.to_container(cfg, resolve=True)))
    say(heading(f"output folder: {folder.output_dir}"))
    if folder.note:
        say(folder.note)
    locate(cfg.job._target_)(cfg, folder.checkpoint)
    dismiss()


@hydra.main(version_base="1.3", config_path="conf", config_name="run")
def run(cfg: DictConfig) -> None:
    """What Hydra calls, once for each combination of a sweep; in a queue, in a process that has not been through main.

    The queue's warning that the time is almost up is answered here too.
    """
    register_resolvers()
    silence()
    with heard(), requeue_if_warned():
        status = explained(start, cfg)
        if status:
            sys.exit(status)  # past Hydra, which would print more


def main() -> int:
    """Check the command line, then run it. Returns the exit status: 2 for words that mean nothing, 1 for a failure."""
    register_resolvers()
    silence()
    status = explained(_check)
    if status == 0:
        run()
    return status


def _check() -> None:
    """See that the words mean something, and put a network's name and a plan's file where Hydra looks for them."""
    sys.argv[1:] = plan_spelt_out(spelt_out(sys.argv[1:]))
    check_command(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
