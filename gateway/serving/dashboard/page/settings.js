// Settings that can be changed while the gateway serves, each with a way back; and the gateway's own processes.

import {h} from "./dom.js";
import {state, draw, remember, remembered} from "./state.js";
import {send, Watched} from "./api.js";
import {badge, card, confirmed, quiet, say, table, tried, wide} from "./parts.js";
import {bytes, number, seconds, span, stamp} from "./format.js";

export const title = "Settings";

const NAMES = {chunk_tokens: "chunk, tokens", long_prefill_threshold: "long prefill from, tokens", max_prefill_tokens: "most prefill in a step, tokens", mixed_chunk: "mixed chunks"};
const STATES = {running: "warn", done: "good", failed: "bad", "rolled-back": "bad", cancelled: ""};
const pools = new Map();
let editing = null;

const path = pool => `api/pools/${encodeURIComponent(pool)}/prefill`;

export function watch() {
  for (const {name} of state.view.snapshot.pools) {
    if (!pools.has(name)) pools.set(name, new Watched(3));
    pools.get(name).look(path(name));
  }
}

export function render() {
  const {snapshot, gateway} = state.view;
  return [
    h("div", {class: "head", key: "head"}, h("h1", {tabindex: -1}, title), quiet("What is changed here holds for all workers at once; the file stays as it is.")),
    h("div", {class: "grid two", key: "pools"}, snapshot.pools.map(one => prefill(one.name))),
    h("div", {class: "grid three", key: "more"}, policy(snapshot), experiments(), looks()),
    workers(gateway),
  ];
}

const shown = value => value == null ? "engine's own" : typeof value === "boolean" ? (value ? "on" : "off") : number(value);

function prefill(pool) {
  const told = pools.get(pool)?.value;
  if (!told) return card(`Chunked prefill: ${pool}`, quiet(pools.get(pool)?.error || "Looking …"));
  const rows = Object.entries(told.actual).map(([name, actual]) => ({key: name, cells: [name, ...Object.keys(NAMES).map(setting =>
    h("span", {class: told.desired[setting] != null && actual[setting] != null && actual[setting] !== told.desired[setting] ? "drift" : ""}, actual[setting] == null ? "–" : shown(actual[setting])))]}));
  rows.unshift({key: "wished", class: "group", cells: ["wished", ...Object.keys(NAMES).map(setting => told.desired[setting] == null ? "–" : shown(told.desired[setting]))]});
  const drifts = Object.entries(told.drift ?? {}).flatMap(([name, list]) => list.map(text => `${name}: ${text}`));
  return card(`Chunked prefill: ${pool}`, table(`Chunked prefill of ${pool}`, ["", ...Object.values(NAMES)], rows),
    drifts.length ? h("ul", {class: "plainlist"}, drifts.map(text => h("li", {key: text}, text))) : null,
    told.advice ? h("p", {class: "advice"}, badge(told.advice.to ? "good" : "", "advice"), " ", told.advice.sentence) : null,
    changing(pool, told));
}

function changing(pool, told) {
  const change = told.change, runs = change?.state === "running";
  return [
    change ? h("div", {key: "change", class: "change"}, h("p", {}, badge(STATES[change.state] ?? "", change.state.replace("-", " ")), ` change of ${stamp(change.started_at)} to ${shown(change.wished.chunk_tokens)}`, change.reason ? `: ${change.reason}` : ""),
      h("details", {class: "explained"}, h("summary", {}, "Steps"), h("ol", {}, change.steps.map((step, index) => h("li", {key: index}, `${stamp(step.at)} ${step.replica} ${step.said}`))))) : null,
    editing === pool ? form(pool, told) : h("div", {class: "actions", key: "actions"},
      runs ? h("button", {type: "button", class: "alarm", onclick: () => cancel(pool)}, "Cancel the change") : h("button", {type: "button", onclick: () => { editing = pool; draw(); }}, "Change"),
      !runs && told.advice?.to ? h("button", {type: "button", onclick: () => put(pool, told, {chunk_tokens: told.advice.to})}, `Take the advice: ${number(told.advice.to)}`) : null),
  ];
}

function form(pool, told) {
  const field = name => h("label", {key: name}, NAMES[name], h("input", {name, type: "number", min: 1, step: 1, placeholder: "engine's own", ref: node => { node.value = told.desired[name] ?? ""; }}));
  return h("form", {class: "fields", key: "form", onsubmit: event => { event.preventDefault(); put(pool, told, wished(new FormData(event.target), told)); }},
    ["chunk_tokens", "long_prefill_threshold", "max_prefill_tokens"].map(field),
    h("div", {class: "actions"}, h("button", {class: "primary"}, "Set"), h("button", {type: "button", onclick: () => { editing = null; draw(); }}, "Leave it")));
}

// Only what differs from the wish: what is left out stays, null is the engine's own choice.
function wished(form, told) {
  const values = [...form].map(([name, text]) => [name, text === "" ? null : Number(text)]);
  return Object.fromEntries(values.filter(([name, value]) => value !== (told.desired[name] ?? null)));
}

async function put(pool, told, wish) {
  if (!Object.keys(wish).length) { say("That is what is wished already."); return; }
  const before = Object.fromEntries(Object.keys(wish).map(name => [name, told.desired[name]]));
  const text = [Object.entries(wish).map(([name, value]) => `${NAMES[name]}: ${shown(told.desired[name])} → ${shown(value)}`).join("; ") + ".",
    "The replicas are brought to it one after the other: drained, restarted where the gateway may do that, and taken back where it is worse."];
  if (await confirmed({title: `Change the prefill of ${pool}?`, text, action: "Change it"})) {
    editing = null;
    await tried(() => send("PUT", path(pool), wish), `The change of ${pool} has begun.`, () => tried(() => send("PUT", path(pool), before), `The way back of ${pool} has begun.`));
    pools.get(pool).look(path(pool), true);
  }
  draw();
}

async function cancel(pool) {
  if (await confirmed({title: `Cancel the change of ${pool}?`, text: "It stops at the next step at which no replica is left half done.", action: "Cancel the change", danger: true})) {
    await tried(() => send("POST", path(pool) + "/cancel"), "The change is being cancelled.");
  }
}

function policy({policy: name, pools: known}) {
  return card("Policy and configuration",
    h("p", {}, "Requests are routed by ", h("b", {}, name), "."),
    quiet("[routing] policy, limits, tenants and pools are read from the file. Reading it again drops no stream; a file that is not valid changes nothing."),
    table("Pools", ["pool", {name: "model", left: true}, "bytes / token", {name: "prompts counted in", left: true}], known.map(one => ({key: one.name, cells: [one.name, one.model ?? "any", number(one.bytes_per_token, 2), one.encoding || "text"]}))),
    h("div", {class: "actions"}, h("button", {type: "button", onclick: reload}, "Read the file again")));
}

async function reload() {
  if (!await confirmed({title: "Read the configuration again?", text: "Changes in the file are applied to all workers. What the API changed and the file does not say is as in the file again.", action: "Read it"})) return;
  try {
    const told = await send("POST", "api/config/reload");
    const said = Object.entries(told).filter(([, list]) => list.length).map(([name, list]) => `${name.replaceAll("_", " ")}: ${list.join(", ")}`);
    say(said.join("; ") || "Nothing has changed.");
  } catch (error) { say(error.message, {bad: true}); }
}

function experiments() {
  const all = state.view.experiments ?? [];
  return card("Experiments", quiet(all.length ? "Begun and ended on the page A/B." : "None is configured."),
    all.length ? table("Experiments", ["experiment", {name: "state", left: true}, {name: "verdict", left: true}], all.map(one => ({key: one.name, cells: [h("a", {href: "#/experiments/" + encodeURIComponent(one.name)}, one.name), one.state, h("span", {class: "wrap"}, one.headline || "–")]}))) : h("p", {}, h("a", {href: "#/experiments"}, "Make one")));
}

function looks() {
  return card("This page", quiet("Kept in this browser."),
    h("div", {class: "fields"}, h("label", {}, "Reference of the hit rate, %", h("input", {type: "number", min: 0, max: 100, value: String(remembered("reference", 55)), onchange: event => remember("reference", Math.min(Math.max(Number(event.target.value), 0), 100))}))));
}

function workers({workers: rows, sharing, uptime_s, version}) {
  const share = sharing.backend === "none" ? "Nothing is shared with other gateways." : `Shares over ${sharing.backend}: ${sharing.connected ? `${sharing.peers} peers, ${number(sharing.sent)} records sent, ${number(sharing.received)} received, ${number(sharing.dropped)} dropped` + (sharing.lag_s == null ? "" : `, ${seconds(sharing.lag_s)} behind`) : sharing.reason}.`;
  return wide("The gateway's processes", quiet(`Version ${version}, up ${span(uptime_s)}. ${share} All figures on these pages are of all processes together.`),
    table("Workers", ["worker", "pid", {name: "state", left: true}, "up", "requests ended", "in flight", "CPU", "memory", "predecessors"], rows.map(one => ({key: one.number, cells: [one.number, String(one.pid), badge(one.state === "up" ? "good" : "bad", one.state), span(one.uptime_s),
      number(one.requests), number(one.inflight), one.cpu_s == null ? "–" : number(one.cpu_s, 1) + "\u00a0s", bytes(one.memory_bytes), number(one.restarts)]}))));
}
