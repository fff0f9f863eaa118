// The replicas: how busy they are, how they are tuned, what they hold, and whether they take requests.

import {h} from "./dom.js";
import {state} from "./state.js";
import {send, Watched} from "./api.js";
import {badge, confirmed, meter, quiet, table, tried, wide} from "./parts.js";
import {total, rate} from "./figures.js";
import {bytes, compact, ms, number, percent, seconds, signed} from "./format.js";

export const title = "Replicas";

const KNOWN_BY = {events: "its own events", guess: "our guess, corrected by its answers", fenced: "fenced: nothing is believed"};

const prefixes = new Watched(5);

export function watch() { prefixes.look("api/prefixes"); }

export function render() {
  const {snapshot, gateway} = state.view;
  return [
    h("div", {class: "head", key: "head"}, h("h1", {tabindex: -1}, title), quiet(summary(snapshot.replicas))),
    h("div", {class: "grid replicas", key: "cards"}, snapshot.replicas.map(one => replica(one, snapshot, gateway))),
    wide("Prefill curves", quiet("Milliseconds to the first token for k thousand uncached tokens, without the wait. Off by: how far prefills were from what the curve had predicted, " +
      "on average; and the signed mean, above 0 where they took longer."), table("Prefill curves", ["replica", "curve", "off by", "mean", "learned from", "chunk wished", "runs", "version"],
      snapshot.replicas.map(one => ({key: one.name, cells: [one.name, curve(one), percent(one.curve_mape), signed(one.curve_bias), number(one.curve_observations),
        number(one.prefill_desired.chunk_tokens), number(one.prefill_actual.chunk_tokens), one.version ?? "–"]})))),
    wide("What is known of each cache", quiet("Curves: believed → delivered tokens, as learned."),
      table("What is known of each cache", ["replica", {name: "known by", left: true}, "counted in", "blocks", "stated", "memory", "index full", "confirmed", "inferred", "on its way", "hit quantum", "least", "learned from"],
        snapshot.replicas.map(one => ({key: one.name, cells: [one.name, source(one.cache), one.cache.counted_in, number(one.index_blocks), number(one.cache.stated_blocks), bytes(one.index_bytes), percent(one.index_fill, 0),
          points(one.cache.confirmed_curve), points(one.cache.inferred_curve), points(one.cache.promised_curve), number(one.cache.quantum_tokens), number(one.cache.minimum_tokens), number(one.cache.calibrated_on)]})))),
    feeds(gateway.feeds),
  ];
}

function summary(replicas) {
  const up = replicas.filter(one => one.state === "up").length;
  return `${up} of ${replicas.length} take requests; ${replicas.reduce((sum, one) => sum + one.inflight, 0)} requests in flight.`;
}

function replica(one, snapshot, gateway) {
  const series = snapshot.series.filter(other => other.replica === one.name), sum = total(series), main = series[0] ?? {};
  const hit = rate(sum.delivered_tokens, sum.base), chunk = one.prefill_actual.chunk_tokens, wish = one.prefill_desired.chunk_tokens;
  const drift = chunk != null && wish != null && chunk !== wish;
  const id = "replica " + one.name;
  return h("section", {class: "card replica" + (state.detail === one.name ? " chosen" : ""), key: one.name, "aria-labelledby": id.replace(" ", "-")},
    h("h2", {id: id.replace(" ", "-")}, one.name, " ", standing(one)),
    h("p", {class: "quiet small"}, one.url, one.reason && one.state !== "up" ? ` · ${one.reason}` : ""),
    h("dl", {class: "pairs"},
      pair("hit rate", meter(hit, percent(hit))),
      pair("KV cache", meter(one.report.kv_usage, percent(one.report.kv_usage, 0))),
      pair("index full", meter(one.index_fill, percent(one.index_fill, 0))),
      pair("in flight", number(one.inflight) + (one.peers_inflight ? ` + ${number(one.peers_inflight)} of peers` : "")),
      pair("wait", ms(one.wait_ms)),
      pair("runs / waits", `${number(one.report.running_requests)} / ${number(one.report.waiting_requests)}`),
      pair("TTFT 50 · 90 · 99", `${seconds(main.ttft_p50_s)} · ${seconds(main.ttft_p90_s)} · ${seconds(main.ttft_p99_s)}`),
      pair("chunk wished / runs", h("span", {class: drift ? "drift" : ""}, `${number(wish)} / ${number(chunk)}${drift ? " (drift)" : ""}`)),
      pair("holds", `${number(one.index_blocks)} blocks (${one.cache.source})`),
      pair("hot families", held(one.name)),
      pair("requests", `${number(sum.requests)}, ${number(sum.failed)} failed`),
      pair("GPUs", number(gateway.gpus[one.pool]))),
    h("div", {class: "actions"}, turn(one)));
}

// The hottest families that it holds, with the tokens of each one's latest prompt.
function held(name) {
  const mine = (prefixes.value?.families ?? []).map(family => ({family, home: family.homes.find(home => home.replica === name)})).filter(each => each.home);
  if (!mine.length) return "none";
  const some = mine.slice(0, 2).map(({family, home}) => h("span", {key: family.name}, h("a", {class: "mono small", href: "#/prefixes"}, family.name.slice(0, 8)), ` ${compact(home.cached_tokens)} `));
  return [some, mine.length > 2 ? `+ ${mine.length - 2}` : ""];
}

const pair = (name, value) => h("div", {key: name}, h("dt", {}, name), h("dd", {"data-figure": name}, value));

function standing(one) {
  const marks = [];
  if (one.draining) marks.push(badge("warn", "draining"));
  else if (one.state === "up") marks.push(badge("good", "up"));
  else marks.push(badge("bad", one.state));
  if (one.breaker !== "closed") marks.push(badge("bad", `breaker ${one.breaker}`));
  if (one.cache.broken) marks.push(badge("bad", "cache broken"));
  return marks.flatMap(mark => [mark, " "]);
}

function turn({name, pool, draining}) {
  if (draining) return h("button", {type: "button", onclick: () => resume(name)}, "Resume");
  return h("button", {type: "button", onclick: () => drain(name, pool)}, "Drain");
}

const command = (name, verb) => send("POST", `api/replicas/${encodeURIComponent(name)}/${verb}`);

async function drain(name, pool) {
  const others = state.view.snapshot.replicas.filter(one => one.pool === pool && one.name !== name && one.state === "up" && !one.draining).length;
  const text = ["It takes no new requests and finishes those that it has.", others ? `${others} other ${others === 1 ? "replica" : "replicas"} of ${pool} go on.` : `It is the last one of ${pool} that takes requests.`];
  if (await confirmed({title: `Drain ${name}?`, text, action: "Drain", danger: !others})) {
    await tried(() => command(name, "drain"), `${name} drains.`, () => resume(name));
  }
}

const resume = name => tried(() => command(name, "resume"), `${name} takes requests again.`);

const curve = one => `${number(one.curve_base_ms)} + ${number(1e3 * one.curve_ms_per_token, 1)}·k + ${number(1e6 * one.curve_ms_per_token2, 2)}·k² ms`;
const points = list => list.length ? list.map(([x, y]) => `${number(x)}→${number(y)}`).join(", ") : "–";

function source(cache) {
  const text = (cache.broken ? "broken: " : "") + KNOWN_BY[cache.source] + (cache.reason ? ` (${cache.reason})` : "");
  return h("span", {class: cache.source === "fenced" || cache.broken ? "drift" : ""}, text);
}

function feeds(rows) {
  if (!rows.length) return null;
  const names = Object.keys(rows[0]).filter(name => !["replica", "rank"].includes(name));
  return wide("KV-cache event feeds", table("KV-cache event feeds", ["replica", "rank", ...names.map(name => name.replaceAll("_", " "))],
    rows.map(one => ({key: `${one.replica} ${one.rank}`, cells: [one.replica, one.rank, ...names.map(name => typeof one[name] === "number" ? compact(one[name]) : String(one[name] ?? "–"))]}))));
}
