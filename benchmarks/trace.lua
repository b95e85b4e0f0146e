-- What load.lua does, and each answer on a line of the file BENCH_TRACE: when it came (seconds on
-- the monotonic clock, which Python reads too), which model's version gave it ("-" where it names
-- none), its status, and 1 where it was right.

dofile(os.getenv("BENCH_SCRIPT"))

local ffi = require("ffi")
local MONOTONIC = 1
local time = ffi.new("bench_time")
local begin_load, look = init, response
local trace

function init(args)
  begin_load(args)
  trace = io.open(os.getenv("BENCH_TRACE"), "w")
end

local function version(body)
  return string.match(body, '"model_version":"([^"]*)"') or "-"
end

function response(status, headers, body)
  local before = right
  look(status, headers, body)
  ffi.C.clock_gettime(MONOTONIC, time)
  local at = tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
  trace:write(string.format("%.6f %s %d %d\n", at, version(body), status, right - before))
end
