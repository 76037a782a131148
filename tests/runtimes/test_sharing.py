"""Sessions that share weights or a cache: fork, pool, closing, time limits, conversations taken up again."""

import asyncio
import math
import threading

import numpy as np
import pytest

from himix_edge.errors import InputError
from himix_edge.export.pipeline import ExportRequest, export, plan
from himix_edge.runtimes import Session, SessionPool, open_bundle, open_checkpoint, open_pool
from himix_edge.runtimes.engine import CannotFork
from himix_edge.runtimes.sampling import likeliest, log_probability
from himix_edge.text import Message
from tests.conftest import FEW
from tests.runtimes.test_chat_cache import Counting

ASK = {"max_new_tokens": 6, "temperature": 0.0}
SLOW = [pytest.param(target, marks=pytest.mark.slow) for target in ("onnx_portable", "openvino")]


def ids(pieces):
    return [piece.token_id for piece in pieces]


@pytest.mark.parametrize("runtime", ["onnx", "pytorch", *SLOW])
def test_forks_answer_at_the_same_time_as_alone(runtime, tiny_checkpoint, tiny_bundle, tmp_path, probe_image):
    """Slow: adds two runtimes, which are exported for it."""
    place = {"onnx": tiny_bundle, "pytorch": tiny_checkpoint}.get(runtime)
    if place is None:
        place = tmp_path / runtime
        export(plan(ExportRequest(str(tiny_checkpoint), runtime, "int8", place, probe_questions=FEW)))
    pool = open_pool(place, sessions=3)
    assert len(pool) == 3
    first = pool.sessions[0]
    prompts = ("what is it?", "is it red?", "how many are there?")
    alone = [ids(first.generate(prompt, probe_image, **ASK)) for prompt in prompts]
    found: dict[tuple[int, int], list[int | None]] = {}

    def ask(number):
        for turn in range(4):
            with pool.session() as session:
                found[number, turn] = ids(session.generate(prompts[number], probe_image, **ASK))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {(number, turn): alone[number] for number in range(3) for turn in range(4)}


def test_a_fork_keeps_its_weights_when_the_first_is_closed(tiny_bundle, probe_image):
    with open_bundle(tiny_bundle) as session:
        kept = session.encode_image(probe_image)
        said = ids(session.generate("what is it?", kept, **ASK))
        other = session.fork()
    assert ids(other.generate("what is it?", kept, **ASK)) == said
    for call in (lambda: session.answer("hi"), lambda: session.encode_image(probe_image), session.fork):
        with pytest.raises(InputError, match="closed"):
            call()
    session.close()
    other.close()


def test_a_runtime_without_forks_is_opened_again(monkeypatch, text, tiny_checkpoint):
    opened = []

    def open_one(folder):
        usual = open_checkpoint(folder)
        engine = Counting(text.tokenizer.get_vocab_size(), text.stop_ids)
        opened.append(Session(engine, usual.text, usual.config, usual.model_id, usual.defaults))
        return opened[-1]

    monkeypatch.setattr("himix_edge.runtimes.pool.open_checkpoint", open_one)
    pool = open_pool(tiny_checkpoint, sessions=2)
    assert list(pool.sessions) == opened
    with pytest.raises(CannotFork):
        opened[0].fork()


def test_a_pool_lends_the_latest_first_and_does_not_wait_for_ever(tiny_checkpoint):
    session = open_checkpoint(tiny_checkpoint)
    with SessionPool([session, session.fork()]) as pool:
        with pool.session() as one, pool.session() as two:
            assert {one, two} == set(pool.sessions)
            with pytest.raises(InputError, match="2 sessions are in use"), pool.session(timeout=0.01):
                pass
        with pool.session() as again:
            assert again is one  # it was given back last
    with pytest.raises(InputError, match="closed"):
        session.answer("hi")


@pytest.mark.parametrize(("settings", "message"), [
    ({"sessions": 0}, "sessions is 0"), ({"sessions": 257}, "256 are the most"), ({"sessions": "2"}, "sessions"),
    ({"threads": 2}, "OMP_NUM_THREADS"),
])  # fmt: skip
def test_bad_pools_are_refused(settings, message, tiny_checkpoint):
    with pytest.raises(InputError, match=message):
        open_pool(tiny_checkpoint, **settings)


def counting(text, tiny_checkpoint, capacity=200):
    usual = open_checkpoint(tiny_checkpoint)
    engine = Counting(text.tokenizer.get_vocab_size(), text.stop_ids, capacity)
    return Session(engine, text, usual.config, usual.model_id, usual.defaults), engine


def test_a_conversation_is_taken_up_from_the_cache(text, tiny_checkpoint):
    session, engine = counting(text, tiny_checkpoint)
    fed = []
    step = engine.step
    engine.step = lambda given: (fed.append(len(given)), step(given))[1]
    first = "".join(piece.text for piece in session.generate("what is it?", max_new_tokens=1))
    prompt = text.encode_chat([Message("user", "what is it?")])
    assert fed == [len(prompt)]
    history = [Message("user", "what is it?"), Message("assistant", first)]
    whole = text.encode_chat([*history, Message("user", "is it red?")])
    assert whole[: len(prompt)] == prompt
    again = session.chat(history=history)
    said = ids(again.send("is it red?", max_new_tokens=1))
    assert fed[1] == len(whole) - len(prompt)
    assert again.answer.stats.cached_tokens == len(prompt)
    assert engine.cache == whole
    other, _ = counting(text, tiny_checkpoint)
    assert ids(other.chat(history=history).send("is it red?", max_new_tokens=1)) == said
    assert other.stats.cached_tokens == 0


@pytest.mark.parametrize("change", ["image", "words", "shorter"])
def test_another_conversation_takes_nothing_of_it(change, text, tiny_checkpoint, probe_image):
    session = open_checkpoint(tiny_checkpoint)
    fresh = session.fork()
    image = session.encode_image(probe_image)
    list(session.generate("what is it?", image, max_new_tokens=3))
    other = fresh.encode_image(probe_image) if change == "image" else image
    history = [Message("user", "what?" if change == "words" else "what is it?"), Message("assistant", "red")]
    asked = ("what is it?", []) if change == "shorter" else ("sure?", history)
    found = [ids(each.chat(other, history=asked[1]).send(asked[0], **ASK)) for each in (session, fresh)]
    assert found[0] == found[1]
    assert session.stats.cached_tokens == 0


def test_time_runs_out_between_tokens(text, tiny_checkpoint, monkeypatch):
    session = open_checkpoint(tiny_checkpoint)
    now = [0.0]
    monkeypatch.setattr("himix_edge.runtimes.chat.time.perf_counter", lambda: now[0])
    answer = session.generate("what is it?", max_new_tokens=50, timeout=10)
    pieces = [next(answer), next(answer)]
    now[0] = 11.0
    pieces += list(answer)
    assert 2 <= len([piece for piece in pieces if piece.token_id is not None]) <= 3
    assert answer.stats.finish_reason == "timeout"
    for wrong in (0, -1, math.nan, "5", True):
        with pytest.raises(InputError, match="timeout"):
            session.generate("hi", timeout=wrong)


def test_alternatives_are_the_likeliest(tiny_checkpoint):
    session = open_checkpoint(tiny_checkpoint)
    for piece in session.generate("what is it?", max_new_tokens=3, temperature=0, alternatives=4):
        if piece.token_id is not None:
            shares = [share for _, share in piece.alternatives]
            assert len(shares) == 4
            assert piece.alternatives[0] == (piece.token_id, pytest.approx(piece.log_probability))
            assert shares == sorted(shares, reverse=True)
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    assert [token for token, _ in likeliest(logits, 5)] == [1, 2, 0]
    assert likeliest(logits, 2)[1][1] == pytest.approx(log_probability(logits, 2))
    assert likeliest(logits, 0) == ()


def test_an_answer_is_read_by_async_for_too(tiny_checkpoint):
    session = open_checkpoint(tiny_checkpoint)

    async def read():
        return [piece.token_id async for piece in session.generate("what is it?", **ASK)]

    assert asyncio.run(read()) == ids(session.generate("what is it?", **ASK))
