"""A local server that speaks OpenAI's chat completions, notes what it was asked, and fails as a test wants it to."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """Answers in upper case, counting words as tokens.

    Attributes:
        asked: how often each prompt came.
        answered: how often each prompt was answered.
        requests: their bodies, and keys their Authorization headers.
        behave: takes the number of the request, from 0; None answers, a number is the status that is returned, "hold"
            keeps the request without an answer until ``release`` is called, "drop" closes the connection.
        body: takes a prompt and gives what is answered with status 200: JSON, or a page as a string.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.behave: Callable[[int], int | str | None] = lambda number: None
        self.body: Callable[[str], Any] = completion
        self.at_once = self.most_at_once = 0
        self.slowness = 0.0
        self._lock, self._released = threading.Lock(), threading.Event()
        self.start(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self, port: int) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.handle(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._released.set()
        self.http.shutdown()
        self.http.server_close()

    def release(self) -> None:
        """Drop the requests that are held, and wait until they are gone."""
        self._released.set()
        while self.at_once:
            time.sleep(0.01)
        self._released.clear()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
            self.keys.append(request.headers.get("Authorization", ""))
            self.asked[prompt] += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            how = self.behave(number) if request.path == "/v1/chat/completions" else 404
            if how == "hold":
                self._released.wait(60)
                how = "drop"
            if how == "drop":
                request.close_connection = True
                return
            time.sleep(self.slowness)
            said = {"error": {"message": f"no\nluck with {self.keys[-1]}"}} if how else self.body(prompt)
            page = isinstance(said, str)
            content = (said if page else json.dumps(said)).encode()
            if not how:
                with self._lock:
                    self.answered[prompt] += 1
            request.send_response(how if isinstance(how, int) else 200)
            request.send_header("Content-Type", "text/html" if page else "application/json")
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            request.wfile.write(content)
        finally:
            with self._lock:
                self.at_once -= 1


def completion(prompt: str, text: str | None = None, reason: str = "stop") -> dict[str, Any]:
    """Return an answer: the prompt in upper case, or ``text``, with the reason why it ends."""
    text = prompt.upper() if text is None else text
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "loud",
        "choices": [{"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}],
        "usage": {
            "prompt_tokens": len(prompt.split()),
            "completion_tokens": 2 * len(text.split()),
            "total_tokens": 3 * len(text.split()),
        },
    }
