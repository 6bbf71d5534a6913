-- Sends the requests of its standard input in turn, a line each: method, path and body, with tabs
-- between.

function init()
   local requests, last = {}, 0
   for line in io.lines() do
      local method, path, body = line:match("^(%S+)\t(%S+)\t(.*)$")
      requests[#requests + 1] = wrk.format(method, path, nil, body ~= "" and body or nil)
   end
   request = function()
      last = last % #requests + 1
      return requests[last]
   end
end

-- Times come in microseconds.
function done(summary, latency)
   local errors = 0
   for _, count in pairs(summary.errors) do
      errors = errors + count
   end
   io.write(string.format(
      '{"rate": %f, "p50": %f, "p99": %f, "errors": %d}\n',
      summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3,
      latency:percentile(99) / 1e3, errors
   ))
end
