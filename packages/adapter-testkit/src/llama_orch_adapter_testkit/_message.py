"""Where the parts of an HTTP/1.1 message lie in the bytes that hold it."""

from dataclasses import dataclass

_NO_BODY = ("204", "304")


@dataclass(frozen=True)
class Message:
    """The head of a message and the places of its body; offsets count from the first byte of the head.

    `spans` are the stretches of body, one per chunk where it is chunked. `end` is where the next message begins, None
    while this one is not complete by its own framing: one that only the end of the connection ends never is.
    """

    first_line: str
    headers: dict[str, str]
    body_start: int
    spans: tuple[tuple[int, int], ...]
    end: int | None

    def body(self, data: bytes) -> bytes:
        """The body without its framing, as far as `data` holds it."""
        return b"".join(data[start:stop] for start, stop in self.spans)


def layout(data: bytes) -> Message | None:
    """The layout of the first message in `data`, a request or a response; None while its head is not whole."""
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    first_line, *lines = data[:head_end].decode("latin-1").split("\r\n")
    headers = dict(_header(line) for line in lines)
    start = head_end + 4
    spans, end = _body(data, start, first_line, headers)
    return Message(first_line, headers, start, tuple(spans), end)


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()


def _body(
    data: bytes, start: int, first_line: str, headers: dict[str, str]
) -> tuple[list[tuple[int, int]], int | None]:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _chunks(data, start)
    if "content-length" in headers:
        stop = start + int(headers["content-length"])
        return [(start, min(stop, len(data)))], stop if stop <= len(data) else None
    is_response = first_line.startswith("HTTP/")
    if is_response and first_line.split(" ")[1] not in _NO_BODY:
        return [(start, len(data))], None
    return [], start


def _chunks(data: bytes, start: int) -> tuple[list[tuple[int, int]], int | None]:
    spans: list[tuple[int, int]] = []
    while (line_end := data.find(b"\r\n", start)) >= 0:
        size = int(data[start:line_end].partition(b";")[0], 16)
        if size == 0:
            end = data.find(b"\r\n\r\n", line_end)  # past the trailers, if there are any
            return spans, None if end < 0 else end + 4
        first = line_end + 2
        spans.append((first, min(first + size, len(data))))
        start = first + size + 2
    return spans, None
