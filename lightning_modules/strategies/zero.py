"""DeepSpeed ZeRO: the optimiser's state, gradients, weights in shares on all processes, by stage."""

import itertools
import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

import lightning as L
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.plugins.precision import DeepSpeedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.strategies.strategy import _ForwardRedirection
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.optim import Optimizer

from datamodules.errors import UserError
from lightning_modules.strategies.sharded import ShardedCheckpoints, whole

if find_spec("deepspeed") is None:
    raise ModuleNotFoundError("DeepSpeed is not installed. Remedy: pip install deepspeed, or strategy=fsdp2.")
BUCKET = 50_000_000  # numbers that DeepSpeed gathers to send them at once: memory, whatever the model's size
MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps of each weight


class AutocastPrecision(DeepSpeedPrecision):
    """Float32 weights and averages, computed with in bfloat16 by autocast where the Trainer asks for it.

    DeepSpeed's own would cast every tensor of the module, an average's too, which then forgets small changes. Its
    engine switches off an autocast that is entered around it: `WithinEngine` enters it inside.
    """

    def __init__(self, precision: str):
        if precision.startswith("16"):
            raise UserError("DeepSpeed here computes in float32 or bfloat16. Remedy: trainer.precision=bf16-mixed.")
        super().__init__(precision)

    def convert_input(self, data: Any) -> Any:
        """Leave batches as they are."""
        return data

    def backward(self, tensor: Tensor, model: L.LightningModule, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """By DeepSpeed's engine; the Trainer has divided the loss by the batches that are accumulated already."""
        model.trainer.model.backward(tensor, scale_wrt_gas=False)

    def forward_context(self) -> AbstractContextManager:
        """Nothing around the engine."""
        return nullcontext()


class WithinEngine(_ForwardRedirection):
    """A step of the module, called by DeepSpeed's engine, with autocast for bf16-mixed."""

    def __init__(self, strategy: "Zero"):
        self.strategy = strategy

    def __call__(self, engine: nn.Module, module: L.LightningModule, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call the method of `module` that has this name, through `engine`."""
        device, plugin = self.strategy.root_device.type, self.strategy.precision_plugin
        plain = getattr(module, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(device, torch.bfloat16, enabled=plugin.precision == "bf16-mixed"):
                return plain(*args, **kwargs)

        setattr(module, name, step)
        try:
            return super().__call__(engine, module, name, *args, **kwargs)
        finally:
            delattr(module, name)


class Zero(ShardedCheckpoints, DeepSpeedStrategy):
    """Stage 1 shares out the optimiser's state, stage 2 gradients too, stage 3 weights and averages too.

    Source: Rajbhandari et al. 2020 (arXiv 1910.02054). One optimiser only. On CUDA devices, and on processors through
    gloo, which Lightning's own strategy refuses.

    Args:
        stage: 1, 2 or 3.
        timeout_minutes: after which a process that waits for another gives up.
    """

    def __init__(self, stage: int, timeout_minutes: float = 30):
        buckets = {"allgather_bucket_size": BUCKET, "reduce_bucket_size": BUCKET}
        super().__init__(stage=stage, timeout=timedelta(minutes=timeout_minutes), **buckets)
        self._mesh: DeviceMesh | None = None
        self._forward_redirection = WithinEngine(self)
        self._groups: list[list[nn.Parameter]] = []  # of the optimiser, before DeepSpeed cut them up
        self.config["bf16"] = {"enabled": False}  # AutocastPrecision
        # Of small tensors DeepSpeed would keep a whole copy, which does not follow when the average's share is updated.
        self.config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        # Or it keeps whole what is used again within a thousand million weights: of most models everything.
        self.config["zero_optimization"]["stage3_max_reuse_distance"] = 0

    @property
    def precision_plugin(self) -> Precision:
        """The precision by autocast."""
        return super().precision_plugin

    @precision_plugin.setter
    def precision_plugin(self, plugin: Precision | None) -> None:
        self._precision_plugin = None if plugin is None else AutocastPrecision(plugin.precision)

    @property
    def mesh(self) -> DeviceMesh:
        """All processes in a row."""
        if self._mesh is None:
            self._mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        return self._mesh

    @property
    def root_device(self) -> torch.device:
        """This process's device; processors have a number too, by which DeepSpeed tells processes apart."""
        device = super().root_device
        return torch.device("cpu", self.local_rank) if device.type == "cpu" else device

    @property
    def is_step(self) -> bool:
        """Whether the batch at hand ends an optimiser step: DeepSpeed is asked to step after every batch."""
        return not self.lightning_module.trainer.fit_loop._should_accumulate()

    def on_train_start(self) -> None:
        """See that steps end where epochs do: DeepSpeed counts on through the end of an epoch, the Trainer does not.

        Raises:
            ValueError: gradients of two epochs would be accumulated in one step.
        """
        trainer = self.lightning_module.trainer
        num_batches, num_accumulated = trainer.num_training_batches, trainer.accumulate_grad_batches
        if num_batches % num_accumulated:
            raise UserError(
                f"trainer.accumulate_grad_batches={num_accumulated} does not divide the {num_batches} batches of an "
                f"epoch, which DeepSpeed needs. Remedy: data.epoch_size, or trainer.limit_train_batches="
                f"{max(1, num_batches // num_accumulated) * num_accumulated}."
            )

    def setup(self, trainer: L.Trainer) -> None:
        """As Lightning's, with weights in the order in which they can be cut in shares.

        Gradients are clipped by the Trainer's norm, else by the `gradient_clip` of the module.
        """
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)  # not channels-last
        clip = trainer.gradient_clip_val
        clip = getattr(self.lightning_module, "gradient_clip", None) if clip is None else clip
        self.config["gradient_clipping"] = clip or 0.0
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Since DeepSpeed handles gradient clipping internally")  # seen to above
            super().setup(trainer)

    def teardown(self) -> None:
        """Leave the module where it is: what is saved after training is read from the engine's own tensors."""
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()

    def _setup_model_and_optimizer(self, model: nn.Module, optimizer: Optimizer | None, *rest: Any) -> Any:
        self._groups = [] if optimizer is None else [group["params"] for group in optimizer.param_groups]
        return super()._setup_model_and_optimizer(model, optimizer, *rest)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The module's tensors in shares, put together one at a time; buffers whole."""
        state = {}
        for name, tensor in self.lightning_module.state_dict(keep_vars=True).items():
            with _whole_parameter(tensor):
                state[name] = self.share(tensor.detach()) if isinstance(tensor, nn.Parameter) else tensor.detach()
        return state

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state of AdamW in shares, as AdamW itself would have it."""
        from deepspeed.utils import safe_get_full_optimizer_state

        base, state, groups = self._base_optimizer, {}, []
        if base.state and not self.zero_stage_3:  # DeepSpeed has done it once the first group had stepped, too early
            self.optimizers[0]._hp_optimizer_states_linked = False
            self.optimizers[0]._lazy_init_hp_params_optimizer_state()
        for number, parameter in enumerate(self._parameters if base.state else ()):  # none before the first step
            moments = {name: self.share(safe_get_full_optimizer_state(parameter, name)) for name in MOMENTS}
            step = next(iter(base.state.values()))["step"]  # the same in all
            state[number] = {"step": torch.as_tensor(step).clone(), **moments}
        numbers = itertools.count()
        for group, parameters in zip(base.param_groups, self._groups, strict=True):
            groups.append({**group, "params": [next(numbers) for _ in parameters]})
        return {"state": state, "param_groups": groups}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take the weights of a checkpoint: into the module, and into the optimiser's own copy of them."""
        trained = {id(parameter) for parameter in self._parameters}
        own = self.lightning_module.state_dict(keep_vars=True)
        for name, value in checkpoint["state_dict"].items():
            tensor, value = own[name], whole(value)
            with _whole_parameter(tensor, is_changed=True), torch.no_grad():
                tensor.copy_(value)
            if id(tensor) in trained:
                self._set(tensor, value)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the optimiser's state of a checkpoint."""
        [saved] = checkpoint["optimizer_states"]
        if saved["state"]:
            self._make_optimizer_state(saved["state"][0]["step"])
        for number, values in saved["state"].items():
            for name in MOMENTS:
                self._set(self._parameters[number], whole(values[name]), name)
        for group, theirs in zip(self._base_optimizer.param_groups, saved["param_groups"], strict=True):
            group.update({name: value for name, value in theirs.items() if name != "params"})

    def _set(self, parameter: nn.Parameter, value: Tensor, moment: str | None = None) -> None:
        """Set the optimiser's copy of a weight, or a moment of it, from the whole tensor."""
        from deepspeed import utils

        key, value = [] if moment is None else [moment], value.to(self.root_device)
        if self.zero_stage_3:  # its function for whole tensors takes none that does not divide by the processes
            num = parameter.ds_tensor.numel()
            padded = nn.functional.pad(value.flatten(), (0, num * self.world_size - value.numel()))
            piece = padded[num * self.global_rank :][:num]
            setter = utils.safe_set_local_optimizer_state if key else utils.safe_set_local_fp32_param
            setter(parameter, piece, *key)
        else:
            setter = utils.safe_set_full_optimizer_state if key else utils.safe_set_full_fp32_param
            setter(parameter, value, *key)

    def _make_optimizer_state(self, step: Tensor) -> None:
        """Room for what AdamW keeps, which DeepSpeed would make at the first step."""
        optimizer, base = self.optimizers[0], self._base_optimizer
        third = self.zero_stage_3
        shares = optimizer.fp32_partitioned_groups_flat if third else optimizer.single_partition_of_fp32_groups
        for share in shares:
            moments = {name: torch.zeros_like(share) for name in MOMENTS}
            base.state[share] = {"step": torch.as_tensor(step).clone(), **moments}
        if not third:
            optimizer._lazy_init_hp_params_optimizer_state()

    @property
    def _parameters(self) -> list[nn.Parameter]:
        """What is trained, in the order of the optimiser's state."""
        return [parameter for group in self._groups for parameter in group]

    @property
    def _base_optimizer(self) -> Optimizer:
        """The AdamW that DeepSpeed steps with."""
        return self.optimizers[0].optimizer

    def setup_environment(self) -> None:
        """As Lightning's, on processors too."""
        on_cuda = isinstance(self.accelerator, CUDAAccelerator)
        os.environ.setdefault("DS_ACCELERATOR", "cuda" if on_cuda else "cpu")  # or any that it finds
        if on_cuda:
            super().setup_environment()
        else:
            DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        """As Lightning's, on processors too."""
        if self.root_device.type != "cpu":
            super().setup_distributed()
            return
        self.set_world_ranks()
        self._process_group_backend = "gloo"
        import deepspeed.ops  # here, for it takes seconds

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a compiler's minute, for inference alone
        self._init_deepspeed_distributed()


def _whole_parameter(tensor: Tensor, is_changed: bool = False) -> AbstractContextManager:
    """Within it a parameter that the third stage has cut up is whole; every process enters it."""
    if not hasattr(tensor, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([tensor], modifier_rank=0 if is_changed else None)
