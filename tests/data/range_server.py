"""A web server on 127.0.0.1 with the faults that a download meets."""

import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


@dataclass(frozen=True)
class Fault:
    """What is wrong with one answer."""

    status: int | None = None  # answered in place of a file
    headers: dict[str, str] = field(default_factory=dict)  # sent besides, or in place of the right ones
    body: bytes | None = None  # sent in place of the file
    cut: int | None = None  # the connection ends after so many bytes
    stall: float = 0.0  # seconds of silence where the connection is cut
    longer: int = 0  # Content-Length says so many bytes more, or fewer
    flip: int | None = None  # the byte at this place of the file is wrong
    forgets: bool = False  # a range request is answered with the whole file
    shift: int = 0  # a range request is answered with a range that begins so many bytes later, or earlier


RIGHT = Fault()


class Server:
    """Serves a folder and, one by one, the members of archives.

    faults: of the first answers, in turn; by_path: of every answer to a path. tag: the ETag of all files. requests:
    path and Range of what was asked for so far; headers: all headers of the same requests.
    """

    def __init__(self, folder: Path, archives: tuple[Path, ...] = ()) -> None:
        self.folder = folder
        self.archives = archives
        self.faults: list[Fault] = []
        self.by_path: dict[str, Fault] = {}
        self.tag: str | None = None
        self.requests: list[tuple[str, str | None]] = []
        self.headers: list[dict[str, str]] = []
        self.closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # a client that leaves in the middle is what the tests are about
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.removeprefix(self.url)  # whoever asks a proxy names the whole address
        wanted = request.headers.get("Range")
        self.requests.append((path, wanted))
        self.headers.append(dict(request.headers))
        fault = self.faults.pop(0) if self.faults else self.by_path.get(path, RIGHT)
        content = fault.body if fault.body is not None else self.find(path)
        status = fault.status or (200 if content is not None else 404)
        if status != 200 or content is None:
            self.send(request, status, b"", fault)
            return
        if fault.flip is not None:
            content = content[: fault.flip] + bytes([content[fault.flip] ^ 1]) + content[fault.flip + 1 :]
        same = request.headers.get("If-Range") in (None, self.tag)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and same and not fault.forgets else 0
        start += fault.shift if start else 0
        if start >= len(content):
            self.send(request, 416, b"", fault, f"bytes */{len(content)}")
            return
        shown = f"bytes {start}-{len(content) - 1}/{len(content)}" if start else None
        self.send(request, 206 if start else 200, content[start:], fault, shown)

    def find(self, path: str) -> bytes | None:
        name = unquote(path.partition("?")[0]).lstrip("/")
        file = self.folder / name
        if file.is_file():
            return file.read_bytes()
        for archive in self.archives:
            with zipfile.ZipFile(archive) as members:
                if name in members.namelist():
                    return members.read(name)
        return None

    def send(
        self, request: BaseHTTPRequestHandler, status: int, body: bytes, fault: Fault, content_range: str | None = None
    ) -> None:
        headers = {"Content-Length": str(len(body) + fault.longer), "ETag": self.tag, "Content-Range": content_range}
        request.send_response(status)
        for key, value in (headers | fault.headers).items():
            if value is not None:
                request.send_header(key, value)
        request.end_headers()
        request.wfile.write(body[: fault.cut])
        if fault.stall:
            request.wfile.flush()
            self.closing.wait(fault.stall)

    def close(self) -> None:
        self.closing.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()
