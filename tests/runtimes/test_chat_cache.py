"""What chats put into the one cache of a session, seen by an engine that says what it is told to."""

import sys
import threading

import numpy as np
import pytest

from himix_edge.bundle import GenerationDefaults
from himix_edge.config import DecoderConfig, ModelConfig
from himix_edge.errors import InputError
from himix_edge.runtimes.session import Session
from himix_edge.text import Message


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


class Counting:
    """Says a token that depends on everything in its cache; fails as runtimes do when it is used by two at once."""

    def __init__(self, vocabulary, stops, capacity=160):
        self.capacity, self.vocabulary, self.stops, self.cache = capacity, vocabulary, stops, []
        self.busy = threading.Lock()
        self.fails = 0

    def start(self, key, value, position):
        self.cache = []

    def step(self, ids):
        assert self.busy.acquire(blocking=False), "two at once"
        if self.fails:
            self.fails -= 1
            self.cache += ids.tolist()[:1]
            self.busy.release()
            raise KeyboardInterrupt
        for token in ids.tolist():  # slowly, so that another thread has its chance
            self.cache.append(token)
        assert len(self.cache) <= self.capacity
        logits = np.zeros(self.vocabulary, np.float32)
        likely = 20 + hash(tuple(self.cache)) % (self.vocabulary - 40)
        logits[likely if likely not in self.stops else likely + 1] = 1
        self.busy.release()
        return logits


@pytest.fixture
def session(text):
    size = text.tokenizer.get_vocab_size()
    config = ModelConfig("himix", DecoderConfig("llama", size, 8, 8, 1, 1, 1, 8))
    return Session(Counting(size, text.stop_ids), text, config, "model", GenerationDefaults())


def ids(pieces):
    return [piece.token_id for piece in pieces if piece.token_id is not None]


def test_threads_that_share_a_session_get_right_answers(session):
    prompts = ["what is it?", "is it red?", "what shape?", "hello"]
    expected = [ids(session.generate(p, max_new_tokens=6)) for p in prompts]
    usual, wrong = sys.getswitchinterval(), []
    sys.setswitchinterval(1e-6)

    def ask(number):
        for turn in range(20):
            at = (number + turn) % 4
            try:
                if ids(session.generate(prompts[at], max_new_tokens=6)) != expected[at]:
                    wrong.append(prompts[at])
            except Exception as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(usual)
    assert not wrong


def test_one_answer_read_by_two_threads_gives_each_piece_once(session):
    expected = ids(session.generate("what is it?", max_new_tokens=60))
    answer, found = session.generate("what is it?", max_new_tokens=60), []
    threads = [threading.Thread(target=lambda: found.extend(ids(answer))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(expected)


def test_an_answer_cut_off_by_the_next_question_says_so(session):
    chat = session.chat()
    first = chat.send("what is it?", max_new_tokens=6)
    read = [next(first).token_id, next(first).token_id]
    second = ids(chat.send("is it red?", max_new_tokens=4))
    with pytest.raises(InputError, match="not read to its end"):
        next(first)
    text, engine = session.text, session.engine  # the chat went on from what was read
    engine.start(None, None, 0)
    history = [*text.encode_chat([Message("user", "what is it?")]), *read, *text.encode_next_turn("is it red?")]
    assert int(engine.step(np.array(history)).argmax()) == second[0]


def test_of_two_questions_the_one_that_nothing_was_read_of_was_never_asked(session):
    chat = session.chat()
    first, second = chat.send("a " * 40), chat.send("is it red?", max_new_tokens=4)
    assert ids(second) == ids(session.generate("is it red?", max_new_tokens=4))
    with pytest.raises(InputError, match="not read to its end"):
        list(first)
    assert list(second) == []


def test_a_question_that_is_refused_does_not_cut_the_answer_before_it(session):
    chat, expected = session.chat(), ids(session.generate("what is it?", max_new_tokens=6))
    answer = chat.send("what is it?", max_new_tokens=6)
    found = [next(answer).token_id]
    with pytest.raises(InputError, match="does not fit"):
        chat.send("word " * 300)
    assert found + ids(answer) == expected


@pytest.mark.parametrize("leave", [lambda answer: answer.close(), lambda answer: None])
def test_an_answer_left_half_way_leaves_the_session_whole(session, leave):
    expected = ids(session.generate("is it red?", max_new_tokens=5))
    answer = session.generate("what is it?", max_new_tokens=9)
    next(answer)
    leave(answer)
    del answer
    assert ids(session.generate("is it red?", max_new_tokens=5)) == expected


def test_a_closed_answer_has_no_more_pieces(session):
    chat = session.chat()
    answer = chat.send("what is it?", max_new_tokens=9)
    next(answer)
    answer.close()
    assert list(answer) == []
    assert chat.send("is it red?", max_new_tokens=1).stats.prompt_tokens > 0


def test_two_chats_token_by_token(session):
    asked = ("what is it?", "is it red?"), ("what shape?", "hello")
    expected = []
    for questions in asked:
        chat = session.chat()
        expected.append([ids(chat.send(question, max_new_tokens=5)) for question in questions])
    chats = [session.chat() for _ in asked]
    for turn in range(2):
        answers = [chat.send(questions[turn], max_new_tokens=5) for chat, questions in zip(chats, asked, strict=True)]
        pieces = list(zip(*answers, strict=True))
        for number in range(2):
            assert ids(row[number] for row in pieces) == expected[number][turn]


def test_a_step_that_was_interrupted_is_done_anew(session):
    chat, other = session.chat(), session.chat()
    expected = [ids(other.send(question, max_new_tokens=4)) for question in ("what is it?", "is it red?")]
    session.engine.fails = 1
    with pytest.raises(KeyboardInterrupt):
        next(chat.send("what is it?", max_new_tokens=4))
    assert [ids(chat.send(question, max_new_tokens=4)) for question in ("what is it?", "is it red?")] == expected


def test_times_belong_to_their_answer(session):
    first, second = session.generate("a", max_new_tokens=3), session.generate("b c d e f", max_new_tokens=5)
    list(second)
    list(first)
    assert (first.stats.new_tokens, second.stats.new_tokens) == (3, 5)
    assert first.stats.prompt_tokens < second.stats.prompt_tokens
    assert session.stats is second.stats


def test_numbers_that_are_none_are_an_error_and_no_token(session):
    session.engine.step = lambda ids: np.full(session.engine.vocabulary, np.nan, np.float32)
    for temperature in (0, 1):
        with pytest.raises(InputError, match="NaN"):
            list(session.generate("hi", temperature=temperature))
