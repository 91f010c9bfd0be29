"""What the receiving endpoint holds in the end: customers, and their revenue added
up exactly.  A row may come twice (delivery is at least once); the last one counts.

Usage: received.py BODIES_FILE
"""
import decimal
import json
import sys

rows = {}
for line in open(sys.argv[1], encoding="utf8"):
    for record in json.loads(line, parse_float=decimal.Decimal):
        if record["operation"] == "delete":
            rows.pop(record["primary_key"], None)
        else:
            rows[record["primary_key"]] = record["row"]
print(len(rows), sum(decimal.Decimal(row["revenue"]) for row in rows.values()))
