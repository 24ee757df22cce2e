-- wrk: reads and writes, one in five a write of 1 KiB, with a session's credentials (KEY, TOKEN) from the environment.
--
--   KEY=... TOKEN=... wrk -t 2 -c 32 -d 10s -s mixed.lua https://host/api/v2/cdr

local body = string.rep("x", 1024)
local credentials = { ["X-Access-Token"] = os.getenv("TOKEN"), ["X-Key"] = os.getenv("KEY") }
local write = {
  ["X-Access-Token"] = credentials["X-Access-Token"],
  ["X-Key"] = credentials["X-Key"],
  ["Content-Type"] = "application/octet-stream",
}
local n = 0

function request()
  n = n + 1
  if n % 5 == 0 then
    return wrk.format("POST", nil, write, body)
  end
  return wrk.format("GET", nil, credentials)
end

function done(summary)
  local e = summary.errors
  io.write(string.format("RESULT %d %d\n", summary.requests, e.connect + e.read + e.write + e.status + e.timeout))
end
