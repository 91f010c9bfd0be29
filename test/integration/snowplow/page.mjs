// In the page: host and options are globals.
import {
    newTracker, trackPageView, trackSelfDescribingEvent, trackStructEvent, setUserId, flushBuffer,
} from '@snowplow/browser-tracker'

if (Object.keys(options).length === 0) {
    newTracker('shop', host, { appId: 'shop' })
} else {
    // After five seconds, its own limit, the tracker would give a request up.
    newTracker('shop', host, { appId: 'shop', connectionTimeout: 180000, ...options })
}
Object.assign(window, { trackPageView, trackSelfDescribingEvent, trackStructEvent, setUserId, flushBuffer })
