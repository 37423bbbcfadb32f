"""The objective inside of other people's training loops, where their libraries are installed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import kdeploy

X, Y = torch.rand(24, 1, 12, 12), torch.arange(24) % 4


@pytest.fixture
def pair(tiny_model):
    return tiny_model(seed=2, width=4), tiny_model(seed=1, width=8)


def moved(before, module):
    return any(not torch.equal(before[n], p) for n, p in module.named_parameters())


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


@pytest.mark.filterwarnings("ignore")  # of its own, about the number of workers
def test_a_lightning_module_trains_it(pair, tmp_path):
    lightning = pytest.importorskip("pytorch_lightning")
    student, teacher = pair

    class Distilling(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.objective = kdeploy.Objective(student, teacher)

        def training_step(self, batch, index):
            return self.objective(*batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.objective.parameters(), 0.1)

    before, known = weights(student), weights(teacher)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Distilling(), DataLoader(TensorDataset(X, Y), 8))
    assert moved(before, student)
    assert not moved(known, teacher)


class Pictures(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, place):
        return {"pixel_values": X[place], "labels": int(Y[place])}


@pytest.mark.filterwarnings("ignore")  # of its own, about what will change
def test_a_hugging_face_trainer_trains_it(pair, tmp_path):
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    student, teacher = pair

    class Distilled(nn.Module):
        def __init__(self):
            super().__init__()
            self.objective = kdeploy.Objective(student, teacher)

        def forward(self, pixel_values, labels):
            return {"loss": self.objective(pixel_values, labels)}

    before, known = weights(student), weights(teacher)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=1, per_device_train_batch_size=8,
        learning_rate=0.01, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
        remove_unused_columns=False,
    )  # fmt: skip
    transformers.Trainer(model=Distilled(), args=arguments, train_dataset=Pictures()).train()
    assert moved(before, student)
    assert not moved(known, teacher)
