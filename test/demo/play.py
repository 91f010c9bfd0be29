"""Post calls to the collector, as a site's own SDK would: bodies of 100 over
keep-alive connections.

Reads one call per line; prints how many it sent, how many bodies that were and
how many were answered 200.  Every body must be: an answer of 503 is waited for
and sent again, like an SDK does.

Usage: play.py COLLECTOR WRITE_KEY < calls
"""
import base64
import collections
import http.client
import queue
import sys
import threading
import time
import urllib.parse

BODY = 100
CONNECTIONS = 8

collector, write_key = sys.argv[1:]
address = urllib.parse.urlsplit(collector)
headers = {"Authorization": "Basic " + base64.b64encode((write_key + ":").encode()).decode(),
           "Content-Type": "application/json"}
bodies = queue.Queue(maxsize=64)
answers = collections.Counter()
lock = threading.Lock()


def post(connection, body):
    for attempt in range(10):
        try:
            connection.request("POST", "/v1/batch", body, headers)
            response = connection.getresponse()
            response.read()
            status = response.status
        except (OSError, http.client.HTTPException):
            connection.close()
            status = None
        if status is not None and status < 500:
            return status
        time.sleep(0.1 * 2 ** attempt)
    return status


def send():
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    while True:
        body = bodies.get()
        if body is None:
            break
        status = post(connection, body)
        with lock:
            answers[status] += 1
    connection.close()


threads = [threading.Thread(target=send) for _ in range(CONNECTIONS)]
for thread in threads:
    thread.start()
calls = 0
lines = []


def flush():
    if lines:
        bodies.put(('{"batch":[' + ",".join(lines) + "]}").encode())
        lines.clear()


for line in sys.stdin:
    lines.append(line.strip())
    calls += 1
    if len(lines) == BODY:
        flush()
flush()
for _ in threads:
    bodies.put(None)
for thread in threads:
    thread.join()
print(calls, sum(answers.values()), answers[200])
for status, count in answers.items():
    if status != 200:
        print("%d bodies were answered %s" % (count, status), file=sys.stderr)
sys.exit(0 if set(answers) <= {200} else 1)
