"""The server's routes of text: whole and as events, OpenAI's forms, refusals, clients that leave.

Seen to fail: streams that were not cancelled when their client left, and answers of a request that
was refused as a whole and stayed in the queue.
"""

import json
import re
import shutil
import subprocess
import time
from dataclasses import replace

import httpx
import numpy as np
import pytest
from language_models import MAX_LENGTH
from serving import serving, until

from jdl import sampling
from jdl.data import ByteTokenizer
from jdl.data.dialogues import prompt_tokens
from jdl.inspect.chat import reply
from jdl.serve import Limits, language_routes
from jdl.serve.generation_requests import parse_chat
from jdl.serve.limits import RequestError
from jdl.serve.models import load_model

GENERATE = "/v1/models/talk/generate"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
LIMITS = {"slots": 3, "queue": 8, "max_body": 100_000, "max_text": 1000, "max_new_tokens": 100}
LONG = {"model": "talk", "prompt": "a", "max_tokens": 38, "temperature": 100, "seed": 1}  # no end
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def client(talk):
    """A client of a server of the chat model."""
    with serving([talk[0]], **LIMITS) as client:
        yield client


@pytest.fixture
def engine(client):
    """The server's engine, with steps so slow that something can happen between them."""
    (engine,) = client.deployment.engines.values()
    step = engine._state.step

    def slowly(*arguments):
        time.sleep(0.05)
        return step(*arguments)

    engine._state.step = slowly
    yield engine
    engine._state.step = step
    until(lambda: (engine.running, engine.waiting) == (0, 0))


def events(response):
    """The documents of server-sent events."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    documents = [line.removeprefix("data: ") for line in lines]
    return [json.loads(d) if d != "[DONE]" else None for d in documents]


def greedy_text(trained, prompt, count):
    tokenizer = ByteTokenizer()
    prompt = np.asarray([tokenizer.eos_id, *tokenizer.encode(prompt)], np.int32)
    return list(
        sampling.stream(
            trained.objective, trained.variables, prompt, count, eos_id=tokenizer.eos_id
        )
    )


@pytest.mark.slow
def test_text_comes_whole_and_as_events(talk, client):
    body = {"prompt": "abc", "max_new_tokens": 20, "temperature": 0}
    whole = client.post(GENERATE, json=body).json()
    expected = greedy_text(talk[1], "abc", 20)
    assert whole["tokens"] == expected
    assert whole["text"] == ByteTokenizer().decode(expected)
    assert whole["usage"] == {"prompt_tokens": 4, "new_tokens": len(expected)}
    *parts, last = events(client.post(GENERATE, json={**body, "stream": True}))
    assert [t for part in (*parts, last) for t in part["tokens"]] == whole["tokens"]
    assert "".join(part["text"] for part in (*parts, last)) == whole["text"]
    assert last["finish_reason"] == whole["finish_reason"]
    tokens = {"prompt": [256, 97, 98, 99], "max_new_tokens": 20, "temperature": 0}
    assert client.post(GENERATE, json=tokens).json()["tokens"] == whole["tokens"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_guides_curl_lines_run(client, root):
    lines = re.findall(r"^curl .*/generate .*$", (root / "docs" / "serve.md").read_text(), re.M)
    address = "{}:{}".format(*client.address)
    answers = []
    for line in lines:
        command = line.replace("localhost:8000", address).replace("stdlib_gpt", "talk")
        words = ["bash", "-c", f"{command} --silent --noproxy '*'"]
        answers.append(subprocess.check_output(words, text=True))
    whole, streamed = answers
    assert json.loads(whole)["usage"]["prompt_tokens"] == 10
    assert all(line.startswith("data: {") for line in streamed.split("\n\n") if line)


def test_a_seed_repeats_an_answer(client):
    answer = client.post(GENERATE, json={"prompt": "abc", "max_new_tokens": 30}).json()
    seeded = {"prompt": "abc", "max_new_tokens": 30, "seed": answer["seed"]}
    again = client.post(GENERATE, json=seeded).json()
    assert again["tokens"] == answer["tokens"]
    other = client.post(GENERATE, json={**seeded, "seed": answer["seed"] ^ 1}).json()
    assert other["tokens"] != answer["tokens"]


def test_completions_in_openai_s_form(client):
    body = {
        "model": "talk",
        "prompt": ["abc", [256, 97]],
        "max_tokens": 9,
        "n": 2,
        "seed": 4,
        "temperature": 1.5,
    }
    whole = client.post(COMPLETIONS, json=body).json()
    assert whole["object"] == "text_completion"
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert {choice["finish_reason"] for choice in whole["choices"]} <= {"stop", "length"}
    assert whole["usage"]["prompt_tokens"] == 6
    assert whole["usage"]["total_tokens"] == 6 + whole["usage"]["completion_tokens"]
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage, done = events(client.post(COMPLETIONS, json=streamed))
    assert done is None
    assert usage["usage"] == whole["usage"]
    texts, reasons = {}, {}
    for chunk in chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
        reasons[choice["index"]] = choice["finish_reason"] or reasons.get(choice["index"])
    for choice in whole["choices"]:
        assert texts[choice["index"]] == choice["text"]
        assert reasons[choice["index"]] == choice["finish_reason"]
    listed = client.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["talk"]


def test_chat_answers_as_jdl_chat(talk, client):
    body = {"model": "talk", "messages": HELLO, "temperature": 0, "max_completion_tokens": 15}
    whole = client.post(CHAT, json=body).json()
    (choice,) = whole["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == "".join(reply(talk[1], HELLO, tokens=15))
    assert whole["usage"]["prompt_tokens"] == len(prompt_tokens(ByteTokenizer(), HELLO))
    parts = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    first, *chunks, last, done = events(
        client.post(CHAT, json={**body, "messages": parts, "stream": True})
    )
    assert done is None
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert text == choice["message"]["content"]
    assert last["choices"][0]["finish_reason"] == choice["finish_reason"]


WRONG_GENERATE = (
    (b"{", 400, "no JSON"),
    (b"[]", 422, "must be an object"),
    ({}, 422, "prompt must be a text"),
    ({"prompt": "a", "temprature": 1}, 422, "no 'temprature'"),
    ({"prompt": ["a"]}, 422, "prompt must be"),
    ({"prompt": [True]}, 422, "prompt must be"),
    ({"prompt": []}, 422, "0 tokens"),
    ({"prompt": [10**30]}, 422, "no token 1000"),
    ({"prompt": "a" * 100}, 422, "101 tokens, and must have from 1 to 40"),
    ({"prompt": "a" * 1001}, 422, "1,001 characters"),
    ({"prompt": "\ud800"}, 422, "surrogate"),
    ({"prompt": "a", "max_new_tokens": 0}, 422, "from 1 to 100"),
    ({"prompt": "a", "max_new_tokens": 2.5}, 422, "a whole number"),
    ({"prompt": "a", "temperature": -1}, 422, "from 0.0 to"),
    ({"prompt": "a", "temperature": "1"}, 422, "a number"),
    (b'{"prompt": "a", "temperature": NaN}', 422, "finite"),
    ({"prompt": "a", "top_p": 0}, 422, "above 0"),
    ({"prompt": "a", "top_k": 10**20}, 422, "top_k"),
    ({"prompt": "a", "seed": -1}, 422, "seed"),
    ({"prompt": "a", "stop": [""]}, 422, "1 to 1000"),
    ({"prompt": "a", "stop": 3}, 422, "stop"),
    ({"prompt": "a", "stream": "yes"}, 422, "true or false"),
)
WRONG_CHAT = (
    ({}, 400, "model"),
    ({"model": "none", "messages": HELLO}, 404, "no model"),
    ({"model": "talk"}, 400, "messages"),
    ({"model": "talk", "messages": [3]}, 400, "message 0 must be an object"),
    ({"model": "talk", "messages": [{"role": "user"}]}, 400, "no text"),
    ({"model": "talk", "messages": [{"role": [], "content": "a"}]}, 400, "role"),
    ({"model": "talk", "messages": [{"role": "user", "content": " "}]}, 400, "no text"),
    ({"model": "talk", "messages": [*HELLO, {"role": "assistant", "content": "a"}]}, 400, "last"),
    ({"model": "talk", "messages": HELLO, "tools": [{}]}, 400, "tools is not supported"),
    ({"model": "talk", "messages": HELLO, "n": 9}, 400, "n must be"),
)


def send(client, path, body):
    content = body if isinstance(body, bytes) else json.dumps(body)
    return client.post(path, content=content, headers={"Content-Type": "application/json"})


def test_wrong_requests_are_refused_with_a_message(client):
    for body, status, message in WRONG_GENERATE:
        found = send(client, GENERATE, body)
        assert (found.status_code, message in found.json()["error"]) == (status, True), found.text
    for body, status, message in WRONG_CHAT:
        found = send(client, CHAT, body)
        error = found.json()["error"]
        assert (found.status_code, message in error["message"]) == (status, True), found.text
        assert error["type"] == "invalid_request_error"
    assert client.post("/v1/models/none/generate", json={}).status_code == 404
    found = send(client, COMPLETIONS, {"model": "talk", "prompt": ["a"] * 9})
    assert "1 to 8 prompts" in found.json()["error"]["message"]


def test_a_body_is_counted_as_long_as_it_is_parsed(client, monkeypatch):
    memory, seen = client.deployment.memory, []
    for name, path in (("parse_generate", GENERATE), ("parse_completion", COMPLETIONS)):

        def parse(*arguments, parse=getattr(language_routes, name)):
            seen.append(memory.used)
            return parse(*arguments)

        monkeypatch.setattr(language_routes, name, parse)
        assert client.post(path, json={"model": "talk", "prompt": "a"}).status_code in (200, 422)
    assert seen == [len(b'{"model":"talk","prompt":"a"}')] * 2
    assert memory.used == 0


def test_only_chat_models_chat(talk):
    model = load_model(talk[0])
    model = replace(model, manifest={**model.manifest, "chat": None})
    with pytest.raises(RequestError, match="talk is no chat model") as refused:
        parse_chat({"messages": HELLO}, model, Limits())
    assert refused.value.status == 400


def test_a_client_that_leaves_frees_its_slots(client, engine):
    body = {**LONG, "n": 4, "stream": True}
    with client.stream("POST", COMPLETIONS, json=body) as response:
        lines = response.iter_lines()  # whose end closes the connection
        next(lines)
        until(lambda: (engine.running, engine.waiting) == (3, 1))
    until(lambda: (engine.running, engine.waiting) == (0, 0), 1.0)
    with pytest.raises(httpx.ReadTimeout):
        client.post(COMPLETIONS, json={**body, "stream": False}, timeout=0.3)
    until(lambda: (engine.running, engine.waiting) == (0, 0), 1.0)


def test_a_full_queue_is_said_in_openai_s_form(client, engine):
    body = {**LONG, "n": 8}
    with client.stream("POST", COMPLETIONS, json={**body, "stream": True}) as response:
        lines = response.iter_lines()  # whose end closes the connection
        next(lines)
        refused = client.post(COMPLETIONS, json=body)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["type"] == "server_error"
    assert engine.running + engine.waiting <= 8  # none of those that were refused as a whole


def test_a_failure_is_told_in_the_stream(client, engine):
    engine._state.step = None  # as a device that fails
    body = {"prompt": "a", "stream": True, "temperature": 0}
    *_, last = events(client.post(GENERATE, json=body))
    assert last["error"]["message"] == "The server failed: its log says how."
    assert client.post(GENERATE, json={**body, "stream": False}).status_code == 500


def test_metrics_count_tokens(client):
    before = client.get("/metrics").text
    answer = client.post(GENERATE, json={"prompt": "abc", "temperature": 0}).json()
    after = client.get("/metrics").text

    def tokens(text):
        lines = [line for line in text.splitlines() if line.startswith("jdl_tokens_total{")]
        return float(next(line for line in lines if 'model="talk"' in line).split()[-1])

    assert tokens(after) - tokens(before) >= answer["usage"]["new_tokens"]
    assert len(answer["tokens"]) <= MAX_LENGTH
