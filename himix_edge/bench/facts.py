"""What a record says about a bundle: its size, and what a generated token has to read."""

import re
from pathlib import Path

from himix_edge.bench.record import BundleFacts
from himix_edge.bundle import MANIFEST, Bundle, Manifest, all_files, read_manifest
from himix_edge.config import ModelConfig
from himix_edge.files import sha256


def bundle_facts(folder: Path, accuracy: float | None = None) -> BundleFacts:
    """From the manifest alone. Raises InputError as `read_manifest`."""
    manifest = read_manifest(folder)
    config = Bundle(folder, manifest).config
    asked = gate_answers(manifest)
    return BundleFacts(
        name=manifest.name,
        target=manifest.target,
        precision=manifest.quantization.precision,
        activations=manifest.quantization.activations,
        architecture=config.architecture,
        manifest_sha256=sha256(folder / MANIFEST),
        bytes=sum(record.bytes for record in all_files(manifest)),
        decoder_bytes=sum(record.bytes for record in manifest.roles["decoder"]),
        weight_bytes_per_token=weight_bytes_per_token(manifest, config),
        kv_bytes_per_token=kv_bytes_per_token(config),
        context_capacity=manifest.context_capacity,
        accuracy=accuracy,
        gate_asked=asked and asked[0],
        gate_equal=asked and asked[1],
    )


def gate_answers(manifest: Manifest) -> tuple[int, int] | None:
    """How many questions the gate asked the bundle as it is opened, and how many had the reference's exact answer.

    None where the manifest does not say.
    """
    for result in reversed(manifest.parity):
        found = re.fullmatch("equal of all ([0-9]{1,9})", result.metric)
        if result.stage == "runtime" and found and 0 <= result.value <= 1:
            asked = int(found[1])
            return asked, round(asked * result.value)
    return None


def weight_bytes_per_token(manifest: Manifest, config: ModelConfig) -> int:
    """Bytes of the matrices that one token is multiplied with: every layer's linears and the head, scales included.

    A scale counts 2 bytes. A tied head is the embedding, at its number of bits; a float weight counts 4 bytes, or 2
    where activations are float16.
    """
    decoder, quantization = config.decoder, manifest.quantization
    heads, kv = decoder.num_attention_heads * decoder.head_dim, decoder.num_key_value_heads * decoder.head_dim
    attention = decoder.hidden_size * (2 * heads + 2 * kv)
    linears = decoder.num_hidden_layers * (attention + 3 * decoder.hidden_size * decoder.intermediate_size)
    head = decoder.vocab_size * decoder.hidden_size
    float_bytes = 2 if quantization.activations == "float16" else 4

    def stored(count: int, bits: int) -> float:
        if bits > 8:
            return count * float_bytes
        return count * (bits / 8 + (2 / quantization.group_size if bits == 4 and quantization.group_size else 0))

    bits = quantization.bits
    return round(stored(linears, bits.get("decoder", 32)) + stored(head, bits.get("embedding", 32)))


def kv_bytes_per_token(config: ModelConfig, element: int = 4) -> int:
    """Keys and values of one cache slot over all layers, `element` bytes a number (float32)."""
    decoder = config.decoder
    return 2 * decoder.num_hidden_layers * decoder.num_key_value_heads * decoder.head_dim * element
