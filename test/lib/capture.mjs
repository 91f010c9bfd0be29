// A stand-in for the vendors' servers that keeps what their SDKs send.
//
//	capture.mjs FOLDER COMMAND [ARGUMENT...]
//
// Runs the command with {host} in its arguments replaced by this server's
// address, answers every request as the vendor would so that the SDK goes on,
// and writes each request to FOLDER/NN.http: request line, headers, blank
// line, body as it came.  The exit status is the command's.
import { spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'

const [folder, command, ...args] = process.argv.slice(2)
const gif = Buffer.from('R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7', 'base64')
// Headers that say something about the machine, or that no collector reads.
const dropped = /^(host|connection|accept-encoding|accept-language|sec-|pragma|cache-control|transfer-encoding)/i
let taken = 0

// What each vendor answers: path, status, content type, body.
const answers = [
    [/^\/health/, 200, 'text/plain', 'ok'],
    // Segment and Jitsu
    [/^\/v1\/projects\/([^/]+)\/settings/, 200, 'application/json', (match, host) => JSON.stringify({
        integrations: { 'Segment.io': { apiKey: match[1], apiHost: `${host}/v1`, protocol: 'http' } },
        plan: { track: { __default: { enabled: true, integrations: {} } } },
        metrics: { sampleRate: 0 },
    })],
    // RudderStack
    [/^\/sourceConfig/, 200, 'application/json', JSON.stringify({
        source: {
            id: 'source', name: 'web', writeKey: 'key', enabled: true, workspaceId: 'workspace', destinations: [],
            config: { statsCollection: { errors: { enabled: false }, metrics: { enabled: false } } },
        },
    })],
    // Snowplow
    [/^\/com\.snowplowanalytics\.snowplow\/tp2/, 200, 'text/plain', 'ok'],
    [/^\/i\?/, 200, 'image/gif', gif],
    // Amplitude
    [/^\/(2\/httpapi|batch)$/, 200, 'application/json', JSON.stringify({
        code: 200, events_ingested: 1, payload_size_bytes: 1, server_upload_time: 1796000000000,
        status: 1,
    })],
    // Mixpanel
    [/^\/(track|engage|groups)\/?(\?.*)?$/, 200, 'application/json', (match) =>
        /[?&]verbose=1/.test(match[0]) ? '{"status":1,"error":null}' : '1'],
    [/^\/import/, 200, 'application/json', (match, host, url) =>
        /[?&]verbose=0/.test(url) ? '1' : JSON.stringify({ code: 200, num_records_imported: 1, status: 'OK' })],
    // PostHog
    [/^\/array\/[^/]+\/config\.js/, 200, 'text/javascript', ''],
    [/^\/array\/[^/]+\/config/, 200, 'application/json', '{"supportedCompression":["gzip","gzip-js"],"hasFeatureFlags":false}'],
    [/^\/(flags|decide)/, 200, 'application/json', '{"featureFlags":{},"flags":{},"errorsWhileComputingFlags":false}'],
    [/^\/(e|batch|i\/v0\/e|capture)\/?/, 200, 'application/json', '{"status":1}'],
    // Google Analytics 4
    [/^\/(debug\/)?mp\/collect/, 204, 'text/plain', ''],
    [/^\/g\/collect/, 204, 'text/plain', ''],
    // Segment's dialects
    [/^\/v1\//, 200, 'application/json', '{"success":true}'],
    [/^\/api\/s\//, 200, 'application/json', '{"ok":true}'],
]

mkdirSync(folder, { recursive: true })
const server = createServer((request, response) => {
    const parts = []
    request.on('data', (part) => parts.push(part))
    request.on('end', () => {
        const body = Buffer.concat(parts)
        let head = `${request.method} ${request.url} HTTP/1.1\r\nHost: collector\r\n`
        for (let i = 0; i < request.rawHeaders.length; i += 2) {
            if (!dropped.test(request.rawHeaders[i])) {
                head += `${request.rawHeaders[i]}: ${request.rawHeaders[i + 1]}\r\n`
            }
        }
        if (request.headers['transfer-encoding'] !== undefined) {
            head += `Content-Length: ${body.length}\r\n`
        }
        taken += 1
        writeFileSync(join(folder, `${String(taken).padStart(2, '0')}.http`), Buffer.concat([Buffer.from(head + '\r\n'), body]))
        const cors = request.headers.origin === undefined ? {} : {
            'Access-Control-Allow-Origin': request.headers.origin,
            'Access-Control-Allow-Credentials': 'true',
        }
        if (request.method === 'OPTIONS') {
            response.writeHead(204, {
                ...cors,
                'Access-Control-Allow-Methods': 'GET, POST',
                'Access-Control-Allow-Headers': request.headers['access-control-request-headers'] ?? '',
            }).end()
            return
        }
        const host = request.headers.host
        for (const [path, status, type, answer] of answers) {
            const match = path.exec(request.url)
            if (match) {
                response.writeHead(status, { ...cors, 'Content-Type': type })
                response.end(typeof answer === 'function' ? answer(match, host, request.url) : answer)
                return
            }
        }
        process.stderr.write(`no answer to ${request.method} ${request.url}\n`)
        response.writeHead(404, cors).end()
    })
})
server.listen(0, '127.0.0.1', () => {
    const host = `http://127.0.0.1:${server.address().port}`
    const child = spawn(command, args.map((argument) => argument.replaceAll('{host}', host)), { stdio: 'inherit' })
    child.on('exit', (code) => {
        process.stderr.write(`${taken} requests\n`)
        server.close()
        server.closeAllConnections()
        process.exitCode = code ?? 1
    })
})
