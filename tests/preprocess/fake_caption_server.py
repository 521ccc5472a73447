"""An OpenAI endpoint on this machine that captions a picture with the picture's hash, or misbehaves.

A mode is a name below, or a function (hash, how often it was asked for, body) -> (status, headers, body).
"""

import base64
import hashlib
import json
import random
import select
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def mark(jpeg):
    """What the good server sees in a picture."""
    return hashlib.sha256(jpeg).hexdigest()[:20]


def completion(content, finish="stop", **message):
    """A chat completion as vLLM writes it."""
    message = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return 200, {}, {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


def failure(status, text="no", headers=None, code=None):
    return status, headers or {}, {"error": {"message": text, "type": "Error", "code": code or status}}


def good(seen, times, body):
    return completion(f"Two people stand side by side under the mark {seen}.")


def cut(seen, times, body):
    return completion(f"Two people stand under the mark {seen} and", "length")


def refusal(seen, times, body):
    return completion("I'm sorry, but I can't help with identifying people in images.")


def blank(seen, times, body):
    return completion("  \n\u200b")


def control_chars(seen, times, body):
    return completion(f"\x1b[31mTwo \u202epeople\x1b[0m\x07 under\r\n\n the\ufeff mark {seen}.\x00")


MODES = {f.__name__: f for f in (good, cut, refusal, blank, control_chars)}
STATUSES = {"401": 401, "403": 403, "404": 404, "500": 500, "400": 400}


class FakeCaptionServer:
    """Use as a context manager. asked: one (hash, time, body, headers) a request, in order."""

    def __init__(self, mode="good", seed=0):
        self.mode, self.asked, self.times = mode, [], {}
        self.at_once = self.most_at_once = 0
        self.closing, self.lock, self.chance = threading.Event(), threading.Lock(), random.Random(seed)
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.fake = self

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def reply(self, jpeg, body, headers):
        """(status, headers, body), or the name of a way to misbehave."""
        seen = mark(jpeg)
        with self.lock:
            self.asked.append((seen, time.monotonic(), body, headers))
            self.times[seen] = self.times.get(seen, 0) + 1
            dice = self.chance.random()
        if callable(self.mode):
            return self.mode(seen, self.times[seen], body)
        if self.mode in STATUSES:
            return failure(STATUSES[self.mode], f"the key {headers.get('authorization', '')} is not for this")
        if self.mode == "flaky":
            if dice < 0.3:
                return failure(500) if dice < 0.15 else failure(429, headers={"Retry-After": "0.05"})
            return good(seen, 0, body)
        return MODES[self.mode](seen, self.times[seen], body) if self.mode in MODES else self.mode


class _Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size, block_on_close = True, 256, False

    def handle_error(self, request, client_address):
        """A client that has gone is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        fake = self.server.fake
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        part = next(p for p in body["messages"][-1]["content"] if p["type"] == "image_url")
        head, _, data = part["image_url"]["url"].partition(",")
        assert head == "data:image/jpeg;base64"
        with fake.lock:
            fake.at_once += 1
            fake.most_at_once = max(fake.most_at_once, fake.at_once)
        try:
            self._send(
                fake.reply(base64.b64decode(data), body, {name.lower(): value for name, value in self.headers.items()})
            )
        finally:
            with fake.lock:
                fake.at_once -= 1

    def _send(self, reply):
        if isinstance(reply, str):
            return getattr(self, f"_{reply}")()
        status, headers, body = reply
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(data), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _begin(self, length):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", length)
        self.end_headers()

    def _drip(self):
        """A byte now and then, for ever: every single read is quick."""
        self._begin(10**9)
        while not self.server.fake.closing.wait(0.05):
            self.wfile.write(b" ")
            self.wfile.flush()

    def _hang(self):
        """Until the client goes."""
        self.close_connection = True
        while not self.server.fake.closing.is_set():
            if select.select([self.connection], [], [], 0.05)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                return

    def _drop(self):
        """Hangs up without a word."""
        self.close_connection = True

    def _half(self):
        """Hangs up in the middle of its reply."""
        self._begin(1000)
        self.wfile.write(b'{"choices": [')
        self.close_connection = True

    def _endless(self):
        self._begin(10**12)
        while not self.server.fake.closing.is_set():
            self.wfile.write(b" " * 2**16)


def dead_url():
    """Nobody listens there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"
