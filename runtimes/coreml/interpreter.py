"""Evaluates a saved Core ML package: its MIL program, operator by operator, in PyTorch on the CPU.

It proves what the package says (graph, weights, states, functions), not what Apple's kernels make of it. Values that
the program declares float16 are rounded to float16 after each operator; sums inside an operator are float32. The
operators are those of the MIL specification (coremltools.converters.mil.mil.ops.defs) that our graphs use.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from himix_edge.errors import InputError
from himix_edge.runtimes.chatter import without_logged_warnings
from himix_edge.runtimes.coreml import RUNTIME
from himix_edge.runtimes.coreml.mil import Function, Given, Operation, Program, Variable
from himix_edge.runtimes.coreml.mil_file import check_program
from himix_edge.runtimes.registry import missing_packages

Value = Tensor | str | list["Value"] | None
CACHE_BYTES = 1 << 30
MAX_ELEMENTS = 1 << 28  # of one result, 1 GiB in float32


class Arguments:
    """An operation's inputs by name. Raises InputError for one that is of another kind than its operator takes."""

    def __init__(self, values: dict[str, Value]):
        self._values = values

    def __getitem__(self, name: str) -> Tensor:
        found = self.get(name)
        if found is None:
            raise InputError(f"an operator lacks its {name}")
        return found

    def get(self, name: str) -> Tensor | None:
        """A tensor that may be left out."""
        found = self._values.get(name)
        if found is not None and not isinstance(found, Tensor):
            raise InputError(f"an operator's {name} is no tensor")
        return found

    def text(self, name: str) -> str:
        """A string."""
        return str(self._values[name])

    def several(self, name: str) -> list[Tensor]:
        """A list of tensors."""
        found = self._values[name]
        tensors = [one for one in found if isinstance(one, Tensor)] if isinstance(found, list) else []
        if not isinstance(found, list) or len(tensors) < len(found):
            raise InputError(f"an operator's {name} are no tensors")
        return tensors


Operator = Callable[[Arguments], Tensor | tuple[Tensor, ...]]


def load_program(package: Path) -> Program:
    """The MIL program of a saved .mlpackage.

    Raises:
        BackendMissing: coremltools is not installed.
        InputError: the package cannot be read, or its program has an operator that is not known here.
    """
    with without_logged_warnings(), missing_packages(RUNTIME):
        import coremltools
        from coremltools.converters.mil.frontend.milproto.load import load
    data = package / "Data" / "com.apple.CoreML"
    try:
        spec = coremltools.utils.load_spec(str(data / "model.mlmodel"))
        check_program(spec, package, OPERATORS.keys() | SPECIAL | {"write_state"})  # an update, as it is stored
        weights = str(data / "weights")
        program: Program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=weights)
        return program
    except InputError:
        raise
    except Exception as error:  # protobuf's, coremltools' and the system's
        raise InputError(f"{package}: not a readable Core ML package: {[*str(error).splitlines(), ''][0]}") from None


class Dequantized:
    """Dequantized weights, up to CACHE_BYTES of them kept; beyond that each is made anew when it is used."""

    def __init__(self) -> None:
        self._kept: dict[int, Tensor] = {}
        self._bytes = 0

    def __call__(self, operation: Operation) -> Tensor:
        """Integers times scales in float32; what float16 arithmetic would round is the runtime's business."""
        weight = self._kept.get(id(operation))
        if weight is None:
            weight = _dequantize(operation)
            if self._bytes + weight.nbytes <= CACHE_BYTES:
                self._bytes += weight.nbytes
                self._kept[id(operation)] = weight
        return weight


class Interpreter:
    """One function of a program. States are kept by the caller; an update puts a new tensor in the place of the old."""

    def __init__(
        self, program: Program, function: str, where: Path, rounding: bool = True, weights: Dequantized | None = None
    ):
        """Without `rounding` what is declared float16 is computed and kept in float32. `weights` may be shared.

        Raises InputError for a function that the program lacks, or a result that would fill the memory.
        """
        if function not in program.functions:
            raise InputError(f"{where}: no function {function!r}; it has {', '.join(program.functions)}")
        self._function = program.functions[function]
        self._types = TYPES if rounding else {**TYPES, "fp16": torch.float32}
        self._weights = weights or Dequantized()
        self._last_used = _last_used(self._function)
        self._straight = _straight_to_state(self._function)
        self._where = where
        for operation in self._function.operations:
            if operation.op_type not in SPECIAL:  # what is stored is no larger than its file
                for output in operation.outputs:
                    _check_size(output, where)

    def ports(self) -> tuple[list[str], list[str]]:
        """The names of the function's inputs and outputs."""
        return list(self._function.inputs), [output.name for output in self._function.outputs]

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the function's states."""
        return {
            operation.input.name: tuple(_lengths(operation.outputs[0]))
            for operation in self._function.operations if operation.op_type == "read_state"
        }  # fmt: skip

    def state_dtypes(self) -> dict[str, torch.dtype]:
        """Name -> type of the function's states."""
        return {
            operation.input.name: self._dtype(operation.outputs[0])
            for operation in self._function.operations if operation.op_type == "read_state"
        }  # fmt: skip

    @torch.inference_mode()
    def run(self, inputs: dict[str, Tensor], states: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inputs by name -> outputs by name, in the program's types."""
        for name, variable in self._function.inputs.items():
            if name in inputs and tuple(inputs[name].shape) != tuple(variable.shape):
                shapes = f"{tuple(variable.shape)}, the manifest's model gives {tuple(inputs[name].shape)}"
                raise InputError(f"{self._where}: takes {name} as {shapes}")
        values, own = dict(inputs), set[int]()
        for operation, finished in zip(self._function.operations, self._last_used, strict=True):
            if operation.op_type not in ("const", "constexpr_blockwise_shift_scale"):  # looked up where they are used
                given = values
                if operation.op_type == "slice_update":
                    given = self._to_write(operation, values, finished, {**inputs, **states}, own)
                for output, result in zip(operation.outputs, self._results(operation, given, states), strict=True):
                    values[output.name] = result
            for name in finished:
                values.pop(name, None)
        return {output.name: values[output.name] for output in self._function.outputs}

    def _results(
        self, operation: Operation, values: dict[str, Tensor], states: dict[str, Tensor]
    ) -> tuple[Tensor, ...]:
        kind = operation.op_type
        if kind == "read_state":
            return (states[operation.input.name],)
        arguments = Arguments({name: self._value(values, given) for name, given in operation.inputs.items()})
        if kind == "coreml_update_state":
            states[operation.state.name] = arguments["value"]
            return (arguments["value"],)
        made = OPERATORS[kind](arguments)
        results = made if isinstance(made, tuple) else (made,)
        return tuple(result.to(self._dtype(output)) for output, result in zip(operation.outputs, results, strict=True))

    def _to_write(
        self,
        operation: Operation,
        values: dict[str, Tensor],
        finished: list[str],
        kept: dict[str, Tensor],
        own: set[int],
    ) -> dict[str, Tensor]:
        """The values for a slice_update: what it writes to is copied, unless this is its last use and only its own.

        A decoder writes to one cache once a layer, and a copy of it all each time costs more than the layer. `own` is
        memory that this run made for such a cache: a state may have it already, if what is written is the state's next.
        """
        x = operation.inputs.get("x")
        if x is None or isinstance(x, list | tuple):
            return values  # its operator says so
        if x.name in values and x.name in finished:
            memory = _memory(values[x.name])
            state = self._straight.get(operation.name) if memory in own else None
            others = [value for name, value in kept.items() if name != state]
            others += [value for name, value in values.items() if name != x.name]
            if all(_memory(other) != memory for other in others):
                return values
        whole = self._value(values, x)
        if not isinstance(whole, Tensor):
            return values
        copy = whole.clone()
        own.add(_memory(copy))
        return {**values, x.name: copy}

    def _value(self, values: dict[str, Tensor], given: Given) -> Value:
        if given is None:
            return None
        if isinstance(given, list | tuple):
            return [self._value(values, one) for one in given]
        if given.name in values:
            return values[given.name]
        if given.op is None:
            return None  # a state, which its operator looks up itself
        if given.op.op_type == "constexpr_blockwise_shift_scale":
            return self._weights(given.op)
        return given.val if isinstance(given.val, str) else _tensor(given.val)

    def _dtype(self, variable: Variable) -> torch.dtype:
        from coremltools.converters.mil.mil.types import builtin_to_string

        return self._types[builtin_to_string(variable.dtype)]


def _check_size(variable: Variable, where: Path) -> None:
    lengths = _lengths(variable)
    if len(lengths) < len(variable.shape) or math.prod(lengths) > MAX_ELEMENTS:
        raise InputError(f"{where}: {variable.name} would have the shape {tuple(variable.shape)!s:.100}; refused")


def _lengths(variable: Variable) -> list[int]:
    """Of the axes whose length is known."""
    return [int(length) for length in variable.shape if isinstance(length, int | np.integer)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _straight_to_state(function: Function) -> dict[str, str]:
    """Operations whose result a state gets at once, nobody reading it in between, and the state: both by name."""
    return {
        before.name: after.state.name
        for before, after in pairwise(function.operations)
        if after.op_type == "coreml_update_state" and after.inputs["value"] is before.outputs[0]
    }


def _last_used(function: Function) -> list[list[str]]:
    """For each operation the values that nothing needs after it."""
    last: dict[str, int] = {}
    for i, operation in enumerate(function.operations):
        for given in [*operation.inputs.values(), operation.outputs]:
            for value in given if isinstance(given, list | tuple) else [given]:
                if value is not None:
                    last[value.name] = i
    finished: list[list[str]] = [[] for _ in function.operations]
    for name in last.keys() - {output.name for output in function.outputs}:
        finished[last[name]].append(name)
    return finished


def _dequantize(operation: Operation) -> Tensor:
    """The weight of a constexpr_blockwise_shift_scale, with few copies: the largest make up most of what is in use."""
    weight = torch.from_numpy(np.array(operation.data.val, np.float32))
    for given, change in ((operation.offset, Tensor.sub_), (operation.scale, Tensor.mul_)):
        if given is not None:
            per_block = _tensor(given.val).float()
            blocks = [n for axis in range(weight.dim()) for n in _block(weight.shape[axis], per_block.shape[axis])]
            change(weight.view(blocks), per_block.view([n for count in per_block.shape for n in (count, 1)]))
    return weight


def _block(length: int, count: int) -> tuple[int, int]:
    return count, length // count


def _tensor(value: object) -> Tensor:
    array = np.asarray(value)
    if array.dtype.kind in "iu" and array.dtype.itemsize < 4:  # int4 arrives as an int8 with metadata
        array = array.astype(np.int32)
    return torch.from_numpy(np.array(array))


TYPES = {
    "fp16": torch.float16, "fp32": torch.float32, "bool": torch.bool, "int32": torch.int32, "int64": torch.int64,
    "int16": torch.int32, "uint16": torch.int32, "int8": torch.int32, "uint8": torch.int32,
}  # fmt: skip


def _float(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.float16 else x


def _numbers(x: Tensor) -> list[int]:
    return [int(n) for n in x.flatten()]


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda a: function(_float(a["x"]))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda a: function(_float(a["x"]), _float(a["y"]))


def _reduce(function: Callable[..., Tensor]) -> Operator:
    def operate(a: Arguments) -> Tensor:
        x = _float(a["x"])
        given = a.get("axes")
        axes = list(range(x.dim())) if given is None else _numbers(given)
        return function(x, dim=axes, keepdim=bool(a["keep_dims"]))

    return operate


def _gelu(a: Arguments) -> Tensor:
    modes = {"EXACT": "none", "TANH_APPROXIMATION": "tanh"}
    return F.gelu(_float(a["x"]), approximate=modes[a.text("mode")])


def _layer_norm(a: Arguments) -> Tensor:
    x = _float(a["x"])
    axes = [axis % x.dim() for axis in _numbers(a["axes"])]
    mean = x.mean(dim=axes, keepdim=True)
    normed = (x - mean) * torch.rsqrt((x - mean).square().mean(dim=axes, keepdim=True) + a["epsilon"].float())
    gamma, beta = a.get("gamma"), a.get("beta")
    if gamma is not None:
        normed = normed * gamma.float()
    return normed if beta is None else normed + beta.float()


def _linear(a: Arguments) -> Tensor:
    bias = a.get("bias")
    return F.linear(_float(a["x"]), a["weight"].float(), None if bias is None else bias.float())


def _matmul(a: Arguments) -> Tensor:
    x, y = _float(a["x"]), _float(a["y"])
    x = x.transpose(-1, -2) if a["transpose_x"] else x
    return x @ (y.transpose(-1, -2) if a["transpose_y"] else y)


def _convolution(a: Arguments) -> Tensor:
    x, weight, bias = _float(a["x"]), a["weight"].float(), a.get("bias")
    strides, dilations = _numbers(a["strides"]), _numbers(a["dilations"])
    below, above = [0] * (x.dim() - 2), [0] * (x.dim() - 2)
    if a.text("pad_type") == "custom":
        below, above = _numbers(a["pad"])[::2], _numbers(a["pad"])[1::2]
    elif a.text("pad_type") != "valid":
        raise InputError(f"the Core ML interpreter has no padding {a.text('pad_type')!r}; open it on macOS")
    edges = [n for pair in reversed(list(zip(below, above, strict=True))) for n in pair]
    convolve = {1: F.conv1d, 2: F.conv2d}[x.dim() - 2]
    bias = None if bias is None else bias.float()
    return convolve(F.pad(x, edges), weight, bias, strides, 0, dilations, int(a["groups"]))


def _attention(a: Arguments) -> Tensor:
    mask = a.get("attn_mask")
    mask = mask.float() if mask is not None and mask.dtype != torch.bool else mask
    return F.scaled_dot_product_attention(_float(a["query"]), _float(a["key"]), _float(a["value"]), attn_mask=mask)


def _slices(a: Arguments, size: list[int]) -> tuple[tuple[slice, ...], list[int]]:
    """Python slices of slice_by_index and slice_update, and the axes to squeeze."""
    begin, end = _numbers(a["begin"]), _numbers(a["end"])
    given = a.get("stride")
    stride = [1] * len(begin) if given is None else _numbers(given)
    masks = {n: [False] * len(begin) if (mask := a.get(n)) is None else [bool(b) for b in mask]
             for n in ("begin_mask", "end_mask", "squeeze_mask")}  # fmt: skip
    slices = []
    for i, length in enumerate(size):
        first = 0 if masks["begin_mask"][i] else begin[i] + (length if begin[i] < 0 else 0)
        last = length if masks["end_mask"][i] else end[i] + (length if end[i] < 0 else 0)
        if masks["squeeze_mask"][i]:
            last = first + 1
        if stride[i] < 1 or not 0 <= first <= length or not 0 <= last <= length:
            raise InputError(f"a slice {first}:{last}:{stride[i]} is outside of an axis of {length}")
        slices.append(slice(first, last, stride[i]))
    return tuple(slices), [i for i, squeezed in enumerate(masks["squeeze_mask"]) if squeezed]


def _slice(a: Arguments) -> Tensor:
    slices, squeezed = _slices(a, list(a["x"].shape))
    taken = a["x"][slices]
    return taken.squeeze(squeezed) if squeezed else taken


def _slice_update(a: Arguments) -> Tensor:
    """In place: what is written to is nobody else's, see `Interpreter._to_write`."""
    slices, _ = _slices(a, list(a["x"].shape))
    written = a["x"]
    written[slices] = a["update"].to(written.dtype)
    return written


def _gather(a: Arguments) -> Tensor:
    axis, indices = int(a["axis"]) % a["x"].dim(), a["indices"].long()
    if (batch := a.get("batch_dims")) is not None and int(batch):
        raise InputError("the Core ML interpreter has no gather with batch_dims; open it on macOS")
    taken = a["x"].index_select(axis, indices.flatten())
    return taken.unflatten(axis, indices.shape) if indices.dim() else taken.squeeze(axis)


def _pad(a: Arguments) -> Tensor:
    pads, x = _numbers(a["pad"]), _float(a["x"])
    if a.text("mode") != "constant":
        raise InputError(f"the Core ML interpreter has no padding {a.text('mode')!r}; open it on macOS")
    edges = [n for i in range(len(pads) - 2, -1, -2) for n in pads[i : i + 2]]
    return F.pad(x, edges, value=float(a["constant_val"]))


OPERATORS: dict[str, Operator] = {
    "abs": _unary(torch.abs), "sqrt": _unary(torch.sqrt), "square": _unary(torch.square),
    "silu": _unary(F.silu), "sigmoid": _unary(torch.sigmoid), "tanh": _unary(torch.tanh), "erf": _unary(torch.erf),
    "exp": _unary(torch.exp), "relu": _unary(F.relu), "relu6": _unary(F.relu6), "identity": _unary(lambda x: x),
    "rsqrt": lambda a: torch.rsqrt(_float(a["x"]) + a["epsilon"].float()),
    "inverse": lambda a: 1 / (_float(a["x"]) + a["epsilon"].float()),
    "clip": lambda a: _float(a["x"]).clamp(float(a["alpha"]), float(a["beta"])),
    "add": _binary(torch.add), "sub": _binary(torch.sub), "mul": _binary(torch.mul), "real_div": _binary(torch.div),
    "pow": _binary(torch.pow), "maximum": _binary(torch.maximum), "minimum": _binary(torch.minimum),
    "less_equal": _binary(torch.le), "less": _binary(torch.lt), "greater_equal": _binary(torch.ge),
    "greater": _binary(torch.gt), "equal": _binary(torch.eq), "logical_and": _binary(torch.logical_and),
    "reduce_mean": _reduce(torch.mean), "reduce_sum": _reduce(torch.sum), "reduce_max": _reduce(torch.amax),
    "gelu": _gelu, "layer_norm": _layer_norm, "linear": _linear, "matmul": _matmul, "conv": _convolution,
    "softmax": lambda a: _float(a["x"]).softmax(int(a["axis"])),
    "scaled_dot_product_attention": _attention,
    "slice_by_index": _slice, "slice_update": _slice_update, "gather": _gather, "pad": _pad,
    "cast": lambda a: a["x"],  # every result is given its declared type
    "select": lambda a: torch.where(a["cond"], a["a"], a["b"]),
    "reshape": lambda a: a["x"].reshape(_numbers(a["shape"])),
    "transpose": lambda a: a["x"].permute(_numbers(a["perm"])),
    "expand_dims": lambda a: _expand_dims(a["x"], _numbers(a["axes"])),
    "squeeze": lambda a: a["x"].squeeze() if a.get("axes") is None else a["x"].squeeze(_numbers(a["axes"])),
    "split": lambda a: tuple(a["x"].split(_numbers(a["split_sizes"]), dim=int(a["axis"]))),
    "concat": lambda a: torch.cat(a.several("values"), dim=int(a["axis"])),
    "stack": lambda a: torch.stack(a.several("values"), dim=int(a["axis"])),
    "tile": lambda a: a["x"].tile(_numbers(a["reps"])),
}  # fmt: skip
SPECIAL = {"const", "constexpr_blockwise_shift_scale", "read_state", "coreml_update_state"}


def _expand_dims(x: Tensor, axes: list[int]) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x
