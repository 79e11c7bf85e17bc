-- Sends the bytes that bench/load/message.py made, and prints what was measured as JSON.
-- Times of wrk are microseconds.

local raw

function init()
  local file = assert(io.open(os.getenv("BENCH_REQUEST"), "rb"))
  raw = file:read("*a")
  file:close()
end

function request()
  return raw
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "duration_us": %d, "not_2xx": %d, "broken": %d, "max_us": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency.max, latency:percentile(50), latency:percentile(99)))
end
