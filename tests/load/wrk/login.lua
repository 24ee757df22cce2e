-- wrk: every connection logs in first and works with the session it got. The user comes from LOAD_USER and LOAD_PASSWORD,
-- what is asked for from the URL's path.
--
--   LOAD_USER=100@mydomain.com LOAD_PASSWORD=secret wrk -t 2 -c 32 -d 10s -s login.lua https://host/api/v2/cdr/text

local body = string.format('{"username":"%s","password":"%s"}', os.getenv("LOAD_USER"), os.getenv("LOAD_PASSWORD"))
local key, token
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init()
  logins, failed = 0, 0
end

function request()
  if key then
    return wrk.format("GET", nil, { ["X-Access-Token"] = token, ["X-Key"] = key })
  end
  return wrk.format("POST", "/login", { ["Content-Type"] = "application/json" }, body)
end

function response(status, _, answer)
  if key then
    if status ~= 200 then failed = failed + 1 end
    return
  end
  key, token = answer:match('"key":"([^"]+)"'), answer:match('"token":"([^"]+)"')
  if key then logins = logins + 1 else failed = failed + 1 end
end

function done(summary)
  local logins, failed = 0, 0
  for _, thread in ipairs(threads) do
    logins, failed = logins + thread:get("logins"), failed + thread:get("failed")
  end
  local e = summary.errors
  io.write(string.format("RESULT %d %d\n", summary.requests, failed + e.connect + e.read + e.write + e.timeout))
  io.write(string.format("logins %d\n", logins))
end
