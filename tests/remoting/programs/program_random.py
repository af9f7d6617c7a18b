"""Random numbers on a device: seeds, saved states, generators of one's own, checkpointed dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def draw(device: str = "cuda") -> list[float]:
    values: list[float] = torch.rand(5, device=device).tolist()
    return values


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    torch.manual_seed(1)
    first = draw()
    torch.manual_seed(1)
    assert draw() == first
    torch.cuda.manual_seed(2)
    assert draw() != first
    assert torch.cuda.initial_seed() == 2


def test_manual_seed_seeds_every_device_even_one_not_used_yet() -> None:
    torch.manual_seed(5)
    first = [draw("cuda:0"), draw("cuda:1")]
    torch.manual_seed(5)
    assert [draw("cuda:0"), draw("cuda:1")] == first
    torch.cuda.manual_seed_all(6)
    assert draw("cuda:1") != first[1]


def test_a_saved_state_repeats_what_followed_it() -> None:
    torch.manual_seed(3)
    draw()
    state = torch.cuda.get_rng_state()
    assert state.device.type == "cpu" and state.dtype == torch.uint8
    expected = [draw(), torch.randn(3, device="cuda").tolist(), torch.randperm(9, device="cuda").tolist()]
    draw()
    torch.cuda.set_rng_state(state)
    assert [draw(), torch.randn(3, device="cuda").tolist(), torch.randperm(9, device="cuda").tolist()] == expected
    states = torch.cuda.get_rng_state_all()
    assert len(states) == torch.cuda.device_count()
    after = draw("cuda:1")
    torch.cuda.set_rng_state_all(states)
    assert draw("cuda:1") == after


def test_a_generator_of_ones_own_does_not_disturb_the_default_one() -> None:
    torch.manual_seed(4)
    expected = draw()
    torch.manual_seed(4)
    own = torch.Generator("cuda").manual_seed(9)
    first = torch.rand(5, device="cuda", generator=own)
    assert draw() == expected
    assert own.initial_seed() == 9 and own.device.type == "cuda"
    state = own.get_state()
    second = torch.rand(5, device="cuda", generator=own)
    own.set_state(state)
    assert torch.equal(torch.rand(5, device="cuda", generator=own), second)
    own.manual_seed(9)
    assert torch.equal(torch.rand(5, device="cuda", generator=own), first)
    assert not torch.equal(first, second)


def test_a_generator_of_the_cpu_is_refused_on_the_device() -> None:
    with pytest.raises(RuntimeError, match=r"(?i)generator"):
        torch.rand(3, device="cuda", generator=torch.Generator("cpu"))


def test_fork_rng_leaves_no_trace() -> None:
    torch.manual_seed(8)
    expected = draw()
    torch.manual_seed(8)
    with torch.random.fork_rng():
        draw()
    assert draw() == expected


def test_checkpointed_dropout_draws_the_same_mask_again() -> None:
    torch.manual_seed(0)
    block: Any = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5), nn.ReLU()).cuda()
    inputs = torch.randn(4, 16, device="cuda", requires_grad=True)

    def gradient(recompute: bool) -> Any:
        torch.manual_seed(21)
        output = checkpoint(block, inputs, use_reentrant=False) if recompute else block(inputs)
        return torch.autograd.grad(output.square().sum(), inputs)[0]

    assert torch.equal(gradient(True), gradient(False))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(2000, device="cuda").normal_(3, 2),
        lambda: torch.empty(2000, device="cuda").uniform_(3 - 12**0.5, 3 + 12**0.5),
        lambda: torch.normal(3.0, 2.0, (2000,), device="cuda"),
        lambda: torch.randn(2000, device="cuda").mul(2).add(3),
    ],
)
def test_distributions_have_their_mean_and_deviation(make: Any) -> None:
    torch.manual_seed(0)
    values = make()
    assert abs(values.mean().item() - 3) < 0.2 and abs(values.std().item() - 2) < 0.2
