"""What a chat puts into the cache, seen by an engine that says what it is told to."""

import numpy as np

from himix_edge.bundle import GenerationDefaults
from himix_edge.config import DecoderConfig, ModelConfig
from himix_edge.runtimes.session import Session


class Scripted:
    """Answers with the given tokens and remembers what it was fed."""

    capacity = 512

    def __init__(self, answers, vocabulary):
        self.answers, self.vocabulary, self.fed = list(answers), vocabulary, []

    def start(self, key, value, position):
        self.fed = []

    def step(self, ids):
        self.fed += ids.tolist()
        logits = np.zeros(self.vocabulary, np.float32)
        logits[self.answers.pop(0)] = 1
        return logits


def test_a_token_cut_off_by_the_limit_is_fed_once(text):
    """Also when the next answer is empty: its stop token comes first."""
    (stop,) = text.stop_ids
    size = text.tokenizer.get_vocab_size()
    said = size - 1
    engine = Scripted([said, stop, stop], size)
    config = ModelConfig("himix", DecoderConfig("llama", size, 8, 8, 1, 1, 1, 8))
    chat = Session(engine, text, config, "model", GenerationDefaults()).chat()
    expected = sum(said in text.encode_next_turn("what shape?") for _ in range(3)) + 1
    for limit in (1, 5, 5):
        list(chat.send("what shape?", max_new_tokens=limit))
    assert engine.fed.count(said) == expected == 1
