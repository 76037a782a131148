"""`himix serve`, asked by OpenAI's own client, by sockets, and by clients that leave."""

import base64
import http.client
import json
import random
import shutil
import socket
import threading
import time

import openai
import pytest

from himix_edge.data.llava import load_llava
from himix_edge.export.pipeline import PROBE
from himix_edge.runtimes import Session, SessionPool, open_bundle, open_checkpoint, open_pool
from himix_edge.serving.access import Access
from himix_edge.serving.app import Limits
from himix_edge.text import Message
from tests.runtimes.test_chat_cache import Counting
from tests.serving.running import running

KEY = "a-key-of-some-length"
SHORT = {"max_tokens": 6, "temperature": 0}


def data_url(path):
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def picture(path, url=None):
    return {"type": "image_url", "image_url": {"url": url or data_url(path)}}


def ask(text, *pictures):
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]


@pytest.fixture(scope="module")
def images():
    """Two different ones."""
    found = [sample.image for sample in load_llava(PROBE).samples]
    return list(dict.fromkeys(found))[:2]


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_bundle, tiny_checkpoint, images):
    folder = tmp_path_factory.mktemp("pictures")
    shutil.copy(images[0], folder / "one.png")
    (folder.parent / "secret.png").write_bytes(images[0].read_bytes())
    models = {"tiny": open_pool(tiny_bundle, 2), "torch": open_pool(tiny_checkpoint, 1)}
    with running(models, folder.parent / "kept", access=Access(KEY, image_folder=folder)) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key=KEY, max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def session(tiny_bundle):
    return open_bundle(tiny_bundle)


def spoken(session, *arguments, **settings):
    return "".join(p.text for p in session.generate(*arguments, max_new_tokens=6, temperature=0, **settings))


def test_answers_are_the_sessions(client, session, images):
    for pictures in ([], images[:1], images):
        made = client.chat.completions.create(
            model="tiny", messages=ask("what is it?", *map(picture, pictures)), **SHORT
        )
        assert made.choices[0].message.content == spoken(session, "what is it?", pictures)
        assert made.choices[0].message.role == "assistant"
        stats = session.stats
        assert made.choices[0].finish_reason == stats.finish_reason
        assert made.usage.prompt_tokens == stats.prompt_tokens + stats.vision_tokens
        assert made.usage.completion_tokens == stats.new_tokens
        assert (made.object, made.model) == ("chat.completion", "tiny")


def test_streams_give_the_same_in_pieces(client, session, images):
    stream = client.chat.completions.create(
        model="tiny", messages=ask("is it red?", picture(images[0])), stream=True,
        stream_options={"include_usage": True}, **SHORT,
    )  # fmt: skip
    *chunks, last = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == spoken(session, "is it red?", images[0])
    assert [c.choices[0].finish_reason for c in chunks][-1] == session.stats.finish_reason
    assert chunks[0].choices[0].delta.role == "assistant"
    assert last.choices == []
    assert last.usage.completion_tokens == session.stats.new_tokens
    assert len({c.id for c in (*chunks, last)}) == 1


def test_settings_are_the_sessions(client, session):
    def made(**settings):
        return client.chat.completions.create(model="tiny", messages=ask("hello"), **settings)

    drawn = made(temperature=1.5, top_p=0.9, seed=5, max_tokens=6, n=2).choices
    expected = [
        "".join(p.text for p in session.generate("hello", temperature=1.5, top_p=0.9, seed=seed, max_new_tokens=6))
        for seed in (5, 6)
    ]
    assert [choice.message.content for choice in drawn] == expected
    assert [choice.index for choice in drawn] == [0, 1]
    whole = made(max_completion_tokens=6, temperature=0).choices[0].message.content
    stop = whole[2:4]
    stopped = made(stop=[stop, "never said"], **SHORT).choices[0]
    assert stopped.message.content == whole[: whole.find(stop)]
    assert stopped.finish_reason == "stop"


def test_logprobs_are_the_models(client, session):
    made = client.chat.completions.create(model="tiny", messages=ask("hello"), logprobs=True, top_logprobs=3, **SHORT)
    tokens = made.choices[0].logprobs.content
    pieces = [p for p in session.generate("hello", max_new_tokens=6, temperature=0) if p.token_id is not None]
    assert [t.logprob for t in tokens] == [pytest.approx(p.log_probability) for p in pieces]
    assert [t.token for t in tokens] == [session.text.decode([p.token_id]) for p in pieces]
    assert all(len(t.top_logprobs) == 3 and t.top_logprobs[0].logprob == pytest.approx(t.logprob) for t in tokens)
    stream = client.chat.completions.create(model="tiny", messages=ask("hello"), logprobs=True, stream=True, **SHORT)
    found = [t.logprob for c in stream if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert found == [pytest.approx(t.logprob) for t in tokens]


def test_conversations_with_a_system_message(client, session, images):
    messages = [
        {"role": "system", "content": "Be short."}, *ask("what is it?", picture(images[0])),
        {"role": "assistant", "content": "a circle"}, {"role": "user", "content": "is it red?"},
    ]  # fmt: skip
    made = client.chat.completions.create(model="tiny", messages=messages, **SHORT)
    history = [Message("user", "what is it?"), Message("assistant", "a circle")]
    chat = session.chat(images[0], "Be short.", history)
    expected = "".join(p.text for p in chat.send("is it red?", max_new_tokens=6, temperature=0))
    assert made.choices[0].message.content == expected


def test_an_answer_is_sent_back_as_it_came(client, session):
    messages = ask("what is it?")
    for back in (lambda message: message, lambda message: message.model_dump()):
        said = client.chat.completions.create(model="tiny", messages=messages, **SHORT).choices[0].message
        made = client.chat.completions.create(
            model="tiny", messages=[*messages, back(said), {"role": "user", "content": "sure?"}], **SHORT
        )
        history = [Message("user", "what is it?"), Message("assistant", said.content)]
        chat = session.chat(history=history)
        expected = "".join(p.text for p in chat.send("sure?", max_new_tokens=6, temperature=0))
        assert made.choices[0].message.content == expected


def test_a_further_turn_reads_what_is_new(client, images):
    first = ask("what is it?", picture(images[1]))
    said = client.chat.completions.create(model="torch", messages=first, max_tokens=1, temperature=0)
    told = {"role": "assistant", "content": said.choices[0].message.content}
    more = client.chat.completions.create(
        model="torch", messages=[*first, told, {"role": "user", "content": "sure?"}], **SHORT
    )
    read = said.usage.prompt_tokens - 16  # the image's
    assert more.usage.prompt_tokens_details.cached_tokens == read


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny", "torch"]
    assert client.models.retrieve("torch").owned_by == "himix-edge"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_file_urls_stay_in_their_folder(client, session, images):
    made = client.chat.completions.create(model="tiny", messages=ask("what?", picture(None, "file:one.png")), **SHORT)
    assert made.choices[0].message.content == spoken(session, "what?", images[0])
    for url in ("file:../secret.png", "file:///etc/passwd", "file:%2e%2e/secret.png", "file:none.png", "file:%00",
                "file://elsewhere/one.png", "file:."):  # fmt: skip
        with pytest.raises(openai.BadRequestError, match=r"image folder|another machine"):
            client.chat.completions.create(model="tiny", messages=ask("what?", picture(None, url)), **SHORT)


PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(("change", "parameter", "words"), [
    ({"model": "gpt-4"}, "model", "not served here"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "not supported"),
    ({"logit_bias": {"1": 5}}, "logit_bias", "not supported"),
    ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
    ({"response_format": {"type": "grammar"}}, "response_format", "grammar"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "no"}}}}, None,
     "structure"),
    ({"extra_body": {"structured_outputs": {"regex": "a", "choice": ["b"]}}}, "structured_outputs", "give json"),
    ({"extra_body": {"structured_outputs": {"regex": "("}}}, None, "structure"),
    ({"extra_body": {"top_k": 5}}, "top_k", "no field"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"temperature": -1}, "temperature", "greater than or equal to 0"),
    ({"temperature": "hot"}, "temperature", "valid number"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"n": 1000}, "n", "less than"),
    ({"stop": ["a"] * 17}, "stop", "at most 16"),
    ({"stop": ""}, None, "empty"),
    ({"top_logprobs": 2}, "top_logprobs", "logprobs"),
    ({"max_completion_tokens": 5}, "max_tokens", "give one"),
    ({"messages": []}, "messages", "at least 1"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages", "role"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "last one"),
    ({"messages": [{"role": "assistant", "content": "x", "refusal": "no"}, *ask("b")]}, "messages", "refusal"),
    ({"messages": [*ask("a"), {"role": "system", "content": "x"}, *ask("b")]}, "messages", "system"),
    ({"messages": ask("")}, None, "empty"),
    ({"messages": ask("word " * 500)}, None, "does not fit"),
    ({"messages": ask("a", *[picture(None, PIXEL)] * 17)}, "messages", "16 are the most"),
    ({"messages": ask("a", picture(None, PIXEL))}, None, "image"),
    ({"messages": ask("a", picture(None, "data:image/png;base64,=="))}, "messages", "not base64"),
    ({"messages": ask("a", picture(None, "data:image/png,abc"))}, "messages", "base64"),
    ({"messages": ask("a", picture(None, "http" + "://127.0.0.1/x.png"))}, "messages", "fetches nothing"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "messages", "type"),
])  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_said_by_name(client, change, parameter, words, stream):
    request = {"model": "tiny", "messages": ask("hello"), "stream": stream, **SHORT, **change}
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(**request)
    assert refused.value.status_code == (404 if parameter == "model" else 400)
    assert refused.value.param == parameter
    assert words in refused.value.message
    assert refused.value.type == "invalid_request_error"


def test_answers_have_the_structure_that_was_asked_for(client):
    schema = {
        "type": "object",
        "properties": {"red": {"type": "boolean"}},
        "required": ["red"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "color", "schema": schema, "strict": True}}
    for stream in (False, True):
        made = client.chat.completions.create(
            model="tiny",
            messages=ask("is it red?"),
            response_format=wanted,
            max_tokens=60,
            temperature=2,
            seed=3,
            stream=stream,
        )
        text = "".join(c.choices[0].delta.content or "" for c in made) if stream else made.choices[0].message.content
        assert type(json.loads(text)["red"]) is bool
    chosen = client.chat.completions.create(
        model="tiny", messages=ask("yes?"), extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
    )
    assert chosen.choices[0].message.content in ("yes", "no")
    assert chosen.choices[0].finish_reason == "stop"


def test_neutral_settings_are_taken(client):
    client.chat.completions.create(
        model="tiny", messages=ask("hello"), presence_penalty=0, frequency_penalty=0.0, logit_bias={}, user="me",
        store=False, response_format={"type": "text"}, service_tier="auto", **SHORT,
    )  # fmt: skip


def test_a_key_is_needed_for_all_but_the_page_and_health(server):
    for key in ("wrong" * 5, KEY[:-1], KEY + "x"):
        with openai.OpenAI(base_url=f"{server.address}/v1", api_key=key, max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError, match="API key"):
                stranger.models.list()
            with pytest.raises(openai.AuthenticationError):
                stranger.chat.completions.create(model="tiny", messages=ask("hi"))
    for path, status in (("/metrics", 401), ("/v1/models", 401), ("/health", 200), ("/", 200), ("/page.js", 200)):
        assert raw(server, "GET", path)[0] == status


def raw(server, method, path, body=None, **headers):
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        line.request(method, path, body, headers)
        answer = line.getresponse()
        return answer.status, answer.read()
    finally:
        line.close()


def post(server, body, **headers):
    given = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}", **headers}
    return raw(server, "POST", "/v1/chat/completions", body, **given)


def test_other_addresses_and_kinds_are_refused_in_the_apis_words(server):
    assert post(server, b"{}", **{"Content-Type": "text/plain"})[0] == 415
    for method, path, status in (("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405),
                                 ("GET", "/v1/embeddings", 404), ("GET", "/../secret.png", 404)):  # fmt: skip
        found, body = raw(server, method, path)
        assert found == status
        assert "chat/completions" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize(("host", "served"), [
    ("localhost:1", True), ("127.0.0.1", True), ("[::1]:8000", True), ("LOCALHOST.", True), ("evil.example", False),
    ("localhost.evil.example", False), ("evil@localhost", False), ("localhost:x", False),
])  # fmt: skip
def test_only_this_machines_names_are_answered(server, host, served):
    assert (raw(server, "GET", "/health", Host=host)[0] == 200) == served


def test_bodies_that_are_none(server, images):
    """Requests damaged in three ways, 300 in all: each is a 4xx with an error body, or an answer."""
    pick = random.Random(0)
    valid = json.dumps({"model": "tiny", "messages": ask("what?", picture(images[0])), "max_tokens": 1}).encode()
    scraps = [
        b"{}",
        b"[]",
        b"null",
        b'"',
        b"NaN",
        b"\xff",
        b"1e999",
        b"[" * 200,
        b'{"a":' * 200,
        b"\\ud800",
        b"-1",
        b"{",
    ]
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    for number in range(300):
        body = bytearray(valid)
        if number % 3 == 0:
            body = body[: pick.randrange(len(body))]
        for _ in range(pick.randint(1, 8)):
            at = pick.randrange(len(body) + 1)
            body[at : at + pick.randint(0, 12)] = pick.choice(scraps) if number % 3 else bytes([pick.randrange(256)])
        line.request("POST", "/v1/chat/completions", bytes(body), headers)
        answer = line.getresponse()
        content = json.loads(answer.read())
        assert answer.status == 200 or 400 <= answer.status < 500, content
        assert ("error" in content) == (answer.status != 200)
    line.close()
    assert post(server, valid)[0] == 200


def test_a_body_over_the_limit_is_not_read(tiny_checkpoint):
    limits = Limits(body_bytes=1 << 20)
    with running({"m": open_pool(tiny_checkpoint, 1)}, limits=limits) as server:
        status, body = post(server, b" " * ((1 << 20) + 1))
        assert status == 413
        assert "1 MiB" in json.loads(body)["error"]["message"]
        with socket.create_connection(("127.0.0.1", server.port), 10) as line:  # it does not say how much comes
            line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                         b"Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
            with_size = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
            for _ in range(20):
                try:
                    line.sendall(with_size)
                except OSError:
                    break
            assert b" 413 " in line.recv(1 << 16).split(b"\r\n")[0]
        valid = json.dumps({"model": "m", "messages": ask("hi"), "max_tokens": 1}).encode()
        assert post(server, valid)[0] == 200


class Slow(Counting):
    """Each step waits until it may be done."""

    def __init__(self, vocabulary, stops):
        super().__init__(vocabulary, stops, 500)
        self.gate, self.steps = threading.Semaphore(0), 0

    def step(self, ids):
        assert self.gate.acquire(timeout=10)
        self.steps += 1
        return super().step(ids)


@pytest.fixture
def slow(text, tiny_checkpoint):
    usual = open_checkpoint(tiny_checkpoint)
    engine = Slow(text.tokenizer.get_vocab_size(), text.stop_ids)
    return engine, SessionPool([Session(engine, text, usual.config, usual.model_id, usual.defaults)])


def test_a_client_that_leaves_ends_its_answer(slow):
    engine, pool = slow
    with running({"slow": pool}) as server:
        for stream in (True, False):
            before = engine.steps
            body = json.dumps({"model": "slow", "messages": ask("hi"), "stream": stream, "max_tokens": 400}).encode()
            line = socket.create_connection(("127.0.0.1", server.port), 10)
            line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                         b"Content-Length: %d\r\n\r\n%s" % (len(body), body))  # fmt: skip
            engine.gate.release(3)
            if stream:
                assert b"text/event-stream" in line.recv(1 << 16)
            server.until("himix_running", 1)
            while engine.steps < before + 3:
                time.sleep(0.005)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not a goodbye
            line.close()
            server.until("himix_cancelled_total", 1 + (not stream))
            engine.gate.release(2)  # the token that was begun, and one that may have been
            server.until("himix_running", 0)
            assert engine.steps <= before + 5
            engine.gate = threading.Semaphore(0)


def test_who_waits_is_served_in_turn_and_too_many_are_sent_away(slow):
    engine, pool = slow
    with running({"slow": pool}, limits=Limits(waiting=2, seconds=60)) as server:
        found = {}

        def ask_it(number):
            body = json.dumps({"model": "slow", "messages": ask(f"hi {number}"), "max_tokens": 2}).encode()
            found[number] = post(server, body)[0]

        threads = []
        for number in range(3):
            threads.append(threading.Thread(target=ask_it, args=(number,)))
            threads[-1].start()
            server.until("himix_running", 1)
            server.until("himix_waiting", number)
        ask_it(3)
        assert found == {3: 429}
        engine.gate.release(20)
        for thread in threads:
            thread.join()
        assert found == {0: 200, 1: 200, 2: 200, 3: 429}


def test_without_a_queue_a_free_session_answers(slow):
    engine, pool = slow
    with running({"slow": pool}, limits=Limits(waiting=0)) as server:
        body = json.dumps({"model": "slow", "messages": ask("hi"), "max_tokens": 2}).encode()
        found = []
        first = threading.Thread(target=lambda: found.append(post(server, body)[0]))
        first.start()
        server.until("himix_running", 1)
        assert post(server, body)[0] == 429
        engine.gate.release(9)
        first.join()
        assert found == [200]
        assert post(server, body)[0] == 200


def test_time_runs_out_in_the_queue_and_in_an_answer(slow):
    engine, pool = slow
    with running({"slow": pool}, limits=Limits(seconds=1.5)) as server:
        body = json.dumps({"model": "slow", "messages": ask("hi"), "max_tokens": 400}).encode()
        found = []
        first = threading.Thread(target=lambda: found.append(post(server, body)))
        first.start()
        server.until("himix_running", 1)
        assert post(server, body)[0] == 503
        engine.gate.release(1)
        first.join()
        status, content = found[0]
        assert status == 200
        assert json.loads(content)["choices"][0]["finish_reason"] == "length"
        assert engine.steps == 1


def test_an_error_in_the_middle_of_a_stream_is_its_last_event(slow):
    engine, pool = slow
    with running({"slow": pool}) as server:
        engine.gate.release(2)
        engine.step, step = lambda ids: step(ids) if engine.steps < 2 else {}["gone"], engine.step
        client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(model="slow", messages=ask("hi"), stream=True)
        with pytest.raises(openai.APIError, match="unexpected KeyError"):
            list(stream)
        assert [type(error) for error in server.errors] == [KeyError]
        server.errors.clear()
        status, content = post(server, json.dumps({"model": "slow", "messages": ask("hi")}).encode())
        assert status == 500
        assert b"server_error" in content
        server.errors.clear()
        client.close()


def test_the_page_asks_nobody_else(server):
    status, page = raw(server, "GET", "/")
    assert status == 200
    assert b"himix serve" in page
    script = raw(server, "GET", "/page.js")[1]
    assert b"://" not in script + page
    assert b"v1/chat/completions" in script


def test_metrics_count(server):
    status, body = raw(server, "GET", "/metrics", Authorization=f"Bearer {KEY}")
    assert status == 200
    for name in ("himix_requests_total", "himix_generated_tokens_total", "himix_first_token_seconds_bucket",
                 "himix_images_total", "himix_image_bytes"):  # fmt: skip
        assert name.encode() in body
