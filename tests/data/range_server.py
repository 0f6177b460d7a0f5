"""A small web server for the tests of downloads."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server:
    """Files served on 127.0.0.1, with the faults that a download meets.

    statuses: answered to the first requests, in turn, instead of a file. limits: bytes after which the connection of
    the first requests is cut. resumes: whether Range requests are honoured. requests: what was asked for so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.statuses: list[int] = []
        self.limits: list[int] = []
        self.resumes = True
        self.requests: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.requests.append((request.path, wanted))
        path = self.folder / request.path.lstrip("/")
        if self.statuses or not path.is_file():
            request.send_error(self.statuses.pop(0) if self.statuses else 404)
            return
        content = path.read_bytes()
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.resumes else 0
        if start >= len(content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(content)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        request.wfile.write(content[start : start + self.limits.pop(0)] if self.limits else content[start:])

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()
