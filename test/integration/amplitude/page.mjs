// In the page: address and apiKey are globals.
import amplitude from 'amplitude-js'

const { protocol, host } = new URL(address)
window.amplitude = amplitude
amplitude.getInstance().init(apiKey, null, {
    apiEndpoint: host, forceHttps: protocol === 'https:', includeUtm: true, includeReferrer: true,
})
