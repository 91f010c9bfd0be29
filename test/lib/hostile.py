"""A receiver whose answers are meant to do harm.

Usage: hostile.py PORT REQUESTS_FILE

    /nul       "o", a zero byte, "k"
    /random    any status, headers and body, the same in every run of the test
    /busy      {"state": "busy"}, always
    /fail      500
    /token     an access token (whatever was asked), once the file REQUESTS_FILE.token exists
    /late      200, once REQUESTS_FILE.late exists
    /first     the first request 200, once REQUESTS_FILE.first exists, all others 500 at once
    /long      200 with two megabytes, the last of which name row 0 as bad
    /echo      422 with what the request was authorized by
    /tired     500 for the first five requests, then 401
    /scope     a token is refused: invalid_scope
    /wait      429, come again in an hour
    /denied    401
    /hours     200, after an hour
    /fine      200

One JSON line per request goes to REQUESTS_FILE.
"""
import http.server
import json
import os
import random
import sys
import threading
import time

port, requests_file = int(sys.argv[1]), sys.argv[2]
lock = threading.Lock()
dice = random.Random(6)
PIECES = [b"\0", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b'{"errors": [', b'{"index": 4294967296}', b"]}", b'"', b",", b"\n", b"\r\n",
          b"[" * 20000, b'{"a":' * 5000, b"1e131071,", b"-", b"1e999999999", b"\\u0000", b"\\ud800", b'[{"email": null, "index": 1e30}]', b"x" * 50000]


class Hostile(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with lock:
            with open(requests_file, "a") as file:
                file.write(json.dumps({"path": self.path, "method": self.command, "headers": dict(self.headers),
                                       "body": body.decode()}) + "\n")
            path = self.path.split("?")[0]
            status, headers, answer = self.act(path)
        if path in ("/token", "/late") or status == 299:
            while not os.path.exists(requests_file + path.replace("/", ".")):
                time.sleep(0.02)
        if path == "/hours":
            time.sleep(3600)
        self.send_response(status)
        for name, value in headers:
            self._headers_buffer.append(name + b": " + value + b"\r\n")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def act(self, path):
        if path == "/nul":
            return 200, [], b"o\0k"
        if path == "/busy":
            return 200, [], b'{"state": "busy"}'
        if path == "/first":
            self.server.firsts += 1
            return 299 if self.server.firsts == 1 else 500, [], b"{}"
        if path == "/long":
            return 200, [], b'{"padding": "' + b"x" * 2000000 + b'", "errors": [{"index": 0}]}'
        if path == "/echo":
            return 422, [], self.headers["Authorization"].encode()
        if path == "/tired":
            self.server.tired += 1
            return 500 if self.server.tired <= 5 else 401, [], b"no"
        if path == "/wait":
            return 429, [(b"Retry-After", b"3600")], b"{}"
        if path == "/denied":
            return 401, [], b"{}"
        if path == "/scope":
            return 400, [], b'{"error": "invalid_scope"}'
        if path == "/fail":
            return 500, [], b"no"
        if path == "/token":
            return 200, [], b'{"access_token": "t", "expires_in": 99999999999}'
        if path == "/random":
            body = b"".join(dice.choice(PIECES) for _ in range(dice.randint(0, 8)))
            value = dice.choice([b"1e400", b"-1", b"nan", b"\xff\xc3", b"99999999999999999999", b"Wed, 99 Foo 2026", b""])
            return dice.choice([200, 207, 400, 413, 422, 500]), [(b"X-Wait", value), (b"X-Error", value)], body
        return 200, [], b"{}"

    do_GET = do_POST = do_PUT = handle_one

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    firsts = tired = 0


Server(("127.0.0.1", port), Hostile).serve_forever()
