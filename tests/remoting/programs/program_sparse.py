"""Sparse tensors: made, converted, added, multiplied and trained on the device; a sentence for what is not there."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

INDICES = [[0, 2, 0, 1, 2], [1, 0, 1, 2, 2]]
VALUES = [1.0, 2.0, 3.0, 4.0, 5.0]


def coo(device: str) -> Any:
    """A matrix in COO with one place named twice."""
    return torch.sparse_coo_tensor(torch.tensor(INDICES), torch.tensor(VALUES), (3, 4), device=device)


def dense() -> Any:
    return coo("cpu").to_dense()


def test_a_coo_tensor_is_made_on_the_device_and_coalesced_there() -> None:
    sparse = coo("cuda")
    assert sparse.is_cuda and sparse.is_sparse and sparse._nnz() == 5 and not sparse.is_coalesced()
    joined = sparse.coalesce()
    assert joined.is_coalesced() and joined._nnz() == 4 and joined.is_cuda
    assert joined.indices().cpu().tolist() == coo("cpu").coalesce().indices().tolist()
    assert joined.values().cpu().tolist() == [4.0, 4.0, 2.0, 5.0]
    assert "device='cuda:0'" in repr(sparse)


def test_dense_and_sparse_turn_into_each_other() -> None:
    there = dense().cuda()
    for layout in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc):
        sparse = there.to_sparse(layout=layout)
        assert sparse.is_cuda and sparse.layout == layout
        assert torch.equal(sparse.to_dense().cpu(), dense())
        assert torch.equal(sparse.cpu().to_dense(), dense())
        assert torch.equal(dense().to_sparse(layout=layout).cuda().to_dense().cpu(), dense())
    csr = there.to_sparse_csr()
    assert csr.crow_indices().tolist() == [0, 1, 2, 4] and csr.col_indices().tolist() == [1, 2, 0, 2]
    assert torch.equal(csr.to_sparse_coo().to_dense().cpu(), dense())


def test_sums_and_products_are_those_of_the_cpu() -> None:
    right = torch.arange(8.0).reshape(4, 2)
    for layout in (torch.sparse_coo, torch.sparse_csr):
        there, here = (coo(device).to_dense().to_sparse(layout=layout) for device in ("cuda", "cpu"))
        assert torch.equal((there @ right.cuda()).cpu(), here @ right)
        assert torch.equal((there @ right[:, 0].cuda()).cpu(), here @ right[:, 0])
        assert torch.equal((there + there).to_dense().cpu(), 2 * dense())
        assert torch.equal((there * 3).to_dense().cpu(), 3 * dense())
        assert torch.equal(there.neg().to_dense().cpu(), -dense())
        assert torch.equal((torch.ones(3, 4, device="cuda") + there).cpu(), torch.ones(3, 4) + dense())
        added = torch.addmm(torch.ones(3, 2, device="cuda"), there, right.cuda(), beta=0.5, alpha=2.0)
        assert torch.equal(added.cpu(), torch.addmm(torch.ones(3, 2), dense(), right, beta=0.5, alpha=2.0))
    there = coo("cuda")
    assert torch.equal((there * there.coalesce()).to_dense().cpu(), dense() ** 2)
    assert torch.equal((there @ there.t()).to_dense().cpu(), dense() @ dense().t())
    assert there.sum().item() == 15.0 and torch.sparse.sum(there, 0).to_dense().tolist() == dense().sum(0).tolist()
    assert torch.equal(torch.ones(3, 4).cuda().sparse_mask(there.coalesce()).to_dense().cpu(), (dense() != 0).float())


def test_gradients_go_through_a_sparse_product() -> None:
    def gradients(device: str) -> list[Any]:
        sparse = coo(device).coalesce().requires_grad_()
        right = torch.arange(8.0, device=device).reshape(4, 2).requires_grad_()
        torch.sparse.mm(sparse, right).square().sum().backward()
        return [sparse.grad.to_dense().cpu(), right.grad.cpu()]

    for there, here in zip(gradients("cuda"), gradients("cpu"), strict=True):
        assert torch.equal(there, here)


@pytest.mark.parametrize("optimizer", [torch.optim.SparseAdam, torch.optim.SGD, torch.optim.Adagrad])
def test_an_embedding_with_sparse_gradients_trains(optimizer: Any) -> None:
    def table(device: str) -> Any:
        torch.manual_seed(0)
        model = nn.Embedding(20, 4, sparse=True).to(device)
        steps = optimizer(list(model.parameters()), lr=0.1)
        for step in range(5):
            steps.zero_grad()
            model(torch.tensor([step, 3, 3], device=device)).square().sum().backward()
            assert model.weight.grad.is_sparse
            steps.step()
        return model.weight.detach().cpu()

    torch.testing.assert_close(table("cuda"), table("cpu"))


def test_a_sparse_tensor_is_saved_and_loaded() -> None:
    buffer = io.BytesIO()
    torch.save(coo("cuda"), buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer).to_dense().cpu(), dense())
    buffer.seek(0)
    assert torch.load(buffer, map_location="cpu").device.type == "cpu"


def test_what_is_not_there_names_the_way_out() -> None:
    with pytest.raises(NotImplementedError, match=r"not supported for sparse tensors on an attached GPU; use a dense"):
        torch.sparse.softmax(coo("cuda"), 1)
