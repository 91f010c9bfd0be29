"""cdi_ingest() in batches against COPY into a staging table and INSERT ... SELECT, and bulk import against both."""
import json
import os
import tempfile

import pq
from measure import HERE, Row, checkpoint, clock, interleave

# Columns that both tables must agree in.  Keys differ, because cdi's are
# keyed; received_at is each its own; the alternative does not decode
# addresses, but the simulation gives the decoded campaign beside them.
SAME = ('original_timestamp, sent_at, type, event, category, message_id, user_id, anonymous_id, group_id, previous_id, '
        'campaign_source, campaign_medium, campaign_name, campaign_term, campaign_content, click_id_type, '
        'referrer_host, page_host, properties, traits, context, extra, '
        '"timestamp" - CASE WHEN original_timestamp IS NULL THEN received_at ELSE original_timestamp END')

EMPTY = ("TRUNCATE cdi.events, cdi.identity_links, cdi.imports, cdi.pipeline_deltas, "
         "cdi.message_keys_0, cdi.message_keys_1, cdi.message_keys_2, cdi.message_keys_3")


def simulated(db, persons):
    """Calls of simulated people as compact JSON, which is how SDKs send them."""
    return [json.dumps(json.loads(call), separators=(",", ":"), ensure_ascii=False)
            for call, in db("SELECT cdi_simulate(%d)" % persons)]


# The form of COPY that takes a line as it is
LINES = r"COPY cdi.import FROM STDIN WITH (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')"


def copy_line(call):
    return (call.replace("\\", "\\\\") + "\n").encode()


class Ingest:
    def __init__(self, database, persons, batch):
        self.db = pq.Connection("dbname=" + database)
        self.db("CREATE EXTENSION cdi")
        self.db("SELECT cdi_init()")
        with open(os.path.join(HERE, "alternative.sql")) as file:
            self.db(file.read())
        self.pid = int(self.db.value("SELECT pg_backend_pid()"))
        self.cpu = {}
        self.insert = self.db.value("SELECT sql FROM hand.insert_statement")
        self.db("CREATE TEMP TABLE staging (doc jsonb) ON COMMIT DELETE ROWS")
        self.db.prepare("ingest", "SELECT * FROM cdi_ingest($1::jsonb, 'sql')")
        self.db.prepare("insert", self.insert)
        calls = simulated(self.db, persons)
        parts = [calls[i:i + batch] for i in range(0, len(calls), batch)]
        self.n = len(calls)
        self.bodies = [("[" + ",".join(part) + "]").encode() for part in parts]
        self.copies = [b"".join(map(copy_line, part)) for part in parts]
        self.lines = [("\n".join(part) + "\n").encode() for part in parts]
        self.batch = batch
        self.file = tempfile.NamedTemporaryFile(prefix="cdi_bench_", suffix=".ndjson")
        self.file.write(b"".join(self.lines))
        self.file.flush()
        os.chmod(self.file.name, 0o644)  # the server reads it

    def took(self, name, clock):
        self.cpu.setdefault(name, []).append(clock.cpu / self.n * 1e6)
        return self.n / clock.seconds

    def cdi(self):
        self.db(EMPTY)
        checkpoint(self.db)
        with clock(self.pid) as took:
            for body in self.bodies:
                self.db.execute("ingest", body)
        return self.took("cdi", took)

    def bulk_batches(self):
        self.db(EMPTY)
        checkpoint(self.db)
        with clock(self.pid) as took:
            for lines in self.lines:
                self.db.copy(LINES, [lines])
        return self.took("bulk", took)

    def bulk_once(self):
        self.db(EMPTY)
        checkpoint(self.db)
        with clock(self.pid) as took:
            self.db.copy(LINES, self.lines)
        return self.took("bulk_once", took)

    def bulk_file(self):
        self.db(EMPTY)
        checkpoint(self.db)
        with clock(self.pid) as took:
            self.db("CALL cdi_import('%s', batch_lines => %d)" % (self.file.name, self.batch))
        return self.took("bulk_file", took)

    def hand_batches(self):
        self.db("TRUNCATE hand.events")
        checkpoint(self.db)
        with clock(self.pid) as took:
            for copy in self.copies:
                self.db("BEGIN")
                self.db.copy("COPY staging FROM STDIN", [copy])
                self.db.execute("insert")
                self.db("COMMIT")
        return self.took("batches", took)

    def hand_at_once(self):
        self.db("TRUNCATE hand.events")
        checkpoint(self.db)
        with clock(self.pid) as took:
            self.db("BEGIN")
            self.db.copy("COPY staging FROM STDIN", self.copies)
            self.db.execute("insert")
            self.db("COMMIT")
        return self.took("once", took)

    def floor(self):
        self.db("TRUNCATE hand.documents")
        checkpoint(self.db)
        with clock(self.pid) as took:
            self.db.copy("COPY hand.documents FROM STDIN", self.copies)
        return self.took("floor", took)

    def check(self):
        """Both must hold the same events with the same fields."""
        differing = int(self.db.value(
            "SELECT count(*) FROM (SELECT %s FROM cdi.events) a FULL JOIN (SELECT %s FROM hand.events) b"
            " USING (message_id) WHERE a IS DISTINCT FROM b" % (SAME, SAME)))
        if differing:
            raise SystemExit("%d events differ between cdi.events and the hand-written table" % differing)
        return int(self.db.value("SELECT count(*) FROM cdi.events"))


def run(database, options):
    ingest = Ingest(database, options.persons, options.batch)
    got = interleave(options.repetitions, cdi=ingest.cdi, batches=ingest.hand_batches,
                     once=ingest.hand_at_once, floor=ingest.floor, bulk=ingest.bulk_batches, bulk_once=ingest.bulk_once,
                     bulk_file=ingest.bulk_file)
    stored = ingest.check()
    ingest.db.close()
    what = "cdi_ingest, batches of %d" % options.batch
    note = {"events": ingest.n, "stored": stored}
    floor = ("COPY to a jsonb table", got["floor"])
    return [
        Row("ingest_batches", what, "events/s", got["cdi"],
            ("COPY, INSERT ... SELECT, same commits", got["batches"]), floor, target=1.0, note=note),
        Row("ingest_once", what, "events/s", got["cdi"],
            ("COPY, INSERT ... SELECT, one commit", got["once"]), floor, target=0.8, note=note),
        # What other work on the machine does not blur as much.
        Row("ingest_cpu", "  CPU time of its server process", "us/event", ingest.cpu["cdi"],
            ("COPY, INSERT ... SELECT, same commits", ingest.cpu["batches"]),
            ("COPY to a jsonb table", ingest.cpu["floor"])),
        Row("bulk_batches", "COPY into cdi.import, same commits", "events/s", got["bulk"],
            ("cdi_ingest", got["cdi"]), floor, target=1.0, note=note),
        Row("bulk_file", "CALL cdi_import of a file, same commits", "events/s", got["bulk_file"],
            ("cdi_ingest", got["cdi"]), floor, target=1.0, note=note),
        Row("bulk_once", "COPY into cdi.import, one commit", "events/s", got["bulk_once"],
            ("COPY, INSERT ... SELECT, one commit", got["once"]), floor, note=note),
        Row("bulk_cpu", "  CPU time of COPY into cdi.import", "us/event", ingest.cpu["bulk"],
            ("cdi_ingest", ingest.cpu["cdi"]), ("COPY to a jsonb table", ingest.cpu["floor"])),
        Row("bulk_file_cpu", "  CPU time of CALL cdi_import", "us/event", ingest.cpu["bulk_file"],
            ("cdi_ingest", ingest.cpu["cdi"]), ("COPY to a jsonb table", ingest.cpu["floor"])),
    ]
