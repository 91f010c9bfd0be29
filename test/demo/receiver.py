"""The other end of a sync: takes what is pushed, keeps each body as it came, one
a line, and answers 200.  Every third request it is out of order and answers
503, so that there is something to retry.

Usage: receiver.py PORT_FILE BODIES_FILE
"""
import http.server
import os
import sys
import threading

port_file, bodies_file = sys.argv[1:]
lock = threading.Lock()
requests = 0


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        global requests
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with lock:
            requests += 1
            out_of_order = requests % 3 == 0
            if not out_of_order:
                with open(bodies_file, "ab") as file:
                    file.write(body.replace(b"\n", b" ") + b"\n")
        answer = b'{"ok":false}' if out_of_order else b'{"ok":true}'
        self.send_response(503 if out_of_order else 200)
        if out_of_order:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_PUT = do_DELETE = do_PATCH = do_POST

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
server.daemon_threads = True
with open(port_file + ".new", "w") as file:
    file.write(str(server.server_port))
os.rename(port_file + ".new", port_file)
server.serve_forever()
