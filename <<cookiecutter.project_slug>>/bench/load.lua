-- What wrk sends, and what it says at the end.
-- wrk … -s load.lua URL -- read|list|create|change USERS SEED

local requests = {}

function requests.read(users)
   return wrk.format("GET", "/users/" .. math.random(1, users))
end

function requests.list(users)
   return wrk.format("GET", "/users?limit=50&after=" .. math.random(1, math.max(1, users - 50)))
end

local created = 0

function requests.create(_, seed)
   created = created + 1
   local body = string.format('{"email":"%s-%d@example.com","full_name":"Somebody"}', seed, created)
   return wrk.format("POST", "/users", { ["Content-Type"] = "application/json" }, body)
end

function requests.change(users)
   local path = "/users/" .. math.random(1, users)
   local body = string.format('{"full_name":"Somebody %d"}', math.random(1, 1000))
   return wrk.format("PATCH", path, { ["Content-Type"] = "application/json" }, body)
end

function init(args)
   local make, users, seed = requests[args[1]], tonumber(args[2]), args[3]
   math.randomseed(tonumber(seed))
   request = function() return make(users, seed) end
end

-- Times are in microseconds.
function done(summary, latency)
   local errors = 0
   for _, count in pairs(summary.errors) do
      errors = errors + count
   end
   io.write(string.format(
      'FIGURES {"answers": %d, "duration": %d, "p50": %d, "p99": %d, "errors": %d}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors
   ))
end
