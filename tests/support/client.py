"""A client that sees every byte."""

import socket
from typing import Self


class RawClient:
    """One TCP connection; `read` returns what came until `quiet_s` passed without more, or EOF."""

    def __init__(self, port: int, timeout_s: float = 60) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.buffer = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def head(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, fields (lower case; lists joined by newlines) and the raw head."""
        while b"\r\n\r\n" not in self.buffer:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError(self.buffer)
            self.buffer += more
        raw, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        first, *lines = raw.decode("latin-1").split("\r\n")
        fields: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = fields[name] + "\n" + value.strip() if name in fields else value.strip()
        return int(first.split(" ")[1]), fields, raw

    def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError(self.buffer)
            self.buffer += more
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError(self.buffer)
            self.buffer += more
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def response(self, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Return one whole response; the last member is its body, trailers go to the fields."""
        status, fields, _ = self.head()
        if method == "HEAD" or status in (204, 304):
            return status, fields, b""
        if "content-length" in fields:
            return status, fields, self.exactly(int(fields["content-length"]))
        if "chunked" in fields.get("transfer-encoding", ""):
            body = b""
            while size := int(self.line().split(b";")[0], 16):
                body += self.exactly(size)
                self.exactly(2)
            while line := self.line():
                name, _, value = line.decode().partition(":")
                fields[name.lower()] = value.strip()
            return status, fields, body
        return status, fields, self.rest()

    def rest(self) -> bytes:
        """Return everything until the other side closes."""
        data, self.buffer = self.buffer, b""
        while more := self.socket.recv(65536):
            data += more
        return data

    def is_closed(self) -> bool:
        """Whether the other side has closed, once nothing more is to come."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def get(port: int, target: str, *headers: str, method: str = "GET", body: bytes = b""):
    """Send one request on a connection of its own and return its response."""
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway.test", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    with RawClient(port) as client:
        client.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return client.response(method)
