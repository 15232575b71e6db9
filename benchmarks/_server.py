"""The far end of every benchmark: a raw asyncio server in its own process, never the bottleneck.

Run as a script it prints its port and serves until its stdin ends. `POST /stream?events=N&rate=R` answers with N
OpenAI-style events of 200 to 250 bytes, many to a write (rate 0) or R a second, then `[DONE]`; `GET /short` answers
with a small JSON document. Every answer keeps the connection open.
"""

import asyncio
import sys
from urllib.parse import parse_qs, urlsplit

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
SHORT = b'{"status":"ok","slots":[{"id":0,"is_processing":false}]}'
EVENTS_PER_WRITE = 64
WORDS = (" the", " queue", " of", " tokens", " waits", ",", " patiently", " in", " line", ".")


def event(number: int) -> bytes:
    """One chunk of a completion, as vLLM writes it."""
    text = WORDS[number % len(WORDS)]
    return (
        b'data: {"id":"cmpl-a49c3f3966205a24","object":"text_completion","created":1795399894,"model":"smollm2",'
        b'"choices":[{"index":0,"text":"%s","logprobs":null,"finish_reason":null,"stop_reason":null,'
        b'"token_ids":null}]}\n\n'
    ) % text.encode()


LAST = (
    b'data: {"id":"cmpl-a49c3f3966205a24","object":"text_completion","created":1795399894,"model":"smollm2",'
    b'"choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"length"}]}\n\ndata: [DONE]\n\n'
)


def chunked(body: bytes) -> bytes:
    """A body as one HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(body), body)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection until the client leaves it."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.decode().split("\r\n")
            length = next((int(line[15:]) for line in lines if line.lower().startswith("content-length:")), 0)
            await reader.readexactly(length)
            url = urlsplit(lines[0].split(" ")[1])
            if url.path == "/short":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ")
                writer.write(b"%d\r\n\r\n%s" % (len(SHORT), SHORT))
            else:
                query = {name: float(values[0]) for name, values in parse_qs(url.query).items()}
                await stream(writer, int(query["events"]), query.get("rate", 0.0))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def stream(writer: asyncio.StreamWriter, events: int, rate: float) -> None:
    """Write one stream: in bursts, or evenly paced."""
    writer.write(HEAD)
    if not rate:
        for first in range(0, events, EVENTS_PER_WRITE):
            numbers = range(first, min(first + EVENTS_PER_WRITE, events))
            writer.write(b"".join(chunked(event(number)) for number in numbers))
            await writer.drain()
    else:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in range(events):
            await asyncio.sleep(began + number / rate - loop.time())
            writer.write(chunked(event(number)))
    writer.write(chunked(LAST) + b"0\r\n\r\n")


async def main() -> None:
    """Serve until stdin ends."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=8192)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
