-- wrk: credentials that are not good, in turn: a made-up key and token, a token without a key, none. All must be 401;
-- anything else counts as an error.
--
--   wrk -t 2 -c 32 -d 10s -s wrong.lua https://host/api/v2/cdr

local kinds = {
  { ["X-Access-Token"] = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.AAAA", ["X-Key"] = "7db2665d-1e59-4f80-b65c-2372f32d678d" },
  { ["X-Access-Token"] = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.AAAA" },
  {},
}
local n = 0
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init()
  other = 0
end

function request()
  n = n + 1
  return wrk.format("GET", nil, kinds[n % #kinds + 1])
end

function response(status)
  if status ~= 401 then other = other + 1 end
end

function done(summary)
  local other = 0
  for _, thread in ipairs(threads) do other = other + thread:get("other") end
  local e = summary.errors
  io.write(string.format("RESULT %d %d\n", summary.requests, other + e.connect + e.read + e.write + e.timeout))
end
