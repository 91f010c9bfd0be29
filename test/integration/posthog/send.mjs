// Use the SDK as its documentation does; only the host is ours.
// Usage: send.mjs HOST API_KEY
import { createRequire } from 'node:module'

const require = createRequire(process.env.NODE_PLACE + '/')
const { PostHog } = require('posthog-node')

const [host, apiKey] = process.argv.slice(2)
const posthog = new PostHog(apiKey, { host, requestTimeout: 180000 })
let refused = 0
posthog.on('error', (error) => {
    console.error(error)
    refused += 1
})

posthog.capture({ distinctId: 'node-anon', event: 'page viewed', properties: { $current_url: 'https://shop.example/?gclid=abc' } })
posthog.identify({ distinctId: 'node-1', properties: { email: 'Ada@Example.com', plan: 'pro', $set_once: { first: 'größer' } } })
posthog.alias({ distinctId: 'node-1', alias: 'node-anon' })
posthog.groupIdentify({ groupType: 'company', groupKey: 'acme', properties: { name: 'Acme' }, distinctId: 'node-1' })
posthog.capture({
    distinctId: 'node-1',
    event: 'Order Completed',
    properties: { revenue: 19.99, tax: 0.1, items: [{ sku: 'a-1', price: 1e21 }], note: 'größer\u2028“quoted”', $ip: '203.0.113.7' },
    groups: { company: 'acme' },
    timestamp: new Date('2026-05-04T03:02:01.123Z'),
    uuid: '018f4bd2-1c63-7a52-8000-000000000001',
})
await posthog.flush()
for (let i = 0; i < 100; i++) {
    posthog.capture({ distinctId: `node-bulk-${i}`, event: 'Tick', properties: { i } })
}
await posthog.shutdown(180000)
process.exit(refused ? 1 : 0)
