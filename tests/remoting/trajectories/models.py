"""The training programs whose losses are compared: ordinary PyTorch, the same code for every device.

What is random is made on the CPU with a fixed seed, before the model goes to the device. Dropout draws on the device:
an emulated one has the CPU's generator, so the same seed gives the same mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.remoting.trajectories.networks import Block, Experts, GoogLeNet, Language, PixelCNN

Program = Callable[[str, int], list[float]]  # device, steps -> the loss of each step
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


def mlp(device: str, steps: int, make_optimizer: MakeOptimizer, dropout: float = 0.0) -> list[float]:
    torch.manual_seed(1)
    layers = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.GELU(), nn.Dropout(dropout), nn.Linear(128, 10)]
    return train(nn.Sequential(*layers), classified((64,), 10, 32), device, steps, make_optimizer)


def cnn(device: str, steps: int, memory_format: Any = None) -> list[float]:
    torch.manual_seed(2)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, stride=2, groups=2), nn.GroupNorm(4, 32), nn.SiLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )
    return train(model, classified((3, 16, 16), 10, 16), device, steps, memory_format=memory_format)


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


def resnet(device: str, steps: int, memory_format: Any = None) -> list[float]:
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
    return train(model, classified((3, 32, 32), 10, 8), device, steps, optimizer, memory_format=memory_format)


def language(device: str, steps: int, *body: Any) -> list[float]:
    """Predict the next of random tokens with `body` between the tables and the head."""
    model = Language(50, 24, 32, *body)
    tokens = [torch.randint(50, (8, 25)) for _ in range(4)]
    batches = [(sequence[:, :-1], sequence[:, 1:]) for sequence in tokens]
    optimizer = partial(torch.optim.AdamW, lr=3e-3)
    return train(model, batches, device, steps, optimizer, _next_token_loss)


def gpt(device: str, steps: int, norm: Any = nn.LayerNorm) -> list[float]:
    torch.manual_seed(4)
    return language(device, steps, Block(32, 4, norm), Block(32, 4, norm), norm(32))


def experts(device: str, steps: int) -> list[float]:
    torch.manual_seed(12)
    return language(device, steps, Block(32, 4), Experts(32, 4), nn.LayerNorm(32))


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


def transformer_encoder(device: str, steps: int, dropout: float = 0.0) -> list[float]:
    torch.manual_seed(5)
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=dropout, batch_first=True)
    model = LastStep(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), 32, 5)
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    return train(model, classified((12, 32), 5, 8), device, steps, optimizer)


def recurrent(device: str, steps: int, kind: Any, **options: Any) -> list[float]:
    torch.manual_seed(6)
    width = 24 * (2 if options.get("bidirectional") else 1)
    model = LastStep(kind(16, 24, batch_first=True, **options), width, 5)
    optimizer = partial(torch.optim.Adam, lr=5e-3)
    return train(model, classified((10, 16), 5, 8), device, steps, optimizer)


def recurrent_ctc(device: str, steps: int) -> list[float]:
    """Label sequences without an alignment: a GRU and the CTC loss."""
    torch.manual_seed(7)

    def loss(output: Any, targets: Any) -> Any:
        scores = head(output[0]).log_softmax(-1).transpose(0, 1)
        lengths = torch.full((4,), 20), torch.full((4,), 5)
        return F.ctc_loss(scores, targets, *lengths, zero_infinity=True)

    model = nn.GRU(8, 16, batch_first=True)
    head = nn.Linear(16, 6).to(device)
    batches = [(torch.randn(4, 20, 8), torch.randint(1, 6, (4, 5))) for _ in range(4)]
    return train(model, batches, device, steps, partial(torch.optim.Adam, lr=1e-2), loss)


def embedding_bag(device: str, steps: int, mode: str, sparse: bool = False) -> list[float]:
    """Classify bags of words; with sparse gradients, the optimizer that is made for them."""
    torch.manual_seed(8)

    class Bags(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(200, 16, mode=mode, sparse=sparse)
            self.register_buffer("weight", torch.randn(16, 4))

        def forward(self, words: Any) -> Any:
            return self.bag(words) @ self.weight

    batches = [(torch.randint(200, (16, 10)), torch.randint(4, (16,))) for _ in range(4)]
    optimizer: MakeOptimizer = partial(torch.optim.SparseAdam if sparse else torch.optim.Adam, lr=1e-2)
    return train(Bags(), batches, device, steps, lambda parameters: optimizer(list(parameters)))


def googlenet(device: str, steps: int) -> list[float]:
    torch.manual_seed(9)
    optimizer = partial(torch.optim.SGD, lr=0.02, momentum=0.9)
    return train(GoogLeNet(10), classified((3, 64, 64), 10, 4), device, steps, optimizer)


def pixelcnn(device: str, steps: int) -> list[float]:
    torch.manual_seed(10)
    levels = [torch.randint(4, (4, 12, 12)) for _ in range(4)]
    batches = [(image.unsqueeze(1) / 4, image) for image in levels]
    return train(PixelCNN(4), batches, device, steps, partial(torch.optim.RMSprop, lr=1e-3))


def lbfgs(device: str, steps: int) -> list[float]:
    """The optimizer that evaluates the loss several times a step."""
    torch.manual_seed(13)
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    inputs, targets = torch.randn(32, 16).to(device), torch.randn(32, 1).to(device)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, line_search_fn="strong_wolfe")
    losses: list[float] = []

    def closure() -> Any:
        optimizer.zero_grad()
        loss = F.mse_loss(model(inputs), targets)
        loss.backward()
        return loss

    for _ in range(steps):
        losses.append(optimizer.step(closure).item())
    return losses


def muon(device: str, steps: int) -> list[float]:
    """Muon takes matrices alone."""
    torch.manual_seed(14)
    layers = [nn.Linear(64, 48, bias=False), nn.ReLU(), nn.Linear(48, 10, bias=False)]
    return train(nn.Sequential(*layers), classified((64,), 10, 32), device, steps, partial(torch.optim.Muon, lr=1e-3))


# Every optimizer of torch.optim, in each of its implementations, apart from LBFGS, Muon and SparseAdam.
_SETTINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "adadelta": (torch.optim.Adadelta, {"lr": 0.5}),
    "adafactor": (torch.optim.Adafactor, {"lr": 1e-2}),
    "adagrad": (torch.optim.Adagrad, {"lr": 1e-2}),
    "adam": (torch.optim.Adam, {"lr": 1e-2}),
    "adamax": (torch.optim.Adamax, {"lr": 1e-2}),
    "adamw": (torch.optim.AdamW, {"lr": 1e-2, "amsgrad": True}),
    "asgd": (torch.optim.ASGD, {"lr": 1e-2}),
    "nadam": (torch.optim.NAdam, {"lr": 2e-3}),
    "radam": (torch.optim.RAdam, {"lr": 1e-2}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 1e-3, "momentum": 0.5, "centered": True}),
    "rprop": (torch.optim.Rprop, {"lr": 1e-3}),
    "sgd": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
}
_IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
OPTIMIZERS: dict[str, MakeOptimizer] = {
    f"{name} {implementation}": partial(kind, **settings, **flags)
    for name, (kind, settings) in _SETTINGS.items()
    for implementation, flags in _IMPLEMENTATIONS.items()
    if set(flags) <= set(inspect.signature(kind).parameters)
}

PROGRAMS: dict[str, Program] = {
    **{f"mlp, {name}": partial(mlp, make_optimizer=optimizer) for name, optimizer in OPTIMIZERS.items()},
    "mlp, lbfgs": lbfgs,
    "mlp, muon": muon,
    "mlp, dropout": partial(mlp, make_optimizer=OPTIMIZERS["adamw for-loop"], dropout=0.5),
    "cnn": cnn,
    "cnn, channels_last": partial(cnn, memory_format=torch.channels_last),
    "resnet-18": resnet,
    "resnet-18, channels_last": partial(resnet, memory_format=torch.channels_last),
    "googlenet": googlenet,
    "pixelcnn": pixelcnn,
    "gpt": gpt,
    "gpt, rms norm": partial(gpt, norm=nn.RMSNorm),
    "mixture of experts": experts,
    "transformer encoder": transformer_encoder,
    "transformer encoder, dropout": partial(transformer_encoder, dropout=0.1),
    "lstm": partial(recurrent, kind=nn.LSTM),
    "lstm, two layers, both ways": partial(recurrent, kind=nn.LSTM, num_layers=2, bidirectional=True),
    "gru": partial(recurrent, kind=nn.GRU),
    "rnn": partial(recurrent, kind=nn.RNN),
    "gru, ctc loss": recurrent_ctc,
    **{f"embedding bag, {mode}": partial(embedding_bag, mode=mode) for mode in ("sum", "mean", "max")},
    "embedding bag, sparse gradients": partial(embedding_bag, mode="sum", sparse=True),
}
