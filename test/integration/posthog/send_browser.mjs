// posthog-js in Chromium.
// Usage: send_browser.mjs HOST API_KEY
import { withPage } from '../../lib/browser.mjs'

const [host, apiKey] = process.argv.slice(2)
await withPage({ sdk: 'posthog', script: 'page.mjs', values: { host, apiKey }, host, events: 16, leaving: 11 }, async (page, arrived) => {
    // The page view comes a little after the SDK, and shall be nobody's.
    await arrived(1, 500)
    await page.evaluate(() => {
        posthog.capture('Order Completed', {
            revenue: 19.99, tax: 0.1, items: [{ sku: 'a-1', price: 1e21 }], note: 'größer\u2028“quoted”',
        })
        posthog.identify('web-1', { email: 'Ada@Example.com' }, { first: 'größer' })
        posthog.group('company', 'acme', { name: 'Acme' })
        posthog.alias('web-alias')
    })
    // Batches go out every three seconds.
    await arrived(5, 3300)
    await page.evaluate(() => {
        // This one goes out because the page is left: were it under way by its
        // timer then, it would go down with the page.
        const later = window.setTimeout
        window.setTimeout = (call, delay, ...rest) => delay === 3000 ? 0 : later(call, delay, ...rest)
        for (let i = 0; i < 10; i++) {
            posthog.capture('Tick', { i })
        }
    })
})
