#!/usr/bin/python3
"""Post events to the collector as an SDK does, and note what it acknowledged.

    post.py PORT WRITE_KEY SECONDS CONNECTIONS FILE

Every connection posts one event after the other.  What is not answered with
200 is posted again with the same message id until it is, whatever happens to
the server.  FILE gets one acknowledged message id per line.  SIGTERM ends it as
the end of SECONDS does, and so does the end of the process that started it.
"""
import base64
import http.client
import json
import os
import signal
import sys
import threading
import time

port, key, seconds, connections, path = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
deadline = time.monotonic() + seconds
# After the deadline nothing new is posted, but what is on its way is ended.
PATIENCE = 180
PARENT = os.getppid()


def end(*_):
    global deadline
    deadline = min(deadline, time.monotonic())


signal.signal(signal.SIGTERM, end)
headers = {"Content-Type": "application/json",
           "Authorization": "Basic " + base64.b64encode((key + ":").encode()).decode()}
acknowledged = [[] for _ in range(connections)]
unanswered = []
answers = {}


def run(number):
    connection = None
    count = 0
    while time.monotonic() < deadline and os.getppid() == PARENT:
        count += 1
        message_id = "%d-%d" % (number, count)
        body = json.dumps({"userId": "u%d" % (count % 50), "anonymousId": "a%d" % (count % 50), "event": "Posted",
                           "messageId": message_id, "properties": {"price": 19.99}})
        while True:
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("POST", "/v1/track", body, headers)
                answer = connection.getresponse()
                answer.read()
                answers[answer.status] = answers.get(answer.status, 0) + 1
                if answer.status == 200:
                    acknowledged[number].append(message_id)
                    break
            except (OSError, http.client.HTTPException):
                answers["none"] = answers.get("none", 0) + 1
                if connection is not None:
                    connection.close()
                connection = None
            if time.monotonic() > deadline + PATIENCE or os.getppid() != PARENT:
                unanswered.append(message_id)
                return
            time.sleep(0.05)


threads = [threading.Thread(target=run, args=(number,)) for number in range(connections)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with open(path, "w") as file:
    for ids in acknowledged:
        for message_id in ids:
            file.write(message_id + "\n")
print("%d acknowledged, %d unanswered, answers %s"
      % (sum(map(len, acknowledged)), len(unanswered), json.dumps({str(k): v for k, v in answers.items()}, sort_keys=True)))
sys.exit(1 if unanswered else 0)
