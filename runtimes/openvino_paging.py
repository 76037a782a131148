"""OpenVINO's paged attention: the cache is blocks of slots that belong to the caller.

Attention fused with a state takes the tokens behind a filled state one by one (the CPU plugin's scaled_attn.cpp,
`use_one_token`), so a prompt behind an image would take three times as long as by itself. Paged attention takes them
together, and an image's keys and values are written straight into its blocks.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himix_edge.config import DecoderConfig
from himix_edge.errors import InputError
from himix_edge.runtimes.engine import Floats

PLAIN = "plain_past_lens"  # slots filled in layers without the image
KEY_CACHE, PAST_LENS = 3, 5  # inputs of PagedAttentionExtension


def paged(graph: Any, plain: Collection[int]) -> None:
    """Turn the states of a stateful decoder into inputs key_cache.I and value_cache.I, in place.

    Layers in `plain` get a length of their own: without the image their cache is shorter.
    """
    import openvino
    from openvino._offline_transformations import paged_attention_transformation

    paged_attention_transformation(graph)
    if not plain:
        return
    length = openvino.opset13.parameter([-1], np.int32, name=PLAIN)
    length.output(0).set_names({PLAIN})
    caches = {f"key_cache.{layer}" for layer in plain}
    for node in graph.get_ops():
        if node.get_type_name() == "PagedAttentionExtension" and caches & node.input_value(KEY_CACHE).names:
            node.input(PAST_LENS).replace_source_output(length.output(0))
    graph.add_parameters([length])
    graph.validate_nodes_and_infer_types()


class PagedCache:
    """The blocks of one compiled decoder, one sequence in the order of its slots."""

    def __init__(self, compiled: Any, request: Any, config: DecoderConfig, capacity: int, where: Path):
        """Allocate `capacity` slots and hand them to the request.

        Raises:
            InputError: the caches of the graph, which is at `where`, are not those of `config`.
        """
        import openvino

        caches = {name: port for port in compiled.inputs for name in port.names if "_cache." in name}
        self._plain = any(PLAIN in port.names for port in compiled.inputs)
        self._layers: list[list[Any]] = []  # of each layer keys and values (blocks, G, slots of a block, h)
        for layer in range(config.num_hidden_layers):
            self._layers.append([])
            for name in (f"key_cache.{layer}", f"value_cache.{layer}"):
                if name not in caches:
                    raise InputError(f"{where}: no {name}, the manifest's model has one")
                port = caches.pop(name)
                heads, self._block, size = (length.get_length() for length in list(port.partial_shape)[1:])
                if (heads, size) != (config.num_key_value_heads, config.head_dim):
                    raise InputError(f"{where}: {name} has {heads} heads of {size}, not what the manifest says")
                blocks = openvino.Tensor(port.element_type, [-(-capacity // self._block), heads, self._block, size])
                request.set_tensor(port, blocks)
                self._layers[layer].append(blocks)
        if caches:
            raise InputError(f"{where}: {min(caches)}, which the manifest's model has not")
        self._indices = np.arange(-(-capacity // self._block), dtype=np.int32)

    def write(self, layer: int, key: Floats, value: Floats) -> None:
        """Fill the first slots of a layer with key and value (G, n, h)."""
        for tensor, new in zip(self._layers[layer], (key, value), strict=True):
            blocks, (heads, slots, size) = tensor.data, new.shape
            whole, rest = divmod(slots, self._block)
            full = new[:, : slots - rest].reshape(heads, whole, self._block, size)
            blocks[:whole] = full.transpose(1, 0, 2, 3)
            if rest:
                blocks[whole, :, :rest] = new[:, slots - rest :]

    def inputs(self, filled: int, plain: int, new: int) -> dict[str, NDArray[np.int32]]:
        """What the decoder needs to know of `new` tokens behind `filled` slots, `plain` in layers without the image."""
        used = -(-(filled + new) // self._block)
        numbers = {
            "past_lens": [filled], "subsequence_begins": [0, new],
            "block_indices_begins": [0, used], "max_context_len": filled + new,
        }  # fmt: skip
        if self._plain:
            numbers[PLAIN] = [plain]
        arrays = {name: np.array(number, np.int32) for name, number in numbers.items()}
        return arrays | {"block_indices": self._indices[:used]}
