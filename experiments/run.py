"""The one entry point: `python -m experiments.run +exp=NAME [group=option] [key=value]`."""

import signal
import sys
from contextlib import ExitStack

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments import launch
from experiments.assembly import plain
from experiments.backbone_names import spelt_out
from experiments.composition import check_command, check_resolved, register_resolvers
from experiments.devices import trial_trainer
from experiments.errors import report_errors, stop_on_signal
from experiments.known_warnings import filter_known_warnings
from experiments.machines import machine, note
from experiments.requeue import requeue_if_warned
from experiments.runs import resolve_run_folder
from experiments.session import Run
from experiments.synthesis.words import plan_spelt_out
from experiments.terminal import steady


def start(cfg: DictConfig) -> None:
    """Meet the other processes, if a launcher has started some, settle and hold the run's folder, and go."""
    hydra_cfg = HydraConfig.get()
    given = any(word.lstrip("+").startswith("output_dir=") for word in hydra_cfg.overrides.task)
    is_sweep, number = hydra_cfg.mode == RunMode.MULTIRUN, OmegaConf.select(hydra_cfg, "job.num") or 0
    if is_sweep and not given:
        cfg.output_dir = f"{cfg.output_dir}_{number}"  # jobs of a queue may begin in the same second
    config = plain(cfg)
    check_resolved(config)
    if launch.is_started_by_a_run():
        Run.of(cfg, launch.inherited()).go()
        return
    place = launch.WorldInfo.here(cfg.trainer.num_nodes)
    place.check(config["trainer"]["devices"], cfg.trainer.num_nodes)
    if place.size == 1:
        with resolve_run_folder(config, given) as folder:
            Run.of(cfg, folder).go()
        return
    with ExitStack() as stack, launch.meeting(place, str(number), cfg.wait_minutes) as others:
        note(others.gather(machine(trial_trainer(cfg))))
        folder = others.agree(lambda: stack.enter_context(resolve_run_folder(config, given)))
        if folder is not None:
            Run.of(cfg, folder).go()


@hydra.main(version_base="1.3", config_path="conf", config_name="run")
def run(cfg: DictConfig) -> None:
    """What Hydra calls, once for each combination of a sweep; in a queue, in a process that has not been through main.

    The queue's warning that the time is almost up is answered here too.
    """
    steady()
    register_resolvers()
    filter_known_warnings()
    with stop_on_signal(), requeue_if_warned():
        status = report_errors(start, cfg)
        if status:
            sys.exit(status)  # past Hydra, which would print more


def main() -> int:
    """Check the command line, then run it.

    Returns:
        The exit status: 2 for words that mean nothing, 1 for a failure, 128 and a signal's number where that came again
        before the first one was answered.
    """
    steady()
    register_resolvers()
    filter_known_warnings()
    try:
        status = report_errors(_check)
        if status == 0:
            run()
    except KeyboardInterrupt as again:
        return 128 + getattr(again, "number", signal.SIGINT)
    return status


def _check() -> None:
    """See that the words mean something, and write those for Hydra that it would read otherwise than they are meant."""
    sys.argv[1:] = check_command(plan_spelt_out(spelt_out(sys.argv[1:])))


if __name__ == "__main__":
    sys.exit(main())
