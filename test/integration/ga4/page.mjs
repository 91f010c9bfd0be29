// In the page: host and trackingId are globals.
import { track } from '@minimal-analytics/ga4'

window.minimalAnalytics = { trackingId, analyticsEndpoint: `${host}/g/collect` }
window.track = track
