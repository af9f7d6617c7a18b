"""Runs as one cell in a workspace's kernel with a device attached; prints seconds a step, native and remote in turn."""

import json
import time

import torch
from torch import nn


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


def make(device: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The example's network and optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        block(1, 32),
        block(32, 64),
        nn.MaxPool2d(2),
        block(64, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(128, 10),
    ).to(device)
    return model, torch.optim.AdamW(model.parameters(), lr=2e-3)


def steps(device: str, model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> float:
    """Seconds a step over `count` steps of the example's loop, its `.item()` in every step included."""
    inputs, targets = torch.rand(64, 1, 8, 8), torch.randint(0, 10, (64,))
    began = time.perf_counter()
    for _ in range(count):
        loss = nn.functional.cross_entropy(model(inputs.to(device)), targets.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
    return (time.perf_counter() - began) / count


native, remote = make("cpu"), make("cuda")
steps("cpu", *native, 5)
steps("cuda", *remote, 5)
figures: dict[str, list[float]] = {"native": [], "remote": []}
for _ in range(9):
    figures["native"].append(steps("cpu", *native, 20))
    figures["remote"].append(steps("cuda", *remote, 20))
print(json.dumps(figures))
