// @amplitude/analytics-browser in Chromium.
// Usage: send_analytics.mjs HOST API_KEY
import { withPage } from '../../lib/browser.mjs'

const [host, apiKey] = process.argv.slice(2)
const { result } = await withPage({ sdk: 'amplitude', script: 'page_analytics.mjs', values: { host, apiKey }, host, events: 18 }, async (page) => {
    const codes = await page.evaluate(async () => {
        await ready
        amplitude.setUserId('web-user-1')
        const sent = [
            amplitude.identify(new amplitude.Identify().set('email', 'Ada@Example.com').add('visits', 1)),
            amplitude.groupIdentify('company', 'acme', new amplitude.Identify().set('name', 'Acme')),
            amplitude.revenue(new amplitude.Revenue().setProductId('a-1').setPrice(3.99).setQuantity(3)),
            // texts that are cut off end anywhere
            amplitude.track('Order Completed', { revenue: 19.99, note: 'größer\u2028“quoted”', cut: '😀😀'.slice(0, 3) }),
        ]
        for (let i = 0; i < 10; i++) {
            sent.push(amplitude.track('Tick', { i }))
        }
        return (await Promise.all(sent.map(({ promise }) => promise))).map(({ code }) => code)
    })
    await page.evaluate(() => {
        amplitude.setTransport('beacon')
        amplitude.track('Page Left')
        amplitude.flush()
    })
    return codes
})
if (result.length !== 14 || result.some((code) => code !== 200)) {
    throw new Error(`the SDK was answered ${result}`)
}
