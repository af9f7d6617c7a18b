"""What is saved on a device is loaded where the user says: torch.save, pickle, deepcopy, state dicts."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn


def round_trip(value: Any, **options: Any) -> Any:
    stream = io.BytesIO()
    torch.save(value, stream)
    stream.seek(0)
    return torch.load(stream, **options)


@pytest.mark.parametrize(
    ("map_location", "expected"),
    [
        (None, "cuda:0"),
        ("cpu", "cpu"),
        ("cuda", "cuda:0"),
        ("cuda:1", "cuda:1"),
        (torch.device("cuda", 1), "cuda:1"),
        ({"cuda:0": "cuda:1"}, "cuda:1"),
        ({"cuda:0": "cpu"}, "cpu"),
        (lambda storage, location: storage, "cpu"),
        (lambda storage, location: storage.cuda(1), "cuda:1"),
    ],
)
def test_a_saved_tensor_is_loaded_where_map_location_says(map_location: Any, expected: str) -> None:
    original = torch.arange(12.0, device="cuda:0").reshape(3, 4)
    loaded = round_trip(original, map_location=map_location)
    assert str(loaded.device) == expected
    assert torch.equal(loaded.cpu(), original.cpu())


def test_a_tensor_saved_on_the_cpu_is_loaded_onto_a_device() -> None:
    loaded = round_trip({"a": torch.arange(5)}, map_location="cuda")
    assert loaded["a"].is_cuda and loaded["a"].tolist() == [0, 1, 2, 3, 4]


def test_views_of_one_storage_still_share_it_after_loading() -> None:
    whole = torch.zeros(6, device="cuda")
    loaded_whole, loaded_part = round_trip((whole, whole[2:4]))
    loaded_part.fill_(7)
    assert loaded_whole.tolist() == [0, 0, 7, 7, 0, 0]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.complex64])
def test_every_kind_of_number_survives(dtype: Any) -> None:
    original = torch.arange(6, device="cuda").to(dtype)
    loaded = round_trip(original)
    assert loaded.dtype == dtype and torch.equal(loaded.cpu(), original.cpu())


def test_model_and_optimizer_go_on_from_a_checkpoint_as_if_nothing_had_happened() -> None:
    def make() -> tuple[Any, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)).cuda()
        return model, torch.optim.AdamW(model.parameters(), lr=0.05)

    def steps(model: Any, optimizer: Any, count: int) -> list[float]:
        inputs = torch.linspace(-1, 1, 32).reshape(8, 4).cuda()
        losses = []
        for _ in range(count):
            loss = model(inputs).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    model, optimizer = make()
    steps(model, optimizer, 5)
    checkpoint = round_trip({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, weights_only=True)
    expected = steps(model, optimizer, 5)
    again, optimizer_again = make()
    again.load_state_dict(checkpoint["model"])
    optimizer_again.load_state_dict(checkpoint["optimizer"])
    assert steps(again, optimizer_again, 5) == expected


def test_a_checkpoint_file_is_read_without_any_device(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).cuda().state_dict(), tmp_path / "model.pt")
    script = (
        "import sys, torch\n"
        "weights = torch.load(sys.argv[1], map_location='cpu')\n"
        "print(sorted(weights), weights['weight'].device)\n"
        "try:\n    torch.load(sys.argv[1])\nexcept RuntimeError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "ELARA_RUNTIME_DIR": str(tmp_path)}  # a workspace with nothing attached
    command = [sys.executable, "-c", script, str(tmp_path / "model.pt")]
    output = subprocess.check_output(command, env=environment, text=True, stderr=subprocess.STDOUT)
    assert "['bias', 'weight'] cpu" in output
    assert "torch.cuda.is_available() is False" in output and "map_location" in output


def test_mapping_a_file_into_memory_and_moving_it_to_the_device(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(1000.0)}, tmp_path / "a.pt")
    loaded = torch.load(tmp_path / "a.pt", mmap=True, map_location="cpu")
    assert torch.equal(loaded["a"].cuda().cpu(), torch.arange(1000.0))


def test_deepcopy_is_independent_and_stays_on_the_device() -> None:
    model = nn.Linear(3, 3).cuda()
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.weight.zero_()
    assert copied.weight.is_cuda and model.weight.abs().sum() > 0
    tensor = torch.ones(2, device="cuda:1", requires_grad=True)
    assert copy.deepcopy(tensor).requires_grad and copy.deepcopy(tensor).device == tensor.device


def test_pickle_brings_a_tensor_back_onto_its_device() -> None:
    tensor = torch.randn(4, device="cuda:1")
    again = pickle.loads(pickle.dumps(tensor))
    assert again.device == tensor.device and torch.equal(again, tensor)


def test_storages_are_cloned_resized_and_moved() -> None:
    storage = torch.arange(4, dtype=torch.uint8, device="cuda").untyped_storage()
    assert storage.device.type == "cuda" and storage.nbytes() == 4
    assert list(storage.cpu()) == [0, 1, 2, 3]
    clone = storage.clone()
    clone.resize_(8)
    assert clone.nbytes() == 8 and list(clone.cpu())[:4] == [0, 1, 2, 3]
    fresh = torch.UntypedStorage(16, device="cuda")
    assert fresh.nbytes() == 16 and fresh.device.type == "cuda"
    typed = torch.tensor([1.0, 2.0], device="cuda").storage()
    assert typed.tolist() == [1.0, 2.0]
