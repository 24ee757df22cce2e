-- wrk: GET with a session's credentials, which come from the environment, and one line of result at the end.

function init()
  wrk.headers["X-Access-Token"] = os.getenv("TOKEN")
  wrk.headers["X-Key"] = os.getenv("KEY")
end

function done(summary)
  local e = summary.errors
  io.write(string.format("RESULT %d %d\n", summary.requests, e.connect + e.read + e.write + e.status + e.timeout))
end
