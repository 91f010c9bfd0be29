// In the page: host and apiKey are globals.
import posthog from 'posthog-js'

posthog.init(apiKey, { api_host: host })
window.posthog = posthog
