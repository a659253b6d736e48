"""A model of training on many devices: bytes a device holds, bytes it sends, the time of a step. Nothing is measured.

Weights, gradients, averages and AdamW's two moments are float32, with bf16-mixed too. `docs/scaling.md` says what is
left out.
"""

from dataclasses import dataclass

STRATEGIES = ("single", "ddp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3", "fsdp2")
FLOAT = 4  # bytes
# Of DeepSpeed: two for gradients while the one is sent, one where they are scattered; as zero.py sizes them.
BUCKETS = {"deepspeed_zero1": 4e8, "deepspeed_zero2": 4e8, "deepspeed_zero3": 2e8}


@dataclass(frozen=True)
class Work:
    """What a step of a module is made of.

    Attributes:
        num_trained, num_frozen: weights that are learnt, and that are kept beside them.
        num_block: weights of the largest block, or of what is in none: put together at a time where they are in shares.
        flop: floating-point operations of an image, forwards and backwards.
        activation_bytes: kept for the backward pass, for each image.
        fixed_bytes: kept for it whatever the batch: weights in bfloat16.
    """

    num_trained: int
    num_frozen: int
    num_block: int
    flop: float
    activation_bytes: float
    fixed_bytes: float


@dataclass(frozen=True)
class Machine:
    """Devices and what joins them.

    Attributes:
        tflops: that a device sustains, in 1e12 operations a second.
        memory: of a device, in bytes.
        per_node: devices of a node.
        link, network: bytes a second that a device sends within its node, and between nodes.
    """

    tflops: float
    memory: float
    per_node: int
    link: float
    network: float


@dataclass(frozen=True)
class Step:
    """A step of a strategy on so many devices.

    Attributes:
        state, peak: bytes that a device holds between steps, and at most.
        computing, sending: seconds.
    """

    strategy: str
    num_devices: int
    batch_size: int
    state: float
    peak: float
    computing: float
    sending: float

    @property
    def seconds(self) -> tuple[float, float]:
        """Of the step: where all that is sent is sent while it computes, and where none of it is."""
        return max(self.computing, self.sending), self.computing + self.sending

    @property
    def efficiency(self) -> tuple[float, float]:
        """Part of the time in which a device computes: at worst, and at best."""
        best, worst = self.seconds
        return self.computing / worst, self.computing / best

    @property
    def images_per_second(self) -> tuple[float, float]:
        """Of all devices: at worst, and at best."""
        num, (best, worst) = self.num_devices * self.batch_size, self.seconds
        return num / worst, num / best


def state_bytes(strategy: str, num_trained: int, num_devices: int) -> dict[str, float]:
    """Bytes that a device holds of what is learnt, between steps, by what they are; gradients at their most.

    In shares are: under the first stage of ZeRO AdamW's moments with a float32 copy of the weights, under the second
    gradients too, under the third and `fsdp2` everything. `ddp` copies gradients into buckets.
    """
    whole, share = FLOAT * num_trained, FLOAT * num_trained / num_devices
    if strategy in ("single", "ddp"):
        buckets = whole if strategy == "ddp" and num_devices > 1 else 0
        return {"weights": whole, "averages": whole, "optimizer": 2 * whole, "gradients": whole + buckets}
    if strategy == "fsdp2":
        return {"weights": share, "averages": share, "optimizer": 2 * share, "gradients": share}
    kept = share if strategy == "deepspeed_zero3" else whole
    gradients = whole if strategy == "deepspeed_zero1" else share
    return {"weights": kept, "averages": kept, "optimizer": 3 * share, "gradients": gradients}


def sent_bytes(strategy: str, num_trained: int, num_devices: int) -> float:
    """Bytes that a device sends in a step, by rings: a reduction, a scattering and a gathering are (N - 1) / N each.

    `ddp` adds gradients up and hands them on: twice the weights. The first two stages of ZeRO do so too
    (`use_multi_rank_bucket_allreduce`, its default), and gather the weights after the step: three times. Where weights
    are in shares they are gathered for the forward and for the backward pass, and gradients scattered: three times.
    """
    times = 2 if strategy in ("single", "ddp") else 3
    return times * FLOAT * num_trained * (num_devices - 1) / num_devices


def step_of(strategy: str, num_devices: int, batch_size: int, work: Work, machine: Machine) -> Step:
    """A step with `batch_size` images on each device."""
    frozen = FLOAT * work.num_frozen / (num_devices if strategy == "deepspeed_zero3" else 1)
    state = sum(state_bytes(strategy, work.num_trained, num_devices).values()) + frozen
    # Its weights and gradients, and the weights of the next one.
    block = 3 * FLOAT * work.num_block if strategy in ("fsdp2", "deepspeed_zero3") else 0
    peak = state + block + BUCKETS.get(strategy, 0) + work.fixed_bytes + work.activation_bytes * batch_size
    rate = machine.link if num_devices <= machine.per_node else machine.network
    return Step(strategy, num_devices, batch_size, state, peak,
                computing=work.flop * batch_size / (machine.tflops * 1e12),
                sending=sent_bytes(strategy, work.num_trained, num_devices) / rate)  # fmt: skip


def steps_of(work: Work, machine: Machine, num_devices: int, batch_size: int) -> list[Step]:
    """A step of every strategy for this number of devices."""
    names = ("single",) if num_devices == 1 else STRATEGIES[1:]
    return [step_of(name, num_devices, batch_size, work, machine) for name in names]


def choice(steps: list[Step], machine: Machine) -> Step | None:
    """The fastest that a device has the memory for, and of equally fast ones the first; None: none fits."""
    fitting = [step for step in steps if step.peak <= machine.memory]
    return min(fitting, key=lambda step: step.seconds[1], default=None)


def largest_batch(step: Step, work: Work, machine: Machine) -> int:
    """Images on each device for which its memory suffices under the strategy of `step`; 0: not one."""
    free = machine.memory - (step.peak - work.activation_bytes * step.batch_size)
    return max(0, int(free // work.activation_bytes))
