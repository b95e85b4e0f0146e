-- Asks for recommendations of random known customers and looks at every answer.
--
-- Settings come from the environment: BENCH_CUSTOMERS (a file, one id a line), BENCH_SEED,
-- BENCH_KEY, BENCH_TOP_K, BENCH_BATCH (customers a request; 0 asks for one at /recommend),
-- BENCH_ECHO (1: the answer must name the customers asked for; 0: a constant answer is right),
-- BENCH_RATE (requests/s that this thread offers, however long answers take; 0: closed loop).
-- Every request is written before the clock starts, and an answer is searched for fixed strings
-- only, so a request costs the same few microseconds whoever answers it.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long seconds; long nanoseconds; } bench_time;
  int clock_gettime(int clock, bench_time *now);
]]
local MONOTONIC = 1
local REQUESTS, BATCHES = 20000, 48
local LEAST_BYTES = 24 -- of one recommendation: an id and a score, however they are written

local find, sub = string.find, string.sub
local time = ffi.new("bench_time")

local top_k = tonumber(os.getenv("BENCH_TOP_K"))
local batch = tonumber(os.getenv("BENCH_BATCH"))
local echo = os.getenv("BENCH_ECHO") == "1"
local rate = tonumber(os.getenv("BENCH_RATE"))

-- What done() reads must be global: it runs in another Lua state.
right, wrong, refused, lost, first_wrong = 0, 0, 0, 0, ""
good_by_second, refused_by_second = {}, {}
local asked = {} -- how often a customer is being asked for now
local batches = {} -- by the batch's first customer
local bodies, last, began = {}, 0, 0
local next_at

local function now()
  ffi.C.clock_gettime(MONOTONIC, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

local function request_text(path, body)
  return wrk.format("POST", path, {
    ["Authorization"] = "Bearer " .. os.getenv("BENCH_KEY"),
    ["Content-Type"] = "application/json",
  }, body)
end

local threads = {}
function setup(thread)
  threads[#threads + 1] = thread
  thread:set("number", #threads)
end

function init(args)
  math.randomseed(tonumber(os.getenv("BENCH_SEED")) + number)
  local customers = {}
  for line in io.lines(os.getenv("BENCH_CUSTOMERS")) do
    customers[#customers + 1] = line
  end
  if batch == 0 then
    for i = 1, REQUESTS do
      local id = customers[math.random(#customers)]
      bodies[i] = {
        id = id,
        text = request_text(wrk.path,
          string.format('{"customer_id": "%s", "top_k": %d}', id, top_k)),
      }
    end
  else
    for i = 1, BATCHES do
      local ids, seen = {}, {}
      while #ids < batch do
        local id = customers[math.random(#customers)]
        if not seen[id] and not (#ids == 0 and batches[id]) then
          seen[id] = true
          ids[#ids + 1] = id
        end
      end
      batches[ids[1]] = ids
      bodies[i] = {
        id = ids[1],
        text = request_text(wrk.path,
          string.format('{"customer_ids": ["%s"], "top_k": %d}',
            table.concat(ids, '", "'), top_k)),
      }
    end
  end
  began = now()
  next_at = began
end

function request()
  last = last % #bodies + 1
  local body = bodies[last]
  asked[body.id] = (asked[body.id] or 0) + 1
  return body.text
end

-- With a rate, each free connection takes the schedule's next place.
if rate > 0 then
  function delay()
    local at = now()
    next_at = next_at + 1 / rate
    if next_at < at - 1 then
      -- No connection was free for a second: places that nobody took are not offered.
      lost = lost + (at - next_at) * rate
      next_at = at
    end
    return math.max(0, (next_at - at) * 1000)
  end
end

-- The first customer that the answer names.
local function named(body)
  local _, key = find(body, "customer_id", 1, true)
  if not key then return nil end
  local open = find(body, '"', key + 2, true)
  local close = open and find(body, '"', open + 1, true)
  return close and sub(body, open + 1, close - 1)
end

local function has_products(body, from)
  local at = from
  for _ = 1, top_k do
    local _, found = find(body, "product_id", at, true)
    if not found then return false end
    at = found + 1
  end
  return true
end

-- Every customer of the batch in its order, each followed by enough bytes for its products.
local function has_all(body, ids)
  local at = 1
  for i = 1, #ids do
    local found = find(body, ids[i], at, true)
    if not found or (i > 1 and found - at < top_k * LEAST_BYTES) then return false end
    at = found + 1
  end
  return #body - at >= top_k * LEAST_BYTES and has_products(body, at)
end

local function is_right(body)
  local id = named(body)
  if not id then return false end
  local waiting = asked[id]
  if waiting and waiting > 0 then
    asked[id] = waiting - 1
  elseif echo then
    return false
  end
  if batch == 0 then return has_products(body, 1) end
  local ids = batches[id]
  if ids and echo then return has_all(body, ids) end
  return has_products(body, 1)
end

function response(status, headers, body)
  if status == 200 and is_right(body) then
    right = right + 1
    if rate > 0 then
      local second = math.floor(now() - began)
      good_by_second[second] = (good_by_second[second] or 0) + 1
    end
  elseif status == 503 and rate > 0 then
    refused = refused + 1
    local second = math.floor(now() - began)
    refused_by_second[second] = (refused_by_second[second] or 0) + 1
  else
    wrong = wrong + 1
    if first_wrong == "" then first_wrong = status .. ": " .. sub(body, 1, 300) end
  end
end

local function series(counts)
  local texts, longest = {}, -1
  for second in pairs(counts) do longest = math.max(longest, second) end
  for second = 0, longest do texts[#texts + 1] = tostring(counts[second] or 0) end
  return "[" .. table.concat(texts, ", ") .. "]"
end

local function add(into, counts)
  for second, count in pairs(counts) do into[second] = (into[second] or 0) + count end
end

local function quoted(text)
  return '"' .. text:gsub('[%c"\\]', " ") .. '"'
end

function done(summary, latency, requests)
  local total = { right = 0, wrong = 0, refused = 0, lost = 0 }
  local first, good, turned_away = "", {}, {}
  for _, thread in ipairs(threads) do
    for name in pairs(total) do total[name] = total[name] + thread:get(name) end
    if first == "" then first = thread:get("first_wrong") end
    add(good, thread:get("good_by_second"))
    add(turned_away, thread:get("refused_by_second"))
  end
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"seconds": %.6f, "answers": %d, "right": %d, "wrong": %d, "refused": %d, "lost": %d, '
    .. '"non_2xx": %d, "socket_errors": %d, "timeouts": %d, "mean_ms": %.4f, "p50_ms": %.4f, '
    .. '"p95_ms": %.4f, "p99_ms": %.4f, "max_ms": %.4f, "first_wrong": %s, '
    .. '"good_by_second": %s, "refused_by_second": %s}\n',
    summary.duration / 1e6, summary.requests, total.right, total.wrong, total.refused, total.lost,
    errors.status, errors.connect + errors.read + errors.write, errors.timeout,
    latency.mean / 1000, latency:percentile(50) / 1000, latency:percentile(95) / 1000,
    latency:percentile(99) / 1000, latency.max / 1000, quoted(first), series(good), series(turned_away)))
end
