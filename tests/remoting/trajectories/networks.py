"""Networks of the literature at a fraction of their width: GoogLeNet, PixelCNN, a GPT block, a mixture of experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def _convolution(inputs: int, outputs: int, size: int, **options: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, bias=False, **options),
        nn.BatchNorm2d(outputs, eps=1e-3),
        nn.ReLU(inplace=True),
    )


class Inception(nn.Module):  # type: ignore[misc]
    """Four branches side by side: 1x1, 3x3 and 5x5 convolutions, and a pooling, in GoogLeNet's widths."""

    def __init__(self, inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pooled: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                _convolution(inputs, one, 1),
                nn.Sequential(_convolution(inputs, three[0], 1), _convolution(three[0], three[1], 3, padding=1)),
                nn.Sequential(_convolution(inputs, five[0], 1), _convolution(five[0], five[1], 5, padding=2)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), _convolution(inputs, pooled, 1)),
            ]
        )

    def forward(self, inputs: Any) -> Any:
        return torch.cat([branch(inputs) for branch in self.branches], 1)


class Auxiliary(nn.Module):  # type: ignore[misc]
    """GoogLeNet's classifier in the middle, which helps its lower half to learn."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.AdaptiveAvgPool2d(4), _convolution(inputs, 16, 1))
        self.classify = nn.Sequential(
            nn.Linear(256, 64), nn.ReLU(inplace=True), nn.Dropout(0.7), nn.Linear(64, classes)
        )

    def forward(self, inputs: Any) -> Any:
        return self.classify(self.reduce(inputs).flatten(1))


class GoogLeNet(nn.Module):  # type: ignore[misc]
    """All nine inception blocks at an eighth of their width; the three classifiers' logits, summed as in training."""

    def __init__(self, classes: int) -> None:
        super().__init__()

        def block(inputs: int, *widths: Any) -> Inception:
            one, three_in, three, five_in, five, pooled = (max(width // 8, 1) for width in widths)
            return Inception(inputs, one, (three_in, three), (five_in, five), pooled)

        pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.stem = nn.Sequential(
            *(_convolution(3, 8, 7, stride=2, padding=3), pool, _convolution(8, 8, 1)),
            *(_convolution(8, 24, 3, padding=1), pool),
            *(block(24, 64, 96, 128, 16, 32, 32), block(32, 128, 128, 192, 32, 96, 64), pool),
            block(60, 192, 96, 208, 16, 48, 64),
        )
        self.first = Auxiliary(64, classes)
        self.middle = nn.Sequential(
            *(block(64, 160, 112, 224, 24, 64, 64), block(64, 128, 128, 256, 24, 64, 64)),
            block(64, 112, 144, 288, 32, 64, 64),
        )
        self.second = Auxiliary(66, classes)
        self.top = nn.Sequential(
            *(block(66, 256, 160, 320, 32, 128, 128), pool, block(104, 256, 160, 320, 32, 128, 128)),
            *(block(104, 384, 192, 384, 48, 128, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2)),
            nn.Linear(128, classes),
        )

    def forward(self, inputs: Any) -> Any:
        lower = self.stem(inputs)
        middle = self.middle(lower)
        return self.top(middle) + 0.3 * (self.first(lower) + self.second(middle))


class MaskedConvolution(nn.Conv2d):  # type: ignore[misc]
    """A convolution that sees only the pixels before (and, for "B", itself): PixelCNN's masks A and B."""

    def __init__(self, kind: str, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        height, width = self.weight.shape[2:]
        mask = torch.ones(1, 1, height, width)
        mask[..., height // 2, width // 2 + (kind == "B") :] = 0
        mask[..., height // 2 + 1 :, :] = 0
        self.register_buffer("mask", mask)

    def forward(self, inputs: Any) -> Any:
        return self._conv_forward(inputs, self.weight * self.mask, self.bias)


class PixelCNN(nn.Module):  # type: ignore[misc]
    """Predicts each pixel's level from those above and to the left: logits of (batch, levels, height, width)."""

    def __init__(self, levels: int, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        layers: list[Any] = [MaskedConvolution("A", 1, width, 7, padding=3), nn.BatchNorm2d(width), nn.ReLU()]
        for _ in range(depth):
            layers += [MaskedConvolution("B", width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, levels, 1))

    def forward(self, images: Any) -> Any:
        return self.body(images)


class Block(nn.Module):  # type: ignore[misc]
    """A GPT block: causal attention and a feed-forward part, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, norm: Any = nn.LayerNorm) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = norm(width), norm(width)
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, hidden: Any) -> Any:
        batch, length, width = hidden.shape
        parts = self.project(self.before(hidden)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.join(mixed.transpose(1, 2).reshape(batch, length, width))
        return hidden + self.feed(self.between(hidden))


class Language(nn.Module):  # type: ignore[misc]
    """Token and position tables, a body, and a head that shares the token table's weight."""

    def __init__(self, vocabulary: int, length: int, width: int, *body: Any) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Any) -> Any:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.body(self.tokens(tokens) + self.positions(places)))


class Experts(nn.Module):  # type: ignore[misc]
    """A mixture of experts: each token goes to its best two, the loads counted as public models do it."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.choose = nn.Linear(width, count, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.SiLU()) for _ in range(count))
        self.register_buffer("loads", torch.zeros(count))

    def forward(self, inputs: Any) -> Any:
        hidden = inputs.reshape(-1, inputs.shape[-1])
        weights, chosen = self.choose(hidden).softmax(-1).topk(2, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        count = len(self.experts)
        counted = chosen.float() if chosen.device.type == "cpu" else chosen.int()
        self.loads += torch.histc(counted, bins=count, min=0, max=count - 1)
        mixed = torch.zeros_like(hidden)
        for number, expert in enumerate(self.experts):
            token, place = torch.where(chosen == number)
            mixed.index_add_(0, token, expert(hidden[token]) * weights[token, place, None])
        return inputs + mixed.view_as(inputs)
