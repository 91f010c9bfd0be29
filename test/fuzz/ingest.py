#!/usr/bin/python3
"""Throw mutated calls at the pipeline and check its accounts.

    test/fuzz/ingest.py [--seconds N] [--seed N] [--json-test-suite DIR]

Needs a database with cdi (PGHOST, PGPORT, PGDATABASE of the environment) and
psql in PATH.  Bodies enter as bytes through cdi_replay(), the way that HTTP
bodies take without HTTP, and as jsonb through cdi_ingest(); some statements
are cancelled or rolled back on purpose.  With JSONTestSuite (its test_parsing
folder) every n_ document must be refused and every y_ document be taken, as
an event and as properties.  Prints TAP.
"""
import argparse
import glob
import json
import os
import random
import subprocess
import sys
import time

SOURCE = "fuzz"
# y_ documents that jsonb cannot hold: it has no U+0000
NOT_IN_JSONB = "22P05"

numbers = 0
bad = 0


def result(good, name, detail=""):
    global numbers, bad
    numbers += 1
    bad += not good
    print("%sok %d - %s" % ("" if good else "not ", numbers, name), flush=True)
    if detail and not good:
        for line in detail.splitlines()[:20]:
            print("# " + line, flush=True)


def psql(sql):
    """Output of the script; errors of single statements are part of the game."""
    done = subprocess.run(["psql", "-XqAt", "-v", "VERBOSITY=sqlstate"], input=sql.encode(), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=dict(os.environ, PGCLIENTENCODING="UTF8", PGOPTIONS="-c client_min_messages=error"))
    return done.returncode, done.stdout.decode().strip(), done.stderr.decode()


def post(bodies):
    """SQL that sends bodies to the source, as bytes, and prints stored|failed."""
    values = ",".join("('\\x%s'::bytea)" % body.hex() for body in bodies)
    return """
        CREATE TEMPORARY TABLE IF NOT EXISTS new (failed_id bigint);
        TRUNCATE new;
        BEGIN;
        WITH added AS (
            INSERT INTO cdi.failed_events (received_at, source_id, stage, sqlstate, message, payload)
            SELECT now(), source_id, 'fuzz', '00000', 'fuzz', body
            FROM cdi.sources, (VALUES %s) v (body) WHERE name = '%s' RETURNING failed_id)
        INSERT INTO new SELECT failed_id FROM added;
        INSERT INTO cdi.pipeline_deltas (source_id, hour, received, failed)
        SELECT source_id, now(), %d, %d FROM cdi.sources WHERE name = '%s';
        COMMIT;
        SELECT stored, failed FROM cdi_replay(ARRAY(SELECT failed_id FROM new));
        """ % (values, SOURCE, len(bodies), len(bodies), SOURCE)


class Mutator:
    """Calls as SDKs send them, and everything that could be wrong with them."""

    STRINGS = ["", " ", "u1", "é" * 40, "€" * 300, "0", "null", "\t x \n", "a@b", "A@B.C", "ÄÖ@É.X", "x" * 513, "\u202e",
               "😀" * 20, "\\", "\"", "%00%ff", "http://", "https://h/?utm_source=%C3%28&gclid=", "://@:/", "a" * 63 + "é"]
    TIMES = ["2026-01-01T00:00:00Z", "2026-02-30T00:00:00Z", "0001-01-01", "9999-12-31T24:00:00-15:59", "infinity", "now",
             "2026-01-01T00:00:60.999999999999+14", "", "2026-01-01T00:00:00.", "20260101", "-4713-01-01T00:00:00Z"]
    NUMBERS = ["0", "-0", "1e400", "1e131071", "1e131073", "1e200000", "-1E-16383", "1e-17000", "12345678901234567890", "19.99",
               "1.50", "9" * 400]
    BYTES = [b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"{", b"}", b"[", b"]", b",", b":", b"\"", b"\\", b"\\u0000",
             b"\\ud800", b" ", b"\n", b"\xef\xbb\xbf", b"e", b"-", b"null", b"[[[[[[[[", b"{\"a\":", b"\"batch\":["]
    NAMES = ["type", "event", "name", "userId", "anonymousId", "messageId", "groupId", "previousId", "timestamp", "sentAt",
             "originalTimestamp", "receivedAt", "properties", "traits", "context", "category", "writeKey", "batch", "extra", ""]

    def __init__(self, chance):
        self.chance = chance

    def value(self, depth=0):
        kind = self.chance.randrange(9 if depth < 4 else 6)
        if kind < 2:
            return json.dumps(self.chance.choice(self.STRINGS), ensure_ascii=self.chance.random() < 0.3)
        if kind == 2:
            return self.chance.choice(self.NUMBERS)
        if kind == 3:
            return json.dumps(self.chance.choice(self.TIMES))
        if kind < 6:
            return self.chance.choice(["null", "true", "false", "{}", "[]"])
        if kind == 6:
            return "[%s]" % ",".join(self.value(depth + 1) for _ in range(self.chance.randrange(4)))
        return "{%s}" % ",".join("%s:%s" % (json.dumps(self.chance.choice(self.NAMES)), self.value(depth + 1))
                                 for _ in range(self.chance.randrange(5)))

    def call(self):
        kind = self.chance.choice(["track", "identify", "page", "screen", "group", "alias"])
        member = {"type": json.dumps(kind), "userId": json.dumps("u%d" % self.chance.randrange(50)),
                  "messageId": json.dumps("m%d" % self.chance.randrange(2000))}
        member.update({"track": {"event": '"E"'}, "group": {"groupId": '"g"'}, "alias": {"previousId": '"p"'},
                       "identify": {"traits": '{"email":"%s"}' % self.chance.choice(["a@b.c", "A@B.C ", "x"])}}.get(kind, {}))
        for _ in range(self.chance.randrange(4)):
            member[self.chance.choice(self.NAMES)] = self.value()
        if self.chance.random() < 0.02:
            member["properties"] = "[" * 12000 + "]" * 12000
        return "{%s}" % ",".join("%s:%s" % (json.dumps(name), value) for name, value in member.items())

    def body(self):
        shape = self.chance.randrange(4)
        if shape == 0:
            text = self.call()
        elif shape == 1:
            text = "[%s]" % ",".join(self.call() for _ in range(self.chance.randrange(20)))
        else:
            text = '{"batch":[%s]%s%s}' % (",".join(self.call() for _ in range(self.chance.randrange(20))),
                                           ',"sentAt":' + self.value() if self.chance.random() < 0.4 else "",
                                           ',"context":' + self.value() if self.chance.random() < 0.4 else "")
        return text

    def bytes(self):
        data = bytearray(self.body().encode("utf-8", "surrogatepass"))
        while data and self.chance.random() < 0.5:
            at = self.chance.randrange(len(data))
            change = self.chance.randrange(4)
            if change == 0:
                data[at:at] = self.chance.choice(self.BYTES)
            elif change == 1:
                del data[at:at + self.chance.randrange(1, 8)]
            elif change == 2:
                data[at] = self.chance.randrange(256)
            else:
                del data[at:]
        return bytes(data)


def json_test_suite(directory):
    wrong = []
    wrapper = b'{"type":"track","event":"x","userId":"u","properties":{"v":%s}}'
    for path in sorted(glob.glob(os.path.join(directory, "[ny]_*.json"))):
        name = os.path.basename(path)
        with open(path, "rb") as file:
            document = file.read()
        script = post([document]) + post([wrapper % document]) + "SELECT sqlstate FROM cdi.failed_events ORDER BY failed_id DESC LIMIT 1;"
        code, out, errors = psql(script)
        lines = out.splitlines()
        if code != 0 or errors or len(lines) != 3:
            wrong.append("%s: %s %s" % (name, out, errors))
            continue
        as_event, as_properties, sqlstate = lines
        if name.startswith("n_") and not (as_event.startswith("0|") and as_properties.startswith("0|")):
            wrong.append("%s was taken: %s, %s" % (name, as_event, as_properties))
        if name.startswith("y_") and as_properties != "1|0" and sqlstate != NOT_IN_JSONB:
            wrong.append("%s was refused as properties: %s %s" % (name, as_properties, sqlstate))
    result(not wrong, "JSONTestSuite: n_ documents are refused, y_ documents taken", "\n".join(wrong))


def fuzz(seconds, seed):
    mutator = Mutator(random.Random(seed))
    chance = mutator.chance
    until = time.time() + seconds
    rounds = sent = 0
    unexpected = []
    while time.time() < until and len(unexpected) < 5:
        script = ""
        for _ in range(8):
            door = chance.randrange(4)
            if chance.random() < 0.15:
                script += "SET statement_timeout = %d;\n" % chance.randrange(1, 20)
            level = chance.choice(["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
            if door < 2:
                bodies = [mutator.bytes() for _ in range(chance.randrange(1, 40))]
                sent += len(bodies)
                script += "RESET statement_timeout;\n" + post(bodies)
            elif door == 2:
                text = mutator.body().replace("'", "''")
                script += "BEGIN ISOLATION LEVEL %s; SAVEPOINT s;\n" % level
                script += "SELECT * FROM cdi_ingest('%s', '%s', %s);\n" % (text, SOURCE, chance.choice(["true", "false"]))
                script += chance.choice(["COMMIT;\n", "ROLLBACK;\n", "ROLLBACK TO s; COMMIT;\n"])
                sent += 1
            else:
                script += "SELECT * FROM cdi_replay(source => '%s', max_events => %d);\n" % (SOURCE, chance.randrange(200))
            script += "RESET statement_timeout;\n"
        code, _, errors = psql(script)
        rounds += 1
        for line in errors.splitlines():
            # what the server may say: our ZC, its own data errors, cancelled, rolled back, serialisation
            state = line.split("ERROR:")[-1].strip()
            if "ERROR:" not in line or not (state[:2] in ("ZC", "22", "40", "25") or state in ("57014", "54001")):
                unexpected.append("round %d: %s" % (rounds, line))
        if code != 0:
            unexpected.append("round %d: psql ended with %d" % (rounds, code))
    result(not unexpected, "mutated bodies reach no crash and no error of the server (seed %d)" % seed, "\n".join(unexpected))
    print("# %d bodies in %d rounds" % (sent, rounds))


def accounts():
    where = "source_id = (SELECT source_id FROM cdi.sources WHERE name = '%s')" % SOURCE
    for name, query in [
            ("received = stored + duplicate + failed + withheld",
             "SELECT received = stored + duplicate + failed + withheld FROM cdi.pipeline_counts WHERE source = '%s'" % SOURCE),
            ("stored is the number of rows",
             "SELECT stored = (SELECT count(*) FROM cdi.events WHERE %s) FROM cdi.pipeline_counts WHERE source = '%s'" % (where, SOURCE)),
            ("failed is the number of rows",
             "SELECT failed = (SELECT count(*) FROM cdi.failed_events WHERE %s) FROM cdi.pipeline_counts WHERE source = '%s'" % (where, SOURCE)),
            ("each message id is stored once",
             "SELECT count(*) = count(DISTINCT (source_id, message_id)) AND count(*) = count(DISTINCT event_id) FROM cdi.events"),
            ("each position is given once", "SELECT count(*) = count(DISTINCT position) FROM cdi.events"),
            ("each stored event has its message key",
             "SELECT count(*) = 0 FROM cdi.events e WHERE NOT EXISTS (SELECT FROM cdi.message_keys_0 k WHERE k.key = e.event_id)"),
            ("everything stored is valid text",
             "SELECT bool_and(convert_from(convert_to(e::text, 'UTF8'), 'UTF8') = e::text) FROM cdi.events e"),
            ("everything failed is valid text",
             "SELECT bool_and(convert_from(convert_to(f::text, 'UTF8'), 'UTF8') = f::text) FROM cdi.failed_events f")]:
        code, out, errors = psql(query + ";")
        result(code == 0 and out == "t", name, out + errors)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json-test-suite", default=os.environ.get("JSON_TEST_SUITE"))
    arguments = parser.parse_args()
    psql("SELECT cdi_create_source('%s');" % SOURCE)
    if arguments.json_test_suite:
        json_test_suite(arguments.json_test_suite)
    fuzz(arguments.seconds, arguments.seed)
    accounts()
    print("1..%d" % numbers)
    sys.exit(bad > 0)


main()
