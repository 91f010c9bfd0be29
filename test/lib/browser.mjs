// A page in Debian's Chromium, headless, for SDKs that run in browsers.
//
//	await withPage({ sdk: 'segment', script: 'page.mjs', values: { host, writeKey }, host, events: 2 }, async (page, arrived) => {
//	    await page.evaluate(() => track('Order Completed'))
//	    await arrived(1, 300)
//	})
//
// The script is bundled with the npm packages of test/setup node SDK, served
// from loopback and run in the page; its top-level values are the globals of
// `values`.  When the callback has returned, the page is given time to send
// what it has queued: all is sent when all but the `leaving` events have arrived
// and no request has been under way for `quiet` milliseconds.  Then the page is
// closed, which makes SDKs send what they kept for that moment.
//
// arrived(EVENTS, QUIET) waits until the collector at `host` has so many events
// of the page, each counted once, by its own count of the source in the
// environment's CDI_SOURCE; `events` says how many there are in the end.  A
// stand-in for a collector (test/fuzz/capture) does not count: there all has
// arrived when no request has been under way for QUIET milliseconds.
//
// Resolves to { requests, failed, errors, result }.  A request that failed or
// was answered 400 or more, an error on the console and an exception in the
// page reject, unless `lenient` is true.
import { createRequire } from 'node:module'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = process.env.CDI_ROOT ?? join(dirname(fileURLToPath(import.meta.url)), '../..')
const packages = join(process.env.CDI_BUILD ?? join(root, 'build'), 'node')
const userAgent = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36'
const require = createRequire(join(packages, 'lib') + '/')

export async function withPage(options, use = async () => {}) {
    const {
        sdk,                                 // whose packages: build/node/SDK
        script,                              // file below test/integration/SDK
        values = {},                         // globals of the page
        html = '<!doctype html><title>Shop</title><h1>Shop</h1>',
        origin = 'http://shop.localhost',    // any host name of loopback; the port is added
        path = '/?utm_source=newsletter&utm_medium=email&utm_campaign=spring',
        referrer = 'https://www.google.com/',
        host,                                // of the collector
        events = 0,                          // that it has of this page in the end
        leaving = 0,                         // of them, that are sent as the page is left
        quiet = 500,
        timeout = 180000,
        lenient = false,
    } = options
    const code = script ? await bundle(sdk, script) : ''
    const head = `<meta charset="utf-8"><link rel="icon" href="data:,">
<script>Object.assign(window, ${JSON.stringify(values).replaceAll('<', '\\u003c')})</script>`
    const server = createServer((request, response) => {
        if (request.url === '/script.js') {
            response.writeHead(200, { 'Content-Type': 'text/javascript; charset=utf-8' }).end(code)
        } else {
            response.writeHead(200, { 'Content-Type': 'text/html; charset=utf-8' })
            response.end(html.replace(/(?=<title>|$)/, () => head) + (script ? '<script src="/script.js"></script>' : ''))
        }
    })
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    const profile = await mkdtemp(join(tmpdir(), 'cdi-chromium-'))
    let context
    try {
        const { chromium } = require('playwright-core')
        // The host rule keeps names below localhost, and only them, away from
        // the network whatever the resolver of this machine says.
        context = await chromium.launchPersistentContext(profile, {
            executablePath: process.env.CDI_CHROMIUM ?? '/usr/bin/chromium',
            headless: true,
            timeout,
            chromiumSandbox: false,
            // Some SDKs send nothing for a browser that says it is a robot's.
            args: [`--user-agent=${userAgent}`, '--disable-blink-features=AutomationControlled',
                '--disable-gpu', '--disable-quic', '--no-first-run',
                '--disable-background-networking', '--disable-component-update', '--disable-sync',
                '--host-resolver-rules=MAP *.localhost 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1'],
        })
        const page = await context.newPage()
        page.setDefaultTimeout(timeout)
        const site = `${origin}:${server.address().port}`
        const seen = watch(page, site)
        const before = await received(host)
        const arrived = async (number, pause) => {
            const until = Date.now() + timeout
            while (before !== undefined && await received(host) < before + number) {
                if (Date.now() > until) {
                    throw new Error([`of ${number} events ${await received(host) - before} have arrived`, ...seen.failed, ...seen.errors].join('\n  '))
                }
                await new Promise((resolve) => setTimeout(resolve, 50))
            }
            if (before === undefined) {
                await seen.settle(pause, timeout)
            }
        }
        await page.goto(site + path, { referer: referrer, waitUntil: 'load', timeout })
        const result = await within(timeout, use(page, arrived), seen)
        await arrived(events - leaving, quiet)
        await seen.settle(quiet, timeout)
        // Going elsewhere fires pagehide and lets keepalive requests finish.
        await page.goto('about:blank')
        await arrived(events, quiet)
        await seen.settle(quiet, timeout)
        const { requests, failed, errors } = seen
        if (!lenient && failed.length + errors.length > 0) {
            throw new Error(['the page had trouble:', ...failed, ...errors].join('\n  '))
        }
        return { requests, failed, errors, result }
    } finally {
        await context?.close()
        server.close()
        server.closeAllConnections()
        // Processes of the browser that end after it still write there: as long
        // a wait as the others, a tenth of a second longer each time.
        await rm(profile, { recursive: true, force: true, maxRetries: 60 })
    }
}

// Events of the source that the collector has, whatever became of them; what an
// SDK sent again is no other event.  Undefined where nobody counts.
async function received(host) {
    const source = process.env.CDI_SOURCE
    if (source === undefined) {
        if (process.env.CDI_COLLECTOR !== undefined) {
            throw new Error('CDI_SOURCE does not say whose events to count')
        }
        return undefined
    }
    const text = await (await fetch(`${host}/metrics`)).text()
    return text.split('\n')
        .filter((line) => line.startsWith(`cdi_events_total{source="${source}",`) && !line.includes('outcome="duplicate"'))
        .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0)
}

// A script in the page that waits for what never comes would wait for ever.
async function within(timeout, work, { failed, errors }) {
    let timer
    const late = new Promise((resolve, reject) => {
        timer = setTimeout(() => reject(new Error(
            [`the script is not done after ${timeout} ms`, ...failed, ...errors].join('\n  '))), timeout)
    })
    try {
        return await Promise.race([work, late])
    } finally {
        clearTimeout(timer)
    }
}

// What the page asks of others than its own server, and what goes wrong.
function watch(page, site) {
    const requests = [], failed = [], errors = [], pending = new Set()
    let last = Date.now()
    const ended = (request) => {
        pending.delete(request)
        last = Date.now()
    }
    page.on('request', (request) => {
        if (request.url().startsWith(site + '/') || !request.url().startsWith('http')) {
            return
        }
        pending.add(request)
        requests.push(`${request.method()} ${request.url()}`)
        last = Date.now()
    })
    page.on('requestfinished', ended)
    page.on('requestfailed', (request) => {
        // Chromium does not report how a request ended that outlives its page.
        if (request.failure()?.errorText !== 'net::ERR_ABORTED') {
            failed.push(`${request.method()} ${request.url()}: ${request.failure()?.errorText}`)
        }
        ended(request)
    })
    page.on('response', (response) => {
        if (response.status() >= 400) {
            failed.push(`${response.request().method()} ${response.url()}: status ${response.status()}`)
        }
    })
    page.on('console', (message) => {
        if (message.type() === 'error') {
            errors.push(`console: ${message.text()}`)
        }
    })
    page.on('pageerror', (error) => errors.push(`exception: ${error.stack ?? error}`))
    return {
        requests, failed, errors,
        async settle(quiet, timeout) {
            const until = Date.now() + timeout
            while (pending.size > 0 || Date.now() - last < quiet) {
                if (Date.now() > until) {
                    throw new Error(['the page does not come to rest; under way:',
                        ...[...pending].map((request) => `${request.method()} ${request.url()}`)].join('\n  '))
                }
                await new Promise((resolve) => setTimeout(resolve, 20))
            }
        },
    }
}

async function bundle(sdk, script) {
    const built = await require('esbuild').build({
        entryPoints: [join(root, 'test/integration', sdk, script)],
        nodePaths: [join(packages, sdk, 'node_modules')],
        bundle: true,
        format: 'iife',
        platform: 'browser',
        target: 'es2022',
        charset: 'utf8',
        define: { 'process.env.NODE_ENV': '"production"' },
        write: false,
        logLevel: 'error',
    })
    return Buffer.from(built.outputFiles[0].contents)
}
