"""Several vendors' endpoints, with the answers that they document.

Usage: vendors.py PORT REQUESTS_FILE

The first part of the path is whom it plays: /tiktok, /meta, /google, /linkedin,
/mixpanel, /customerio, /slack.  A row whose e-mail address or text says
"bad", hashed or not, is one that the vendor refuses.  One JSON line per
request goes to REQUESTS_FILE.
"""
import base64
import hashlib
import http.server
import json
import sys
import threading
import urllib.parse

port, requests_file = int(sys.argv[1]), sys.argv[2]
lock = threading.Lock()
BAD = hashlib.sha256(b"bad@example.com").hexdigest()
state = {"tiktok_asked": 0, "google_polled": 0}


def tiktok(path, headers, body):
    """Error in the body of a 200; 20001 says which events failed"""
    if headers.get("Access-Token") != "tiktok-s3cret":
        return 200, {"code": 40105, "message": "Access token is incorrect or has been revoked."}
    state["tiktok_asked"] += 1
    if state["tiktok_asked"] == 1:
        return 200, {"code": 40100, "message": "Too many requests. Please retry in some time."}
    failed = [{"order_in_batch": i, "error_message": "email is not known"} for i, event in enumerate(body["data"]) if event["user"].get("email") == BAD]
    return 200, {"code": 20001, "message": "partial", "data": {"failed_events": failed}} if failed else {"code": 0, "message": "OK"}


def meta(path, headers, body, query):
    """Counts what is not valid, and does not say which"""
    if query.get("access_token") != "meta-s3cret":
        return 400, {"error": {"message": "Error validating access token", "type": "OAuthException", "code": 190}}
    data = body["payload"]["data"]
    email = body["payload"]["schema"].index("EMAIL")
    invalid = len([row for row in data if row[email] == BAD])
    return 200, {"audience_id": "99", "session_id": "1", "num_received": len(data), "num_invalid_entries": invalid, "invalid_entry_samples": {}}


def google(path, headers, body):
    """A job: created, filled, run, asked about"""
    if path[-1] == "token":
        return 200, {"access_token": "google-s3cret", "expires_in": 3599, "token_type": "Bearer"}
    if headers.get("Authorization") != "Bearer google-s3cret" or headers.get("developer-token") != "developer-s3cret":
        return 401, {"error": {"code": 401, "message": "Request had invalid authentication credentials.", "status": "UNAUTHENTICATED"}}
    verb = path[-1].rpartition(":")[2]
    if verb == "create":
        return 200, {"resourceName": "customers/1/offlineUserDataJobs/55"}
    if verb == "addOperations":
        errors = [{"errorCode": {"offlineUserDataJobError": "INVALID_SHA256_FORMAT"}, "message": "The SHA256 encoded value is malformed.",
                   "location": {"fieldPathElements": [{"fieldName": "operations", "index": i}, {"fieldName": "create"}]}}
                  for i, operation in enumerate(body["operations"])
                  for identifier in next(iter(operation.values()))["userIdentifiers"] if identifier.get("hashedEmail") == BAD]
        return 200, {"partialFailureError": {"code": 3, "message": "There was a problem", "details": [{"errors": errors}]}} if errors else {}
    if verb == "run":
        return 200, {"name": "customers/1/operations/abcd="}
    state["google_polled"] += 1
    return 200, {"results": [{"offlineUserDataJob": {"status": "SUCCESS"}}]}


def linkedin(path, headers, body):
    """A status per element"""
    if headers.get("LinkedIn-Version") != "202607":
        return 426, {"status": 426, "code": "NONEXISTENT_VERSION", "message": "Requested version is not active"}
    return 200, {"elements": [{"status": 400, "error": {"message": "no such member"}} if element["user"]["userIds"][0]["idValue"] == BAD else {"status": 201}
                              for element in body["elements"]]}


def mixpanel(path, headers, body):
    """400, and the others are stored"""
    if headers.get("Authorization") != "Basic " + base64.b64encode(b"sa:mixpanel-s3cret").decode():
        return 401, {"code": 401, "error": "Invalid credentials", "status": "Unauthorized"}
    failed = [{"index": i, "$insert_id": event["properties"]["$insert_id"], "field": "properties.email", "message": "is not valid"}
              for i, event in enumerate(body) if event["properties"].get("email") == "bad@example.com"]
    stored = len(body) - len(failed)
    if failed:
        return 400, {"code": 400, "num_records_imported": stored, "status": "Bad Request", "error": "some data points in the request failed validation", "failed_records": failed}
    return 200, {"code": 200, "num_records_imported": stored, "status": "OK"}


def customerio(path, headers, body):
    """207 with the places of what failed"""
    errors = [{"batch_index": i, "reason": "invalid", "field": "attributes", "message": "email"}
              for i, call in enumerate(body["batch"]) if call.get("attributes", {}).get("email") == "bad@example.com"]
    return (207, {"errors": errors}) if errors else (200, {})


def slack(path, headers, body):
    """An error in the body of a 200"""
    if headers.get("Authorization") != "Bearer slack-s3cret":
        return 200, {"ok": False, "error": "invalid_auth"}
    return 200, {"ok": False, "error": "msg_too_long"} if "bad" in body["text"] else {"ok": True, "channel": body["channel"], "ts": "1.2"}


class Vendors(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one(self):
        text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        address = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(address.query))
        path = [part for part in address.path.split("/") if part]
        form = self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded")
        body = text if form else json.loads(text or "{}")
        with lock:
            with open(requests_file, "a") as file:
                file.write(json.dumps({"vendor": path[0], "path": self.path, "method": self.command, "headers": dict(self.headers), "body": body}) + "\n")
            if path[0] == "meta":
                status, answer = meta(path, self.headers, body, query)
            else:
                status, answer = globals()[path[0]](path, self.headers, body)
        answer = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_DELETE = handle_one

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


Server(("127.0.0.1", port), Vendors).serve_forever()
