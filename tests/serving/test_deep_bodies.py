"""JSON that is nested without end or measure: a clean 400 or an answer, and a gateway that lives on."""

import json
from pathlib import Path

import pytest
from fake_engine import fake_engine
from gateways import chat, client, gateway_of, nothing_is_booked, openai_error
from model_folders import CHATML, model_folder

DEPTHS = (64, 200, 500, 900, 990, 1000, 1010, 2000, 5000, 100_000)
PLACES = {
    "an unknown field": b'{"model":"m","messages":[{"role":"user","content":"x"}],"x":%b}',
    "a known field": b'{"model":"m","messages":[{"role":"user","content":"x"}],"chat_template_kwargs":{"a":%b}}',
    "a raw field": b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{"a":%b}]}',
    "a message": b'{"model":"m","messages":[{"role":"user","content":"x","x":%b}]}',
    "a part of the content": b'{"model":"m","messages":[{"role":"user","content":[{"type":"x","x":%b}]}]}',
    "before the last of two": b'{"stream":1,"x":%b,"stream":false,"messages":[{"role":"user","content":"x"}]}',
    "options": b'{"model":"m","stream":true,"stream_options":%b,"messages":[{"role":"user","content":"x"}]}',
    "nothing else": b"%b",
}
NESTS = {"arrays": (b"[", b"]"), "objects": (b'{"a":', b"1}"), "both": (b'[{"a":', b"1}]")}


@pytest.mark.parametrize("tokens", ["none", "engine", "tokenizer"])
async def test_no_depth_does_harm(tokens: str, tmp_path: Path) -> None:
    said = f"tokenizer:{model_folder(tmp_path, CHATML)}" if tokens == "tokenizer" else tokens
    async with fake_engine() as engine:
        pool = {"name": "p", "engine": "vllm", "replicas": [engine.url], "model": "m", "tokens": said}
        async with gateway_of([pool], limit_s=120) as run, client(run) as http:
            for place, body in PLACES.items():
                for nest, (opening, closing) in NESTS.items():
                    for depth in DEPTHS:
                        nested = opening * depth + closing.replace(b"1", b"") * depth
                        if closing.startswith(b"1"):
                            nested = opening * depth + b"1" + closing[1:] * depth
                        answer = await http.post("/v1/chat/completions", content=body % nested)
                        assert answer.status_code in (200, 400), (place, nest, depth, answer.text)
                        if answer.status_code == 400:
                            assert openai_error(answer)
                        if depth > 10_000:
                            assert answer.status_code == 400
            assert (await http.post("/v1/chat/completions", json=chat())).status_code == 200
            assert nothing_is_booked(run)
    assert json.loads(engine.requests[-1].body)["messages"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings", "/tokenize"])
async def test_no_endpoint_minds(path: str) -> None:
    async with fake_engine() as engine:
        pool = {"name": "p", "engine": "sglang", "replicas": [engine.url], "model": "m"}
        async with gateway_of([pool]) as run, client(run) as http:
            for depth in DEPTHS:
                nested = b"[" * depth + b"]" * depth
                for field in (b"prompt", b"input", b"messages", b"system", b"tools", b"metadata"):
                    answer = await http.post(path, content=b'{"model":"m","%b":%b}' % (field, nested))
                    assert answer.status_code in (200, 400), (field, depth, answer.text)
            assert nothing_is_booked(run)
