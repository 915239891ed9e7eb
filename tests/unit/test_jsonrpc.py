"""JSON-RPC to a node: what is believed of an answer, and what a failure says of the money."""

import asyncio
import contextlib
import json

import pytest

from mpp_gateway.rails import jsonrpc
from mpp_gateway.rails.jsonrpc import JsonRpc, RpcFailed, RpcRefused, octets, quantity, sequence
from tests.support.process import free_port

SECRET_PATH = "/v2/marked-key"


@contextlib.asynccontextmanager
async def node(answer: bytes):
    """A server that gives `answer` to every request, and the requests that it got."""
    asked = []

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        asked.append(json.loads(await reader.readexactly(length)))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    rpc = JsonRpc(f"http://127.0.0.1:{port}{SECRET_PATH}", 5)
    try:
        yield rpc, asked
    finally:
        await rpc.close()
        server.close()


def http(body: bytes, status: str = "200 OK", fields: bytes = b"") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return head.encode() + fields + b"\r\n" + body


def failure(answer: bytes) -> Exception:
    """Return what one question to a node with this answer raises."""

    async def ask():
        async with node(answer) as (rpc, _):
            with pytest.raises((RpcFailed, RpcRefused)) as caught:
                await rpc.ask("eth_chainId")
            return caught.value

    return asyncio.run(ask())


def test_questions_are_numbered_and_the_result_is_returned_as_it_is():
    async def ask():
        async with node(http(b'{"jsonrpc":"2.0","id":1,"result":["0x1"]}')) as (rpc, asked):
            answers = [await rpc.ask("eth_x", "0x2", True), await rpc.ask("eth_y")]
        return answers, asked

    answers, asked = asyncio.run(ask())

    assert answers == [["0x1"], ["0x1"]]
    assert asked[0] == {"jsonrpc": "2.0", "id": 1, "method": "eth_x", "params": ["0x2", True]}
    assert asked[1]["id"] == 2


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request", "500 Internal Server Error"])
def test_an_error_of_the_node_is_a_refusal_whatever_the_status(status):
    body = b'{"id":1,"error":{"code":3,"message":"execution reverted","data":"0x08"}}'

    error = failure(http(body, status))

    assert isinstance(error, RpcRefused)
    assert (error.code, error.message, error.data, error.is_revert) == (
        3,
        "execution reverted",
        "0x08",
        True,
    )


@pytest.mark.parametrize("error", ['"busy"', "{}", '{"code":"x","message":5,"data":[]}', "true"])
def test_an_error_of_any_form_is_a_refusal(error):
    refused = failure(http(b'{"error":' + error.encode() + b"}"))

    assert isinstance(refused, RpcRefused)
    assert (refused.code, refused.message, refused.data) == (0, "no message", "")


@pytest.mark.parametrize(
    "answer",
    [
        http(b""),
        http(b"<html>"),
        http(b"[" * 5000),
        http(b'"0x1"'),
        http(b"{}"),
        http(b'{"result":"0x1"}', "503 Service Unavailable"),
        http(b'{"result":"0x1"}', "302 Found", b"Location: http://127.0.0.1:1/\r\n"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"rubbish\r\n\r\n",
    ],
)
def test_what_is_no_answer_may_have_been_acted_upon_and_the_url_is_told_to_nobody(answer):
    error = failure(answer)

    assert isinstance(error, RpcFailed)
    assert error.sent
    assert "marked" not in str(error)


def test_an_answer_that_never_ends_is_cut_off(monkeypatch):
    monkeypatch.setattr(jsonrpc, "ANSWER_MAX", 1000)

    assert isinstance(failure(http(b'{"result":"' + b"0" * 2000 + b'"}')), RpcFailed)


def test_a_question_that_reached_nobody_is_known_as_that():
    async def ask():
        rpc = JsonRpc(f"http://127.0.0.1:{free_port()}", 5)
        with pytest.raises(RpcFailed) as caught:
            await rpc.ask("eth_sendRawTransaction", "0x")
        await rpc.close()
        return caught.value

    assert not asyncio.run(ask()).sent


@pytest.mark.parametrize("value", [None, 1, "1", "0x", "0xzz", "0x" + "1" * 65, {}])
def test_a_quantity_is_hexadecimal_and_of_one_word(value):
    assert quantity("0x10") == 16
    with pytest.raises(RpcFailed):
        quantity(value)


@pytest.mark.parametrize("value", [None, 1, "00", "0x0", "0xzz", []])
def test_data_is_whole_octets(value):
    assert octets("0x") == b""
    with pytest.raises(RpcFailed):
        octets(value)


def test_a_list_is_a_list():
    assert sequence([1]) == [1]
    with pytest.raises(RpcFailed):
        sequence({"0": 1})
