"""The output head of a checkpoint: the embedding's own table, or one that the file holds."""

import dataclasses

import torch

from himix_edge import parts
from himix_edge.checkpoints.lazy import Weights
from himix_edge.config import ModelConfig
from himix_edge.errors import InputError

HEAD, TABLE = f"{parts.HEAD}.weight", f"{parts.EMBEDDING}.weight"


def with_its_head(config: ModelConfig, weights: Weights, where: str) -> ModelConfig:
    """The configuration with the head that the weights have.

    A file may call its head tied and hold another one all the same, as a fine-tuning leaves it that trained both: that
    head is the model's. One that repeats the embedding is dropped.

    Raises:
        InputError: the head is not tied and the file has none, or one of the two tables cannot be read.
    """
    tied = config.decoder.tie_word_embeddings
    if not tied and HEAD not in weights and TABLE in weights:
        raise InputError(
            f"{where}: tensors do not fit config.json: missing {HEAD}; if the head is the embedding, "
            "tie_word_embeddings has to be true there"
        )
    if not tied or HEAD not in weights or TABLE not in weights or _same(weights):
        return config
    decoder = dataclasses.replace(config.decoder, tie_word_embeddings=False)
    return dataclasses.replace(config, decoder=decoder)


def _same(weights: Weights) -> bool:
    if weights[HEAD].shape != weights[TABLE].shape:
        return False
    head, table = weights[HEAD].read(), weights[TABLE].read()
    return torch.equal(head, table) if head.dtype == table.dtype else torch.equal(head.float(), table.float())
