"""The other end of a sync, which behaves as the path asks it to.

Usage: receiver.py PORT REQUESTS_FILE [CERTIFICATE_AND_KEY]

With a certificate it speaks TLS.

Writes one JSON line per request (path, headers, body as it came) before it
answers.  Paths begin with one of:
    /ok         200
    /fail       500, always
    /flaky      503 for the first three requests, then 200
    /throttle   429 with Retry-After: 1 for the first request, then 200
    /reject     422 where a row has "bad": true, else 200
    /partial    200 that names the bad rows by index
    /small      413 for more than two rows, else 200
    /denied     401
    /moved      302 to /ok
    /reset      closes the connection in the middle of the answer, then 200
    /head       the same in the middle of its head
    /endless    200 with a body that does not end
    /slow       200 after two seconds
    /until/NAME 503, and 200 once the file REQUESTS_FILE.NAME exists
    /hold       200 once the file REQUESTS_FILE.release exists
    /gate/NAME 200 with an id once the file REQUESTS_FILE.NAME exists, and the
               state of a job: done once REQUESTS_FILE.done exists
    /busy       429 without Retry-After for the first two requests, then 200
    /shape/NAME 200 that names bad rows: index, list, value, pointer or positional
    /echo       422 with the request's headers as the body
"""
import collections
import http.server
import json
import os
import socket
import ssl
import sys
import threading
import time

port, requests_file = int(sys.argv[1]), sys.argv[2]
lock = threading.Lock()
count = collections.Counter()


def shape(name, document):
    """What is bad, said in one of the ways that vendors have"""
    rows = document.get("rows", [])
    if name == "index":
        return {"errors": [{"index": i, "message": "no"} for i, row in enumerate(rows) if row["bad"]]}
    if name == "list":
        return {"errors": [{"list": key, "index": i, "message": "no"} for key in ("events", "people")
                           for i, row in enumerate(document.get(key, [])) if row["bad"]]}
    if name == "value":
        return {"failed": [row["email"] for row in rows if row["bad"]]}
    if name == "pointer":
        return {"errors": [{"source": {"pointer": "/rows/%d/email" % i}, "detail": "no"}
                           for i, row in enumerate(rows) if row["bad"]]}
    return {"results": [{"success": False, "error": "no"} if row["bad"] else {"success": True} for row in rows]}


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = self.path.split("/")[1].split("?")[0]
        with lock:
            count[self.path] += 1
            number = count[self.path]
            with open(requests_file, "a") as file:
                file.write(json.dumps({"path": self.path, "method": self.command, "time": time.time(),
                                       "headers": dict(self.headers), "body": body.decode()}) + "\n")
        document = json.loads(body or b"[]")
        rows = document if isinstance(document, list) else [{"row": document}]
        bad = [i for i, item in enumerate(rows) if item["row"].get("bad")]
        status, headers, answer = 200, {}, {"ok": True}
        if kind == "fail":
            status, answer = 500, {"error": "out of order"}
        elif kind == "flaky" and number <= 3:
            status, answer = 503, {"error": "come back"}
        elif kind == "until" and not os.path.exists(requests_file + "." + self.path.split("/")[2]):
            status, answer = 503, {"error": "come back"}
        elif kind == "throttle" and number == 1:
            status, headers, answer = 429, {"Retry-After": "1"}, {"error": "too fast"}
        elif kind == "busy" and number <= 2:
            status, answer = 429, {"error": "too fast"}
        elif kind == "shape":
            answer = shape(self.path.split("/")[2], document)
        elif kind == "reject" and bad:
            status, answer = 422, {"error": "a row is bad"}
        elif kind == "partial" and bad:
            answer = {"errors": [{"index": i, "message": "row %d is bad" % i} for i in bad]}
        elif kind == "small" and len(rows) > 2:
            status, answer = 413, {"error": "too large"}
        elif kind == "denied":
            status, answer = 401, {"error": "who are you"}
        elif kind == "echo":
            status, answer = 422, dict(self.headers)
        elif kind == "moved":
            status, headers = 302, {"Location": "/ok/moved"}
        elif kind == "slow":
            time.sleep(2)
        elif kind == "hold":
            while not os.path.exists(requests_file + ".release"):
                time.sleep(0.05)
        elif kind == "gate":
            while not os.path.exists(requests_file + "." + self.path.split("/")[2]):
                time.sleep(0.02)
            answer = {"id": number, "state": "done" if os.path.exists(requests_file + ".done") else "busy"}
        elif kind == "head" and number == 1:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        elif kind == "reset" and number == 1:
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"half")
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        elif kind == "endless":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            except OSError:
                self.close_connection = True
            return
        text = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_PUT = do_PATCH = do_POST

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server(("127.0.0.1", port), Receiver)
if len(sys.argv) > 3:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
