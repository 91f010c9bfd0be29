// In the page: host and writeKey are globals.
import { jitsuAnalytics } from '@jitsu/js'

window.jitsu = jitsuAnalytics({ host, writeKey: writeKey + ':js' })
