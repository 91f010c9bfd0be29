"""A vendor whose interface takes more than one request.

Usage: vendor.py PORT REQUESTS_FILE

    POST /token             OAuth 2.0: each refresh token works once and is replaced
    POST /new-consent       {"refresh_token": ...}: a person has authorized us again
    POST /void              access tokens handed out so far are refused; with {"consent": true}
                            the refresh token, too
    GET  /contacts?email=   {"data": [{"id": ...}]}, or 404
    POST /contacts          creates one; PUT /contacts/ID changes it
    GET  /state             what it knows
    POST /jobs              {"id": ...}; GET /jobs/ID is busy twice, and while REQUESTS_FILE.busy
                            exists; GET /jobs/ID/errors is CSV
    POST /anything          200

All but the first two want the latest access token where /void was ever called
or a token handed out.  One JSON line per request goes to REQUESTS_FILE.
"""
import http.server
import json
import os
import sys
import threading
import time
import urllib.parse

port, requests_file = int(sys.argv[1]), sys.argv[2]
lock = threading.RLock()
state = {"refresh": "r0", "access": None, "issued": 0, "contacts": {}, "jobs": {}, "asked": {}}


class Vendor(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        address = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(address.query))
        path = [part for part in address.path.split("/") if part]
        with lock:
            with open(requests_file, "a") as file:
                file.write(json.dumps({"path": self.path, "method": self.command, "time": time.time(),
                                       "headers": dict(self.headers), "body": body}) + "\n")
            status, answer = self.act(path, query, body)
        text = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def act(self, path, query, body):
        if path == ["token"]:
            form = dict(urllib.parse.parse_qsl(body))
            if form.get("client_secret") != "client-s3cret":
                return 401, {"error": "invalid_client"}
            if form.get("refresh_token") != state["refresh"]:
                return 400, {"error": "invalid_grant"}
            state["issued"] += 1
            state["refresh"] = "r%d-s3cret" % state["issued"]
            state["access"] = "a%d-s3cret" % state["issued"]
            return 200, {"access_token": state["access"], "refresh_token": state["refresh"], "expires_in": 3600}
        if path == ["new-consent"]:
            state["refresh"] = json.loads(body)["refresh_token"]
            return 200, {}
        if path == ["void"]:
            state["access"] = "nobody has this one"
            if json.loads(body or "{}").get("consent"):
                state["refresh"] = "nor this"
            return 200, {}
        if path == ["state"]:
            return 200, state
        if state["access"] and self.headers.get("Authorization") != "Bearer " + state["access"]:
            return 401, {"error": "who are you"}
        if path[0] == "contacts":
            return self.contacts(path, query, body)
        if path[0] == "jobs":
            return self.jobs(path, body)
        return 200, {}

    def contacts(self, path, query, body):
        known = state["contacts"]
        if self.command == "GET":
            found = [number for number, contact in known.items() if contact["email"] == query["email"]]
            return (200, {"data": [{"id": found[0]}]}) if found else (404, {"error": "none"})
        if self.command == "PUT":
            known[path[1]] = json.loads(body)
            return 200, {"id": path[1]}
        number = str(len(known) + 1)
        known[number] = json.loads(body)
        return 201, {"id": number}

    def jobs(self, path, body):
        if self.command == "POST":
            number = str(len(state["jobs"]) + 1)
            state["jobs"][number] = [json.loads(line) for line in body.splitlines()]
            return 200, {"id": number}
        if len(path) == 3:
            bad = [row["email"] for row in state["jobs"][path[1]] if "bad" in row["email"]]
            return 200, "".join(["email,error\n"] + ['%s,"not, accepted"\n' % email for email in bad])
        asked = state["asked"][path[1]] = state["asked"].get(path[1], 0) + 1
        return 200, {"state": "busy" if asked <= 2 or os.path.exists(requests_file + ".busy") else "done"}

    do_GET = do_POST = do_PUT = handle_one

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


Server(("127.0.0.1", port), Vendor).serve_forever()
