// In the page: host and writeKey are globals.
import { RudderAnalytics } from '@rudderstack/analytics-js/bundled'

const analytics = new RudderAnalytics()
analytics.load(writeKey, host, { configUrl: host })
window.analytics = analytics
