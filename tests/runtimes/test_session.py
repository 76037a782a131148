"""Sessions: streaming, chat, kept images, limits; on PyTorch and on the same model's ONNX bundle."""

import threading

import numpy as np
import pytest
from PIL import Image as PillowImage

from himix_edge.errors import InputError
from himix_edge.runtimes import ImageKV, open_bundle, open_checkpoint
from himix_edge.runtimes.image_kv import concat
from himix_edge.runtimes.sampling import Sampler
from himix_edge.runtimes.stopping import StopTexts
from himix_edge.text import Message

ASK = {"max_new_tokens": 6, "temperature": 0.0}


@pytest.fixture(params=["pytorch", "onnx"])
def session(request, tiny_checkpoint, tiny_bundle):
    return open_checkpoint(tiny_checkpoint) if request.param == "pytorch" else open_bundle(tiny_bundle)


def ids(pieces):
    return [piece.token_id for piece in pieces]


def test_streaming_gives_the_answer_and_the_times(session, probe_image):
    pieces = list(session.generate("what is it?", probe_image, **ASK))
    stats = session.stats
    assert stats.new_tokens == len(pieces) <= 6
    assert session.text.decode(ids(pieces)).startswith("".join(p.text for p in pieces))
    assert min(stats.preprocess, stats.vision_encoder, stats.vision_injector, stats.prefill) > 0
    assert len(stats.inter_token) == stats.new_tokens - 1
    assert stats.vision_tokens == 16
    assert stats.prompt_tokens == len(session.text.encode_chat([Message("user", "what is it?")]))


def test_a_kept_image_answers_as_the_file(session, probe_image, tmp_path):
    kept = session.encode_image(probe_image)
    kept.save(tmp_path / "image.kv")
    loaded = ImageKV.load(tmp_path / "image.kv")
    assert np.array_equal(loaded.key, kept.key)
    for prompt in ("what is it?", "is it red?"):
        cold = ids(session.generate(prompt, probe_image, **ASK))
        assert cold == ids(session.generate(prompt, loaded, **ASK))
        assert session.stats.vision_encoder == session.stats.preprocess == 0


def test_text_only_and_two_images(session, probe_image):
    list(session.generate("hello", **ASK))
    assert session.stats.vision_tokens == 0
    kept = session.encode_image(probe_image)
    list(session.generate("same?", [kept, probe_image], **ASK))
    assert session.stats.vision_tokens == 32
    assert session.encode_images([probe_image, probe_image]).tokens == 32


def test_a_chat_equals_the_whole_conversation_at_once(session, probe_image):
    chat = session.chat(probe_image)
    first = "".join(piece.text for piece in chat.send("what is it?", max_new_tokens=3, temperature=0))
    list(session.generate("something else", **ASK))  # another speaker takes over the cache in between
    second = ids(chat.send("is it red?", max_new_tokens=4, temperature=0))

    text, vision = session.text, session.encode_image(probe_image)
    prompt = text.encode_chat([Message("user", "what is it?")])
    said = ids(session.generate("what is it?", vision, max_new_tokens=3, temperature=0))
    assert text.decode(said).startswith(first)
    session.engine.start(vision.key, vision.value, vision.next_position)
    logits = session.engine.step(np.array(prompt + said + text.encode_next_turn("is it red?"), np.int64))
    assert int(logits.argmax()) == second[0]


def test_two_streams_may_interleave(session, probe_image):
    alone = ids(session.generate("what is it?", probe_image, **ASK))
    one, two = (session.generate("what is it?", probe_image, **ASK) for _ in range(2))
    mixed = [(a.token_id, b.token_id) for a, b in zip(one, two, strict=False)]
    assert [a for a, _ in mixed] == [b for _, b in mixed] == alone[: len(mixed)]


def test_the_answer_ends_at_the_cache(session, probe_image):
    pieces = list(session.generate("what is it?", probe_image, max_new_tokens=1000, temperature=0))
    stats = session.stats
    assert stats.finish_reason == "stop" or len(pieces) == session.capacity - stats.vision_tokens - stats.prompt_tokens


@pytest.mark.parametrize(("prompt", "settings", "message"), [
    ("", {}, "empty"),
    ("word " * 300, {}, "does not fit.*capacity is 96"),
    ("hi", {"temperature": -1}, "temperature"),
    ("hi", {"temperature": float("nan")}, "temperature"),
    ("hi", {"top_p": 0}, "top_p"),
    ("hi", {"max_new_tokens": 0}, "max_new_tokens"),
    ("hi", {"seed": -1}, "seed"),
    ("hi", {"temperature": float("inf")}, "temperature"),
    ("hi", {"temperature": "1"}, "temperature"),
    ("hi", {"temperature": 10**400}, "temperature"),
    ("hi", {"top_p": float("nan")}, "top_p"),
    ("hi", {"top_p": True}, "top_p"),
    ("hi", {"max_new_tokens": True}, "max_new_tokens"),
    ("hi", {"max_new_tokens": 2.5}, "max_new_tokens"),
    ("hi", {"max_new_tokens": -(10**5000)}, "max_new_tokens"),
    ("hi", {"seed": 1.5}, "seed"),
    ("hi", {"stop": ""}, "empty"),
    ("hi", {"stop": ["a", ""]}, "empty"),
    ("hi", {"stop": [1]}, "stop text"),
    ("hi", {"stop": b"a"}, "stop"),
    ("hi", {"stop": "\udcff"}, "not Unicode"),
])  # fmt: skip
def test_bad_requests_are_refused_before_any_piece(session, prompt, settings, message):
    with pytest.raises(InputError, match=message):
        session.generate(prompt, **settings)


def test_another_models_image_is_refused(session, probe_image):
    kept = session.encode_image(probe_image)
    with pytest.raises(InputError, match="another model"):
        session.generate("hi", ImageKV(kept.key, kept.value, "0123"))
    with pytest.raises(InputError, match="another model"):
        session.generate("hi", ImageKV(kept.key[:1], kept.value[:1], kept.model_id))
    with pytest.raises(InputError, match="different models"):
        concat([kept, ImageKV(kept.key, kept.value, "0123")])
    with pytest.raises(InputError, match="vanilla"):
        concat([ImageKV(kept.key, kept.value, "a", next_position=16)] * 2)


@pytest.mark.parametrize("bits", [16, 8])
def test_an_image_of_fewer_bits_is_the_same_rounded(session, probe_image, bits):
    kept = session.encode_image(probe_image, bits)
    assert kept.bits == bits
    rounded = ImageKV(kept.key, kept.value, kept.model_id, kept.next_position)
    shares = [
        [piece.log_probability for piece in session.generate("what is it?", image, **ASK)]
        for image in (kept, rounded, session.encode_image(probe_image))
    ]
    assert shares[0] == shares[1]
    assert shares[0] != shares[2]
    assert shares[0] == pytest.approx(shares[2], abs=0.2)
    joined = session.encode_images([kept, kept])
    assert (joined.bits, joined.tokens) == (32, 32)


def test_an_image_kv_that_this_model_cannot_have_made_is_refused(session, probe_image):
    kept = session.encode_image(probe_image)
    for position in (-1, 1, 600, 10**30):
        with pytest.raises(InputError, match="another model"):
            session.generate("hi", ImageKV(kept.key, kept.value, kept.model_id, position))
    wide = [np.repeat(tensor, 7, axis=2) for tensor in (kept.key, kept.value)]
    with pytest.raises(InputError, match="112 cache slots; the model has 96"):
        session.generate("hi", ImageKV(*wide, kept.model_id))


def test_images_of_every_kind_in_every_call(session, probe_image):
    opened = PillowImage.open(probe_image)
    kinds = [str(probe_image), probe_image.read_bytes(), opened, np.asarray(opened.convert("RGB"))]
    kept = session.encode_image(probe_image)
    said = ids(session.generate("what is it?", probe_image, **ASK))
    for image in kinds:
        assert np.array_equal(session.encode_image(image).key, kept.key)
        assert ids(session.generate("what is it?", image, **ASK)) == said
        assert ids(session.chat(image).send("what is it?", **ASK)) == said
        assert session.encode_images([image, kept]).tokens == 32
    assert session.vision([*kinds, kept], session.stats).tokens == 80
    assert session.vision((), session.stats).tokens == 0
    for wrong in (np.zeros((2, 8, 8, 3), np.uint8), 5, {"a.png"}):
        with pytest.raises(InputError, match="is no image"):
            session.generate("hi", wrong)


def test_encoding_in_several_threads(session, probe_image):
    expected, found = session.encode_image(probe_image), []
    threads = [threading.Thread(target=lambda: found.append(session.encode_image(probe_image))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(np.allclose(kept.key, expected.key, atol=1e-5) for kept in found)


def test_damaged_image_kv_files(session, probe_image, tmp_path):
    path = tmp_path / "image.kv"
    with pytest.raises(InputError, match="no such file"):
        ImageKV.load(path)
    path.write_bytes(b"not at all")
    with pytest.raises(InputError, match="damaged"):
        ImageKV.load(path)
    path.unlink()
    session.encode_image(probe_image).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        ImageKV.load(path)


def test_sampling_is_repeatable_and_top_p_cuts_the_tail(session, probe_image):
    hot = {"max_new_tokens": 6, "temperature": 2.0}
    assert ids(session.generate("a", probe_image, seed=1, **hot)) == ids(
        session.generate("a", probe_image, seed=1, **hot)
    )
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    assert np.allclose(Sampler(1.0, 0.7).probabilities(logits), [0.625, 0.375, 0, 0])
    assert np.allclose(Sampler(1.0, 1.0).probabilities(logits), [0.5, 0.3, 0.15, 0.05])
    assert Sampler(1.0, 0.1, seed=0).pick(logits) == Sampler().pick(logits) == 0


def test_a_tiny_temperature_is_greedy_and_a_huge_limit_the_cache(session, probe_image):
    logits = np.array([1.0, 3.0, 2.0, -np.inf], np.float32)
    assert [Sampler(tiny, seed=seed).pick(logits) for tiny in (5e-324, 1e-310, 1e-300) for seed in range(3)] == [1] * 9
    greedy = ids(session.generate("hi", probe_image, max_new_tokens=4, temperature=0))
    assert ids(session.generate("hi", probe_image, max_new_tokens=4, temperature=1e-310)) == greedy
    assert len(ids(session.generate("hi", max_new_tokens=10**30, temperature=0, seed=10**40))) <= session.capacity


def test_a_stop_text_may_be_one_string():
    assert StopTexts("END").feed("the END") == ("the ", True)
    assert StopTexts("END").feed("END, N") == ("", True)


def test_the_stop_text_that_is_complete_first_counts_however_tokens_fall():
    for cuts in (["xabcd"], ["x", "a", "b", "c", "d"], ["xab", "cd"], ["xabc", "d"]):
        stop, shown = StopTexts(["abcd", "bc"]), ""
        for piece in cuts:
            text, stopped = stop.feed(piece)
            shown += text
            if stopped:
                break
        assert (shown, stopped) == ("xa", True)


def test_stop_texts_are_never_shown():
    stop = StopTexts(["END", "."])
    assert stop.feed("the E") == ("the ", False)
    assert stop.feed("N") == ("", False)
    assert stop.feed("G") == ("ENG", False)
    assert stop.feed(" E") == (" ", False)
    assert stop.feed("ND after") == ("", True)
    assert StopTexts([]).feed("x") == ("x", False)
    held = StopTexts(["END"])
    held.feed("the E")
    assert held.rest() == "E"


def test_generate_stops_at_a_stop_text(session, probe_image):
    whole = session.answer("what is it?", probe_image, max_new_tokens=20)
    middle = whole[len(whole) // 2 :][:2]
    text = "".join(
        p.text for p in session.generate("what is it?", probe_image, max_new_tokens=20, temperature=0, stop=[middle])
    )
    assert text.strip() == whole[: whole.index(middle)].strip()
    assert session.stats.finish_reason == "stop"
