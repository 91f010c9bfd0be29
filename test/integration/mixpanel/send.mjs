// Use the SDK as its documentation does; only the host is ours.
// Usage: send.mjs HOST TOKEN
import { createRequire } from 'node:module'
import { promisify } from 'node:util'

const require = createRequire(process.env.NODE_PLACE + '/')
const Mixpanel = require('mixpanel')

const [address, token] = process.argv.slice(2)
const { protocol, host } = new URL(address)
const mixpanel = Mixpanel.init(token, { host, protocol: protocol.slice(0, -1) })

// Each call ends with a callback, which gets what went wrong.
let refused = 0
const call = (verb, ...args) => promisify(verb).apply(mixpanel, args).catch((error) => {
    console.error(error.message ?? error)
    refused += 1
})
const { people, groups } = mixpanel
const order = { revenue: 19.99, tax: 0.1, items: [{ sku: 'a-1', price: 1e21 }], note: 'größer\u2028“quoted”' }
const inContext = (object, verb) => object[verb].bind(object)

await call(mixpanel.track, 'Order Completed', {
    ...order, distinct_id: 'node-1', $insert_id: 'node-order-1', ip: '203.0.113.7', time: new Date(Date.now() - 3600000),
})
await call(mixpanel.track, 'Anonymous View', { $device_id: 'node-device-1', distinct_id: '$device:node-device-1' })
await call(inContext(people, 'set'), 'node-1', { $email: 'Ada@Example.com', plan: 'pro' })
await call(inContext(people, 'set_once'), 'node-1', { first: 'größer' })
await call(inContext(people, 'increment'), 'node-1', { visits: 1 })
await call(inContext(people, 'append'), 'node-1', { seen: 'hats' })
await call(inContext(people, 'union'), 'node-1', { tags: ['a', 'b'] })
await call(inContext(people, 'unset'), 'node-1', 'old')
await call(inContext(people, 'track_charge'), 'node-1', 40)
await call(inContext(groups, 'set'), 'company', 'acme', { name: 'Acme' })
await call(mixpanel.alias, 'node-1', 'node-alias')
await call(mixpanel.track_batch, Array.from({ length: 10 }, (_, i) => ({
    event: 'Tick', properties: { i, distinct_id: `node-bulk-${i}`, $insert_id: `node-tick-${i}` },
})))
process.exit(refused ? 1 : 0)
