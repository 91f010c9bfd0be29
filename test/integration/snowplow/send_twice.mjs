// A visitor who comes back: two loads of a page, in a browser that keeps its
// cookies, seen by a collector on a host of the same site.
// Usage: send_twice.mjs HOST post|get
import { withPage } from '../../lib/browser.mjs'

const [host, eventMethod] = process.argv.slice(2)
await withPage({ sdk: 'snowplow', script: 'page.mjs', values: { host, options: { eventMethod } }, host: `http://127.0.0.1:${new URL(host).port}`, events: 2 }, async (page) => {
    for (const title of ['first', 'second']) {
        await page.evaluate((title) => {
            trackPageView({ title })
            flushBuffer()
        }, title)
        // The tracker sends again after the reload what it has not yet seen
        // answered, and writes the visitor's cookie a little later.
        await page.waitForFunction(() => document.cookie.includes('_sp_id.') &&
            Object.keys(localStorage).every((key) => !key.startsWith('snowplowOutQueue_') || localStorage[key] === '[]'))
        if (title === 'first') {
            await page.reload()
        }
    }
})
