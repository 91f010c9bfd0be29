// Use the SDK as its documentation does; only the host is ours.
// Usage: send.mjs HOST WRITE_KEY
import { createRequire } from 'node:module'

const require = createRequire(process.env.NODE_PLACE + '/')
const Analytics = require('@rudderstack/rudder-sdk-node')

const [host, writeKey] = process.argv.slice(2)
// A batch that is refused rejects flush(), or ends the process.
const client = new Analytics(writeKey, { dataPlaneUrl: host })

client.identify({ userId: 'node-1', context: { traits: { email: 'Ada@Example.com', plan: 'pro' } } })
client.track({
    userId: 'node-1',
    event: 'Order Completed',
    properties: { revenue: 19.99, tax: 0.1, items: [{ sku: 'a-1', price: 1e21 }], note: 'größer\u2028“quoted”' },
    context: { ip: '203.0.113.7', campaign: { source: 'newsletter', medium: 'email', name: 'spring' } },
    originalTimestamp: new Date('2026-05-04T03:02:01.123Z'),
    messageId: 'node-order-1',
})
client.page({ anonymousId: 'node-anon', name: 'Home', category: 'Shop', properties: { path: '/' } })
client.screen({ anonymousId: 'node-anon', name: 'Start' })
client.group({ userId: 'node-1', groupId: 'acme', traits: { name: 'Acme' } })
client.alias({ userId: 'node-1', previousId: 'node-anon' })
await client.flush()
for (let i = 0; i < 100; i++) {
    client.track({ userId: `node-bulk-${i}`, event: 'Tick', properties: { i } })
}
await client.flush()
