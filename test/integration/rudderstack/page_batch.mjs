// As page.mjs, with the SDK's batches.
import { RudderAnalytics } from '@rudderstack/analytics-js/bundled'

const analytics = new RudderAnalytics()
analytics.load(writeKey, host, {
    configUrl: host,
    queueOptions: { batch: { enabled: true, maxItems: 5 } },
})
window.analytics = analytics
