// @segment/analytics-next, or another that is made of it, in Chromium.
// Usage: send_browser.mjs HOST WRITE_KEY [SCRIPT]
import { withPage } from '../../lib/browser.mjs'

const [host, writeKey, script = 'page.mjs'] = process.argv.slice(2)
await withPage({ sdk: 'segment', script, values: { host, writeKey }, host, events: 16 }, async (page, arrived) => {
    await page.evaluate(async () => {
        await analytics.page('Shop', 'Home', { shelf: 3 })
        await analytics.track('Order Completed', {
            revenue: 19.99, tax: 0.1, items: [{ sku: 'a-1', price: 1e21 }], note: 'größer\u2028“quoted”',
        })
        await analytics.identify('web-1', { email: 'Ada@Example.com', plan: 'pro' })
        await analytics.group('acme', { name: 'Acme' })
        await analytics.alias('web-1-new', 'web-1')
        await analytics.screen('Start')
    })
    // A second round after the first has gone out.
    await arrived(6, 300)
    await page.evaluate(async () => {
        for (let i = 0; i < 10; i++) {
            await analytics.track('Tick', { i })
        }
    })
})
