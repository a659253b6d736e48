"""The smallest module, data and extractor that the callbacks work with; the script two_ranks.py uses them too."""

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from callbacks.features import FeatureExtractor

NUM_FINDINGS = 3
IMAGE_SIZE = 16


def read_saved(path):
    """What a checkpoint holds."""
    return torch.load(path, weights_only=True)


class TinyModule(pl.LightningModule):
    """Trains on the global random stream, so that any disturbance of it shows in train/loss."""

    sampling = {"num_steps": 7, "guidance": 1.5, "scheduler": "tiny"}

    def __init__(self, lr=0.1):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))
        self.dropout = torch.nn.Dropout(0.2)
        self.lr = lr
        self.losses = []

    def training_step(self, batch, batch_idx):
        images = batch["image"].float() / 255
        noise = torch.randn(images.shape, device=images.device)
        loss = (self.dropout(images) * self.scale.view(1, 3, 1, 1) - noise).square().mean()
        self.losses.append((self.global_step, loss.item()))
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", (batch["image"].float() / 255 * self.scale.view(1, 3, 1, 1)).mean(), sync_dist=True)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}}

    def sample(self, labels, seeds, num_steps=None, guidance=None):
        torch.rand(5)  # a careless sampler: uses the global stream and forgets to restore the mode
        self.train()
        images = [
            torch.rand(3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(seed)) * 0.5
            + 0.1 * int(label[0] + 1)
            for label, seed in zip(labels, seeds, strict=True)
        ]
        return (torch.stack(images).to(self.device) * self.scale.view(1, 3, 1, 1)).clamp(0, 1)

    def reconstruct(self, images):
        torch.rand(5)
        return (images * 0.9 + 0.02).clamp(0, 1)


class ResumableModule(TinyModule):
    """Noise is a function of the step, as in every module of this project."""

    def training_step(self, batch, batch_idx):
        torch.manual_seed(self.trainer.fit_loop.total_batch_idx)
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self):
        self.log("train/epochs_ended", float(self.current_epoch))


class StatefulLoader:
    """Batches in an order that is a function of the epoch alone; resumes in the middle of an epoch."""

    def __init__(self, images, batch_size, rank=0, num_ranks=1):
        self.images, self.batch_size, self.rank, self.num_ranks = images, batch_size, rank, num_ranks
        self.epoch, self.done, self.start = 0, 0, 0
        self.sampler = self  # Lightning calls sampler.set_epoch

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.images) // self.batch_size // self.num_ranks

    def __iter__(self):
        start, self.start = self.start, 0
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(self.epoch))
        for k in range(start, len(self)):
            self.done = k + 1
            first = (k * self.num_ranks + self.rank) * self.batch_size
            yield {"image": self.images[order[first : first + self.batch_size]].permute(0, 3, 1, 2)}

    def state_dict(self):
        return {"epoch": self.epoch, "done": self.done % len(self)}

    def load_state_dict(self, state):
        self.epoch, self.start = state["epoch"], state["done"]


class TinyData(pl.LightningDataModule):
    fingerprint = "tiny data"
    split_fingerprint = "tiny split"

    def __init__(self, num_images=24, batch_size=4, num_val=6):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        shape = (num_images + num_val, IMAGE_SIZE, IMAGE_SIZE, 3)
        images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        labels = torch.randint(-1, 3, (num_images + num_val, NUM_FINDINGS), generator=generator)
        self.parts = {
            "train": (images[:num_images], labels[:num_images]),
            "val": (images[num_images:], labels[num_images:]),
        }
        self.batch_size = batch_size

    def images(self, split):
        return self.parts[split][0].numpy()

    def labels(self, split):
        return self.parts[split][1]

    def conditions(self, split):
        return self.labels(split)

    def train_dataloader(self):
        return StatefulLoader(
            self.parts["train"][0], self.batch_size, self.trainer.global_rank, self.trainer.world_size
        )

    def val_dataloader(self):
        images = self.parts["val"][0].permute(0, 3, 1, 2)
        return DataLoader([{"image": image} for image in images], batch_size=2)


def tiny_extractor(dim=5, name="tiny"):
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, dim))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.init.normal_(network[2].weight)
        torch.nn.init.zeros_(network[2].bias)
    return FeatureExtractor(network, name, dim, IMAGE_SIZE)


def fit(output_dir, callbacks=(), seed=3, module=None, data=None, ckpt_path=None, **settings):
    """Train two epochs of six batches on one CPU process, quietly; returns trainer and module."""
    pl.seed_everything(seed)
    settings = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 1} | settings
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=str(output_dir),
        callbacks=list(callbacks),
        **({"devices": 1} | quiet | settings),
    )
    module = module or TinyModule()
    trainer.fit(module, datamodule=data or TinyData(), ckpt_path=ckpt_path)
    return trainer, module
