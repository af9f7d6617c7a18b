"""What a session may count on: results, aliasing, random numbers, events, errors."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
import torch

from tests.remoting.harness import MODEL, ON_CUDA
from tests.remoting.server import protocol
from tests.remoting.server.protocol import (
    ALIAS,
    BOOL,
    CONJUGATE,
    DEVICE,
    INT,
    NEW,
    NONE_ARGUMENT,
    VIEW,
    WRAPPED_NUMBER,
    Connection,
    ServerError,
    at,
    boolean,
    dtype_argument,
    int_list,
    integer,
    new,
    same,
    tensor,
    tensor_list,
)

F32 = torch.float32


def test_hello_tells_the_facts_of_the_device(dial: Callable[[], Connection], digest: bytes) -> None:
    version, torch_version, model, cap, emulated, total = dial().hello(bytes(range(32)), digest)
    assert (version, model, emulated) == (1, MODEL, int(not ON_CUDA))
    assert torch_version.split(".")[:2] == torch.__version__.split(".")[:2]
    assert cap == total == 256 << 20


def test_chained_additions_are_bit_identical(session: Connection) -> None:
    x, y = torch.randn(64, 64), torch.randn(64, 64)
    add = session.template("aten::add", "Tensor", [tensor(F32, [64, 64])] * 2 + [integer(1)], [new(F32, [64, 64])])
    last, other = session.upload(x), session.upload(y)
    for _ in range(100):
        last = session.execute(add, at(last) + at(other))
        x = x + y
    assert torch.equal(session.download(last, F32, [64, 64]), x)


def test_a_small_training_is_bit_identical(session: Connection) -> None:
    torch.manual_seed(3)
    data, target, weight = torch.randn(32, 8), torch.randn(32, 1), torch.randn(8, 1)
    on_device = [session.upload(value) for value in (data, target, weight)]
    mm = session.template("aten::mm", "", [tensor(F32, [32, 8]), tensor(F32, [8, 1])], [new(F32, [32, 1])])
    # The transposed data is a view: the same storage with other strides.
    mm_back = session.template("aten::mm", "", [tensor(F32, [8, 32], [1, 8]), tensor(F32, [32, 1])], [new(F32, [8, 1])])
    sub = session.template("aten::sub", "Tensor", [tensor(F32, [32, 1])] * 2 + [integer(1)], [new(F32, [32, 1])])
    step = session.template(
        "aten::add_",
        "Tensor",
        [tensor(F32, [8, 1])] * 2 + [protocol.DOUBLE_VARIABLE],
        [bytes([ALIAS]) + struct.pack("<I", 0)],
    )
    for _ in range(20):
        error = session.execute(sub, at(session.execute(mm, at(on_device[0]) + at(on_device[2]))) + at(on_device[1]))
        gradient = session.execute(mm_back, at(on_device[0]) + at(error))
        session.execute(step, at(on_device[2]) + at(gradient) + struct.pack("<d", -0.01), outputs=0)
        weight.add_(data.t().mm(data.mm(weight) - target), alpha=-0.01)
    assert same(session.download(on_device[2], F32, [8, 1]), weight)


def test_views_with_offset_and_cpu_scalars(session: Connection) -> None:
    x = torch.arange(24, dtype=F32)
    storage = session.upload(x)
    scalar = bytes([3, protocol.DTYPES[torch.float64], WRAPPED_NUMBER])
    multiply = session.template(
        "aten::mul", "Tensor", [tensor(F32, [3, 2], [8, 2]), scalar], [new(F32, [3, 2], [2, 1])]
    )
    made = session.execute(multiply, at(storage, 1) + struct.pack("<d8x", 2.5))
    # A wrapped number of double precision does not raise the result's type.
    assert torch.equal(session.download(made, F32, [3, 2]), x.as_strided((3, 2), (8, 2), 1) * 2.5)


def test_conjugate_bit_of_an_operand_counts(session: Connection) -> None:
    x = torch.randn(5, dtype=torch.complex64)
    c64 = torch.complex64
    template = session.template(
        "aten::mul", "Tensor", [tensor(c64, [5], flags=CONJUGATE), tensor(c64, [5])], [new(c64, [5])]
    )
    storage = session.upload(x)
    made = session.download(session.execute(template, at(storage) * 2), c64, [5])
    assert same(made, x.conj() * x)


def test_strides_other_than_the_kernels_are_copied_to_what_was_asked(session: Connection) -> None:
    x = torch.randn(4, 6)
    template = session.template("aten::neg", "", [tensor(F32, [4, 6])], [new(F32, [4, 6], [1, 4])])
    made = session.execute(template, at(session.upload(x)))
    assert torch.equal(session.download(made, F32, [6, 4]).t(), -x)


def test_another_size_or_type_than_expected_is_an_error_and_not_a_result(session: Connection) -> None:
    x = session.upload(torch.randn(4))
    for expected in (new(F32, [5]), new(torch.float64, [4])):
        made = session.execute(session.template("aten::neg", "", [tensor(F32, [4])], [expected]), at(x))
        with pytest.raises(ServerError, match="was expected") as caught:
            session.sync()
        assert caught.value.operator == "aten::neg"
        with pytest.raises(ServerError, match="no contents"):
            session.read(made, 4)


def test_results_that_share_storage_get_their_own(session: Connection) -> None:
    x = torch.randn(6)
    template = session.template(
        "aten::split_copy", "Tensor", [tensor(F32, [6]), integer(3), integer(0)], [bytes([3]) + _two(new(F32, [3]))]
    )
    first = session.execute(template, at(session.upload(x)), outputs=2)
    assert torch.equal(session.download(first, F32, [3]), x[:3])
    assert torch.equal(session.download(first + 1, F32, [3]), x[3:])


def _two(output: bytes) -> bytes:
    return struct.pack("<I", 2) + output * 2


def test_tensor_lists_in_place(session: Connection) -> None:
    values = [torch.randn(3), torch.randn(2, 2)]
    storages = [session.upload(value) for value in values]
    template = session.template(
        "aten::_foreach_mul_",
        "Scalar",
        [tensor_list(tensor(F32, [3]), tensor(F32, [2, 2])), protocol.DOUBLE_VARIABLE],
        [],
    )
    session.execute(template, at(storages[0]) + at(storages[1]) + struct.pack("<d", 3.0), outputs=0)
    for value, storage in zip(values, storages, strict=True):
        assert torch.equal(session.download(storage, F32, value.shape), value * 3)


def test_teaching_answers_what_only_the_values_decide(session: Connection) -> None:
    x = torch.tensor([0.0, 3.0, 0.0, 5.0])
    storage = session.upload(x)
    first, (found,) = session.teach("aten::nonzero", "", [tensor(F32, [4])], at(storage))
    assert (found.kind, found.dtype, found.sizes) == (NEW, torch.int64, (2, 1))
    # nonzero's strides are those of a transposed result; the answer says so.
    flat = session.download(first, torch.int64, [2])
    assert torch.equal(torch.as_strided(flat, found.sizes, found.strides), x.nonzero())

    _, (same,) = session.teach("aten::equal", "", [tensor(F32, [4])] * 2, at(storage) * 2)
    assert (same.kind, same.value) == (BOOL, True)


def test_teaching_answers_aliases_views_and_resized_outputs(session: Connection) -> None:
    x = torch.randn(2, 3)
    storage = session.upload(x)
    _, (alias,) = session.teach("aten::neg_", "", [tensor(F32, [2, 3])], at(storage))
    assert (alias.kind, alias.argument) == (ALIAS, 0)
    empty = session.alloc(0)
    _, (resized,) = session.teach(
        "aten::mul", "out", [tensor(F32, [2, 3]), tensor(F32, [2, 3]), tensor(F32, [0])], at(storage) * 2 + at(empty)
    )
    assert (resized.kind, resized.argument, resized.sizes, resized.strides) == (VIEW, 2, (2, 3), (3, 1))
    assert torch.equal(session.download(empty, F32, [2, 3]), x * x)


def test_an_out_argument_that_would_be_resized_unannounced_is_an_error(session: Connection) -> None:
    storage, empty = session.upload(torch.randn(4)), session.alloc(0)
    template = session.template(
        "aten::neg", "out", [tensor(F32, [4]), tensor(F32, [0])], [bytes([ALIAS]) + struct.pack("<I", 1)]
    )
    session.execute(template, at(storage) + at(empty), outputs=0)
    with pytest.raises(ServerError, match="expected"):
        session.sync()


def test_seeds_give_the_numbers_of_native_torch(session: Connection) -> None:
    session.send(protocol.GENERATOR_SEED, struct.pack("<QQ", 0, 42))
    arguments = [tensor(F32, [100]), protocol.real(0), protocol.real(1), NONE_ARGUMENT]
    normal = session.template("aten::normal_", "", arguments, [bytes([ALIAS]) + struct.pack("<I", 0)])
    storage = session.alloc(400)
    session.execute(normal, at(storage), outputs=0)
    drawn = session.download(storage, F32, [100])
    if ON_CUDA:  # this process has no GPU to ask; `make gpu-check` asks another
        session.send(protocol.GENERATOR_SEED, struct.pack("<QQ", 0, 42))
        session.execute(normal, at(storage), outputs=0)
        assert torch.equal(session.download(storage, F32, [100]), drawn)
    else:
        torch.manual_seed(42)
        assert torch.equal(drawn, torch.empty(100).normal_())


def test_generators_keep_states_apart_and_restore_them(session: Connection) -> None:
    def draw(generator: int) -> torch.Tensor:
        storage = session.alloc(400)
        session.execute(uniform, at(storage) + struct.pack("<Q", generator), outputs=0)
        return session.download(storage, F32, [100])

    arguments = [tensor(F32, [100]), protocol.real(0), protocol.real(1), protocol.GENERATOR]
    uniform = session.template("aten::uniform_", "", arguments, [bytes([ALIAS]) + struct.pack("<I", 0)])
    for generator in (7, 8):
        session.send(protocol.GENERATOR_SEED, struct.pack("<QQ", generator, 5))
    first = draw(7)
    assert torch.equal(draw(8), first)
    state = session.request(protocol.GENERATOR_GET, struct.pack("<Q", 7)).data
    second = draw(7)
    assert not torch.equal(first, second)
    session.send(protocol.GENERATOR_SET, struct.pack("<Q", 9) + state)
    assert torch.equal(draw(9), second)
    # Bytes that are no state are an error of that call.
    session.send(protocol.GENERATOR_SET, struct.pack("<Q", 9) + b"wrong")
    with pytest.raises(ServerError):
        session.sync()


def test_events_time_the_work_between_them(session: Connection) -> None:
    x = session.upload(torch.randn(400, 400))
    mm = session.template("aten::mm", "", [tensor(F32, [400, 400])] * 2, [new(F32, [400, 400])])
    session.send(protocol.EVENT_RECORD, struct.pack("<QQ", 1, 0))
    for _ in range(5):
        session.free(session.execute(mm, at(x) * 2))
    session.send(protocol.EVENT_RECORD, struct.pack("<QQ", 2, 0))
    milliseconds = session.request(protocol.EVENT_ELAPSED, struct.pack("<QQ", 1, 2)).get("d")
    assert milliseconds > 0.1
    assert session.request(protocol.EVENT_QUERY, struct.pack("<Q", 2)).get("B") == 1
    with pytest.raises(ServerError, match="recorded"):
        session.request(protocol.EVENT_ELAPSED, struct.pack("<QQ", 1, 99))


def test_the_first_error_is_told_with_name_and_number_and_work_goes_on(session: Connection) -> None:
    x = session.upload(torch.randn(3, 3))
    negate = session.template("aten::neg", "", [tensor(F32, [3, 3])], [new(F32, [3, 3])])
    broken = session.template("aten::mm", "", [tensor(F32, [3, 3]), tensor(F32, [2, 2])], [new(F32, [3, 2])])
    session.execute(negate, at(x))
    failed = session.execute(broken, at(x) * 2)
    session.execute(negate, at(failed))  # a consequence, not the cause
    with pytest.raises(ServerError, match="shapes cannot be multiplied") as caught:
        session.sync()
    assert (caught.value.kind, caught.value.number, caught.value.operator) == (protocol.RUNTIME, 2, "aten::mm")
    session.sync()
    assert torch.equal(session.download(session.execute(negate, at(x)), F32, [3, 3]), -session.download(x, F32, [3, 3]))


def test_kinds_of_errors_survive_the_wire(session: Connection) -> None:
    x, index = session.upload(torch.randn(3)), session.upload(torch.tensor([7]))
    select = session.template(
        "aten::index_select",
        "",
        [tensor(F32, [3]), integer(0), tensor(torch.int64, [1])],
        [new(F32, [1])],
    )
    if not ON_CUDA:  # there it is an assert on the device, which ends the session
        session.execute(select, at(x) + at(index))
        with pytest.raises(ServerError, match="out of range"):
            session.sync()
    wrong_dimension = session.template("aten::sum", "dim_IntList", [*_sum_arguments(5)], [new(F32, [])])
    session.execute(wrong_dimension, at(x))
    with pytest.raises(ServerError) as caught:
        session.sync()
    assert caught.value.kind == protocol.INDEX


def _sum_arguments(dimension: int) -> list[bytes]:
    return [tensor(F32, [3]), int_list(dimension), boolean(False), NONE_ARGUMENT]


def test_factories_make_tensors_on_the_servers_own_device(session: Connection) -> None:
    arguments = [integer(5), dtype_argument(torch.int64), NONE_ARGUMENT, DEVICE, NONE_ARGUMENT]
    first, (made,) = session.teach("aten::arange", "", arguments, b"")
    assert (made.dtype, made.sizes) == (torch.int64, (5,))
    assert torch.equal(session.download(first, torch.int64, [5]), torch.arange(5))


def test_resizing_keeps_contents(session: Connection) -> None:
    x = torch.randn(10)
    storage = session.upload(x)
    session.send(protocol.RESIZE, struct.pack("<QQ", storage, 80))
    assert torch.equal(session.download(storage, F32, [20])[:10], x)
    session.send(protocol.RESIZE, struct.pack("<QQ", storage, 20))
    assert torch.equal(session.download(storage, F32, [5]), x[:5])


def test_large_transfers_come_in_pieces_and_intact(session: Connection) -> None:
    x = torch.randint(0, 255, (20_000_003,), dtype=torch.uint8)
    storage = session.upload(x)
    assert torch.equal(session.download(storage, torch.uint8, [20_000_003]), x)
    assert session.read(storage, 0) == b""
    assert session.read(storage, 5, 9) == x[9:14].numpy().tobytes()


def test_dropped_templates_are_not_counted(session: Connection) -> None:
    template = session.template("aten::neg", "", [tensor(F32, [4])], [new(F32, [4])])
    assert session.stats()["templates"] == 1
    session.send(protocol.DROP_TEMPLATES, struct.pack("<I", template))
    assert session.stats()["templates"] == 0


def test_context_flags_reach_the_kernels(session: Connection) -> None:
    x = session.upload(torch.randn(2, 3))
    # put_ without accumulate has no deterministic kernel, and torch says so when determinism is asked for.
    arguments = [tensor(F32, [2, 3]), tensor(torch.int64, [1]), tensor(F32, [1]), boolean(False)]
    template = session.template("aten::put_", "", arguments, [bytes([ALIAS]) + struct.pack("<I", 0)])
    variables = at(x) + at(session.upload(torch.tensor([1]))) + at(session.upload(torch.tensor([1.0])))
    session.send(protocol.CONTEXT, protocol.text("deterministic_algorithms") + struct.pack("<q", 1))
    session.send(protocol.CONTEXT, protocol.text("a flag of the future") + struct.pack("<q", 1))
    session.execute(template, variables, outputs=0)
    with pytest.raises(ServerError, match="deterministic"):
        session.sync()
    session.send(protocol.CONTEXT, protocol.text("deterministic_algorithms") + struct.pack("<q", 0))
    session.execute(template, variables, outputs=0)
    session.sync()


def test_values_that_are_no_tensors_are_taught(session: Connection) -> None:
    dtype = torch.float16 if ON_CUDA else F32
    x = session.upload(torch.randn(2, 2, 4, 8, dtype=dtype))
    shape = tensor(dtype, [2, 2, 4, 8])
    arguments = [shape] * 3 + [protocol.real(0), boolean(False), boolean(False), NONE_ARGUMENT]
    _, outputs = session.teach("aten::_scaled_dot_product_flash_attention", "", arguments, at(x) * 3)
    assert [output.value for output in outputs if output.kind == INT] == [4, 4]
