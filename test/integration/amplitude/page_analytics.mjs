// In the page: host and apiKey are globals.
import * as amplitude from '@amplitude/analytics-browser'

amplitude.init(apiKey, { serverUrl: `${host}/2/httpapi`, fetchRemoteConfig: false })
window.amplitude = amplitude
