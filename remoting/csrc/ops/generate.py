"""Writes the operator lists that client and device server are built with.

From the schemas that torchgen packages with the installed torch come four lists and a digest, as C++ include files:

* ``forwarded_ops.inc``: operators for which the client registers a kernel that forwards the call as a whole. A backend
  fallback alone would not do: composite registrations outrank it, and one call would fall apart into many.
* ``allowed_ops.inc``: what a device server runs. A superset: the same operators' in-place, functional and ``out=``
  forms and what the client's own kernels need. Nothing on it touches files, processes, pickles, other devices, or
  memory that the session does not own.
* ``shared_ops.inc``: operators of sparse and nested tensors for which torch has one function for the CPU and CUDA, and
  those that fall apart; the client runs it, and what it does to the parts is forwarded.
* ``refused_ops.inc``: operators for which a CUDA build has a kernel that no device server runs. The client forwards
  them too, so that the call is refused in words and does not reach the CUDA runtime of the client's machine.
* ``op_digest.inc``: SHA-256 over both lists and the schemas behind them, compared when a session opens.

``operators.txt`` beside them is for people: what each operator with a CUDA kernel became, and why when it is skipped.

Each list line is ``{"aten::add", "Tensor"},``. Use: ``python generate.py OUTPUT_FOLDER``
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torchgen
import yaml
from torchgen.model import BaseTy, BaseType, FunctionSchema, OptionalType, Type

# The client implements these itself: they make, resize or re-point tensors, read a value, or ask a question.
CLIENT_NATIVE = {
    "_copy_from",
    "_copy_from_and_resize",
    "_efficientzerotensor",
    "_local_scalar_dense",
    "_pin_memory",
    "_reshape_alias",
    "_resize_output_",
    "_use_cudnn_ctc_loss",
    "_use_cudnn_ctc_loss.Tensor",
    "as_strided",
    "copy_",
    "empty.memory_format",
    "empty_strided",
    "is_pinned",
    "is_set_to",
    "record_stream",
    "resize_",
    "resize_as_",
    "set_",
    "set_.source_Storage",
    "set_.source_Storage_storage_offset",
    "set_.source_Tensor",
    "unfold",
    "view",
    "view_as_complex",
    "view_as_real",
}

# Allowed besides the forwarded families: what the client's own kernels send, and what only the CPU has kernels for. An
# emulated device runs those; a GPU answers as it does without us.
ALLOWED_BESIDES = re.compile(r"copy_ | histogram\..* | _histogramdd_.*", re.X)

# Composites that change an argument and whose loops have a kernel a device: they would ask the client for one of CUDA.
# addr_ tells by a C++ reference whether it works in place, which only a direct call has.
FORWARDED_BESIDES = re.compile(r"mode\.values | conj_physical_ | addr_", re.X)

# Left to fall apart although CUDA has a kernel: the one resizes a list of outputs, of which the client would not learn;
# the other may return a sparse tensor, and its one function for CPU and CUDA only decides which gradient is computed.
LEFT_TO_FALL_APART = {"split_with_sizes_copy.out", "_embedding_bag_backward"}

# Of nested tensors: one function for the CPU and CUDA, which then takes a loop that each has its own of.
KERNEL_A_DEVICE = {
    "native_layer_norm",
    "native_layer_norm_backward",
    "_transformer_encoder_layer_fwd",
}

# Never run for a client, whatever else their schema suggests. Matched against the whole operator name.
DENIED = re.compile(
    r"""
    from_file | .*pin(ned|_memory).* | .*storage.* | record_stream | set_(\..*)? | set_data | data | .*_data_ptr
    | resize.* | _resize.* | _reshape_alias.* | as_strided_?(\..*)? | is_set_to | _lazy_clone | _cow.*
    | .*nested.* | .*sparse.* | _?(coalesce|indices|values|crow|ccol|col_ind|row_ind|nnz|dimI|dimV).* | hspmm.*
    | _spdiags.* | _spsolve | quantize.* | quantized.* | .*\.quantized | dequantize.*
    | .*per_(tensor|channel)_quantized.* | .*affine_quantized.* | q_.* | int_repr.* | qscheme | fbgemm.*
    | choose_qparams.* | .*(mkldnn|miopen|mps|xnnpack|vulkan|nnpack|hpu|_cslt|triton|mtia).* | .*_for_cpu.*
    | .*_cpu_fallback.* | _test_.* | _foobar | _make_dep_token | _print | .*sym_constrain.*
    | _assert_(scalar|tensor).* | _functional_assert.* | _validate.* | _fw_primal.* | _make_dual.* | _version
    | retain_grad | rename.* | refine.* | align.* | _debug.* | _has_.* | _async_error | lift.* | detach.*
    | alias(_copy)?(\..*)? | _to_cpu | cudnn_is_acceptable | _copy_from.* | _use_cudnn_rnn.*
    | _propagate_xla_data
    """,
    re.VERBOSE,
)

# Composite operators that must fall apart on the client: results that share their argument's storage unannounced,
# hooks for other backends, and arguments that stay on the CPU.
KEPT_COMPOSITE = re.compile(
    r"_unsafe_view | unsafe_split.* | _pack_padded_sequence | _new_zeros.* | normal_functional | .*overrideable.*", re.X
)


@dataclass(frozen=True)
class Operator:
    """One entry of native_functions.yaml."""

    name: str  # with overload: "add.Tensor"
    schema: FunctionSchema
    keys: frozenset[str]
    structured: bool
    siblings: tuple[str, ...]
    functions: dict[str, str]  # by dispatch key

    @property
    def base(self) -> str:
        """The name that all forms share: add, add_, add.out and add.Tensor are all "add"."""
        return family(self.name)


def family(name: str) -> str:
    """The name without overload and in-place mark."""
    base = name.partition(".")[0]
    return base if base.endswith("__") else base.removesuffix("_")


def read_operators() -> list[Operator]:
    """All operators of the installed torch."""
    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    operators = []
    for entry in yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader):
        dispatch = entry.get("dispatch") or {}
        keys = {key.strip() for group in dispatch for key in group.split(",")}
        # Kernels written once for CPU and CUDA are listed by loop kind instead of by key.
        if "ufunc_inner_loop" in entry:
            keys.add("CUDA")
        functions = {key.strip(): name for group, name in dispatch.items() for key in group.split(",")}
        siblings = [name.strip() for name in (entry.get("autogen") or "").split(",") if name.strip()]
        operators.append(
            Operator(
                name=entry["func"].partition("(")[0],
                schema=FunctionSchema.parse(entry["func"]),
                keys=frozenset(keys),
                structured="structured_delegate" in entry,
                siblings=tuple(siblings),
                functions=functions,
            )
        )
    return operators


def _is_tensor_like(kind: Type) -> bool:
    return bool(kind.is_base_ty_like(BaseTy.Tensor))


def _has_device_argument(operator: Operator) -> bool:
    def is_device(kind: Type) -> bool:
        inner = kind.elem if isinstance(kind, OptionalType) else kind
        return isinstance(inner, BaseType) and inner.name == BaseTy.Device

    return any(is_device(argument.type) for argument in operator.schema.arguments.flat_all)


def worth_forwarding_whole(operator: Operator) -> bool:
    """Whether a composite below autograd is better sent as one message.

    True for functional operators from tensors to fresh tensors. Not for factories (their device argument may name
    another device), views, and operators that only check something.
    """
    if not operator.keys & {"CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional"}:
        return False
    arguments, returns = operator.schema.arguments.flat_all, operator.schema.returns
    aliased = any(argument.annotation is not None for argument in arguments)
    return (
        not KEPT_COMPOSITE.fullmatch(operator.name)
        and not aliased
        and not _has_device_argument(operator)
        and any(_is_tensor_like(argument.type) for argument in arguments)
        and bool(returns)
        and all(_is_tensor_like(result.type) and result.annotation is None for result in returns)
    )


def select(operators: list[Operator]) -> tuple[list[str], list[str], list[str]]:
    """The names that are forwarded, allowed, and skipped although they have a CUDA kernel."""
    forwarded, skipped = [], []
    for operator in operators:
        on_device = "CUDA" in operator.keys or operator.structured
        whole = worth_forwarding_whole(operator) or FORWARDED_BESIDES.fullmatch(operator.name)
        if not on_device and not whole:
            continue
        if operator.name in CLIENT_NATIVE | LEFT_TO_FALL_APART:
            continue
        if DENIED.fullmatch(operator.name):
            if on_device:
                skipped.append(operator.name)
            continue
        forwarded.append(operator.name)

    families = {family(name) for name in forwarded}
    known = [name for operator in operators for name in (operator.name, *operator.siblings)]
    allowed = [
        name
        for name in known
        if (family(name) in families and name not in CLIENT_NATIVE and not DENIED.fullmatch(name))
        or ALLOWED_BESIDES.fullmatch(name)
    ]
    return forwarded, allowed, skipped


def shared(operators: list[Operator]) -> list[tuple[str, str]]:
    """The names, each with the CPU's key, whose function there serves at the key of CUDA's counterpart too."""
    found = []
    for operator in operators:
        functions = operator.functions
        for key in ("SparseCPU", "SparseCsrCPU", "NestedTensorCPU"):
            own = key == "NestedTensorCPU" and operator.name in KERNEL_A_DEVICE
            if not own and key in functions and functions[key] == functions.get(key.replace("CPU", "CUDA")):
                found.append((operator.name, key))
        converts = operator.name.startswith(("_to_sparse", "_nested_"))
        one = functions.get("CPU", "") == functions.get("CUDA")
        if (converts and one) or operator.name in LEFT_TO_FALL_APART:
            found.append((operator.name, "CPU"))
    return found


def refused(operators: list[Operator], skipped: list[str]) -> list[str]:
    """Of those that are never forwarded, the names whose kernel in a CUDA build asks the CUDA runtime."""
    by_name = {operator.name: operator for operator in operators}

    def computes(operator: Operator) -> bool:
        quantizes = operator.name.startswith(("quantize_per_tensor", "quantize_per_channel"))
        return quantizes or operator.functions.get("CPU") != operator.functions.get("CUDA")

    # The client answers the question about MIOpen itself.
    return [name for name in skipped if computes(by_name[name]) and not name.startswith("_use_miopen")]


def digest(operators: list[Operator], forwarded: list[str], allowed: list[str]) -> bytes:
    """SHA-256 over what both sides must agree on."""
    schemas = {operator.name: str(operator.schema) for operator in operators}
    text = "\n".join(["forwarded", *(schemas[name] for name in forwarded)])
    text += "\n".join(["allowed", *(schemas.get(name, name) for name in allowed)])
    return hashlib.sha256(text.encode()).digest()


def report(operators: list[Operator], forwarded: list[str], skipped: list[str]) -> str:
    """One line for each operator that has a CUDA kernel: its name, a tab, what becomes of it."""
    forwarded_names, skipped_names = set(forwarded), set(skipped)

    def fate(operator: Operator) -> str:
        if operator.name in forwarded_names:
            return "forwarded"
        if operator.name in skipped_names:
            return "skipped: never run for a client (files, processes, other devices, missing layouts)"
        return "the client's own: it makes, resizes or re-points tensors, reads a value, or asks a question"

    on_device = [operator for operator in operators if "CUDA" in operator.keys or operator.structured]
    return "".join(f"aten::{operator.name}\t{fate(operator)}\n" for operator in on_device)


def _lines(names: list[str]) -> str:
    rows = []
    for name in names:
        base, _, overload = name.partition(".")
        rows.append(f'{{"aten::{base}", "{overload}"}},\n')
    return "".join(rows)


def _write_if_changed(path: Path, text: str) -> None:
    # An untouched file keeps its time, and nothing is compiled again for it.
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def main() -> None:
    """Write the include files into the folder named on the command line."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    operators = read_operators()
    forwarded, allowed, skipped = select(operators)
    value = digest(operators, forwarded, allowed)
    _write_if_changed(folder / "forwarded_ops.inc", _lines(forwarded))
    _write_if_changed(folder / "allowed_ops.inc", _lines(allowed))
    rows = "".join(_lines([name]).replace("},", f", DispatchKey::{key}}},") for name, key in shared(operators))
    _write_if_changed(folder / "shared_ops.inc", rows)
    _write_if_changed(folder / "refused_ops.inc", _lines(refused(operators, skipped)))
    _write_if_changed(folder / "op_digest.inc", ", ".join(f"0x{byte:02x}" for byte in value) + "\n")
    listing = folder / "operators.txt"
    _write_if_changed(listing, report(operators, forwarded, skipped))
    print(
        f"torch {torch.__version__}: {len(forwarded)} operators forwarded, {len(allowed)} allowed; "
        f"{len(skipped)} with a CUDA kernel skipped, see {listing}"
    )


if __name__ == "__main__":
    main()
