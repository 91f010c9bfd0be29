// mixpanel-browser in Chromium.
// Usage: send_browser.mjs HOST TOKEN
import { withPage } from '../../lib/browser.mjs'

const [host, token] = process.argv.slice(2)
await withPage({ sdk: 'mixpanel', script: 'page.mjs', values: { host, token }, host, events: 69, leaving: 1 }, async (page, arrived) => {
    await page.evaluate(() => {
        mixpanel.track_pageview()
        mixpanel.track('Anonymous View')
        mixpanel.identify('web-1')
        mixpanel.people.set({ $email: 'Ada@Example.com', plan: 'pro' })
        mixpanel.people.increment('visits')
        mixpanel.get_group('company', 'acme').set({ name: 'Acme' })
        mixpanel.track('Order Completed', { revenue: 19.99, items: [{ sku: 'a-1', price: 1e21 }], note: 'größer\u2028“quoted” 😀' })
        for (let i = 0; i < 60; i++) {
            mixpanel.track('Tick', { i })
        }
    })
    // Batches go out every five seconds; the rest when the page is left.
    await arrived(68, 5500)
    // A batch that is under way when the page is left would go down with it, so
    // the timer is made to wait, from its next turn on.
    await page.evaluate(() => mixpanel.set_config({ batch_flush_interval_ms: 3600000 }))
    await page.waitForFunction(() => mixpanel.request_batchers.events.flushInterval === 3600000)
    await page.evaluate(() => mixpanel.track('Page Left'))
})
