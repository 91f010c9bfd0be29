// @snowplow/browser-tracker in Chromium.
// Usage: send_browser.mjs HOST APP_ID-IS-shop [OPTIONS-AS-JSON]
import { withPage } from '../../lib/browser.mjs'

const [host, , options = '{}'] = process.argv.slice(2)
await withPage({ sdk: 'snowplow', script: 'page.mjs', values: { host, options: JSON.parse(options) }, host, events: 13 }, async (page, arrived) => {
    await page.evaluate(() => {
        trackPageView({ title: 'Größe' })
        setUserId('web-1')
        trackSelfDescribingEvent({
            event: {
                schema: 'iglu:com.acme/order_completed/jsonschema/1-0-0',
                data: { revenue: 19.99, tax: 0.1, items: [{ sku: 'a-1', price: 1e21 }], note: 'größer\u2028“quoted”' },
            },
            context: [{ schema: 'iglu:com.acme/cart/jsonschema/1-0-0', data: { size: 2 } }],
        })
        trackStructEvent({ category: 'Shop', action: 'add-to-basket', label: 'Hat', property: 'pcs', value: 2.5 })
        flushBuffer()
    })
    // A second round after the first has gone out.
    await arrived(3, 300)
    await page.evaluate(() => {
        for (let i = 0; i < 10; i++) {
            trackStructEvent({ category: 'Shop', action: 'tick', value: i })
        }
        flushBuffer()
    })
})
