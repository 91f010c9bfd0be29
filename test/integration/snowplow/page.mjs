// In the page: host and options are globals.
import {
    newTracker, trackPageView, trackSelfDescribingEvent, trackStructEvent, setUserId, flushBuffer,
} from '@snowplow/browser-tracker'

newTracker('shop', host, { appId: 'shop', ...options })
Object.assign(window, { trackPageView, trackSelfDescribingEvent, trackStructEvent, setUserId, flushBuffer })
