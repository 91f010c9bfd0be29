// Use the SDK as its documentation does; only the host is ours.
// Usage: send.mjs HOST WRITE_KEY
import { createRequire } from 'node:module'

const require = createRequire(process.env.NODE_PLACE + '/')
const { jitsuAnalytics } = require('@jitsu/js')

const [host, writeKey] = process.argv.slice(2)
// The SDK only logs what it could not send.
console.error = (...message) => {
    console.warn(...message)
    process.exitCode = 1
}
// Keys of Jitsu have two parts; its server looks at both, cdi at the first.
const jitsu = jitsuAnalytics({ host, writeKey: writeKey + ':js' })

await jitsu.page({ name: 'Home', category: 'Shop', path: '/', context: { ip: '203.0.113.7' } })
await jitsu.identify('node-1', { email: 'Ada@Example.com', plan: 'pro' })
await jitsu.track('Order Completed', {
    revenue: 19.99, tax: 0.1, items: [{ sku: 'a-1', price: 1e21 }], note: 'größer\u2028“quoted”',
})
await jitsu.group('acme', { name: 'Acme' })
for (let i = 0; i < 10; i++) {
    await jitsu.track('Tick', { i })
}
