// Experiments: what is compared, what may be said of it by now, and how to begin and end it.

import {h} from "./dom.js";
import {state, draw} from "./state.js";
import {ask, send, Watched} from "./api.js";
import {badge, card, confirmed, explained, meter, quiet, say, table, tried, wide} from "./parts.js";
import {forest} from "./charts.js";
import {number, percent, seconds, signed, span, stamp} from "./format.js";

export const title = "A/B";

const report = new Watched(20), detail = new Watched(5);
const UNITS = [["prefix-family", "prefix family"], ["session", "session"], ["tenant", "tenant"], ["request", "request (halves the caches)"]];
const METRICS = ["ttft_p50", "ttft_mean", "ttft_p90", "ttft_p99", "itl_mean", "itl_p50", "request_p50", "hit_rate", "error_rate", "refusal_rate"];
const KINDS = {running: "good", waiting: "warn", stopped: ""};
const VERDICTS = {better: "good", worse: "bad", tie: "", unclear: "warn"};
let editing = null, creating = false;

const all = () => state.view.experiments ?? [];
const chosen = () => all().find(one => one.name === state.detail) ?? all()[0];
const path = name => `api/experiments/${encodeURIComponent(name)}`;
const words = name => name.replace("ttft", "TTFT").replace("itl", "ITL").replaceAll("_", " ");

export function watch() {
  const one = chosen();
  if (!one) return;
  detail.look(path(one.name));
  if (one.began_at) report.look(path(one.name) + "/report");
}

export function render() {
  const one = chosen();
  return [
    h("div", {class: "head", key: "head"}, h("h1", {tabindex: -1}, title), quiet("Traffic split between arms, judged by statistics that hold however often one looks."),
      h("div", {class: "controls"}, h("button", {type: "button", "aria-expanded": String(creating), onclick: () => { creating = !creating; draw(); }}, creating ? "Leave it" : "New experiment"))),
    creating ? creation() : null,
    !all().length ? card("No experiments", quiet("None is configured. Begin one here, with [[experiments]] in the configuration, or with ", h("code", {}, "prefixgate experiment"), ".")) : null,
    all().length ? wide("Experiments", table("Experiments", ["experiment", {name: "state", left: true}, {name: "unit", left: true}, {name: "metric", left: true}, {name: "arms: requests", left: true}, {name: "verdict", left: true}],
      all().map(each => ({key: each.name, class: each.name === one?.name ? "chosen" : null, cells: [h("a", {href: "#/experiments/" + encodeURIComponent(each.name)}, each.name), badge(KINDS[each.state], each.state),
        words(each.unit), words(each.metric), each.arms.map(arm => `${arm.name} ${number(arm.exposures)}`).join(", "), h("span", {class: "wrap"}, each.headline || "no report yet")]})))) : null,
    one ? shown(one) : null,
    shadows(state.view.shadows ?? []),
  ];
}

function shown(one) {
  const told = report.path === path(one.name) + "/report" ? report.value : null;
  const known = detail.path === path(one.name) ? detail.value : null;
  return h("div", {key: "shown " + one.name},
    h("div", {class: "grid front"}, verdict(one, told), arms(one, told)),
    report.error && !told ? h("p", {class: "card drift"}, report.error) : null,
    told ? h("div", {class: "grid two"}, effects(told, "relative"), effects(told, "points")) : null,
    told ? figures(told) : null,
    told ? h("div", {class: "grid two"}, fairness(told), separations(told)) : null,
    known ? wide("What happened", table("What happened", ["when", {name: "what", left: true}, {name: "more", left: true}], known.events.map((event, index) => ({key: index, cells: happened(event)})), "Nothing yet.")) : null);
}

const happened = ([, at, kind, arm, said]) => [stamp(at), arm ? `${kind}: ${arm}` : kind, h("span", {class: "wrap"}, said)];

function verdict(one, told) {
  const since = one.state === "running" ? Date.now() / 1000 - one.began_at : one.ended_at - one.began_at;
  return h("section", {class: "card", key: "verdict", "aria-labelledby": "h-verdict"},
    h("h2", {id: "h-verdict"}, one.name, " ", badge(KINDS[one.state], one.state)),
    h("p", {class: "sentence", "data-figure": "verdict"}, told?.sentence || one.headline || (one.state === "waiting" ? "It has not begun." : "No report yet.")),
    told || !one.began_at ? null : h("p", {class: "quiet"}, "The report is being worked out …"),
    h("p", {class: "quiet"}, [`unit: ${words(one.unit)}`, `metric: ${words(one.metric)}`, `control: ${one.control}`, `${percent(one.traffic, 0)} of the traffic`,
      one.began_at ? `${one.state === "running" ? "for" : "ran"} ${span(since)}` : null, one.why ? `stopped ${one.why}` : null].filter(Boolean).join(" · ")),
    told?.breaches.length ? h("ul", {}, told.breaches.map(each => h("li", {key: each.arm + each.metric, class: "drift"}, each.sentence))) : null,
    told?.warnings.length || detail.value?.warnings.length ? h("ul", {class: "plainlist"}, [...(told?.warnings ?? []), ...(detail.value?.warnings ?? [])].map(text => h("li", {key: text}, text))) : null,
    told?.power.length ? explained("What it can find", told.power.map(each => h("p", {key: each.arm}, each.sentence))) : null,
    h("div", {class: "actions"},
      one.state === "running" ? h("button", {type: "button", class: "alarm", onclick: () => stop(one)}, "Stop") : h("button", {type: "button", class: "primary", onclick: () => start(one)}, "Start"),
      h("button", {type: "button", onclick: () => page(one)}, "Full report"),
      one.origin !== "file" && one.state !== "running" ? h("button", {type: "button", onclick: () => forget(one)}, "Remove") : null));
}

async function start(one) {
  if (await confirmed({title: `Start ${one.name}?`, text: `${percent(one.traffic, 0)} of the eligible traffic is split between ${one.arms.map(arm => arm.name).join(" and ")}, from now on.`, action: "Start"})) {
    await tried(() => send("POST", path(one.name) + "/start"), `${one.name} runs.`, () => tried(() => send("POST", path(one.name) + "/stop"), `${one.name} is stopped.`));
    detail.look(path(one.name), true);
  }
}

async function stop(one) {
  if (await confirmed({title: `Stop ${one.name}?`, text: ["Traffic is no longer split; what was observed stays.", "To start it again begins counting anew."], action: "Stop", danger: true})) {
    await tried(() => send("POST", path(one.name) + "/stop"), `${one.name} is stopped.`);
    detail.look(path(one.name), true);
  }
}

async function forget(one) {
  if (await confirmed({title: `Remove ${one.name}?`, text: "It goes with all that was observed of it. That cannot be undone.", action: "Remove", danger: true})) {
    if (await tried(() => send("DELETE", path(one.name)), `${one.name} is removed.`)) location.hash = "#/experiments";
  }
}

// The report as a page of its own: opened where it needs no token, else saved, since a link cannot send one.
async function page(one) {
  const url = path(one.name) + "/report?format=html";
  if (!sessionStorage.getItem("admin-token")) { open(url, "_blank", "noopener"); return; }
  try {
    const saved = URL.createObjectURL(await (await ask(url)).blob());
    Object.assign(document.createElement("a"), {href: saved, download: `${one.name}.html`}).click();
    setTimeout(() => URL.revokeObjectURL(saved), 1000);
  } catch (error) { say(error.message, {bad: true}); }
}

function arms(one, told) {
  const weights = one.arms.reduce((sum, arm) => sum + arm.weight, 0), requests = one.arms.reduce((sum, arm) => sum + arm.exposures, 0);
  const rows = one.arms.map(arm => {
    const seen = told?.arms.find(each => each.name === arm.name);
    return {key: arm.name, cells: [[arm.name, arm.name === one.control ? h("span", {class: "quiet"}, " (control)") : "", arm.stopped ? badge("bad", "stopped: " + arm.stopped) : ""],
      percent(weights ? arm.weight / weights : null, 0), meter(requests ? arm.exposures / requests : null, number(arm.exposures), weights ? arm.weight / weights : null), number(seen?.units), number(seen?.crossed)]};
  });
  return card("Arms", table("Arms", ["arm", "weight", {name: "requests", left: true}, {name: "units", hint: "that count"}, {name: "crossed", hint: "answered outside of the arm"}], rows),
    told ? quiet(told.sample_ratio.sentence) : null, weighing(one));
}

function weighing(one) {
  if (editing !== one.name) return h("div", {class: "actions", key: "weigh"}, h("button", {type: "button", onclick: () => { editing = one.name; draw(); }}, "Change weights"));
  return h("form", {class: "fields", key: "weights", onsubmit: event => { event.preventDefault(); weigh(one, new FormData(event.target)); }},
    one.arms.map(arm => h("label", {key: arm.name}, arm.name, h("input", {name: arm.name, type: "number", min: 0, step: "any", required: true, ref: node => { node.value = arm.weight; }}))),
    h("div", {class: "actions"}, h("button", {class: "primary"}, "Set weights"), h("button", {type: "button", onclick: () => { editing = null; draw(); }}, "Cancel")));
}

async function weigh(one, form) {
  const weights = Object.fromEntries([...form].map(([name, value]) => [name, Number(value)])), before = Object.fromEntries(one.arms.map(arm => [arm.name, arm.weight]));
  if (await confirmed({title: "Set other weights?", text: "New weights begin counting anew.", action: "Set weights"})) {
    editing = null;
    await tried(() => send("PATCH", path(one.name), {weights}), "The weights are set.", () => tried(() => send("PATCH", path(one.name), {weights: before}), "The weights are as before."));
  }
  draw();
}

const change = one => one.scale === "points" ? signed(one.change).replace("%", "points") : signed(one.change);

function effects(told, scale) {
  const mine = told.comparisons.filter(one => one.scale === scale);
  if (!mine.length) return null;
  const several = new Set(mine.map(one => one.arm)).size > 1;
  const rows = mine.map(one => ({key: one.arm + one.metric, name: (several ? one.arm + ": " : "") + words(one.metric) + (one.metric === told.metric ? " ★" : ""), value: one.change, low: one.low, high: one.high, kind: one.verdict}));
  const name = scale === "relative" ? "Change against the control" : "Change in points of a share";
  return h("section", {class: "card", key: scale, "aria-label": name}, forest({name: "forest " + scale, title: name, rows, format: value => scale === "relative" ? signed(value, 0) : signed(value, 1).replace("\u00a0%", ""), less: "less than the control", more: "more",
    summary: mine.map(one => one.sentence).join(" ")}),
  explained("In words", h("ul", {}, mine.map(one => h("li", {key: one.arm + one.metric}, badge(VERDICTS[one.verdict], one.verdict), " ", `${words(one.metric)}: ${change(one)}. `, one.sentence)))));
}

function valued(value, measure) {
  if (value == null) return "–";
  if (measure === "seconds") return seconds(value);
  if (measure === "share") return percent(value, 2);
  return (measure.startsWith("USD") ? "$" : "") + number(value, 2);
}

function figures(told) {
  const metrics = told.arms[0]?.figures ?? [];
  return wide("Figures by arm", quiet(`With ${percent(told.confidence, 0)} confidence intervals that hold for one look; verdicts hold for any number.`),
    table("Figures by arm", ["metric", ...told.arms.flatMap(arm => [arm.name, "interval"])], metrics.map((metric, index) => ({key: metric.metric, cells: [metric.measure.includes("/") ? metric.measure : words(metric.metric),
      ...told.arms.flatMap(arm => { const one = arm.figures[index]; return [h("b", {}, valued(one?.value, metric.measure)), h("span", {class: "quiet"}, `${valued(one?.low, metric.measure)} to ${valued(one?.high, metric.measure)}`)]; })]}))));
}

const between = ({low, high}, format) => low == null && high == null ? "any" : high == null ? `${format(low)} and more` : `${format(low ?? 0)} to ${format(high)}`;

function fairness(told) {
  return card("At equal prompt and equal hit rate", table("Strata", ["prompt tokens", "cached", "share", ...told.arms.map(arm => `${arm.name} TTFT p50`)],
    told.strata.map((one, index) => ({key: index, cells: [between(one.prompt_tokens, number), between(one.cached_fraction, value => percent(value, 0)), percent(one.share, 0),
      ...told.arms.map(arm => { const seen = one.arms.find(each => each.name === arm.name); return seen ? [seconds(seen.ttft_p50_s), h("span", {class: "quiet"}, ` of ${number(seen.requests)}`)] : "–"; })]}))));
}

function separations(told) {
  return card("Where the difference comes from", told.separations.length ? h("ul", {class: "plainlist"}, told.separations.map(one => h("li", {key: one.arm}, one.sentence))) : quiet("There is not enough to say yet."),
    table("Where the difference comes from", ["arm", "whole", "at equal hit rate", "through hit rate", "through prompts", "covered"],
      told.separations.map(one => ({key: one.arm, cells: [one.arm, signed(one.whole), [signed(one.equal), h("span", {class: "quiet"}, one.low == null ? "" : ` (${signed(one.low, 0)} to ${signed(one.high, 0)})`)], signed(one.through_hit_rate), signed(one.through_prompts), percent(one.covered, 0)]}))));
}

// Copies of requests that another pool answers too, for nobody.
function shadows(rows) {
  if (!rows.length) return null;
  const pair = (own, copy, format) => `${format(own)} / ${format(copy)}`;
  return wide("Shadows", quiet("A share of the requests is answered by another pool too, and that answer discarded. Own / copy: medians and ratios over the pairs."),
    table("Shadows", ["shadow", {name: "to", left: true}, "share", "copies", "done", "failed", "left out", "waiting", "in flight", "pairs", "TTFT own / copy", "ratio", "hit rate own / copy", "ITL own / copy", "same / other texts"],
      rows.map(each => { const count = name => each.counts[name] ?? 0; return {key: each.name, cells: [each.name, each.to, percent(each.share, 0), number(count("mirrored")), number(count("completed")), number(count("failed")),
        number(count("dropped_full") + count("dropped_busy") + count("dropped_unserved")), number(each.waiting), number(each.inflight), number(each.paired), pair(each.own_ttft_s, each.copy_ttft_s, seconds), number(each.ttft_ratio, 2),
        pair(each.own_hit_rate, each.copy_hit_rate, percent), pair(each.own_itl_s, each.copy_itl_s, seconds), `${number(each.same)} / ${number(each.differed)}`]}; })));
}

function creation() {
  const pools = state.view.snapshot.pools.map(one => one.name);
  return h("form", {class: "card fields", key: "creation", "aria-label": "New experiment", onsubmit: event => { event.preventDefault(); create(new FormData(event.target), pools); }},
    h("h2", {}, "New experiment"), quiet("Arms are pools here. Replica sets, policies and chunk sizes as arms go by the configuration or the API."),
    h("label", {}, "Name", h("input", {name: "name", required: true, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*"})),
    h("label", {}, "Unit", h("select", {name: "unit"}, UNITS.map(([value, text]) => h("option", {key: value, value}, text)))),
    h("label", {}, "Metric", h("select", {name: "metric"}, METRICS.map(value => h("option", {key: value, value}, words(value))))),
    h("label", {}, "Share of the traffic, %", h("input", {name: "traffic", type: "number", min: 1, max: 100, required: true, ref: node => { node.value = 100; }})),
    h("fieldset", {}, h("legend", {}, "Weights of the pools (0: not an arm)"), pools.map(name => h("label", {key: name}, name, h("input", {name: "arm " + name, type: "number", min: 0, step: "any", ref: node => { node.value = 1; }})))),
    h("div", {class: "actions"}, h("button", {class: "primary"}, "Make it")));
}

async function create(form, pools) {
  const arms = Object.fromEntries(pools.map(name => [name, Number(form.get("arm " + name))]).filter(([, weight]) => weight > 0));
  const definition = {name: form.get("name"), unit: form.get("unit"), metric: form.get("metric"), traffic: Number(form.get("traffic")) / 100, arms, start: "manual"};
  const made = await tried(() => send("POST", "api/experiments", definition), `${definition.name} is made; start it when you like.`, () => tried(() => send("DELETE", path(definition.name)), `${definition.name} is removed.`));
  if (made) { creating = false; location.hash = "#/experiments/" + encodeURIComponent(definition.name); draw(); }
}
