-- wrk's script: POST the lines of the file named on the command line in turn, and print the result as one line of JSON.
-- There is no `response` function: wrk counts statuses above 399 itself, and calling Lua for every answer would
-- take the processor from the server. The second argument is how many milliseconds a connection waits between its
-- requests; without any there is no `delay` function, for the same reason.

local requests, turn = {}, 0

function init(args)
  for body in assert(io.lines(args[1])) do
    requests[#requests + 1] = wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, body)
  end
  local pause_ms = tonumber(args[2] or 0)
  if pause_ms > 0 then
    function delay() return pause_ms end
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency, _)
  local e = summary.errors
  print(string.format(
    'RESULT {"requests":%d,"microseconds":%d,"non_200":%d,"lost":%d,"p50_us":%d,"p99_us":%d,"max_us":%d}',
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
