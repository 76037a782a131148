"""How sure a model is of its answer: PyTorch's own log_softmax over question and answer read at once says the same."""

import json
import math

import pytest
import torch
from click.testing import CliRunner

from himix_edge import load_checkpoint
from himix_edge.cli import himix
from himix_edge.preprocess import load_image
from himix_edge.runtimes import open_checkpoint
from himix_edge.text import Message

QUESTION = "What shape is this?"


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_it_is_that_of_the_tokens_and_of_the_end(probe_image, temperature):
    session = open_checkpoint("nano")
    answer = session.generate(QUESTION, probe_image, max_new_tokens=8, temperature=temperature, seed=3)
    pieces = list(answer)
    said = [piece.token_id for piece in pieces if piece.token_id is not None]
    model, stop = load_checkpoint("nano"), sorted(session.text.stop_ids)[:1]
    prompt = session.text.encode_chat([Message("user", QUESTION)])
    ends = stop if answer.stats.finish_reason == "stop" else []
    ids = torch.tensor([[*prompt, *said, *ends]])
    vision = model.config.vision
    pixels = torch.from_numpy(load_image(probe_image, vision.image_size, vision.resample))
    logits = model(ids, pixel_values=pixels)
    shares = logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
    expected = shares.gather(1, ids[0, len(prompt) :, None])[:, 0]
    assert answer.stats.log_probability == pytest.approx(float(expected.sum()), abs=1e-4)
    given = [piece.log_probability for piece in pieces if piece.token_id is not None]
    assert given == pytest.approx(expected.tolist()[: len(said)], abs=1e-4)
    assert answer.stats.probability == pytest.approx(math.exp(float(expected.sum())), abs=1e-4)


def test_the_command_line_says_it(probe_image):
    asked = ["run", "--image", str(probe_image), "--prompt", QUESTION]
    (answer,) = json.loads(CliRunner().invoke(himix, [*asked, "--json"]).output)["answers"]
    assert 0.5 < answer["probability"] <= 1
    assert "probability" in CliRunner().invoke(himix, asked).output
