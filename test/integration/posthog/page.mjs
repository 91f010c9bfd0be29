// In the page: host, apiKey and options are globals.
import posthog from 'posthog-js'

posthog.init(apiKey, { api_host: host, ...options })
window.posthog = posthog
