"""The shipped model: how good it is, how large, and that its exact words stay the same in every runtime."""

import pytest

from himix_edge import load_checkpoint
from himix_edge.data import load_dataset
from himix_edge.data.llava import load_llava
from himix_edge.evaluation.exact import Score, ask_all
from himix_edge.export.pipeline import PROBE
from himix_edge.presets import SHIPPED
from himix_edge.runtimes import open_bundle, open_checkpoint
from himix_edge.text import TextProcessor
from tests.asking import exact_match


@pytest.mark.slow
def test_at_least_98_percent_of_the_whole_test_split():
    """Slow: adds the whole split; its accuracy in ONNX Runtime is measured on a part."""
    test = load_dataset("easy-vqa", "test")
    right, asked = exact_match(load_checkpoint("nano"), TextProcessor.load(SHIPPED / "nano"), test.samples)
    assert asked == 9673
    assert right / asked >= 0.98


def test_it_is_small():
    assert sum(p.stat().st_size for p in (SHIPPED / "nano").iterdir()) <= 12e6


@pytest.mark.parametrize("precision", ["none", "int8", "int4"])
def test_accuracy_of_every_precision_in_onnx_runtime(nano_bundles, precision):
    score = Score()
    for turn, given in ask_all(open_bundle(nano_bundles[precision]), load_dataset("easy-vqa", "test"), limit=1000):
        score.add(turn, given)
    assert score.accuracy >= 0.975


def test_exact_words(nano_bundles):
    sessions = [open_checkpoint("nano"), *(open_bundle(folder) for folder in nano_bundles.values())]
    for sample in load_llava(PROBE).samples[::6]:
        captions = {session.answer("Describe the image.", sample.image) for session in sessions}
        assert len(captions) == 1
        assert captions.pop().split()[0] == "a"


def test_a_chat_of_several_turns(nano_bundles):
    for session in (open_checkpoint("nano"), open_bundle(nano_bundles["int8"])):
        for sample in load_llava(PROBE).samples[:12]:
            caption = session.answer("Describe the image.", sample.image)
            chat = session.chat(sample.image)
            said = [
                "".join(piece.text for piece in chat.send(question))
                for question in ("Describe the image.", "What color is it?", "What shape is this?")
            ]
            assert said == [caption, *caption.split()[1:]]
