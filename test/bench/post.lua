-- wrk script: posts simulated calls, each with a message id of its own.
--
--	wrk -s post.lua URL -- CALLS EVENTS WRITE_KEY TAG
--
-- CALLS has one call per line, "type<TAB>members", without its message id and
-- opening brace.  EVENTS is the number of events per body: 1 posts each to the
-- endpoint of its type, more post to /v1/batch.  Ends with one line of JSON.
local threads = 0

function setup(thread)
	thread:set("number", threads)
	threads = threads + 1
end

local base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function encode(text)
	return ((text:gsub(".", function(c)
		local bits, byte = "", c:byte()
		for i = 8, 1, -1 do
			bits = bits .. (byte % 2 ^ i - byte % 2 ^ (i - 1) > 0 and "1" or "0")
		end
		return bits
	end) .. "0000"):gsub("%d%d%d?%d?%d?%d?", function(six)
		if #six < 6 then
			return ""
		end
		local index = tonumber(six, 2) + 1
		return base64:sub(index, index)
	end) .. ({"", "==", "="})[#text % 3 + 1])
end

function init(args)
	calls, paths = {}, {}
	for line in io.lines(args[1]) do
		local kind, members = line:match("^(%a+)\t(.*)$")
		calls[#calls + 1] = members
		paths[#paths + 1] = "/v1/" .. kind
	end
	events = tonumber(args[2])
	headers = {["Content-Type"] = "application/json", ["Authorization"] = "Basic " .. encode(args[3] .. ":")}
	tag = args[4] .. "-" .. number .. "-"
	sent = 0
end

local function call()
	sent = sent + 1
	return '{"messageId":"' .. tag .. sent .. '",' .. calls[sent % #calls + 1]
end

function request()
	if events == 1 then
		local body = call()
		return wrk.format("POST", paths[sent % #calls + 1], headers, body)
	end
	local batch = {}
	for i = 1, events do
		batch[i] = call()
	end
	return wrk.format("POST", "/v1/batch", headers, '{"batch":[' .. table.concat(batch, ",") .. "]}")
end

function done(summary, latency)
	local errors = summary.errors
	io.write(string.format(
		'{"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "refused": %d, "broken": %d}\n',
		summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
		errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
