"""Use the SDK as its documentation does; only the host is ours.

Usage: send.py HOST post|get
"""
import sys

from snowplow_tracker import EmitterConfiguration, PageView, ScreenView, SelfDescribing, SelfDescribingJson, Snowplow, StructuredEvent, Subject

host, method = sys.argv[1:]
unsent = []
tracker = Snowplow.create_tracker(
    namespace="shop", endpoint=host, method=method, app_id="shop",
    subject=Subject().set_user_id("python-1").set_lang("de").set_ip_address("203.0.113.7"),
    emitter_config=EmitterConfiguration(batch_size=5 if method == "post" else 1,
                                        on_failure=lambda sent, events: unsent.extend(events)))
tracker.track(PageView(page_url="https://shop.example/?gclid=abc", page_title="Größe", referrer="https://www.google.com/"))
tracker.track(SelfDescribing(
    SelfDescribingJson("iglu:com.acme/order_completed/jsonschema/1-0-0",
                       {"revenue": 19.99, "tax": 0.1, "big": 12345678901234567890, "items": [{"sku": "a-1"}], "note": "größer\u2028“quoted”"}),
    context=[SelfDescribingJson("iglu:com.acme/cart/jsonschema/1-0-0", {"size": 2})],
    true_timestamp=1777863721123))
tracker.track(StructuredEvent(category="Shop", action="add-to-basket", label="Hat", property_="pcs", value=2.5))
tracker.track(ScreenView(id_="5d79770b-015b-4af8-8c91-b2ed6faf4b1e", name="Start"))
tracker.flush()
for i in range(10):
    tracker.track(StructuredEvent(category="Shop", action="tick", value=i))
tracker.flush()
for event in unsent:
    print("not sent:", event, file=sys.stderr)
sys.exit(1 if unsent else 0)
