// In the page: host and token are globals.
import mixpanel from 'mixpanel-browser'

mixpanel.init(token, { api_host: host })
window.mixpanel = mixpanel
