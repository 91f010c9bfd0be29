// Use the SDK as its documentation does; only the host is ours.
// Usage: send.mjs HOST post|get
import { createRequire } from 'node:module'

const require = createRequire(process.env.NODE_PLACE + '/')
const { newTracker, buildPageView, buildSelfDescribingEvent, buildStructEvent, buildScreenView } =
    require('@snowplow/node-tracker')

const [host, eventMethod] = process.argv.slice(2)
let failed = 0
const tracker = newTracker(
    { namespace: 'shop', appId: 'shop', encodeBase64: eventMethod === 'get' },
    {
        endpoint: host, eventMethod, bufferSize: eventMethod === 'get' ? 1 : 5, connectionTimeout: 180000,
        onRequestFailure: (batch) => {
            console.error('not sent:', batch.message ?? batch)
            failed += 1
        },
    },
)
tracker.setUserId('node-1')
tracker.setLang('de')
tracker.setIpAddress('203.0.113.7')
tracker.track(buildPageView({ pageUrl: 'https://shop.example/?gclid=abc', pageTitle: 'Größe', referrer: 'https://www.google.com/' }))
tracker.track(
    buildSelfDescribingEvent({
        event: {
            schema: 'iglu:com.acme/order_completed/jsonschema/1-0-0',
            data: { revenue: 19.99, tax: 0.1, items: [{ sku: 'a-1', price: 1e21 }], note: 'größer\u2028“quoted”' },
        },
    }),
    [{ schema: 'iglu:com.acme/cart/jsonschema/1-0-0', data: { size: 2 } }],
    { type: 'ttm', value: Date.parse('2026-05-04T03:02:01.123Z') },
)
tracker.track(buildStructEvent({ category: 'Shop', action: 'add-to-basket', label: 'Hat', property: 'pcs', value: 2.5 }))
tracker.track(buildScreenView({ id: '5d79770b-015b-4af8-8c91-b2ed6faf4b1e', name: 'Start' }))
await tracker.flush()
for (let i = 0; i < 10; i++) {
    tracker.track(buildStructEvent({ category: 'Shop', action: 'tick', value: i }))
}
await tracker.flush()
// Failures are told a little after the flush.
process.once('beforeExit', () => {
    process.exitCode = failed ? 1 : 0
})
