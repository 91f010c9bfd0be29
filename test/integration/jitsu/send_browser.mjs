// @jitsu/js in Chromium.
// Usage: send_browser.mjs HOST WRITE_KEY
import { withPage } from '../../lib/browser.mjs'

const [host, writeKey] = process.argv.slice(2)
await withPage({ sdk: 'jitsu', script: 'page.mjs', values: { host, writeKey }, host, events: 14 }, async (page) => {
    await page.evaluate(async () => {
        await jitsu.page({ name: 'Home', category: 'Shop' })
        await jitsu.identify('web-1', { email: 'Ada@Example.com', plan: 'pro' })
        await jitsu.track('Order Completed', {
            revenue: 19.99, tax: 0.1, items: [{ sku: 'a-1', price: 1e21 }], note: 'größer\u2028“quoted”',
        })
        await jitsu.group('acme', { name: 'Acme' })
    })
    await page.evaluate(async () => {
        for (let i = 0; i < 10; i++) {
            await jitsu.track('Tick', { i })
        }
    })
})
