// The shell: which page is shown, what all pages share, and the live events that keep them true.

import {h, show} from "./dom.js";
import {state, draw, paintedBy, remembered, remember} from "./state.js";
import {live} from "./api.js";
import * as overview from "./overview.js";
import * as replicas from "./replicas.js";
import * as prefixes from "./prefixes.js";
import * as requests from "./requests.js";
import * as experiments from "./experiments.js";
import * as settings from "./settings.js";

const PAGES = {"": overview, replicas, prefixes, requests, experiments, settings};
const place = document.getElementById("page");
const THEMES = ["auto", "light", "dark"];

function follow() {
  const [, name = "", ...rest] = location.hash.split("/");
  const before = state.page;
  state.page = name in PAGES ? name : "";
  try { state.detail = rest.length ? decodeURIComponent(rest.join("/")) : null; } catch { state.detail = null; }
  const page = PAGES[state.page];
  document.title = `${page.title} · prefixgate`;
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.hash === "#/" + state.page) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  look();
  paint();
  if (before !== state.page) {
    scrollTo(0, 0);
    place.querySelector("h1")?.focus({preventScroll: true});
  }
}

function look() { if (state.view) PAGES[state.page].watch?.(); }

function paint() {
  const page = PAGES[state.page];
  if (!state.view) {
    show(place, h("h1", {tabindex: -1}, page.title), h("div", {class: "skeleton", "aria-hidden": "true"}));
    return;
  }
  const {gateway, snapshot} = state.view;
  const about = `${gateway.version} · policy ${snapshot.policy}`;
  const line = document.getElementById("about");
  if (line.textContent !== about) line.textContent = about;
  show(place, said(gateway), ...page.render());
}

// What an operator should know, on every page.
function said({notices, warnings}) {
  const lines = [...notices, ...Object.entries(warnings).flatMap(([name, list]) => list.map(text => `${name}: ${text}`))];
  if (!lines.length) return null;
  return h("details", {class: "warnings", key: "warnings", open: remembered("warnings", true), ontoggle: event => {
    if (event.target.open !== remembered("warnings", true)) remember("warnings", event.target.open);
  }}, h("summary", {}, lines.length === 1 ? "1 thing to know" : `${lines.length} things to know`),
  h("ul", {}, lines.map(text => h("li", {key: text}, text))));
}

function dress(theme) {
  document.documentElement.dataset.theme = theme;
  document.getElementById("theme").textContent = `Theme: ${theme}`;
}

document.getElementById("theme").onclick = () => {
  const next = THEMES[(THEMES.indexOf(remembered("theme", "auto")) + 1) % THEMES.length];
  remember("theme", next);
  dress(next);
};

dress(remembered("theme", "auto"));
paintedBy(paint);
addEventListener("hashchange", follow);
follow();
live(view => { state.view = view; look(); draw(); });
