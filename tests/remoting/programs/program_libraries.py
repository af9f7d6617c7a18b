"""Training by public libraries, unmodified: transformers' Trainer, accelerate, Lightning, torchmetrics.

Each model is small, made from its own configuration with random weights, and nothing is fetched. The losses on the
device are held against the same library's on the CPU. Dropout is off: PyTorch draws masks by other kernels on cuda.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PL_DISABLE_FORK": "1"}

import pytorch_lightning
import torch
import torchmetrics
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

WORDS = 60
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}


def words(count: int = 24, length: int = 12) -> list[Any]:
    return list(torch.randint(3, WORDS, (count, length)))


def bert() -> tuple[Any, list[dict[str, Any]]]:
    config = transformers.BertConfig(
        vocab_size=WORDS, intermediate_size=48, num_labels=3, hidden_dropout_prob=0.0, **SIZES
    )
    config.attention_probs_dropout_prob = 0.0
    rows = [{"input_ids": sentence, "labels": sentence[0] % 3} for sentence in words()]
    return transformers.BertForSequenceClassification(config), rows


def gpt2() -> tuple[Any, list[dict[str, Any]]]:
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    return transformers.GPT2LMHeadModel(config), [{"input_ids": text, "labels": text} for text in words()]


def llama() -> tuple[Any, list[dict[str, Any]]]:
    config = transformers.LlamaConfig(vocab_size=WORDS, intermediate_size=64, num_key_value_heads=2, **SIZES)
    return transformers.LlamaForCausalLM(config), [{"input_ids": text, "labels": text} for text in words()]


def vit() -> tuple[Any, list[dict[str, Any]]]:
    config = transformers.ViTConfig(image_size=16, patch_size=4, intermediate_size=48, num_labels=3, **SIZES)
    rows = [{"pixel_values": torch.randn(3, 16, 16), "labels": torch.tensor(i % 3)} for i in range(24)]
    return transformers.ViTForImageClassification(config), rows


def epoch(make: Callable[[], tuple[Any, list[dict[str, Any]]]], folder: Path, use_cpu: bool) -> tuple[Any, list[float]]:
    """Train one epoch with the Trainer; the model and the loss of every step."""
    transformers.set_seed(0)
    model, rows = make()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=use_cpu,
    )
    # Else it wraps the model in DataParallel where there are two devices, and so takes other batches than on the CPU.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    return model, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("make", [bert, gpt2, llama, vit])
def test_a_transformers_trainer_runs_an_epoch(make: Any, tmp_path: Path) -> None:
    there, losses = epoch(make, tmp_path / "there", use_cpu=False)
    here, expected = epoch(make, tmp_path / "here", use_cpu=True)
    assert len(losses) == 3 and next(there.parameters()).is_cuda
    assert losses == pytest.approx(expected, rel=1e-4)
    if make in (gpt2, llama):
        prompt = torch.tensor([[5, 6, 7]])
        options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        generated = there.generate(prompt.cuda(), **options)
        assert generated.cpu().tolist() == here.generate(prompt, **options).tolist()
    checkpoint = tmp_path / "there" / "checkpoint-3"
    loaded = type(there).from_pretrained(checkpoint)
    first, second = next(loaded.parameters()), next(there.parameters())
    assert torch.equal(first, second.detach().cpu())


def test_accelerate_runs_a_loop_in_mixed_precision(tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # the Trainer's, of this process
    accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
    assert accelerator.device.type == "cuda"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    inputs = torch.randn(64, 8)
    loader = DataLoader(TensorDataset(inputs, (inputs[:, 0] > 0).long()), batch_size=16, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    losses = []
    for _ in range(12):
        for features, labels in loader:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(features), labels)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    accelerator.save_state(str(tmp_path))
    accelerator.load_state(str(tmp_path))
    gathered = accelerator.gather(torch.ones(2, device=accelerator.device))
    assert gathered.is_cuda and gathered.sum().item() == 2.0


class Lit(pytorch_lightning.LightningModule):  # type: ignore[misc]
    """A classifier with a metric, as Lightning's own introduction has it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 2))
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(2)
        self.losses: list[float] = []

    def training_step(self, batch: Any, _: int) -> Any:
        assert batch[0].is_cuda
        logits = self.body(batch[0])
        loss = nn.functional.cross_entropy(logits, batch[1])
        self.accuracy(logits, batch[1])
        self.log("accuracy", self.accuracy, on_epoch=True)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_lightning_trains_on_a_gpu(precision: str, tmp_path: Path) -> None:
    pytorch_lightning.seed_everything(0)
    inputs = torch.randn(128, 8)
    loader = DataLoader(TensorDataset(inputs, (inputs[:, 0] > 0).long()), batch_size=32)
    model = Lit()
    trainer = pytorch_lightning.Trainer(
        accelerator="gpu",
        devices=1,
        precision=precision,
        max_epochs=6,
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        gradient_clip_val=1.0,
    )
    trainer.fit(model, loader)
    assert trainer.strategy.root_device.type == "cuda"
    assert model.losses[-1] < model.losses[0] / 2
    assert trainer.callback_metrics["accuracy"].item() > 0.9
    (checkpoint,) = tmp_path.glob("checkpoints/*.ckpt")
    restored = Lit.load_from_checkpoint(checkpoint, map_location="cuda")
    assert next(restored.parameters()).is_cuda


def test_torchmetrics_compute_on_the_device() -> None:
    torch.manual_seed(0)
    scores, classes = torch.randn(50, 4), torch.randint(4, (50,))
    guesses, truths = torch.randn(50), torch.randn(50)
    of_classes = {
        "accuracy": torchmetrics.classification.MulticlassAccuracy(4),
        "f1": torchmetrics.classification.MulticlassF1Score(4),
        "auroc": torchmetrics.classification.MulticlassAUROC(4),
        "matrix": torchmetrics.classification.MulticlassConfusionMatrix(4),
    }
    of_numbers = {
        "error": torchmetrics.MeanSquaredError(),
        "correlation": torchmetrics.PearsonCorrCoef(),
        "rank": torchmetrics.SpearmanCorrCoef(),
        "r2": torchmetrics.R2Score(),
    }
    for metrics, given in ((of_classes, (scores, classes)), (of_numbers, (guesses, truths))):
        here = torchmetrics.MetricCollection(metrics)
        there = here.clone().to("cuda")
        for batch in range(0, 50, 25):
            here.update(*(tensor[batch : batch + 25] for tensor in given))
            there.update(*(tensor[batch : batch + 25].cuda() for tensor in given))
        expected, found = here.compute(), there.compute()
        for name, value in found.items():
            assert value.is_cuda
            torch.testing.assert_close(value.cpu(), expected[name])
