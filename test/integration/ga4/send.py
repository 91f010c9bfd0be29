"""Send by the Measurement Protocol; only the address is ours.

Usage: send.py HOST MEASUREMENT_ID API_SECRET
"""
import datetime
import sys

from ga4mp import GtagMP

host, measurement_id, api_secret = sys.argv[1:]
client_id = "1234567890.1795485000"
ga = GtagMP(api_secret, measurement_id, client_id)
ga._base_domain = host + "/mp/collect"

ga.store.set_user_property(name="plan", value="pro")
page = ga.create_new_event(name="page_view")
page.set_event_param(name="page_location", value="https://shop.example/?gclid=abc")
page.set_event_param(name="page_referrer", value="https://www.google.com/")
page.set_event_param(name="page_title", value="Größe")
order = ga.create_new_event(name="purchase")
for name, value in {"transaction_id": "order-1", "currency": "EUR", "value": 19.99, "tax": 0.1, "shipping": 0, "affiliation": "web",
                    "coupon": "spring", "note": "größer\u2028“quoted”"}.items():
    order.set_event_param(name=name, value=value)
hat = order.create_new_item(item_id="a-1", item_name="Hat")
hat.set_parameter(name="price", value=9.95)
hat.set_parameter(name="quantity", value=2)
order.add_item_to_event(hat)
# An answer of 400 or more is raised.
ga.send([page, order])
old = ga.create_new_event(name="old_tick")
old.set_event_param(name="i", value=-1)
ga.send([old], date=datetime.datetime.now() - datetime.timedelta(hours=1))
# Two batches: the protocol takes 25 events at a time.
ticks = [ga.create_new_event(name="tick") for i in range(30)]
for i, tick in enumerate(ticks):
    tick.set_event_param(name="i", value=i)
ga.send(ticks)
