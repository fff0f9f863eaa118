// The latest requests, and why each one went where it went.

import {h} from "./dom.js";
import {state, draw} from "./state.js";
import {send, Watched} from "./api.js";
import {badge, choice, quiet, say, select, table, wide} from "./parts.js";
import {stacks} from "./charts.js";
import {ms, number, percent, seconds, time} from "./format.js";

export const title = "Requests";

const SHOWN = 50;
const tail = new Watched(0.9), one = new Watched(1.5);
const ENDPOINTS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"];
let paused = false, only = "", preview = null;

export function watch() {
  if (!paused) tail.look(`api/requests?limit=${SHOWN}`);
  if (state.detail) one.look(`api/requests/${encodeURIComponent(state.detail)}`);
}

export function render() {
  const list = (tail.value ?? []).filter(suits), replicas = state.view.snapshot.replicas;
  return [
    h("div", {class: "head", key: "head"}, h("h1", {tabindex: -1}, title),
      h("div", {class: "controls"},
        select("Show", [["", "all"], ["trouble", "what did not complete"], ["missed", "missed predictions"], ...replicas.map(each => [each.name, each.name])], only, value => { only = value; draw(); }),
        choice("Tail", [["live", "Live"], ["still", "Paused"]], paused ? "still" : "live", value => { paused = value === "still"; watch(); draw(); }))),
    wide("Latest requests", quiet("Choose one to see its candidates, the cost of each in milliseconds, and what came of the prediction. ",
      "Regret: how much later the first token came than the best other replica's prediction; none where ours was best."),
      tail.error ? h("p", {class: "drift"}, tail.error) : null,
      table("Latest requests", ["request", {name: "at", left: true}, {name: "replica", left: true}, {name: "outcome", left: true}, "prompt", "predicted cached", "delivered", {name: "off by", hint: "delivered minus predicted"}, "predicted TTFT", "TTFT", "regret", "tries"],
        list.map(row), "No requests yet.")),
    trial(),
    state.detail ? explanation() : null,
  ];
}

const chosenOf = request => request.candidates.find(each => each.chosen) ?? request.candidates[0];
const ttftOf = candidate => candidate.terms.filter(term => term.name === "wait" || term.name === "prefill").reduce((sum, term) => sum + term.ms, 0);

function suits(request) {
  if (!only) return true;
  if (only === "trouble") return request.outcome !== null && request.outcome !== "completed";
  if (only === "missed") return request.usage?.cached_tokens != null && Math.abs(request.usage.cached_tokens - chosenOf(request).cached_tokens) > 256;
  return chosenOf(request).replica === only;
}

// Milliseconds lost against the best other replica, by its prediction; null where that cannot be said.
export function regret(request) {
  const others = request.candidates.filter(each => !each.chosen).map(ttftOf);
  if (request.ttft_s == null || !others.length) return null;
  return Math.max(1000 * request.ttft_s - Math.min(...others), 0);
}

const KINDS = {completed: "good", client_gone: "warn", rejected: "warn"};
const outcome = request => request.outcome === null ? badge("", "running") : badge(KINDS[request.outcome] ?? "bad", request.outcome.replaceAll("_", " "));

function row(request) {
  const chosen = chosenOf(request), cached = request.usage?.cached_tokens;
  const lost = regret(request);
  return {key: request.request_id, cells: [
    h("a", {href: "#/requests/" + encodeURIComponent(request.request_id), title: request.request_id}, request.request_id.slice(0, 12)),
    request.accepted_at == null ? "–" : time(request.accepted_at), chosen.replica, outcome(request),
    number(request.usage?.prompt_tokens ?? chosen.prompt_tokens), number(chosen.cached_tokens), number(cached), difference(cached == null ? null : cached - chosen.cached_tokens),
    ms(ttftOf(chosen)), seconds(request.ttft_s), lost == null ? "–" : lost < 0.5 ? "none" : ms(lost), number(request.attempts)]};
}

const difference = tokens => tokens == null ? "–" : tokens === 0 ? "exact" : (tokens > 0 ? "+" : "−") + number(Math.abs(tokens));

function explanation() {
  const known = one.value?.request_id === state.detail ? one.value : tail.value?.find(each => each.request_id === state.detail);
  const close = event => { if (event.target.open === false) location.hash = "#/requests"; };
  const content = known ? told(known) : [h("p", {}, one.missing ? "This request is no longer among the recent ones." : "Looking for it …")];
  return h("dialog", {class: "explain", key: "explain", "aria-labelledby": "why", ref: node => queueMicrotask(() => node.isConnected && node.showModal()), onclose: close},
    h("h2", {id: "why"}, "Why it went there"), h("p", {class: "quiet small mono"}, state.detail), content,
    h("form", {method: "dialog", class: "actions"}, h("button", {class: "primary"}, "Close")));
}

function told(request) {
  const chosen = chosenOf(request), names = request.candidates[0].terms.map(term => term.name), cached = request.usage?.cached_tokens;
  const most = Math.max(...request.candidates.map(each => each.cost_ms)), lost = regret(request);
  const ordered = [...request.candidates].sort((a, b) => a.cost_ms - b.cost_ms);
  return [
    h("p", {key: "why"}, request.why + "."),
    h("dl", {class: "figures wrap", key: "figures"},
      request.request_id ? [fact("outcome", request.outcome?.replaceAll("_", " ") ?? "running"), fact("tries", request.replicas?.join(" → ") || "–")] : null, fact("policy", request.policy),
      request.arm ? fact("arm", request.arm) : null,
      fact("prompt", `${number(request.usage?.prompt_tokens ?? chosen.prompt_tokens)} tokens`),
      fact("cached: available", number(request.available_tokens)), fact("cached: predicted", number(chosen.cached_tokens)),
      fact("cached: delivered", cached == null ? "–" : `${number(cached)} (${percent(cached / Math.max(request.usage.prompt_tokens, 1), 0)})`),
      fact("TTFT predicted", ms(ttftOf(chosen))), fact("TTFT measured", seconds(request.ttft_s)), fact("regret", lost == null ? "–" : lost < 0.5 ? "none" : ms(lost))),
    h("h3", {key: "h"}, "Cost in milliseconds, term by term"),
    h("p", {class: "legend", key: "legend"}, names.map(name => h("span", {key: name, class: "key term-key " + name}, h("i", {"aria-hidden": "true"}), name))),
    h("div", {key: "stacks"}, stacks(ordered.map(each => ({key: each.replica, name: each.replica, terms: each.terms, chosen: each.chosen, text: ms(each.cost_ms)})), most)),
    h("div", {key: "table"}, table("Candidates", ["replica", "cached", "confirmed", "inferred", "on its way", "in flight", ...names.map(name => name + " ms"), "cost ms", {name: "", left: true}],
      ordered.map(each => ({key: each.replica, class: each.chosen ? "chosen" : null, cells: [each.replica, number(each.cached_tokens), number(each.confirmed_tokens), number(each.inferred_tokens), number(each.promised_tokens), number(each.inflight),
        ...each.terms.map(term => number(term.ms, 1)), number(each.cost_ms, 1), each.chosen ? "chosen" : ""]})))),
  ];
}

const fact = (name, value) => h("div", {class: "figure", key: name}, h("dt", {}, name), h("dd", {"data-figure": name}, value));

// Where a body would go now; nothing is sent to an engine.
function trial() {
  return wide("Where would it go?", quiet("The body of a request, as clients send it: its candidates now. Nothing is sent to an engine, booked or kept."),
    h("form", {class: "fields", onsubmit: event => { event.preventDefault(); foresee(new FormData(event.target)); }},
      h("label", {}, "Endpoint", h("select", {name: "endpoint"}, ENDPOINTS.map(path => h("option", {key: path, value: path}, path)))),
      h("label", {class: "whole"}, "Body, JSON", h("textarea", {name: "body", rows: 5, required: true, spellcheck: "false", ref: node => { node.value = example(); }})),
      h("div", {class: "actions"}, h("button", {class: "primary"}, "Explain"))),
    preview ? h("div", {key: "told"}, told(preview)) : null);
}

const example = () => JSON.stringify({model: state.view.snapshot.pools[0]?.model ?? "model", messages: [{role: "user", content: "Hello"}]});

async function foresee(form) {
  try {
    preview = await send("POST", "api/explain?endpoint=" + encodeURIComponent(form.get("endpoint")), JSON.parse(form.get("body")));
  } catch (error) { preview = null; say(error instanceof SyntaxError ? `The body is no JSON: ${error.message}` : error.message, {bad: true}); }
  draw();
}
