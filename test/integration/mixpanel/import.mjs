// Import of older events, as the SDK's documentation does it.
// Over plain HTTP the SDK takes only its oldest credential, the key in the URL.
// Usage: import.mjs HOST TOKEN
import { createRequire } from 'node:module'
import { promisify } from 'node:util'

const require = createRequire(process.env.NODE_PLACE + '/')
const Mixpanel = require('mixpanel')

const [address, token] = process.argv.slice(2)
const { protocol, host } = new URL(address)
const mixpanel = Mixpanel.init(token, { host, protocol: protocol.slice(0, -1), key: token })

await promisify(mixpanel.import).call(mixpanel, 'Old Order', new Date('2025-05-04T03:02:01.123Z'), {
    distinct_id: 'node-1', $insert_id: 'node-import-1', revenue: 19.99,
})
await promisify(mixpanel.import_batch).call(mixpanel, Array.from({ length: 10 }, (_, i) => ({
    event: 'Old Tick',
    properties: { i, time: new Date('2025-05-04T03:02:01.123Z'), distinct_id: `node-bulk-${i}`, $insert_id: `node-old-${i}` },
})))
