"""An exported generator paints what ours paints, takes findings by name, and needs nothing of this package."""

import ast
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import DIT, FOLDED_KL, PLAIN_KL, autoencoder, generator, saved
from diffusers import AutoencoderKL, AutoModel, DDIMScheduler, DiffusionPipeline, UNet2DModel
from refusals import refuses
from tiny_runs import UNET

from datamodules.findings import NAMES
from experiments.model_export.generator import check_autoencoder, check_generator, write_autoencoder, write_generator
from experiments.model_export.kinds import export_of
from lightning_modules.checkpoint import load_state
from lightning_modules.checkpoint_shards import ShardedState, close_folder, new_folder
from lightning_modules.diffusion import spacing
from lightning_modules.networks import dit, folded, latent_classifier
from lightning_modules.networks.kl import pretrained

SEEDS = [5, 6, 7]
ROWS = [{"diabetic_retinopathy": 3, "glaucoma": "present"}, {"dr_grade": "None", "eye": "left"}, {}]


@pytest.fixture(scope="module", autouse=True)
def own_modules(tmp_path_factory):
    """What diffusers copies of the folders' code does not go into the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", [*sys.path])
        yield
    for name in [name for name in sys.modules if name.startswith("diffusers_modules")]:
        del sys.modules[name]


def labels() -> torch.Tensor:
    rows = torch.full((3, len(NAMES)), -1)
    rows[0, NAMES.index("dr_grade")], rows[0, NAMES.index("is_gc")] = 3, 1
    rows[1, NAMES.index("dr_grade")], rows[1, NAMES.index("eye_side")] = 0, 1
    return rows


def loaded(folder: Path, **settings) -> DiffusionPipeline:
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def exported(module, folder: Path) -> DiffusionPipeline:
    folder.mkdir()
    write_generator(module, folder, module.ema.network)
    return loaded(folder)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, own_modules) -> DiffusionPipeline:
    return exported(generator(), tmp_path_factory.mktemp("exported") / "model")


EPSILON = ["model.objective.prediction=epsilon", *PLAIN_KL]
ZERO_SNR = ["model.objective.prediction=x0", "model.objective.schedule.zero_terminal_snr=true", *FOLDED_KL]
COSINE = ["model.objective.schedule.name=cosine", "model.diffusion.guidance_interval=[0.2,0.7]"]
KARRAS = ["model.diffusion.spacing=karras", "model.label_maps=null", "model.guide=null"]
GUIDE = ["model.guide.channels=[8,16]", "model.diffusion.classifier_scale=3.0"]


@pytest.mark.parametrize(
    ("denoiser", "scheduler", "words"),
    [
        (UNET, "dpm_solver", []),
        (UNET, "ddim", EPSILON),
        (UNET, "ddpm", COSINE),
        (UNET, "dpm_solver", ZERO_SNR),
        (UNET, "dpm_solver", KARRAS),
        (UNET, "dpm_solver", GUIDE),
        (DIT, "ddpm", [*GUIDE, *EPSILON, "model.diffusion.classifier_findings=[eye_side,is_gc]"]),
        (UNET, "ddim", [*GUIDE, *ZERO_SNR, "model.diffusion.classifier_interval=[0.1,0.8]"]),
        (UNET, "dpm_solver", [*GUIDE, "model.diffusion.classifier_findings={eye_side:2.0,is_gc:0.5}"]),
        (UNET, "ddim", ["model.diffusion.guidance=4.0", "model.diffusion.guidance_rescale=0.7"]),
        (DIT, "dpm_solver", COSINE),
        (DIT, "ddim", ZERO_SNR),
        (DIT, "ddpm", EPSILON),
    ],
    ids=[
        "unet",
        "unet-epsilon",
        "unet-cosine",
        "unet-zero-snr",
        "unet-karras",
        "unet-guide",
        "dit-guide",
        "unet-guide-x0",
        "unet-guide-weights",
        "unet-rescaled",
        "dit",
        "dit-zero-snr",
        "dit-epsilon",
    ],
)
def test_images_of_fixed_seeds_are_ours(tmp_path, denoiser, scheduler, words):
    module = generator(
        *words, f"model.diffusion.scheduler={scheduler}", "model.diffusion.num_steps=5", denoiser=denoiser
    )
    theirs = exported(module, tmp_path / "model")
    ours = module.sample(labels(), SEEDS)
    torch.testing.assert_close(theirs(ROWS, seeds=SEEDS, output_type="pt").images, ours, rtol=0, atol=1e-5)
    assert ours.std() > 0.01 and (ours[0] - ours[2]).abs().max() > 0.01, "there is something to compare"
    for steps, guidance in ((3, 4.0), (7, 1.0), (4, 0.0)):
        ours = module.sample(labels(), SEEDS, num_steps=steps, guidance=guidance)
        other = theirs(labels(), SEEDS, num_inference_steps=steps, guidance_scale=guidance, output_type="pt").images
        torch.testing.assert_close(other, ours, rtol=0, atol=1e-5)


def test_a_network_in_channels_last_is_exported_too(tmp_path):
    module = generator("model.diffusion.channels_last=true", "autoencoder.module.channels_last=true")
    path = saved(module, tmp_path / "a.ckpt")
    export_of(path, load_state(path), "averaged", False, []).write(tmp_path / "model")
    theirs = loaded(tmp_path / "model")(labels(), SEEDS, output_type="pt").images
    torch.testing.assert_close(theirs, module.sample(labels(), SEEDS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("denoiser", [UNET, DIT], ids=["unet", "dit"])
def test_it_runs_in_half_precision(tmp_path, denoiser):
    module = generator(denoiser=denoiser)
    exported(module, tmp_path / "model")
    images = loaded(tmp_path / "model", torch_dtype=torch.bfloat16)(ROWS, SEEDS, output_type="pt").images
    assert (images.float() - module.sample(labels(), SEEDS)).abs().mean() < 0.02


def test_the_parts_are_what_diffusers_knows(tmp_path):
    module = generator(*PLAIN_KL)
    pipeline = exported(module, tmp_path / "model")
    index = DiffusionPipeline.load_config(tmp_path / "model")
    assert index["unet"] == ["diffusers", "UNet2DModel"] and index["vae"] == ["diffusers", "AutoencoderKL"]
    assert index["scheduler"][0] == "diffusers"
    unet = UNet2DModel.from_pretrained(tmp_path / "model", subfolder="unet")
    assert all(map(torch.equal, unet.state_dict().values(), module.ema.network.denoiser.unet.state_dict().values()))
    vae = AutoencoderKL.from_pretrained(tmp_path / "model", subfolder="vae")
    assert vae.config.latents_mean == pytest.approx(module.autoencoder.latent_shift.tolist())
    assert vae.config.latents_std == pytest.approx(module.autoencoder.latent_scale.tolist())
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    module.sample_by(scheduler="ddim")
    ours = module.sample(labels(), SEEDS)
    torch.testing.assert_close(pipeline(ROWS, SEEDS, output_type="pt").images, ours, rtol=0, atol=1e-5)


def test_it_loads_by_the_name_of_its_pipeline_file(tmp_path):
    folder = tmp_path / "model"
    first = exported(generator(), folder)(ROWS, SEEDS, output_type="pt").images
    again = loaded(folder, custom_pipeline=f"{folder}/pipeline.py")(ROWS, SEEDS, output_type="pt").images
    assert torch.equal(first, again)


def test_the_code_in_the_folder_is_ours_and_imports_nothing_of_ours(tmp_path):
    exported(generator(denoiser=DIT), tmp_path / "model")
    copies = {"transformer/fundus_dit.py": dit, "vae/folded_autoencoder.py": folded,
              "guide/latent_classifier.py": latent_classifier, "spacing.py": spacing}  # fmt: skip
    for name, module in copies.items():
        assert (tmp_path / "model" / name).read_bytes() == Path(module.__file__).read_bytes()
    files = sorted((tmp_path / "model").rglob("*.py"))
    assert len(files) == 6
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                package = name.partition(".")[0]
                assert package in ("torch", "diffusers", "numpy", "spacing") or package in sys.stdlib_module_names, (
                    f"{file}: {name}"
                )


def test_images_do_not_depend_on_what_else_is_painted(pipeline):
    together = pipeline(ROWS, seeds=SEEDS, output_type="pt").images
    for place, row in enumerate(ROWS):
        alone = pipeline(row, seeds=SEEDS[place], output_type="pt").images
        torch.testing.assert_close(alone[0], together[place], rtol=0, atol=1e-5)
    several = pipeline(ROWS[0], seeds=SEEDS, output_type="pt").images
    assert several.shape[0] == 3 and torch.allclose(several[0], together[0], atol=1e-5)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    torch.testing.assert_close(pipeline(ROWS, generator=generators, output_type="pt").images, together)
    noise = torch.stack(
        [torch.randn(*pipeline.latent_shape, generator=torch.Generator().manual_seed(s)) for s in SEEDS]
    )
    torch.testing.assert_close(pipeline(ROWS, latents=noise, seeds=SEEDS, output_type="pt").images, together)


def test_what_comes_out(pipeline):
    tensors = pipeline(ROWS, seeds=SEEDS, output_type="pt").images
    arrays = pipeline(ROWS, seeds=SEEDS, output_type="np").images
    pictures = pipeline(ROWS, seeds=SEEDS).images
    assert arrays.shape == (3, 16, 16, 3) and torch.equal(torch.from_numpy(arrays).permute(0, 3, 1, 2), tensors)
    assert [picture.size for picture in pictures] == [(16, 16)] * 3 and pictures[0].mode == "RGB"
    assert pipeline(ROWS, seeds=SEEDS, output_type="latent", return_dict=False)[0].shape == (3, 4, 4, 4)
    assert pipeline([{}, {}]).images[0] != pipeline([{}, {}]).images[0], "without a seed each is another"
    assert [finding["name"] for finding in pipeline.findings] == list(NAMES)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"labels": {"glaucomma": 1}}, "'glaucomma' is not a finding of this model. Did you mean 'glaucoma'"),
        ({"labels": {"glaucoma": 2}}, "2 is no level of 'is_gc': use 0 (absent), 1 (present), or None"),
        ({"labels": {"dr_grade": "bad"}}, "'bad' is no level of 'dr_grade': use 0 (none), 1 (mild)"),
        ({"labels": {"glaucoma": True}}, "True is no level of 'is_gc'"),
        ({"labels": {"glaucoma": 1, "is_gc": 0}}, "'glaucoma' and 'is_gc' name the same finding"),
        ({"labels": "glaucoma"}, "labels='glaucoma': give findings by name"),
        ({"labels": []}, "labels is empty"),
        ({"labels": torch.zeros(1, 3, dtype=torch.int64)}, "need int64 [B, 16] with columns dr_grade, is_amd"),
        ({"labels": torch.full((1, 16), 9)}, "labels[0, 0]=9 is no level of 'dr_grade'"),
        ({"labels": {}, "seeds": [1, 2**32]}, "each must be in [0, 2**32)"),
        ({"labels": [{}, {}], "seeds": [1, 2, 3]}, "3 seeds or generators for 2 labels"),
        ({"labels": {}, "seeds": 1, "generator": torch.Generator()}, "give seeds or generator, and not both"),
        ({"labels": {}, "num_inference_steps": 0}, "num_inference_steps=0 must be in 1..1000"),
        ({"labels": {}, "guidance_scale": -1}, "guidance_scale=-1 must be 0"),
        ({"labels": {}, "output_type": "png"}, "output_type='png' must be pil, np, pt or latent"),
        ({"labels": {}, "latents": torch.zeros(1, 3, 4, 4)}, "latents are [1, 3, 4, 4]; need [1, 4, 4, 4]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_means_nothing(pipeline, arguments, said):
    with pytest.raises(ValueError) as caught:
        pipeline(**arguments)
    assert said in str(caught.value)


@pytest.mark.parametrize("words", [PLAIN_KL, FOLDED_KL, []], ids=["plain", "folded", "shortcut"])
def test_an_autoencoder_alone(tmp_path, words):
    module = autoencoder(*words)
    write_autoencoder(module, tmp_path / "vae")
    images = torch.rand(2, 3, 16, 16)
    theirs = AutoModel.from_pretrained(str(tmp_path / "vae"), trust_remote_code=words != PLAIN_KL)
    with torch.no_grad():
        again = (theirs.decode(theirs.encode(2 * images - 1).latent_dist.mean).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(again, module.reconstruct(images), rtol=0, atol=1e-5)
    assert (tmp_path / "vae" / "folded_autoencoder.py").exists() == (words != PLAIN_KL)
    back = pretrained(str(tmp_path / "vae"))  # as autoencoder.pretrained takes it
    assert type(back) is type(module.network)
    assert all(map(torch.equal, back.state_dict().values(), module.network.state_dict().values()))


@pytest.mark.parametrize("weights", ["averaged", "raw"])
@pytest.mark.parametrize("in_shares", [False, True])
def test_either_weights_of_a_checkpoint_in_a_file_or_in_shares(tmp_path, weights, in_shares):
    module = generator()
    path = saved(module, tmp_path / "best.ckpt")
    if in_shares:
        checkpoint, path = load_state(path), tmp_path / "shares.ckpt"
        folder = new_folder(path, 7)
        shares = ShardedState(checkpoint)
        close_folder(shares.rest, [shares.write(folder)], folder, path)
    averaged = module.sample(labels(), SEEDS)
    module.ema.network.load_state_dict(module.network.state_dict())
    raw = module.sample(labels(), SEEDS)
    assert (averaged - raw).abs().max() > 1e-3
    export = export_of(path, load_state(path), weights, False, [])
    (tmp_path / "model").mkdir()
    export.write(tmp_path / "model")
    images = loaded(tmp_path / "model")(ROWS, SEEDS, output_type="pt").images
    torch.testing.assert_close(images, averaged if weights == "averaged" else raw, rtol=0, atol=1e-5)


def test_an_autoencoder_that_ddpm_train_has_trained_is_known_as_one(tmp_path):
    """Its checkpoint holds the configuration of the whole run."""
    module = generator()
    module.autoencoder.config = module.config
    path = saved(module.autoencoder, tmp_path / "autoencoder.ckpt")
    export = export_of(path, load_state(path), "averaged", False, [])
    assert (export.model.kind, export.model.weights, export.model.image_size) == ("autoencoder", "trained", 16)
    assert set(export.write(tmp_path / "model")) == {"autoencoder"}


def test_parts_of_elsewhere_are_refused():
    module = generator()
    module.autoencoder.network = torch.nn.Identity()
    with refuses(ValueError, "Identity", "AutoencoderKL", "model/autoencoder"):
        check_autoencoder(module.autoencoder)
    module.network.denoiser = torch.nn.Identity()
    with refuses(ValueError, "Identity", "UNet", "DiT", "model/denoiser"):
        check_generator(module)
