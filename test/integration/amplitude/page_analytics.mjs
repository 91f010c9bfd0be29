// In the page: host and apiKey are globals.
import * as amplitude from '@amplitude/analytics-browser'

// A call between the set-up of the client and that of its destination, some
// milliseconds in the middle of init(), is answered with 100 and not sent.
window.ready = amplitude.init(apiKey, { serverUrl: `${host}/2/httpapi`, fetchRemoteConfig: false }).promise
window.amplitude = amplitude
