// In the page: host and writeKey are globals.
import { jitsuClient } from '@jitsu/sdk-js'

window.jitsu = jitsuClient({ key: writeKey, tracking_host: host })
