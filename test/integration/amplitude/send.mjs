// Use the SDK as its documentation does; only the address is ours.
// Usage: send.mjs HOST API_KEY [batch]
import { createRequire } from 'node:module'

const require = createRequire(process.env.NODE_PLACE + '/')
const amplitude = require('@amplitude/analytics-node')

const [host, apiKey, batch] = process.argv.slice(2)
const useBatch = batch === 'batch'
if (useBatch) {
    await amplitude.init(apiKey, { serverUrl: `${host}/batch`, useBatch, requestTimeoutMillis: 180000 }).promise
} else {
    await amplitude.init(apiKey, { serverUrl: `${host}/2/httpapi`, requestTimeoutMillis: 180000 }).promise
}

const user = { user_id: 'node-user-1', device_id: 'node-device-1' }
const order = { revenue: 19.99, tax: 0.1, items: [{ sku: 'a-1', price: 1e21 }], note: 'größer\u2028“quoted”' }
const sent = [
    amplitude.track('Order Completed', order, {
        ...user, time: Date.parse('2026-05-04T03:02:01.123Z'), insert_id: 'node-order-1', ip: '203.0.113.7', session_id: 1777863000000,
    }),
    amplitude.identify(new amplitude.Identify().set('email', 'Ada@Example.com').setOnce('first', 'größer').add('visits', 1)
        .append('seen', 'hats').unset('old'), user),
    amplitude.setGroup('company', 'acme', user),
    amplitude.groupIdentify('company', 'acme', new amplitude.Identify().set('name', 'Acme'), user),
    amplitude.revenue(new amplitude.Revenue().setProductId('a-1').setPrice(3.99).setQuantity(3), user),
    // The same call again: one event.
    amplitude.track('Order Completed', order, { ...user, insert_id: 'node-order-1' }),
]
await amplitude.flush().promise
for (let i = 0; i < 10; i++) {
    sent.push(amplitude.track('Tick', { i }, { user_id: `node-bulk-${i}` }))
}
await amplitude.flush().promise
let refused = 0
for (const { promise } of sent) {
    const { event, code, message } = await promise
    if (code !== 200) {
        console.error(event.event_type, code, message)
        refused += 1
    }
}
process.exit(refused ? 1 : 0)
