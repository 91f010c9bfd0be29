// In the page: host, writeKey and options are globals.
import { RudderAnalytics } from '@rudderstack/analytics-js/bundled'

const analytics = new RudderAnalytics()
analytics.load(writeKey, host, { configUrl: host, ...options })
window.analytics = analytics
