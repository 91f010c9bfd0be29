// In the page: host and writeKey are globals.
import { AnalyticsBrowser } from '@segment/analytics-next'

window.analytics = AnalyticsBrowser.load({ writeKey, cdnURL: host })
