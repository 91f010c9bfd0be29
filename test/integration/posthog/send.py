"""Use the SDK as its documentation does; only the host is ours.

Usage: send.py HOST API_KEY
"""
import datetime
import sys

from posthog import Posthog

host, api_key = sys.argv[1:]
posthog = Posthog(api_key, host=host, timeout=180)

posthog.capture("Order Completed", distinct_id="python-1",
                properties={"revenue": 19.99, "tax": 0.1, "big": 12345678901234567890, "note": "größer", "$ip": "203.0.113.7"},
                groups={"company": "acme"},
                timestamp=datetime.datetime(2026, 5, 4, 3, 2, 1, 123000, tzinfo=datetime.timezone.utc))
posthog.set(distinct_id="python-1", properties={"email": "Grace@Example.com"})
posthog.set_once(distinct_id="python-1", properties={"first": 1})
posthog.group_identify("company", "acme", {"name": "Acme"})
posthog.alias(previous_id="python-anon", distinct_id="python-1")
posthog.capture("nobody")
for i in range(100):
    posthog.capture("Tick", distinct_id="python-1", properties={"i": i})
posthog.flush(timeout_seconds=None)
posthog.shutdown()
