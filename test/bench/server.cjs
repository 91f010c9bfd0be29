// What a user would write instead of the collector: fastify and pg with a pool
// of 16 connections, one INSERT per request into the columns of cdi.events.
//
//	node server.cjs PORT WRITE_KEY	connection from PGHOST, PGPORT, PGUSER, PGDATABASE
'use strict'
const { createHash } = require('node:crypto')
const fastify = require('fastify')({ logger: false, bodyLimit: 4 * 1024 * 1024 })
const { Pool } = require('pg')

const [port, writeKey] = process.argv.slice(2)
const authorization = 'Basic ' + Buffer.from(writeKey + ':').toString('base64')
const pool = new Pool({ max: 16, min: 16 })

const columns = ['received_at', '"timestamp"', 'original_timestamp', 'sent_at', 'event_id', 'subject', 'source_id',
  'type', 'event', 'category', 'message_id', 'user_id', 'anonymous_id', 'group_id', 'previous_id', 'campaign_source',
  'campaign_medium', 'campaign_name', 'campaign_term', 'campaign_content', 'click_id_type', 'referrer_host',
  'page_host', 'properties', 'traits', 'context', 'extra']
const insert = {
  name: 'insert', // prepared once per connection
  text: `INSERT INTO hand.events (${columns}) VALUES (${columns.map((_, i) => '$' + (i + 1))}) ON CONFLICT DO NOTHING`
}
const clickIds = ['gclid', 'gbraid', 'wbraid', 'dclid', 'fbclid', 'msclkid', 'ttclid', 'twclid', 'li_fat_id', 'sccid',
  'ScCid', 'rdt_cid', 'epik', 'yclid', 'irclickid', 'awc']
const known = new Set(['type', 'event', 'name', 'category', 'messageId', 'userId', 'anonymousId', 'groupId',
  'previousId', 'timestamp', 'originalTimestamp', 'sentAt', 'properties', 'traits', 'context'])

const key = text => createHash('md5').update(text).digest('hex')

function host (address) {
  const match = /:\/\/([^/:?#]+)/.exec(address ?? '')
  return match && match[1].toLowerCase()
}

function row (call, type, receivedAt) {
  const context = call.context ?? {}
  const url = context.page?.url
  const query = url?.includes('?') ? new URLSearchParams(url.slice(url.indexOf('?') + 1).split('#')[0]) : null
  const utm = name => context.campaign?.[name] ?? query?.get('utm_' + (name === 'name' ? 'campaign' : name)) ?? null
  const originalText = call.originalTimestamp ?? call.timestamp
  const original = originalText ? new Date(originalText) : null
  const sent = call.sentAt ? new Date(call.sentAt) : null
  const timestamp = original && sent ? new Date(receivedAt - (sent - original)) : original ?? receivedAt
  const email = call.traits?.email ?? context.traits?.email
  let extra = null
  for (const name in call) {
    if (!known.has(name)) (extra ??= {})[name] = call[name]
  }
  return [receivedAt, timestamp, original, sent, key('1 ' + call.messageId),
    key(call.userId ?? email?.trim().toLowerCase() ?? call.anonymousId), 1,
    type, call.event ?? call.name, call.category, call.messageId, call.userId, call.anonymousId, call.groupId,
    call.previousId, utm('source'), utm('medium'), utm('name'), utm('term'), utm('content'),
    query && clickIds.find(id => query.get(id)), host(context.page?.referrer), host(url),
    call.properties, call.traits, call.context, extra]
}

fastify.post('/v1/:type', async (request, reply) => {
  if (request.headers.authorization !== authorization) return reply.code(401).send({ success: false })
  await pool.query({ ...insert, values: row(request.body, request.params.type, new Date()) })
  return { success: true }
})

fastify.listen({ host: '127.0.0.1', port: Number(port) }).then(address => console.log(address))
