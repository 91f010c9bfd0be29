// In the page: host and options are globals.
import {
    newTracker, trackPageView, trackSelfDescribingEvent, trackStructEvent, setUserId, flushBuffer,
} from '@snowplow/browser-tracker'

if (Object.keys(options).length === 0) {
    newTracker('shop', host, { appId: 'shop' })
} else {
    newTracker('shop', host, { appId: 'shop', ...options })
}
Object.assign(window, { trackPageView, trackSelfDescribingEvent, trackStructEvent, setUserId, flushBuffer })
