// Prefix families: the hottest ones, where they live, and what keeps prompts from sharing one.

import {h} from "./dom.js";
import {state} from "./state.js";
import {Watched} from "./api.js";
import {badge, meter, quiet, table, wide} from "./parts.js";
import {rate} from "./figures.js";
import {compact, number, percent} from "./format.js";

export const title = "Prefixes";

const prefixes = new Watched(3);
const KINDS = {timestamp: "a timestamp", identifier: "an identifier", number: "a number", values: "times, ids or numbers", "tool-order": "the order of tools", order: "the order of parts", line: "a line that varies"};
const SHOWN = 25;

export function watch() { prefixes.look("api/prefixes"); }

export function render() {
  const told = prefixes.value, {snapshot} = state.view;
  const all = snapshot.families.reduce((sum, one) => sum + one.prompt_tokens - one.delivered_tokens, 0);
  return [
    h("div", {class: "head", key: "head"}, h("h1", {tabindex: -1}, title), quiet("Prompts that begin alike are a family, named by the hash of their first block.")),
    linter(told, all),
    wide("Hottest families", families(snapshot.families, told, snapshot.replicas)),
  ];
}

function linter(told, prefilled) {
  const findings = told?.findings ?? [], most = findings[0]?.wasted_tokens ?? 0;
  const rows = findings.map(one => ({key: one.theme + one.breaker + one.place + one.turn, cells: [
    h("span", {class: "finding"}, badge("warn", KINDS[one.breaker] ?? one.breaker), h("span", {class: "wrap"}, one.sentence)),
    one.turn ? `${one.place} turn, ${ordinal(one.turn)} of all` : one.place, `token ${number(one.position_tokens)}`, meter(most ? one.wasted_tokens / most : 0, compact(one.wasted_tokens)),
    percent(prefilled ? one.wasted_tokens / prefilled : null), number(one.requests), number(one.samples), h("span", {class: "mono small"}, one.families.map(name => name.slice(0, 8)).join(" "))]}));
  return wide("Prompt linter", quiet("Near misses: prompts that say much the same and yet share little of it, as something early differs. Wasted is what was said before and had to be prefilled, " +
    "estimated from the first 16 KB of sampled prompts, so there is more rather than less. Of a prompt only hashes are kept, and only kinds, places and counts are shown."),
  table("Prompt linter", [{name: "what breaks the prefix", left: true}, {name: "where", left: true}, "from", {name: "wasted prefill, tokens", left: true}, "of all prefill", "requests", "samples", {name: "families", left: true}], rows,
    told ? `None found in ${number(told.sampled)} sampled of ${number(told.seen)} requests.` : "Looking …"),
  told && rows.length ? quiet(`${number(told.sampled)} of ${number(told.seen)} requests were sampled.`) : null);
}

const ordinal = value => ["", "first", "second", "third"][value] ?? `${value}th`;

function families(falls, told, replicas) {
  const homes = new Map((told?.families ?? []).map(one => [one.name, one])), most = falls[0]?.prompt_tokens ?? 0;
  const rows = falls.slice(0, SHOWN).map(one => {
    const of = tokens => percent(rate(tokens, one.prompt_tokens)), hit = rate(one.delivered_tokens, one.prompt_tokens), known = homes.get(one.name);
    return {key: one.name, cells: [h("span", {class: "mono"}, one.name || "(all others)"), number(one.requests), meter(most ? one.prompt_tokens / most : 0, compact(one.prompt_tokens)), meter(hit, percent(hit)), of(one.available_tokens), of(one.routed_tokens),
      of(one.routing_loss_tokens), of(one.index_loss_tokens), lives(known, replicas)]};
  });
  return table("Hottest families", ["family", "requests", {name: "prompt tokens", left: true}, {name: "hit rate", left: true}, "available", "routed", "lost: routing", "lost: index", {name: "lives at (tokens of its latest prompt)", left: true}], rows);
}

function lives(known, replicas) {
  if (!known) return h("span", {class: "quiet"}, "not seen lately");
  if (!known.homes.length) return "nowhere";
  const up = new Set(replicas.filter(one => one.state === "up").map(one => one.name));
  return [...known.homes].sort((a, b) => b.cached_tokens - a.cached_tokens).map(one =>
    [h("span", {key: one.replica, class: up.has(one.replica) ? "home" : "home drift"}, h("a", {href: "#/replicas/" + encodeURIComponent(one.replica)}, one.replica), " ", h("b", {}, compact(one.cached_tokens))), " "]);
}
