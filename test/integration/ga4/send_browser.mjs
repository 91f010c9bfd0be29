// @minimal-analytics/ga4, which speaks gtag.js' protocol, in Chromium.
// Google's gtag.js itself is in no package registry.
// Usage: send_browser.mjs HOST TRACKING_ID
import { withPage } from '../../lib/browser.mjs'

const [host, trackingId] = process.argv.slice(2)
await withPage({ sdk: 'ga4', script: 'page.mjs', values: { host, trackingId }, host, events: 13, leaving: 1 }, async (page, arrived) => {
    await page.evaluate(() => {
        track()
        track({ type: 'purchase', event: { 'epn.value': 19.99, 'ep.currency': 'EUR', 'ep.note': 'größer\u2028“quoted”' } })
    })
    // A second round after the first has gone out.
    await arrived(2, 300)
    await page.evaluate(() => {
        for (let i = 0; i < 10; i++) {
            track({ type: 'tick', event: { 'epn.i': i } })
        }
    })
})
