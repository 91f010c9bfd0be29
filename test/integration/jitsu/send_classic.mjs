// @jitsu/sdk-js, the SDK before @jitsu/js, in Chromium.
// Usage: send_classic.mjs HOST WRITE_KEY
import { withPage } from '../../lib/browser.mjs'

const [host, writeKey] = process.argv.slice(2)
await withPage({ sdk: 'jitsu', script: 'page_classic.mjs', values: { host, writeKey }, host, events: 3 }, async (page) => {
    await page.evaluate(async () => {
        await jitsu.track('page_view', { shelf: 3 })
        await jitsu.id({ id: 'classic-1', email: 'Ada@Example.com' })
        await jitsu.track('order', { revenue: 19.99, note: 'größer\u2028“quoted”' })
    })
})
