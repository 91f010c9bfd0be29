// amplitude-js in Chromium.
// Usage: send_browser.mjs HOST API_KEY
import { withPage } from '../../lib/browser.mjs'

const [address, apiKey] = process.argv.slice(2)
await withPage({ sdk: 'amplitude', script: 'page.mjs', values: { address, apiKey }, host: address, events: 6 }, async (page) => {
    await page.evaluate(() => {
        const visitor = amplitude.getInstance()
        visitor.setUserId('page-user-1')
        visitor.identify(new amplitude.Identify().set('plan', 'pro').add('visits', 1))
        visitor.logRevenueV2(new amplitude.Revenue().setProductId('a-1').setPrice(3.99).setQuantity(3))
        visitor.groupIdentify('company', 'acme', new amplitude.Identify().set('name', 'Acme'))
        visitor.logEvent('Order Completed', { revenue: 19.99, note: 'größer\u2028“quoted”' })
    })
})
