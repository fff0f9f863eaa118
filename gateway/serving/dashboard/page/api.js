// Talks with the gateway's admin API, with the token where one is wanted.

import {state, draw} from "./state.js";

const AGAIN_MS = 3000;
const link = document.getElementById("link");
let retry = () => {};

// The token stays in this tab and goes only where it is asked for: in a header, so no other site can make use of it.
function token() { return sessionStorage.getItem("admin-token"); }

export async function ask(path, options = {}) {
  const headers = {...options.headers, ...(token() ? {authorization: "Bearer " + token()} : {})};
  const answer = await fetch(path, {...options, headers});
  if (answer.status === 401) {
    const login = document.getElementById("login");
    if (login.hidden) { login.hidden = false; document.getElementById("token").focus(); }
    throw new Error(token() ? "this is not the admin token" : "the admin token is needed");
  }
  document.getElementById("login").hidden = true;
  if (!answer.ok) {
    let told = `the gateway answers ${answer.status}`;
    try { told = (await answer.json()).error.message; } catch { /* no words of its own */ }
    throw Object.assign(new Error(told), {status: answer.status});
  }
  return answer;
}

export const get = async path => (await ask(path)).json();

export async function send(method, path, body) {
  const options = {method, headers: body === undefined ? {} : {"content-type": "application/json"}};
  if (body !== undefined) options.body = JSON.stringify(body);
  const text = await (await ask(path, options)).text();
  return text ? JSON.parse(text) : null;
}

document.getElementById("login").onsubmit = event => {
  event.preventDefault();
  const field = document.getElementById("token");
  sessionStorage.setItem("admin-token", field.value);
  field.value = "";
  retry();
};

function tell(text, good) {
  state.connected = good;
  if (link.textContent !== text) link.textContent = text;
  link.classList.toggle("bad", !good);
}

async function listen(seen, signal) {
  const reader = (await ask("api/events", {signal})).body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) throw new Error("the gateway has stopped");
    const frames = (held + value).split("\n\n");
    held = frames.pop();
    const last = frames.findLast(frame => frame.startsWith("data: "));
    if (!last) continue;
    tell("live", true);
    seen(JSON.parse(last.slice(6)));
  }
}

// Call `seen` with each event, for ever; a page that nobody looks at asks for none.
export async function live(seen) {
  for (;;) {
    if (document.hidden) await new Promise(wake => document.addEventListener("visibilitychange", wake, {once: true}));
    const stop = new AbortController();
    const pause = () => { if (document.hidden) stop.abort(); };
    document.addEventListener("visibilitychange", pause);
    try { await listen(seen, stop.signal); } catch (error) {
      if (!stop.signal.aborted) {
        tell(error instanceof TypeError ? "the gateway does not answer; trying again …" : error.message, false);
        draw();
        await new Promise(resolve => { retry = resolve; setTimeout(resolve, AGAIN_MS); });
      }
    }
    document.removeEventListener("visibilitychange", pause);
  }
}

// Looks for something now and then while its page is open: `wanted` says what (a path) and may change.
export class Watched {
  constructor(everyS) { this.everyMs = everyS * 1000; this.path = ""; this.at = 0; this.value = null; this.error = ""; }

  look(path, force = false) {
    const now = performance.now();
    if (path !== this.path) { this.path = path; this.at = 0; this.busy = false; }
    if (this.busy || (!force && this.at && now - this.at < this.everyMs)) return;
    this.busy = true;
    this.at = now;
    get(path).then(
      value => { if (path === this.path) { this.value = value; this.error = ""; } },
      error => { if (path === this.path) this.error = error.status === 404 ? "" : error.message; this.missing = error.status === 404; },
    ).finally(() => { if (path === this.path) this.busy = false; draw(); });
  }
}
