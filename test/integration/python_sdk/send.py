"""Use the SDK as its documentation does; only the host is ours.

Usage: send.py HOST WRITE_KEY gzip|plain
"""
import datetime
import decimal
import sys

import segment.analytics as analytics

host, write_key, how = sys.argv[1:]
refused = []
analytics.write_key = write_key
analytics.host = host
analytics.gzip = how == "gzip"
analytics.timeout = 180
analytics.max_retries = 3
analytics.on_error = lambda error, batch: refused.append(error)
analytics.identify("python-1", {"email": "Ada@Example.com", "born": datetime.date(1815, 12, 10)},
                   message_id=how + "-identify")
analytics.track("python-1", "Order Completed",
                {"revenue": 19.99, "tax": 0.1, "big": 12345678901234567890, "exact": decimal.Decimal("0.30"), "note": "größer"},
                timestamp=datetime.datetime(2026, 5, 4, 3, 2, 1, 123000, tzinfo=datetime.timezone.utc),
                message_id=how + "-order")
analytics.page("python-1", "Shop", "Home", {"path": "/"}, message_id=how + "-page")
analytics.screen("python-1", "App", "Start", message_id=how + "-screen")
analytics.group("python-1", "acme", {"name": "Acme"}, message_id=how + "-group")
analytics.alias("python-anon", "python-1", message_id=how + "-alias")
for i in range(300):
    analytics.track(None, "Tick", {"i": i, "how": how}, anonymous_id="python-bulk-%d" % i)
analytics.shutdown()
for error in refused:
    print(error, file=sys.stderr)
sys.exit(1 if refused else 0)
