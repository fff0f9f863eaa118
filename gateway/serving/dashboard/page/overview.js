// The front page: how much of the prompts came from cache, what was lost on the way, and what that was worth.

import {h} from "./dom.js";
import {state, remembered, remember} from "./state.js";
import {Watched} from "./api.js";
import {card, wide, table, choice, select, meter, figure, quiet, explained} from "./parts.js";
import {lineChart} from "./charts.js";
import {total, ofHistory, rate} from "./figures.js";
import {compact, gpuTime, number, percent, seconds} from "./format.js";

export const title = "Overview";

const RANGES = [["60", "1 min"], ["900", "15 min"], ["7200", "2 h"], ["86400", "1 day"], ["2592000", "30 days"], ["start", "Since start"]];
const LEAST_CHART_S = 120;
const SEED = 55;
const past = new Watched(10);
const recent = new Watched(10);

const range = () => remembered("range", "start");
const pool = () => remembered("pool", "");
export const reference = () => remembered("reference", SEED) / 100;

// How far back charts go: what is asked for, or since the gateway started.
function spanS() {
  if (range() !== "start") return Math.max(Number(range()), LEAST_CHART_S);
  return Math.min(Math.max(state.view.gateway.uptime_s, LEAST_CHART_S), 30 * 86400);
}

export function watch() {
  past.look(`api/history?by=pool&since=-${range() === "start" ? Math.ceil(spanS() / 60) * 60 : spanS()}`);
  if (range() !== "start") recent.look(`api/history?by=replica&since=-${range()}`);
}

// The sums that are shown, by whatever is asked for: of all, of a pool, of a replica.
function sums() {
  const {snapshot, gateway} = state.view;
  if (range() === "start") {
    return (poolName, replica) => {
      const some = snapshot.series.filter(one => (!poolName || one.pool === poolName) && (!replica || one.replica === replica));
      const names = new Set(some.map(one => one.replica));
      const skipped = [...names].reduce((sum, name) => sum + (gateway.skipped_gpu_s[name] ?? 0), 0);
      return {...total(some), skipped_gpu_s: skipped};
    };
  }
  const groups = recent.value?.groups ?? [];
  return (poolName, replica) => {
    const found = groups.find(one => one.pool === (poolName ?? "") && one.replica === (replica ?? ""));
    return found ? ofHistory(found.total) : total([]);
  };
}

export function render() {
  const {snapshot} = state.view;
  const of = sums(), whole = of(pool() || "");
  return [
    h("div", {class: "head", key: "head"}, h("h1", {tabindex: -1}, title),
      h("div", {class: "controls"},
        select("Pool", [["", "all pools"], ...snapshot.pools.map(one => [one.name, one.name])], pool(), value => remember("pool", value)),
        choice("Time", RANGES, range(), value => { remember("range", value); watch(); }))),
    h("div", {class: "grid front", key: "top"}, waterfall(whole), latency(whole), worth(whole)),
    h("div", {class: "grid charts", key: "charts"}, ...charts()),
    places(of),
    queue(snapshot.queue, snapshot.held), tenants(),
  ];
}

const step = (name, kind, share, start, text, hint) => h("div", {class: "step " + kind, key: name, title: hint},
  h("dt", {}, name), h("div", {class: "step-track", "aria-hidden": "true"},
    h("span", {class: "step-fill", style: {left: 100 * start + "%", width: 100 * (share ?? 0) + "%"}})),
  h("dd", {"data-figure": name}, text));

function waterfall(sum) {
  const {base} = sum, of = name => rate(sum[name], base);
  const [available, routing, routed, index, gain, delivered] =
    ["available_tokens", "routing_loss_tokens", "routed_tokens", "index_loss_tokens", "index_gain_tokens", "delivered_tokens"].map(of);
  const points = delivered == null ? null : 100 * (delivered - reference());
  const verdict = points == null ? "no request has said what was cached"
    : `${number(Math.abs(points), 1)} points ${points >= 0 ? "above" : "below"} the reference`;
  return h("section", {class: "card hero", "aria-labelledby": "h-hit", key: "hit"},
    h("h2", {id: "h-hit"}, "Prompt tokens served from cache"),
    h("p", {class: "big"}, h("span", {"data-figure": "hit rate"}, percent(delivered)),
      h("span", {class: "verdict " + (points == null ? "" : points >= 0 ? "good" : "poor")}, verdict)),
    h("dl", {class: "fall", style: {"--reference": 100 * reference() + "%"}},
      step("available", "available", available, 0, percent(available), "Expected at the best replica"),
      step("− routing loss", "loss routing", routing, routed ?? 0, percent(routing), "Given up for a shorter wait"),
      step("routed", "routed", routed, 0, percent(routed), "Expected at the chosen replica"),
      step("− index loss", "loss index", index, Math.max((routed ?? 0) - (index ?? 0), 0), percent(index), "Predicted and not delivered"),
      step("+ unpredicted", "gain", gain, Math.max((routed ?? 0) - (index ?? 0), 0), percent(gain), "Delivered beyond prediction"),
      step("delivered", "delivered", delivered, 0, percent(delivered), "By the engines' word")),
    h("label", {class: "reference-row"}, h("span", {}, "reference"),
      h("input", {type: "range", min: 0, max: 100, step: 1, value: String(remembered("reference", SEED)),
        "aria-valuetext": `${remembered("reference", SEED)} percent`, oninput: event => remember("reference", Number(event.target.value))}),
      h("output", {}, remembered("reference", SEED) + " %")),
    explained("What the steps mean", h("p", {}, "Available: expected at the best replica. Routed: expected at the chosen one; between them is routing loss, " +
      "given up for a shorter wait. Delivered: the engines' word; what is missing there is index loss, predicted and not delivered. " +
      "Every figure is a ratio of token sums. The reference is yours to move; it begins at the 55 % that we set out from.")));
}

function latency(sum) {
  return card("Time to first token",
    h("dl", {class: "figures"}, figure("p50", seconds(sum.ttft_p50_s)), figure("p90", seconds(sum.ttft_p90_s)), figure("p99", seconds(sum.ttft_p99_s))),
    quiet(`Of ${compact(sum.first_tokens)} streams, from accept to the first content byte.`),
    h("dl", {class: "figures"}, figure("requests", number(sum.requests)), figure("failed", number(sum.failed)), figure("refused", number(sum.refused))));
}

function worth(sum) {
  return card("Prefill not computed",
    h("dl", {class: "figures"}, figure("tokens", compact(sum.delivered_tokens)), figure("worth", gpuTime(sum.skipped_gpu_s))),
    quiet(`${compact(sum.base)} prompt tokens were asked; ${compact(sum.base - sum.delivered_tokens)} had to be prefilled.`),
    explained("How that is reckoned", h("p", {}, "Each replica's fitted prefill curve a + b·u + c·u² says what a mean prompt would have taken without its cached part: " +
      "b·D + c·(P² − (P − D)²) ms for P tokens of which D were cached, times the requests, times the GPUs of a replica.")));
}

function charts() {
  const value = past.value, now = value?.now ?? Date.now() / 1000, span = spanS();
  const group = value?.groups.find(one => one.pool === pool() && one.replica === "");
  const slices = (group?.slices ?? []).filter(one => one.at >= now - span), at = slices.map(one => one.at + value.resolution_s / 2);
  const common = {at, from: now - span, to: now, stepS: value?.resolution_s ?? 10};
  const share = name => slices.map(one => rate(one[name], one.prompt_tokens));
  const last = slices.at(-1), lastRate = last ? percent(rate(last.delivered_tokens, last.prompt_tokens)) : "none";
  const perS = read => slices.map(one => read(one) / Math.min(value.resolution_s, Math.max(now - one.at, 1)));
  return [
    h("section", {class: "card", key: "c1", "aria-label": "Hit rate over time"}, lineChart({...common, name: "hit", title: "Hit rate over time", most: 1, reference: reference(),
      summary: `Hit rate over time: available, routed and delivered shares of prompt tokens. Latest delivered: ${lastRate}.`,
      format: (one, axis) => axis ? percent(one, 0) : percent(one),
      lines: [{name: "available", kind: "available", values: share("available_tokens")}, {name: "routed", kind: "routed", values: share("routed_tokens")},
        {name: "delivered", kind: "delivered", values: share("delivered_tokens"), area: true}]})),
    h("section", {class: "card", key: "c2", "aria-label": "Time to first token over time"}, lineChart({...common, name: "ttft", title: "Time to first token",
      summary: `Time to first token over time. Latest median: ${seconds(last?.ttft_p50_s)}, 99th percentile: ${seconds(last?.ttft_p99_s)}.`,
      format: one => seconds(one),
      lines: ["p99", "p90", "p50"].map(name => ({name, kind: name, values: slices.map(one => one[`ttft_${name}_s`])}))})),
    h("section", {class: "card", key: "c3", "aria-label": "Requests over time"}, lineChart({...common, name: "requests", title: "Requests per second",
      summary: `Requests per second over time. Latest: ${number(perS(one => one.requests).at(-1), 1)}.`, format: one => number(one, 2),
      lines: [{name: "ended", kind: "routed", values: perS(one => one.requests), area: true}, {name: "failed or refused", kind: "bad", values: perS(one => one.failed + one.refused)}]})),
    h("section", {class: "card", key: "c4", "aria-label": "Prefill skipped over time"}, lineChart({...common, name: "skipped", title: "GPUs' worth of prefill skipped",
      summary: "GPU-seconds of prefill skipped per second, over time.", format: one => number(one, 2),
      lines: [{name: "GPUs", kind: "delivered", values: perS(one => one.skipped_gpu_s), area: true}]})),
  ];
}

const COLUMNS = ["", "requests", {name: "hit rate", left: true}, "available", "routed", {name: "lost: routing", hint: "given up for a shorter wait"},
  {name: "lost: index", hint: "predicted and not delivered"}, "TTFT p50", "p90", "p99", "skipped", "worth", {name: "failed", hint: "by engines, or timed out"}];

function cells(name, sum) {
  const of = tokens => percent(rate(tokens, sum.base));
  const hit = rate(sum.delivered_tokens, sum.base);
  return [name, number(sum.requests), meter(hit, percent(hit), reference()), of(sum.available_tokens), of(sum.routed_tokens), of(sum.routing_loss_tokens), of(sum.index_loss_tokens),
    seconds(sum.ttft_p50_s), seconds(sum.ttft_p90_s), seconds(sum.ttft_p99_s), compact(sum.delivered_tokens), gpuTime(sum.skipped_gpu_s), number(sum.failed)];
}

function places(of) {
  const {snapshot} = state.view, rows = [];
  for (const one of snapshot.pools) {
    if (pool() && one.name !== pool()) continue;
    rows.push({key: "pool " + one.name, class: "group", cells: cells([h("b", {}, one.name), " ", h("span", {class: "quiet"}, one.model ?? "any model")], of(one.name))});
    for (const replica of snapshot.replicas.filter(member => member.pool === one.name)) {
      rows.push({key: replica.name, class: "member", cells: cells(h("a", {href: "#/replicas/" + encodeURIComponent(replica.name)}, replica.name), of(one.name, replica.name))});
    }
  }
  return wide("Pools and replicas", table("Pools and replicas", COLUMNS, rows));
}

function queue({priorities, drain}, held) {
  const rates = Object.entries(drain).map(([model, per_s]) => `${model}: ${compact(per_s)} tokens/s`).join(", ");
  const rows = priorities.map(one => {
    const sent = one.waits.counts.reduce((a, b) => a + b, 0);
    return {key: one.priority, cells: [one.priority, number(one.depth), compact(one.waiting_tokens), number(one.tenants), number(sent), seconds(sent ? one.waits.total / sent : null),
      number(one.shed.queue_full ?? 0), number(one.shed.queue_deadline ?? 0)]};
  });
  return wide("Queue", quiet(`${number(held)} held until their replica is free. `, "Refused are those that could not be served in time; they are told when to come again. ", rates ? `It shortens by ${rates}.` : ""),
    table("Queue by priority", ["priority", "waiting", "tokens", "tenants", "sent after a wait", "mean wait", "refused: full", "refused: deadline"], rows));
}

function tenants() {
  const limits = new Map(state.view.gateway.tenants.map(one => [one.name, one]));
  const falls = state.view.snapshot.tenants, names = new Set(falls.map(one => one.name));
  const more = state.view.gateway.tenants.filter(one => !names.has(one.name)).map(one => ({name: one.name, requests: 0, prompt_tokens: 0}));
  const rows = [...falls, ...more].slice(0, 20).map(one => {
    const known = limits.get(one.name), of = tokens => percent(rate(tokens, one.prompt_tokens));
    const refused = known ? Object.values(known.refused).reduce((a, b) => a + b, 0) : null;
    return {key: one.name, cells: [one.name || "(others)", number(one.requests), compact(one.prompt_tokens), of(one.available_tokens), of(one.routed_tokens), of(one.delivered_tokens),
      of(one.routing_loss_tokens), of(one.index_loss_tokens), known ? number(known.inflight) : "–", number(refused)]};
  });
  return wide("Tenants", table("Tenants", ["tenant", "requests", "tokens", "available", "routed", "delivered", "lost: routing", "lost: index", "in flight", "refused"], rows));
}
