"""The training programs whose losses are compared: ordinary PyTorch, the same code for every device.

What is random is made on the CPU with a fixed seed, before the model goes to the device. Dropout draws on the device:
an emulated one has the CPU's generator, so the same seed gives the same mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Program = Callable[[str], list[float]]
MakeOptimizer = Callable[[Iterable[Any]], Any]


def train(
    model: Any,
    batches: list[tuple[Any, Any]],
    device: str,
    steps: int,
    make_optimizer: MakeOptimizer | None = None,
    criterion: Callable[[Any, Any], Any] = F.cross_entropy,
    memory_format: Any = None,
) -> list[float]:
    """Train for `steps` steps, the batches in turn; the loss of each step."""
    model = model.to(device)
    if memory_format is not None:
        model = model.to(memory_format=memory_format)
    optimizer = (make_optimizer or partial(torch.optim.SGD, lr=0.05))(model.parameters())
    torch.manual_seed(11)
    losses = []
    for step in range(steps):
        inputs, targets = (tensor.to(device) for tensor in batches[step % len(batches)])
        if memory_format is not None:
            inputs = inputs.to(memory_format=memory_format)
        loss = criterion(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def classified(shape: tuple[int, ...], classes: int, batch: int, count: int = 4) -> list[tuple[Any, Any]]:
    """`count` batches of random inputs of `shape`, with random classes."""
    return [(torch.randn(batch, *shape), torch.randint(classes, (batch,))) for _ in range(count)]


def mlp(device: str, make_optimizer: MakeOptimizer, dropout: float = 0.0) -> list[float]:
    torch.manual_seed(1)
    layers = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.GELU(), nn.Dropout(dropout), nn.Linear(128, 10)]
    return train(nn.Sequential(*layers), classified((64,), 10, 32), device, 40, make_optimizer)


def cnn(device: str, memory_format: Any = None) -> list[float]:
    torch.manual_seed(2)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, stride=2, groups=2), nn.GroupNorm(4, 32), nn.SiLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )
    return train(model, classified((3, 16, 16), 10, 16), device, 30, memory_format=memory_format)


class Residual(nn.Module):  # type: ignore[misc]
    """Two convolutions with a shortcut, as ResNet-18 has them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)),
            *(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)),
        )
        self.shortcut: Any = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, inputs: Any) -> Any:
        return F.relu(self.body(inputs) + self.shortcut(inputs), inplace=True)


def resnet(device: str, memory_format: Any = None) -> list[float]:
    """ResNet-18's 18 layers at an eighth of its width."""
    torch.manual_seed(3)
    widths = [8, 8, 16, 32, 64]
    blocks = [
        Residual(widths[stage] if first else widths[stage + 1], widths[stage + 1], 2 if first and stage else 1)
        for stage in range(4)
        for first in (True, False)
    ]
    stem = [nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-4)
    return train(model, classified((3, 32, 32), 10, 8), device, 20, optimizer, memory_format=memory_format)


class Attention(nn.Module):  # type: ignore[misc]
    """Causal self-attention by `scaled_dot_product_attention`, and a head that predicts the next token."""

    def __init__(self, vocabulary: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.table = nn.Embedding(vocabulary, width)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Any) -> Any:
        hidden = self.table(tokens)
        batch, length, width = hidden.shape
        parts = self.project(self.norm(hidden)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.head(hidden + mixed.transpose(1, 2).reshape(batch, length, width))


def attention(device: str) -> list[float]:
    torch.manual_seed(4)
    tokens = [torch.randint(50, (8, 25)) for _ in range(4)]
    batches = [(sequence[:, :-1], sequence[:, 1:]) for sequence in tokens]
    optimizer = partial(torch.optim.AdamW, lr=3e-3)
    return train(Attention(50, 32, 4), batches, device, 30, optimizer, _next_token_loss)


def _next_token_loss(logits: Any, targets: Any) -> Any:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class LastStep(nn.Module):  # type: ignore[misc]
    """A sequence module's last output, classified."""

    def __init__(self, body: Any, width: int, classes: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, classes)

    def forward(self, inputs: Any) -> Any:
        hidden = self.body(inputs)
        return self.head((hidden[0] if isinstance(hidden, tuple) else hidden)[:, -1])


def transformer_encoder(device: str, dropout: float = 0.0) -> list[float]:
    torch.manual_seed(5)
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=dropout, batch_first=True)
    model = LastStep(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), 32, 5)
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    return train(model, classified((12, 32), 5, 8), device, 20, optimizer)


def recurrent(device: str, kind: Any, **options: Any) -> list[float]:
    torch.manual_seed(6)
    width = 24 * (2 if options.get("bidirectional") else 1)
    model = LastStep(kind(16, 24, batch_first=True, **options), width, 5)
    optimizer = partial(torch.optim.Adam, lr=5e-3)
    return train(model, classified((10, 16), 5, 8), device, 20, optimizer)


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "sgd momentum nesterov": partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "sgd for-loop": partial(torch.optim.SGD, lr=0.05, momentum=0.9, foreach=False),
    "adam": partial(torch.optim.Adam, lr=1e-2),
    "adam for-loop": partial(torch.optim.Adam, lr=1e-2, foreach=False),
    "adamw amsgrad": partial(torch.optim.AdamW, lr=1e-2, amsgrad=True),
    "adamw for-loop": partial(torch.optim.AdamW, lr=1e-2, foreach=False),
    "rmsprop": partial(torch.optim.RMSprop, lr=1e-3, momentum=0.5, centered=True),
    "adagrad": partial(torch.optim.Adagrad, lr=1e-2),
    "adadelta": partial(torch.optim.Adadelta, lr=0.5),
    # Without the word, "cpu" would take the loop and "cuda" foreach, which NAdam computes in another order.
    "nadam, foreach": partial(torch.optim.NAdam, lr=2e-3, foreach=True),
}

PROGRAMS: dict[str, Program] = {
    **{f"mlp, {name}": partial(mlp, make_optimizer=optimizer) for name, optimizer in OPTIMIZERS.items()},
    "mlp, dropout": partial(mlp, make_optimizer=OPTIMIZERS["adamw for-loop"], dropout=0.5),
    "cnn": cnn,
    "cnn, channels_last": partial(cnn, memory_format=torch.channels_last),
    "resnet-18": resnet,
    "resnet-18, channels_last": partial(resnet, memory_format=torch.channels_last),
    "attention": attention,
    "transformer encoder": transformer_encoder,
    "transformer encoder, dropout": partial(transformer_encoder, dropout=0.1),
    "lstm": partial(recurrent, kind=nn.LSTM),
    "lstm, two layers, both ways": partial(recurrent, kind=nn.LSTM, num_layers=2, bidirectional=True),
    "gru": partial(recurrent, kind=nn.GRU),
    "rnn": partial(recurrent, kind=nn.RNN),
}
