"""The two forms that a decoder's cache has in OpenVINO: paged attention, and states where a CPU has none.

Attention fused with a state takes the tokens behind a filled state one by one (the CPU plugin's scaled_attn.cpp,
`use_one_token`), so a prompt behind an image takes three times as long as by itself. Paged attention takes them
together, and an image's keys and values are written straight into its blocks, which belong to the caller. The plugin
has it on x86-64, and on arm64 with SVE.
"""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import ModelConfig
from himix_edge.errors import InputError
from himix_edge.runtimes.engine import Array, Floats
from himix_edge.runtimes.openvino.eight_bits import EXTRA, KEYS, VALUES, pack, unpack

if TYPE_CHECKING:
    from openvino import CompiledModel, InferRequest, Model, Tensor

PLAIN = "plain_past_lens"  # slots filled in layers without the image
KEY_CACHE, PAST_LENS = 3, 5  # inputs of PagedAttentionExtension


class Cache(Protocol):
    """One sequence, in the order of its slots."""

    def fill(self, key: Floats, value: Floats) -> None:
        """Empty the cache and fill its first slots with vision key and value (I, G, n, h)."""
        ...

    def inputs(self, token_ids: NDArray[np.int64], filled: int, position: int) -> dict[str, Array]:
        """What the decoder takes of tokens (T,) behind `filled` slots, the first at rotary position `position`.

        HiMix's text counts from 0 behind the image, so a layer without the image has `position` slots filled.
        """
        ...

    def embeddings(self, rows: Floats) -> Floats:
        """The decoder's `vision_embeds` of rows (1, T, d)."""
        ...

    def kept(self, filled: int) -> tuple[Floats, Floats]:
        """Copies of the first `filled` slots: key and value (L, G, n, h)."""
        ...


def paged(graph: "Model", plain: Collection[int]) -> "Model":
    """A stateful decoder, changed in place: its states are inputs key_cache.I and value_cache.I.

    Layers in `plain` get a length of their own: without the image their cache is shorter.
    """
    import openvino
    from openvino._offline_transformations import paged_attention_transformation

    paged_attention_transformation(graph)
    if not plain:
        return graph
    length = openvino.opset13.parameter([-1], np.int32, name=PLAIN)
    length.output(0).set_names({PLAIN})
    caches = {f"key_cache.{layer}" for layer in plain}
    for node in graph.get_ops():
        if node.get_type_name() == "PagedAttentionExtension" and caches & node.input_value(KEY_CACHE).names:
            node.input(PAST_LENS).replace_source_output(length.output(0))
    graph.add_parameters([length])
    graph.validate_nodes_and_infer_types()
    return graph


class PagedCache:
    """See `Cache`: the blocks of a decoder whose graph went through `paged`."""

    def __init__(
        self, compiled: "CompiledModel", request: "InferRequest", config: ModelConfig, capacity: int, where: Path
    ):
        """Allocate `capacity` slots and hand them to the request.

        Raises:
            InputError: the caches of the graph, which is at `where`, are not those of `config`.
        """
        import openvino

        self._rows, decoder = config.vision_rows, config.decoder
        self._heads, self._size = decoder.num_key_value_heads, decoder.head_dim
        caches = {name: port for port in compiled.inputs for name in port.names if "_cache." in name}
        self._plain = any(PLAIN in port.names for port in compiled.inputs)
        self._layers: list[list[Tensor]] = []  # of each layer keys and values (blocks, G, slots of a block, h)
        self._packed = False  # in 8 bits, as `pack` has them
        for layer in range(decoder.num_hidden_layers):
            self._layers.append([])
            for name in (f"key_cache.{layer}", f"value_cache.{layer}"):
                if name not in caches:
                    raise InputError(f"{where}: no {name}, the manifest's model has one")
                port = caches.pop(name)
                shape = [length.get_length() for length in list(port.partial_shape)[1:]]
                heads, self._block, size = shape
                self._packed = port.element_type == openvino.Type.u8
                if self._packed and name.startswith("key"):
                    self._block -= EXTRA
                elif self._packed:
                    size -= EXTRA
                if (heads, size) != (decoder.num_key_value_heads, decoder.head_dim):
                    raise InputError(f"{where}: {name} has {heads} heads of {size}, not what the manifest says")
                blocks = openvino.Tensor(port.element_type, [-(-capacity // self._block), *shape])
                blocks.data[:] = 0  # slots that nobody wrote have scales too
                request.set_tensor(port, blocks)
                self._layers[layer].append(blocks)
        if caches:
            raise InputError(f"{where}: {min(caches)}, which the manifest's model has not")
        self._indices = np.arange(-(-capacity // self._block), dtype=np.int32)

    def fill(self, key: Floats, value: Floats) -> None:
        heads, slots, size = key.shape[1:]
        whole, rest = divmod(slots, self._block)
        for tensors, row in zip(self._layers, self._rows, strict=True):
            for axis, tensor, rows in (
                zip((KEYS, VALUES), tensors, (key, value), strict=True) if row is not None else ()
            ):
                blocks, new = tensor.data, rows[row]
                full = new[:, : slots - rest].reshape(heads, whole, self._block, size).transpose(1, 0, 2, 3)
                blocks[:whole] = pack(full, axis) if self._packed else full
                if rest:
                    last = new[None, :, slots - rest :]
                    last = pack(last, axis)[0] if self._packed else last[0]
                    blocks[whole, :, : last.shape[1]] = last

    def inputs(self, token_ids: NDArray[np.int64], filled: int, position: int) -> dict[str, Array]:
        new = len(token_ids)
        used = -(-(filled + new) // self._block)
        numbers = {
            "past_lens": [filled], "subsequence_begins": [0, new],
            "block_indices_begins": [0, used], "max_context_len": filled + new,
        }  # fmt: skip
        if self._plain:
            numbers[PLAIN] = [position]
        arrays = {name: np.array(number, np.int32) for name, number in numbers.items()}
        positions = np.arange(position, position + new, dtype=np.int64)
        return arrays | {"input_ids": token_ids, "position_ids": positions, "block_indices": self._indices[:used]}

    def embeddings(self, rows: Floats) -> Floats:
        return rows.transpose(1, 0, 2)  # paged attention has all tokens on the first axis

    def kept(self, filled: int) -> tuple[Floats, Floats]:
        blocks = -(-filled // self._block)

        def numbers(tensor: "Tensor", axis: int) -> Floats:
            there = tensor.data[:blocks]
            floats: Floats = unpack(there, axis) if self._packed else there
            return floats.transpose(1, 0, 2, 3).reshape(self._heads, -1, self._size)[:, :filled]

        keys, values = zip(*self._layers, strict=True)
        return np.stack([numbers(k, KEYS) for k in keys]), np.stack([numbers(v, VALUES) for v in values])


class StateCache:
    """See `Cache`: the states of a stateful decoder, which grow by what they are given."""

    def __init__(self, request: "InferRequest", config: ModelConfig, where: Path):
        """Raises InputError where the states of the graph, which is at `where`, are not those of `config`."""
        self._rows, self._request = config.vision_rows, request
        states = {state.name.split("present")[0]: state for state in request.query_state()}
        layers = range(config.decoder.num_hidden_layers)
        names = {f"past.{layer}.{kind}": (layer, kind == "value")
                 for layer in layers for kind in ("key", "value")}  # fmt: skip
        if states.keys() != names.keys():
            raise InputError(f"{where}: {len(states)} cache states, not the {len(names)} of the manifest's model")
        self._states = {names[name]: state for name, state in states.items()}

    def fill(self, key: Floats, value: Floats) -> None:
        import openvino

        self._request.reset_state()
        for layer, row in enumerate(self._rows):
            if row is not None and key.shape[2]:
                for is_value, tensor in enumerate((key, value)):
                    self._states[layer, bool(is_value)].state = openvino.Tensor(np.ascontiguousarray(tensor[row][None]))

    def inputs(self, token_ids: NDArray[np.int64], filled: int, position: int) -> dict[str, Array]:
        positions = np.arange(position, position + len(token_ids), dtype=np.int64)
        return {
            "input_ids": token_ids[None], "position_ids": positions[None], "beam_idx": np.zeros(1, np.int32),
        }  # fmt: skip

    def embeddings(self, rows: Floats) -> Floats:
        return rows

    def kept(self, filled: int) -> tuple[Floats, Floats]:
        layers = range(len(self._rows))
        key, value = (
            np.concatenate([np.array(self._states[layer, is_value].state.data) for layer in layers])
            for is_value in (False, True)
        )
        return key, value
