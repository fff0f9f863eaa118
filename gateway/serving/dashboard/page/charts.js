// Charts as SVG: lines over time, and intervals beside a line of no difference. Each has its figures as a table too.

import {h} from "./dom.js";
import {state, draw} from "./state.js";
import {moment, stamp} from "./format.js";
import {table} from "./parts.js";

const REM = parseFloat(getComputedStyle(document.documentElement).fontSize);
const LEFT = 3.7 * REM, RIGHT = 12, TOP = 10, BOTTOM = 1.7 * REM, HEIGHT = 14 * REM, WIDTH = 640;
const STEPS_S = [1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800, 2592000];

function watchWidth(name) {
  return node => new ResizeObserver(([entry]) => {
    const width = Math.round(entry.contentRect.width);
    if (width && width !== state.widths[name]) { state.widths[name] = width; draw(); }
  }).observe(node);
}

// A scale's round numbers from 0 on.
function rounds(most, count = 4) {
  const rough = most / count, size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map(one => one * size).find(one => one >= rough);
  return Array.from({length: Math.floor(most / step + 1e-6) + 1}, (_, index) => index * step);
}

function ticks(from, to, room) {
  const step = STEPS_S.find(one => (to - from) / one <= room) ?? STEPS_S.at(-1);
  const zone = new Date(to * 1000).getTimezoneOffset() * 60, first = Math.ceil((from - zone) / step) * step + zone;
  return Array.from({length: Math.max(Math.floor((to - first) / step) + 1, 0)}, (_, index) => first + index * step);
}

// The path of a line that breaks where there is nothing.
function path(points) {
  let text = "", open = false;
  for (const [x, y] of points) {
    if (y == null) { open = false; continue; }
    text += `${open ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    open = true;
  }
  return text;
}

function area(points, floor) {
  const parts = [];
  let run = [];
  for (const point of [...points, [0, null]]) {
    if (point[1] != null) { run.push(point); continue; }
    if (run.length > 1) parts.push(`${path(run)}L${run.at(-1)[0].toFixed(1)} ${floor}L${run[0][0].toFixed(1)} ${floor}Z`);
    run = [];
  }
  return parts.join("");
}

// `lines` are {name, kind, values, area}; `at` the times of their values; `from`, `to` and `stepS` in seconds.
export function lineChart({name, title, summary, at, from, to, stepS, lines, format, most, reference, referenceName = "reference"}) {
  const width = state.widths[name] ?? WIDTH, across = width - LEFT - RIGHT, down = HEIGHT - TOP - BOTTOM;
  const top = most ?? Math.max(...lines.flatMap(line => line.values.filter(value => value != null)), 0) * 1.08;
  const high = top > 0 ? top : 1;
  const x = moment => LEFT + across * (moment - from) / Math.max(to - from, 1);
  const y = value => TOP + down * (1 - Math.min(value, high) / high);
  const places = lines.map(line => pointsOf(line, at, stepS, x, y));
  const looked = state.hover?.chart === name && at.length ? Math.min(state.hover.index, at.length - 1) : null;
  const shown = looked ?? at.length - 1;
  const follow = event => {
    const box = event.currentTarget.getBoundingClientRect();
    const when = from + (event.clientX - box.left - LEFT) / across * (to - from);
    let best = 0;
    at.forEach((one, index) => { if (Math.abs(one - when) < Math.abs(at[best] - when)) best = index; });
    state.hover = {chart: name, index: best};
    draw();
  };
  const rows = at.map((one, index) => ({key: one, cells: [stamp(one), ...lines.map(line => format(line.values[index]))]}));
  return h("figure", {class: "chart", key: name, ref: watchWidth(name)},
    h("figcaption", {}, h("span", {class: "chart-title"}, title),
      h("span", {class: "legend"}, lines.map(line => h("span", {key: line.name, class: "key " + line.kind},
        h("i", {"aria-hidden": "true"}), line.name, " ", h("b", {}, format(line.values[shown])))),
        looked != null ? h("span", {class: "quiet", key: "when"}, stamp(at[looked])) : null)),
    h("svg", {role: "img", "aria-label": summary, viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT,
      onpointermove: follow, onpointerdown: follow, onpointerleave: () => { state.hover = null; draw(); }},
      rounds(high).map(value => h("g", {key: "y" + value, class: "grid"},
        h("line", {x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value)}),
        h("text", {x: LEFT - 8, y: y(value) + 4, "text-anchor": "end"}, format(value, true)))),
      ticks(from, to, Math.max(Math.floor(across / (6 * REM)), 2)).map(one => h("text", {key: "x" + one, class: "tick", x: x(one), y: HEIGHT - 6,
        "text-anchor": x(one) > width - 40 ? "end" : "middle"}, moment(one, to - from))),
      lines.map((line, index) => line.area ? h("path", {key: "a" + line.name, class: "area " + line.kind, d: area(places[index], TOP + down)}) : null),
      lines.map((line, index) => h("path", {key: "l" + line.name, class: "line " + line.kind, d: path(places[index])})),
      lines.map((line, index) => alone(places[index]).map(([px, py]) => h("circle", {key: line.name + px, class: "dot " + line.kind, cx: px, cy: py, r: 2.5}))),
      reference == null ? null : h("g", {class: "reference", key: "reference"},
        h("line", {x1: LEFT, x2: width - RIGHT, y1: y(reference), y2: y(reference)}),
        h("text", {x: width - RIGHT, y: y(reference) - 5, "text-anchor": "end"}, `${referenceName} ${format(reference)}`)),
      looked == null ? null : h("g", {class: "looked", key: "looked"},
        h("line", {x1: x(at[looked]), x2: x(at[looked]), y1: TOP, y2: TOP + down}),
        lines.map(line => line.values[looked] == null ? null : h("circle", {key: line.name, class: "dot " + line.kind, cx: x(at[looked]), cy: y(line.values[looked]), r: 4})))),
    !at.length ? h("p", {class: "chart-empty", key: "empty"}, "No requests in this time.") : null,
    h("details", {class: "explained", key: "table"}, h("summary", {}, "As a table"),
      table(title, ["time", ...lines.map(line => line.name)], rows.slice(-60).reverse())));
}

// Where a line goes; a gap of more than a step breaks it.
function pointsOf(line, at, stepS, x, y) {
  const points = [];
  at.forEach((one, index) => {
    if (index && one - at[index - 1] > 1.5 * stepS) points.push([0, null]);
    points.push([x(one), line.values[index] == null ? null : y(line.values[index])]);
  });
  return points;
}

// Points without a neighbour, which a path does not show.
const alone = points => points.filter(([, y], index) => y != null && points[index - 1]?.[1] == null && points[index + 1]?.[1] == null);

// Intervals around no difference: `rows` are {key, name, value, low, high, kind, text}; open ends are null.
export function forest({name, title, summary, rows, format, less, more}) {
  const width = state.widths[name] ?? WIDTH, label = Math.min(11 * REM, width * 0.34), line = 2.2 * REM, height = rows.length * line + 3 * REM;
  const values = rows.flatMap(row => [row.value, row.low, row.high]).filter(value => value != null).map(Math.abs);
  const far = Math.max(...values, 0.02) * 1.15;
  const x = value => label + (width - label - 16) * (Math.min(Math.max(value, -far), far) + far) / (2 * far);
  return h("figure", {class: "chart forest", key: name, ref: watchWidth(name)},
    h("figcaption", {}, h("span", {class: "chart-title"}, title)),
    h("svg", {role: "img", "aria-label": summary, viewBox: `0 0 ${width} ${height}`, width, height},
      h("line", {class: "zero", x1: x(0), x2: x(0), y1: 0, y2: rows.length * line}),
      rows.map((row, index) => {
        const y = index * line + line / 2;
        return h("g", {key: row.key, class: "row " + row.kind},
          h("text", {x: 0, y: y + 4}, row.name),
          row.value == null ? h("text", {x: x(0) + 10, y: y + 4, class: "quiet-text"}, "not enough data") : [
            h("line", {x1: x(row.low ?? -far), x2: x(row.high ?? far), y1: y, y2: y}),
            h("line", {class: "cap", x1: x(row.low ?? -far), x2: x(row.low ?? -far), y1: y - 5, y2: y + 5}),
            h("line", {class: "cap", x1: x(row.high ?? far), x2: x(row.high ?? far), y1: y - 5, y2: y + 5}),
            h("rect", {x: x(row.value) - 5, y: y - 5, width: 10, height: 10, rx: 2})]);
      }),
      [-far, 0, far].map((value, index) => h("text", {key: value, class: "tick", x: index === 0 ? label : index === 1 ? x(0) : width - 16, y: height - 1.5 * REM,
        "text-anchor": ["start", "middle", "end"][index]}, format(value))),
      h("text", {class: "tick", x: label, y: height - 3}, "← " + less),
      h("text", {class: "tick", x: width - 16, y: height - 3, "text-anchor": "end"}, more + " →")));
}

// A request's way to its first token, term by term: `rows` are {key, name, terms: [{name, ms}], chosen, text}.
export function stacks(rows, most) {
  return h("div", {class: "stacks", "aria-hidden": "true"}, rows.map(row => h("div", {key: row.key, class: row.chosen ? "stack chosen" : "stack"},
    h("span", {class: "stack-name"}, row.name),
    h("span", {class: "stack-track"}, row.terms.map(term => h("span", {key: term.name, class: "term " + term.name, style: {width: 100 * term.ms / Math.max(most, 1e-9) + "%"}}))),
    h("span", {class: "stack-text"}, row.text))));
}
