// @rudderstack/analytics-js in Chromium.
// Usage: send_browser.mjs HOST WRITE_KEY [batch]
import { withPage } from '../../lib/browser.mjs'

const [host, writeKey, batch] = process.argv.slice(2)
const script = batch === 'batch' ? 'page_batch.mjs' : 'page.mjs'
const { requests } = await withPage({ sdk: 'rudderstack', script, values: { host, writeKey }, host, events: 15, quiet: 1000 }, async (page, arrived) => {
    await page.evaluate(async () => {
        await new Promise((resolve) => analytics.ready(resolve))
        analytics.page('Shop', 'Home', { shelf: 3 })
        analytics.track('Order Completed', {
            revenue: 19.99, tax: 0.1, items: [{ sku: 'a-1', price: 1e21 }], note: 'größer\u2028“quoted”',
        })
        analytics.identify('web-1', { email: 'Ada@Example.com', plan: 'pro' })
        analytics.group('acme', { name: 'Acme' })
        analytics.alias('web-1-new', 'web-1')
    })
    // A second round after the first has gone out.
    await arrived(5, 500)
    await page.evaluate(() => {
        for (let i = 0; i < 10; i++) {
            analytics.track('Tick', { i })
        }
    })
})
const posts = requests.filter((request) => request.startsWith('POST ')).map((request) => request.replace(/^.*\//, ''))
if (posts.length === 0 || posts.some((path) => (path === 'batch') !== (batch === 'batch'))) {
    throw new Error(`the SDK sent to ${posts}`)
}
