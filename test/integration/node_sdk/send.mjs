// Use the SDK as its documentation does; only the host is ours.
// Usage: send.mjs HOST WRITE_KEY [BURST]
import { createRequire } from 'node:module'

const require = createRequire(process.env.NODE_PLACE + '/')
const { Analytics } = require('@segment/analytics-node')

const [host, writeKey, burst] = process.argv.slice(2)
const analytics = new Analytics({ writeKey, host, httpRequestTimeout: 180000 })
let refused = 0
analytics.on('error', (error) => {
    console.error(error)
    refused += 1
})

if (burst) {
    for (let i = 0; i < Number(burst); i++) {
        analytics.track({
            anonymousId: `node-visitor-${i % 25}`,
            event: 'Product Viewed',
            properties: { product_id: `p${i % 7}`, price: 19.99 },
        })
    }
} else {
    const context = {
        ip: '203.0.113.7',
        campaign: { source: 'newsletter', medium: 'email', name: 'spring' },
        page: { url: 'https://shop.example/?gclid=abc', referrer: 'https://www.google.com/' },
    }
    analytics.identify({ userId: 'node-1', traits: { email: 'Ada@Example.com', plan: 'pro' } })
    analytics.track({
        userId: 'node-1',
        event: 'Order Completed',
        properties: { revenue: 19.99, tax: 0.1, items: [{ sku: 'a-1', price: 1e21 }], note: 'größer\u2028“quoted”' },
        context,
        timestamp: new Date('2026-05-04T03:02:01.123Z'),
        messageId: 'node-order-1',
    })
    analytics.page({ anonymousId: 'node-anon', name: 'Home', category: 'Shop', properties: { path: '/' } })
    analytics.screen({ anonymousId: 'node-anon', name: 'Start' })
    analytics.group({ userId: 'node-1', groupId: 'acme', traits: { name: 'Acme' } })
    analytics.alias({ userId: 'node-1', previousId: 'node-anon' })
    // The same call again: one event.
    analytics.track({ userId: 'node-1', event: 'Order Completed', messageId: 'node-order-1' })
    for (let i = 0; i < 100; i++) {
        analytics.track({ userId: `node-bulk-${i}`, event: 'Tick', properties: { i } })
    }
}
await analytics.closeAndFlush({ timeout: 180000 })
process.exit(refused ? 1 : 0)
