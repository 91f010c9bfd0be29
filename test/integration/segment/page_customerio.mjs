// In the page: host and writeKey are globals.
import { AnalyticsBrowser } from '@customerio/cdp-analytics-browser'

window.analytics = AnalyticsBrowser.load({ writeKey, cdnURL: host })
