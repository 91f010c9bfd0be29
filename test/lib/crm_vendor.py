"""Salesforce, HubSpot, Braze, BigQuery, S3 and Marketo as their documentation says they answer.

Usage: crm_vendor.py PORT PUBLIC_KEY

Signatures are checked from their specifications, not by the code under test:
RS256 of RFC 7519 by the command openssl with PUBLIC_KEY, AWS Signature 4 by
hmac.  GET /state is what each of them was given; "wrong" lists what no vendor
would have accepted.
"""
import base64
import csv
import gzip
import hashlib
import hmac
import http.server
import io
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

port, public_key = int(sys.argv[1]), sys.argv[2]
lock = threading.RLock()
state = {"wrong": [], "tokens": [], "sf": {}, "jobs": {}, "hubspot": {}, "hubspot_calls": [], "hubspot_list": [], "braze": {"attributes": [], "events": [], "purchases": []},
         "braze_sizes": [], "deleted": [], "bigquery": {}, "s3": {}, "locked": 0, "session": 0,
         "marketo": {}, "marketo_list": [], "marketo_token": 0}
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def bytes_of(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def check_jwt(assertion):
    head, claims, signature = assertion.split(".")
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes_of(signature))
        file.flush()
        subprocess.run(["openssl", "dgst", "-sha256", "-verify", public_key, "-signature", file.name],
                       input=("%s.%s" % (head, claims)).encode(), check=True, stdout=subprocess.DEVNULL)
    assert json.loads(bytes_of(head))["alg"] == "RS256"
    claims = json.loads(bytes_of(claims))
    assert claims["iss"] == "cdi@p-1.iam.gserviceaccount.com", claims
    assert claims["aud"].endswith("/token") and claims["scope"].endswith("/auth/bigquery.insertdata"), claims
    assert abs(claims["iat"] - time.time()) < 60 and claims["exp"] - claims["iat"] == 3600, claims


def check_aws(method, path, headers, body):
    found = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=(\S+)/(\d{8})/(\S+)/s3/aws4_request, SignedHeaders=(\S+), Signature=([0-9a-f]{64})",
                         headers["Authorization"])
    key, day, region, signed, signature = found.groups()
    digest = hashlib.sha256(body).hexdigest()
    assert key == "AKIDEXAMPLE" and region == "eu-central-1", found.groups()
    assert headers["x-amz-content-sha256"] == digest and headers["x-amz-date"].startswith(day)
    assert {"host", "x-amz-date", "x-amz-content-sha256"} <= set(signed.split(";")), signed
    # what was meant by the path, encoded anew as the specification says
    plain = urllib.parse.unquote(path)
    canonical = "\n".join([method, urllib.parse.quote(plain, safe="/-_.~"), "",
                           "".join("%s:%s\n" % (name, headers[name].strip()) for name in signed.split(";")), signed, digest])
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], "%s/%s/s3/aws4_request" % (day, region), hashlib.sha256(canonical.encode()).hexdigest()])
    secret = ("AWS4" + SECRET).encode()
    for part in (day, region, "s3", "aws4_request"):
        secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
    assert hmac.new(secret, text.encode(), hashlib.sha256).hexdigest() == signature, canonical
    return plain


class Vendor(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urllib.parse.urlsplit(self.path).path
        with lock:
            try:
                status, answer = self.act(path, body)
            except Exception as error:  # the test reads it
                state["wrong"].append("%s %s: %r" % (self.command, self.path, error))
                status, answer = 500, {}
        text = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        if status == 204:
            text = b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def act(self, path, body):
        if path == "/state":
            return 200, state
        if path == "/services/oauth2/token":
            form = dict(urllib.parse.parse_qsl(body.decode()))
            assert form == {"grant_type": "refresh_token", "client_id": "us", "client_secret": "sf-s3cret", "refresh_token": "sf-r3fresh"}, form
            state["session"] += 1
            return 200, {"access_token": "session-%d" % state["session"], "instance_url": "http://127.0.0.1:%d" % port, "token_type": "Bearer"}
        if path.startswith("/services/data/v53.0/"):
            return self.salesforce(path[len("/services/data/v53.0"):], body)
        if path.startswith("/crm/objects/2026-03/contacts/batch/"):
            return self.hubspot(path.rsplit("/", 1)[1], json.loads(body))
        if path.startswith("/crm/lists/2026-03/12/memberships/"):
            return self.hubspot_list(path.rsplit("/", 1)[1], json.loads(body))
        if path.startswith("/users/"):
            return self.braze(path[len("/users/"):], json.loads(body))
        if path == "/token":
            form = dict(urllib.parse.parse_qsl(body.decode()))
            assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer", form
            check_jwt(form["assertion"])
            state["tokens"].append("ya29.%d" % len(state["tokens"]))
            return 200, {"access_token": state["tokens"][-1], "expires_in": 3599, "token_type": "Bearer"}
        if path == "/bigquery/v2/projects/p-1/datasets/crm/tables/people/insertAll":
            return self.bigquery(json.loads(body))
        if path.startswith("/bucket/"):
            assert self.command == "PUT"
            name = check_aws("PUT", path, self.headers, body)
            text = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            state["s3"].setdefault(name, []).append(text.decode())
            return 200, ""
        if path == "/identity/oauth/token":
            assert dict(urllib.parse.parse_qsl(body.decode())) == {"grant_type": "client_credentials", "client_id": "us", "client_secret": "mk-s3cret"}, body
            state["marketo_token"] += 1
            return 200, {"access_token": "mk-%d" % state["marketo_token"], "token_type": "bearer", "expires_in": 3599}
        if path.startswith("/rest/v1/"):
            return 200, dict({"requestId": "e42b#14272d07d78", "success": True}, **self.marketo(path[len("/rest/v1/"):], body))
        raise ValueError("nothing is here")

    # ---- Salesforce ----

    def salesforce(self, path, body):
        if self.headers["Authorization"] != "Bearer session-%d" % state["session"]:
            return 401, [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}]
        if path == "/composite/sobjects/Contact/Ext__c":
            records = json.loads(body)["records"]
            assert self.command == "PATCH" and json.loads(body)["allOrNone"] is False and len(records) <= 200
            assert all(record["attributes"] == {"type": "Contact"} for record in records)
            return 200, [self.upsert(record) for record in records]
        if path == "/composite":
            request = json.loads(body)
            parts = request["compositeRequest"]
            assert request["allOrNone"] is False and len(parts) <= 25
            assert len({part["referenceId"] for part in parts}) == len(parts)
            answers = []
            for part in parts:
                key = urllib.parse.unquote(re.fullmatch("/services/data/v53.0/sobjects/Contact/Ext__c/(.*)", part["url"]).group(1))
                gone = state["sf"].pop(key, None)
                answers.append({"body": None if gone else [{"errorCode": "NOT_FOUND", "message": "gone"}], "httpHeaders": {},
                                "httpStatusCode": 204 if gone else 404, "referenceId": part["referenceId"]})
            return 200, {"compositeResponse": answers}
        if path == "/jobs/ingest":
            job = json.loads(body)
            assert job == {"object": "Contact", "externalIdFieldName": "Ext__c", "operation": "upsert", "contentType": "CSV", "lineEnding": "LF"}, job
            number = "750%d" % len(state["jobs"])
            state["jobs"][number] = dict(job, state="Open", rows=[], failed=[])
            return 200, dict(job, id=number, state="Open", contentUrl="services/data/v53.0/jobs/ingest/%s/batches" % number)
        number, _, rest = path[len("/jobs/ingest/"):].partition("/")
        job = state["jobs"][number]
        if rest == "batches":
            assert self.command == "PUT" and self.headers["Content-Type"] == "text/csv" and job["state"] == "Open"
            job["rows"] = list(csv.DictReader(io.StringIO(body.decode())))
            return 201, ""
        if rest == "failedResults/":
            out = io.StringIO()
            writer = csv.DictWriter(out, ["sf__Id", "sf__Error"] + list(job["rows"][0]), quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writeheader()
            writer.writerows(job["failed"])
            return 200, out.getvalue()
        if self.command == "PATCH":
            assert json.loads(body) == {"state": "UploadComplete"} and job["rows"]
            job["state"] = "UploadComplete"
            return 200, {"id": number, "state": "UploadComplete"}
        assert self.command == "GET" and job["state"] != "Open"
        if job["state"] == "UploadComplete":
            job["state"] = "JobComplete"
            for row in job["rows"]:
                if not row["LastName"]:
                    job["failed"].append(dict(row, sf__Id="", sf__Error="REQUIRED_FIELD_MISSING:Required fields are missing: [LastName]:LastName --"))
                else:
                    state["sf"][row["Ext__c"]] = row
            return 200, {"id": number, "state": "InProgress", "numberRecordsProcessed": 0, "numberRecordsFailed": 0}
        return 200, {"id": number, "state": "JobComplete", "numberRecordsProcessed": len(job["rows"]), "numberRecordsFailed": len(job["failed"])}

    def upsert(self, record):
        def failed(code, message):
            return {"success": False, "errors": [{"statusCode": code, "message": message, "fields": []}]}
        if record["LastName"] == "Locked" and state["locked"] < 1:
            state["locked"] += 1
            return failed("UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access to this record")
        if record["LastName"] == "Twin":
            return failed("DUPLICATES_DETECTED", "Use one of these records?")
        created = record["Ext__c"] not in state["sf"]
        state["sf"][record["Ext__c"]] = record
        return {"id": "003%s" % record["Ext__c"], "success": True, "errors": [], "created": created}

    # ---- HubSpot ----

    def hubspot(self, call, body):
        inputs = body["inputs"]
        assert self.headers["Authorization"] == "Bearer pat-s3cret" and len(inputs) <= 100
        state["hubspot_calls"].append([call, len(inputs)])
        if call == "read":
            assert body["idProperty"] == "email"
            assert all(set(one) == {"id"} for one in inputs), inputs
            missing = [one["id"] for one in inputs if one["id"] not in state["hubspot"]]
            found = {"status": "COMPLETE", "results": [{"id": "h-" + one["id"]} for one in inputs if one["id"] in state["hubspot"]]}
            if missing:
                return 207, dict(found, numErrors=1, errors=[{"status": "error", "category": "OBJECT_NOT_FOUND", "message": "Could not get some CONTACT objects",
                                                              "context": {"ids": missing}}])
            return 200, found
        if call == "archive":
            for one in inputs:
                assert one["id"].startswith("h-")
                state["hubspot"].pop(one["id"][2:], None)
            return 204, ""
        assert call == "upsert" and len({one["objectWriteTraceId"] for one in inputs}) == len(inputs)
        results, errors = [], []
        for one in inputs:
            assert one["idProperty"] == "email"
            if "@" not in one["id"] or one["properties"].get("firstname") == "Mute":
                error = {"status": "error", "category": "VALIDATION_ERROR", "message": "Email address %s is invalid" % one["id"]}
                # one kind of error does not say whose it is
                if "@" not in one["id"]:
                    error["context"] = {"objectWriteTraceId": [one["objectWriteTraceId"]]}
                errors.append(error)
            else:
                state["hubspot"][one["id"]] = one["properties"]
                results.append({"id": "h-" + one["id"], "properties": one["properties"]})
        if errors:
            return 207, {"status": "COMPLETE", "results": results, "numErrors": len(errors), "errors": errors}
        return 200, {"status": "COMPLETE", "results": results}

    def hubspot_list(self, call, ids):
        assert self.headers["Authorization"] == "Bearer pat-s3cret" and self.command == "PUT"
        assert call in ("add", "remove") and 1 <= len(ids) <= 100 and all(one.startswith("h-") for one in ids), ids
        members = set(state["hubspot_list"])
        state["hubspot_list"] = sorted(members | set(ids) if call == "add" else members - set(ids))
        return 200, {"recordIdsMissing": [], "recordIdsRemoved": [] if call == "add" else ids, "recordsIdsAdded": ids if call == "add" else []}

    # ---- Braze ----

    def braze(self, call, body):
        assert self.headers["Authorization"] == "Bearer braze-s3cret"
        if call == "delete":
            assert 1 <= len(body["external_ids"]) <= 50
            state["deleted"] += body["external_ids"]
            return 201, {"deleted": len(body["external_ids"]), "message": "success"}
        errors = []
        assert call == "track" and set(body) <= {"attributes", "events", "purchases"}
        assert sum(len(rows) for rows in body.values()) <= 75
        state["braze_sizes"].append({name: len(rows) for name, rows in body.items()})
        for name, rows in body.items():
            assert rows
            for index, row in enumerate(rows):
                assert row.get("external_id") or row["user_alias"]["alias_label"]
                if name == "events" and not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["time"]) or row.get("name") == "bad":
                    errors.append({"type": "'name' is blocked", "input_array": name, "index": index})
                else:
                    state["braze"][name].append(row)
        return 201, dict({"message": "success"}, **({"errors": errors} if errors else {}))

    # ---- Marketo ----

    # Leads by their address, each with an id; whatever fails does so within a 200.
    def marketo(self, path, body):
        leads = state["marketo"]
        if self.headers["Authorization"] != "Bearer mk-%d" % state["marketo_token"]:
            return {"success": False, "errors": [{"code": "602", "message": "Access token expired"}]}
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        if path == "leads.json" and self.command == "GET":
            assert query["filterType"] == "email" and query["fields"] == "id" and not body, (query, body)
            return {"result": [{"id": leads[email]["id"]} for email in query["filterValues"].split(",") if email in leads]}
        if path == "leads.json":
            body = json.loads(body)
            assert self.command == "POST" and body["action"] == "createOrUpdate" and body["lookupField"] == "email" and len(body["input"]) <= 300
            result = []
            for lead in body["input"]:
                if "@" not in lead["email"]:
                    result.append({"status": "skipped", "reasons": [{"code": "1003", "message": "Value for field email is not valid"}]})
                    continue
                lead["id"] = leads.get(lead["email"], {}).get("id", 1000 + len(leads))
                result.append({"id": lead["id"], "status": "updated" if lead["email"] in leads else "created"})
                leads[lead["email"]] = lead
            return {"result": result}
        if path == "leads/delete.json":
            gone = {lead["id"] for lead in json.loads(body)["input"]}
            assert self.command == "POST" and gone and gone <= {lead["id"] for lead in leads.values()}, gone
            state["marketo"] = {email: lead for email, lead in leads.items() if lead["id"] not in gone}
            return {"result": [{"id": one, "status": "deleted"} for one in gone]}
        assert path == "lists/1001/leads.json"
        ids, members = {int(one) for one in query["id"].split(",")}, set(state["marketo_list"])
        state["marketo_list"] = sorted({"POST": members | ids, "DELETE": members - ids}[self.command])
        return {"result": [{"id": one, "status": "added" if self.command == "POST" else "removed"} for one in ids]}

    # ---- BigQuery ----

    def bigquery(self, body):
        if self.headers["Authorization"] != "Bearer " + state["tokens"][-1]:
            return 401, {"error": {"code": 401, "message": "Invalid Credentials"}}
        assert body["skipInvalidRows"] is True and len(body["rows"]) <= 500
        errors = []
        for index, row in enumerate(body["rows"]):
            if "emial" in row["json"]:
                errors.append({"index": index, "errors": [{"reason": "invalid", "location": "emial", "debugInfo": "", "message": "no such field: emial."}]})
            else:
                state["bigquery"].setdefault(row["insertId"], row["json"])
        return 200, dict({"kind": "bigquery#tableDataInsertAllResponse"}, **({"insertErrors": errors} if errors else {}))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


Server(("127.0.0.1", port), Vendor).serve_forever()
