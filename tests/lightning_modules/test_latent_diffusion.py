"""Latent diffusion: training, averages, resume, sampling, checkpoints, errors."""

from types import SimpleNamespace

import lightning as L
import pytest
import safetensors.torch
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from refusals import refuses

from lightning_modules import checkpoint as ckpt
from lightning_modules.latent_diffusion import LatentDiffusion
from lightning_modules.networks.kl import pretrained
from lightning_modules.randomness import stable_seed, step_generator

LABELS = torch.tensor([[3, 1, 0], [-1, -1, 1], [0, 0, -1]])


def same_state(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def cached(batches, module):
    """The same batches as latents."""
    for batch in batches.batches:
        batch["latent_mean"], batch["latent_std"] = module.autoencoder.encode(batch.pop("image"))
    return batches


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("denoiser", ["unet", "dit"])
def test_fits_and_only_the_denoiser_and_conditioning_move(build, denoiser, prediction, maps):
    module = build.diffusion(denoiser, prediction, weighting="min_snr", maps=maps)
    frozen = {name: t.clone() for name, t in module.autoencoder.state_dict().items()}
    before = {name: t.clone() for name, t in module.network.named_parameters()}
    trainer, steps = build.fit(module, max_steps=3, validate=True, val_check_interval=2, limit_val_batches=1)
    assert trainer.global_step == 3 and set(steps[0]) == {"train/loss"}
    assert trainer.callback_metrics["val/loss"].isfinite()
    assert all(torch.equal(t, frozen[name]) for name, t in module.autoencoder.state_dict().items())
    moved = [name for name, t in module.network.named_parameters() if not torch.equal(t, before[name])]
    assert any(name.startswith("conditioning") for name in moved) and any(name.startswith("denoiser") for name in moved)
    assert module.network.training and not module.ema.network.training and not module.autoencoder.training


def test_learns_two_latents_by_heart_and_paints_the_one_it_is_asked_for(build):
    """Training, averages, conditioning, sampling and decoding together."""
    module = build.diffusion("dit", "v", factor_dropout=0.0, learning_rate=1e-2, ema_decay=0.9, num_steps=20)
    module.autoencoder.latent_shift.fill_(0.5)
    module.autoencoder.latent_scale.fill_(2.0)
    mean = 0.5 + 2 * torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([[0, 0, 0], [4, 1, 1]])
    batch = {"latent_mean": mean, "latent_std": torch.zeros_like(mean), "labels": labels}
    batch = {key: value.repeat_interleave(8, 0) for key, value in batch.items()}
    _, steps = build.fit(module, type(build.batches())([batch]), max_steps=250)
    first, last = (sum(s["train/loss"] for s in part) for part in (steps[:10], steps[-10:]))
    assert last < 0.3 * first
    painted = module.sample(labels, [1, 2])
    wanted = module.autoencoder.decode(mean)
    distance = (painted[:, None] - wanted[None]).square().mean((2, 3, 4))
    assert distance.diagonal().max() < 0.2 * (wanted[0] - wanted[1]).square().mean()


def test_label_maps_are_in_the_checkpoint_and_make_labels_followed_at_once(build):
    """Before any training the denoiser is given another input for another label, and the same for none."""
    module = build.diffusion("unet", maps=True)
    unknown, known = torch.full((2, 3), -1), torch.tensor([[0, 0, 0], [4, 1, 1]])
    of_nothing, of_labels = (module.network.condition(labels)[:, 8:] for labels in (unknown, known))
    assert torch.equal(of_nothing[0], of_nothing[1]) and not torch.allclose(of_labels[0], of_labels[1])
    posterior = [module._posterior(batch)[0] for batch in build.batches().batches]
    mean = module.autoencoder.standardise(torch.cat(posterior)).mean(0)
    torch.testing.assert_close(of_nothing[0], mean.flatten(), atol=1e-5, rtol=1e-4)
    other = build.diffusion("unet", seed=1, maps=True)
    other.network.label_maps.table.zero_()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.ema.network.label_maps.table, module.network.label_maps.table)
    assert torch.equal(module.sample(known, [1, 2]), other.sample(known, [1, 2]))


class LateWeights(SingleDeviceStrategy):
    """Loads a checkpoint after the hook `on_fit_start`, as FSDP2 and DeepSpeed do."""

    restore_checkpoint_after_setup = True


def test_resumed_where_weights_are_loaded_late(build, tmp_path):
    """The label maps are in the checkpoint; they are not fitted again."""
    build.fit(build.diffusion("unet", maps=True), max_steps=2, checkpoints=tmp_path)
    resumed = build.diffusion("unet", maps=True)
    resumed.network.label_maps.num_fitted.zero_()
    late = LateWeights(torch.device("cpu"))
    trainer, _ = build.fit(resumed, max_steps=6, ckpt_path=tmp_path / "step=2.ckpt", strategy=late)
    assert trainer.global_step == 6 and resumed.network.label_maps.fitted


def test_label_maps_that_were_never_fitted_are_refused(build):
    module = build.diffusion("unet", maps=True)
    module.network.label_maps.num_fitted.zero_()
    with refuses(ValueError, "fit_label_maps"):
        build.fit(module)
    with refuses(ValueError, "map_channels=0", "masks 2"):
        type(module)(
            module.autoencoder, build.denoiser("unet"), module.network.conditioning, module.objective,
            label_maps=module.network.label_maps,
        )  # fmt: skip


def test_cached_latents_train_like_images(build):
    images, latents = build.diffusion(), build.diffusion()
    _, image_steps = build.fit(images, max_steps=3)
    _, latent_steps = build.fit(latents, cached(build.batches(), latents), max_steps=3)
    assert image_steps == latent_steps


@pytest.mark.parametrize("denoiser, maps", [("unet", False), ("dit", False), ("unet", True), ("dit", True)])
def test_a_killed_run_resumes_bit_for_bit(build, tmp_path, denoiser, maps):
    whole = build.diffusion(denoiser, warmup_steps=4, maps=maps)
    build_fit = build.fit(whole, checkpoints=tmp_path)
    resumed = build.diffusion(denoiser, warmup_steps=4, seed=0, maps=maps)
    trainer, steps = build.fit(resumed, ckpt_path=tmp_path / "step=3.ckpt")
    assert len(build_fit[1]) == 6 and build_fit[1][3:] == steps
    assert same_state(whole, resumed) and resumed.ema.num_updates == 6
    for a, b in zip(build_fit[0].optimizers[0].state.values(), trainer.optimizers[0].state.values(), strict=True):
        assert torch.equal(a["exp_avg_sq"], b["exp_avg_sq"])


@pytest.mark.parametrize("denoiser", ["unet", "dit"])
def test_a_killed_run_with_dropout_resumes_bit_for_bit(build, tmp_path, denoiser):
    def with_dropout():
        module = build.diffusion(denoiser)
        for part in module.network.denoiser.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.5
        return module

    whole, resumed = with_dropout(), with_dropout()
    _, steps = build.fit(whole, checkpoints=tmp_path)
    torch.manual_seed(99)
    assert build.fit(resumed, ckpt_path=tmp_path / "step=3.ckpt")[1] == steps[3:]
    assert same_state(whole, resumed)


def test_averages_follow_the_closed_form_once_an_optimiser_step(build):
    module = build.diffusion(ema_decay=0.5)
    raw = [module.network.denoiser.final.bias.detach().clone()]

    class Keep(L.Callback):
        def on_train_batch_end(self, *args):
            raw.append(module.network.denoiser.final.bias.detach().clone())

    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[Keep()],
    )
    trainer.fit(module, build.batches(num=4))
    assert trainer.global_step == 2 and module.ema.num_updates == 2
    expected = raw[0]
    for d, weights in zip((1 / 10, 2 / 11), (raw[2], raw[4]), strict=True):
        expected = d * expected + (1 - d) * weights
    torch.testing.assert_close(module.ema.network.denoiser.final.bias.detach(), expected)


def test_randomness_is_a_function_of_seed_rank_epoch_and_batch(build):
    def draw(*where):
        return torch.randn(4, generator=step_generator("cpu", "diffusion", *where))

    places = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 11, 0), (0, 0, 1, 10)]
    assert all(torch.equal(draw(*place), draw(*place)) for place in places)
    assert len({tuple(draw(*place).tolist()) for place in places}) == len(places)
    assert stable_seed("diffusion", 0, 0, 0, 0) == 2538669672  # the same on every machine


def test_the_ranks_of_a_step_draw_together_what_one_draws_alone(build, monkeypatch):
    """Losses and gradients of the parts of a batch average to those of the whole; the global stream plays no part."""
    module = build.diffusion()
    batch = build.batches(size=4).batches[0]
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    losses, gradients, streams = {}, {}, {}
    for place in ((0, 1), (0, 2), (1, 2)):
        rank, num_ranks = place
        trainer = SimpleNamespace(global_rank=rank, world_size=num_ranks, current_epoch=0)
        monkeypatch.setattr(module, "_trainer", trainer)
        torch.manual_seed(sum(place))
        num = 4 // num_ranks
        part = {name: values[rank * num : (rank + 1) * num] for name, values in batch.items()}
        loss = module.training_step(part, 0)
        losses[place], streams[place] = float(loss), torch.get_rng_state()  # dropout draws from the stream
        [gradients[place]] = torch.autograd.grad(loss, [module.network.denoiser.final.bias])
    assert losses[0, 1] == pytest.approx((losses[0, 2] + losses[1, 2]) / 2, rel=1e-6) and losses[0, 2] != losses[1, 2]
    torch.testing.assert_close(gradients[0, 1], (gradients[0, 2] + gradients[1, 2]) / 2)
    assert torch.equal(streams[0, 1], streams[0, 2]) and not torch.equal(streams[0, 2], streams[1, 2])


def test_the_validation_loss_of_an_image_does_not_depend_on_the_others(build, monkeypatch):
    module, logged = build.diffusion().eval(), []
    monkeypatch.setattr(module, "log", lambda name, value, **kwargs: logged.append(float(value)))
    [batch] = build.batches(num=1, size=4).batches
    parts = [batch] + [{name: values[i::2] for name, values in batch.items()} for i in range(2)]
    for part in parts:
        module.validation_step(part, 0)
    assert logged[0] == pytest.approx((logged[1] + logged[2]) / 2, rel=1e-6) and logged[1] != logged[2]


def test_validation_is_the_same_each_time_and_uses_the_averages(build):
    module = build.diffusion()
    build.fit(module, max_steps=2)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    first, again = (trainer.validate(module, build.batches(), verbose=False)[0]["val/loss"] for _ in range(2))
    with torch.no_grad():
        module.network.denoiser.final.bias.add_(1.0)
    raw_moved = trainer.validate(module, build.batches(), verbose=False)[0]["val/loss"]
    with torch.no_grad():
        module.ema.network.denoiser.final.bias.add_(1.0)
    average_moved = trainer.validate(module, build.batches(), verbose=False)[0]["val/loss"]
    assert first == again == raw_moved != average_moved


@pytest.fixture(scope="module")
def trained(build):
    module = build.diffusion("unet", learning_rate=1e-2, guidance=2.0, guidance_interval=(0.1, 0.9))
    build.fit(module, max_steps=3)
    return module


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "dpm_solver"])
def test_image_i_is_the_same_in_any_batch(trained, scheduler, monkeypatch):
    monkeypatch.setitem(trained.sampling, "scheduler", scheduler)
    labels, seeds = LABELS.repeat(3, 1)[:8], list(range(100, 108))
    whole = trained.sample(labels, seeds)
    assert whole.shape == (8, 3, 16, 16) and whole.dtype == torch.float32
    assert whole.min() >= 0 and whole.max() <= 1 and not whole.requires_grad
    for size in (1, 3):
        parts = [trained.sample(labels[i : i + size], torch.tensor(seeds[i : i + size])) for i in range(0, 8, size)]
        assert (torch.cat(parts) - whole).abs().max() < 1 / 255
    assert not torch.equal(trained.sample(labels[:1], [100]), trained.sample(labels[:1], [101]))


def test_sampling_disturbs_nothing(trained):
    before = {name: t.clone() for name, t in trained.state_dict().items()}
    modes = [m.training for m in trained.modules()]
    stream = torch.get_rng_state()
    trained.sample(LABELS, [1, 2, 3], num_steps=2, guidance=1.0)
    assert torch.equal(stream, torch.get_rng_state()) and modes == [m.training for m in trained.modules()]
    assert all(torch.equal(t, before[name]) for name, t in trained.state_dict().items())


def test_guidance_and_unknown_labels(trained):
    unknown = torch.full((3, 3), -1)
    zero = trained.sample(LABELS, [1, 2, 3], guidance=0.0)
    assert not torch.equal(zero, trained.sample(LABELS, [1, 2, 3], guidance=1.0))
    everywhere = trained.sampling | {"guidance_interval": (0.0, 1.0)}
    trained.sampling, kept = everywhere, trained.sampling
    zero = trained.sample(LABELS, [1, 2, 3], guidance=0.0)
    torch.testing.assert_close(zero, trained.sample(unknown, [1, 2, 3], guidance=1.0))
    trained.sampling = kept


def test_bf16_sampling_keeps_float32_images(trained, monkeypatch):
    exact = trained.sample(LABELS, [1, 2, 3])
    monkeypatch.setitem(trained.sampling, "precision", "bf16")
    rounded = trained.sample(LABELS, [1, 2, 3])
    assert rounded.dtype == torch.float32 and 0 < (rounded - exact).abs().max() < 0.2
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(trained.sample(LABELS, [1, 2, 3]), rounded)


def test_bf16_training_and_channels_last(build):
    module = build.diffusion("unet", channels_last=True)
    build.fit(module, max_steps=2, precision="bf16-mixed")
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in module.parameters())


def test_a_checkpoint_holds_plain_things_and_suffices(build, tmp_path):
    module = build.diffusion()
    module.config = {"model": {"denoiser": {"depth": 2, "heads": 2}}, "seed": 0}
    trainer, _ = build.fit(module, checkpoints=tmp_path, max_steps=2)
    loaded = ckpt.load_state(tmp_path / "step=2.ckpt")  # weights_only
    assert loaded["synfundus_config"] == module.config
    names = set(loaded["state_dict"])
    assert {"ema.num_updates", "autoencoder.latent_scale"} <= names
    assert {n.removeprefix("ema.") for n in names if n.startswith("ema.network")} == {
        n for n in names if n.startswith("network")
    }
    fresh = build.diffusion(seed=5)
    fresh.autoencoder.latent_scale.fill_(9.0)
    ckpt.load_weights(fresh, loaded, "x.ckpt")
    assert same_state(module, fresh)
    assert torch.equal(fresh.sample(LABELS, [1, 2, 3]), module.sample(LABELS, [1, 2, 3]))


def test_another_architecture_is_refused_with_what_differs(build, tmp_path):
    module = build.diffusion("dit")
    module.config = {"model": {"denoiser": {"_target_": "DiT", "depth": 2}}, "seed": 0}
    build.fit(module, checkpoints=tmp_path, max_steps=1)
    other = build.diffusion("unet")
    other.config = {"model": {"denoiser": {"_target_": "UNet"}}, "seed": 1}
    facts = ["LatentDiffusion", "network.denoiser.unet.conv_in.weight", "network.denoiser.patchify.weight",
             "model.denoiser._target_: UNet here, DiT there; model.denoiser.depth"]  # fmt: skip
    with refuses(ValueError, *facts):
        build.fit(other, ckpt_path=tmp_path / "step=1.ckpt")
    with refuses(FileNotFoundError, f"'{tmp_path / 'step=9.ckpt'}'", "step=1.ckpt"):
        ckpt.load_state(tmp_path / "step=9.ckpt")
    torch.save({"weights": 1}, tmp_path / "odd.ckpt")
    with refuses(ValueError, f"'{tmp_path / 'odd.ckpt'}'", "'state_dict'"):
        ckpt.load_state(tmp_path / "odd.ckpt")


class Stranger:
    """Something that is not plain."""


def test_what_is_no_whole_checkpoint_is_refused_with_its_name(tmp_path):
    whole = tmp_path / "whole.ckpt"
    torch.save({"state_dict": {"weight": torch.zeros(1000)}}, whole)
    safetensors.torch.save_file({"weight": torch.zeros(1000)}, tmp_path / "weights.safetensors")
    torch.save({"state_dict": {}, "stranger": Stranger()}, tmp_path / "stranger.ckpt")
    contents = {"cut.ckpt": whole.read_bytes()[:-100], "empty.ckpt": b"", "config.yaml": b"seed: 0\n"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    said = dict.fromkeys([*contents, "stranger.ckpt"], "containers") | {"weights.safetensors": "checkpoint"}
    for name, fact in said.items():
        with refuses(ValueError, f"'{tmp_path / name}'", fact, "checkpoints/last.ckpt"):
            ckpt.load_state(tmp_path / name)
        with refuses(ValueError, f"'{tmp_path / name}'", fact, "checkpoints/last.ckpt", "diffusers"):
            pretrained(str(tmp_path / name))


def test_a_checkpoint_of_another_width_names_the_shapes(build):
    module = build.diffusion()
    state = {"state_dict": module.state_dict() | {"network.denoiser.final.bias": torch.zeros(3)}}
    with refuses(ValueError, "LatentDiffusion", "network.denoiser.final.bias", (8,), (3,)):
        ckpt.check_architecture(module, state)


def test_judges_are_dropped(build):
    autoencoder = build.autoencoder(discriminator=True)
    autoencoder.measure_latents(build.batches())
    donor = build.diffusion()
    module = LatentDiffusion(autoencoder, donor.network.denoiser, donor.network.conditioning, donor.objective)
    assert not [name for name in module.state_dict() if "discriminator" in name]


def test_errors(build):
    module = build.diffusion()
    with refuses(ValueError, "labels[0, 0]=7", "'dr_grade'", "0..4"):
        module.sample(torch.tensor([[7, 0, 0]]), [1])
    with refuses(ValueError, "2 seeds", "3 rows"):
        module.sample(LABELS, [1, 2])
    with refuses(ValueError, (2, 16, 16), (2, 8, 8), "latent_size to 16", "data.image_size to 16"):
        build.fit(module, build.batches(image_size=32), max_steps=1)
    module.autoencoder.num_measured.zero_()
    with refuses(ValueError, "autoencoder.measure_latents"):
        build.fit(module, max_steps=1)
    with refuses(ValueError, "num_steps=0"):
        build.diffusion(num_steps=0)
    with refuses(ValueError, "cond_dim=8", "conditioning.dim=4"):
        conditioning = type(module.network.conditioning)(build.num_levels, 4)
        LatentDiffusion(module.autoencoder, module.network.denoiser, conditioning, module.objective)
