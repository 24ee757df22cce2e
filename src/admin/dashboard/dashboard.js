"use strict";

const id = (name) => document.getElementById(name);

/** A row of cells; whatever is shown is text. */
function row(cells) {
  const line = document.createElement("tr");
  for (const cell of cells) {
    const at = line.insertCell();
    if (cell instanceof Node) at.append(cell);
    else at.textContent = cell;
  }
  return line;
}

function say(text, good) {
  const state = id("state");
  state.textContent = text;
  state.className = good ? "good" : "bad";
}

async function call(method, path) {
  const answer = await fetch(path, { method, credentials: "same-origin" });
  const type = answer.headers.get("content-type") || "";
  const body = type.startsWith("application/json") ? await answer.json() : await answer.text();
  if (!answer.ok) {
    const more = body.faults ? "\n" + body.faults.join("\n") : "";
    throw new Error((body.info || answer.statusText) + more);
  }
  return body;
}

/** Prometheus text to [name, labels, value]. */
function samples(text) {
  const found = [];
  for (const line of text.split("\n")) {
    const parts = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!parts) continue;
    const labels = {};
    for (const [, name, value] of (parts[2] || "").matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[name] = value.replace(/\\n/g, "\n").replace(/\\(.)/g, "$1");
    }
    found.push([parts[1], labels, Number(parts[3])]);
  }
  return found;
}

const sum = (all, name, fits = () => true) =>
  all.filter(([n, labels]) => n === name && fits(labels)).reduce((total, [, , value]) => total + value, 0);

function numbers(all) {
  const shown = [
    ["Sessions", sum(all, "postern_sessions")],
    ["Connections", sum(all, "postern_connections")],
    ["Requests", sum(all, "postern_requests_total")],
    ["Refused", sum(all, "postern_decisions_total", (l) => l.decision === "deny")],
    ["Logins", sum(all, "postern_logins_total", (l) => l.result === "ok")],
    ["Failed logins", sum(all, "postern_logins_total", (l) => l.result !== "ok")],
    ["Ended early", sum(all, "postern_revocations_total")],
    ["Generation", sum(all, "postern_config_generation")],
    ["Refused reloads", sum(all, "postern_config_reloads_total", (l) => l.result !== "ok")],
  ];
  id("numbers").replaceChildren(
    ...shown.map(([name, value]) => {
      const pair = document.createElement("div");
      const term = document.createElement("dt");
      const number = document.createElement("dd");
      term.textContent = name;
      number.textContent = value.toLocaleString();
      pair.append(term, number);
      return pair;
    }),
  );
}

function servers(all) {
  const rows = all
    .filter(([name]) => name === "postern_upstream_healthy")
    .map(([, { upstream, server }, healthy]) => {
      const of = (good) => (l) => l.upstream === upstream && l.server === server && (l.result === "ok") === good;
      const asked = (good) => sum(all, "postern_upstream_requests_total", of(good)).toLocaleString();
      return row([upstream, server, healthy ? "yes" : "no", asked(true), asked(false)]);
    });
  id("upstreams").replaceChildren(...rows);
}

function refusals(all) {
  const found = all.filter(([name, labels]) => name === "postern_decisions_total" && labels.decision === "deny");
  found.sort((a, b) => b[2] - a[2]);
  id("refusals").replaceChildren(
    ...found.slice(0, 20).map(([, labels, count]) => row([labels.route, labels.reason, count.toLocaleString()])),
  );
}

async function refresh() {
  try {
    const ready = await fetch("/readyz").then((answer) => answer.json());
    say(ready.info, ready.status === "ok");
    const all = samples(await call("GET", "/metrics"));
    numbers(all);
    servers(all);
    refusals(all);
  } catch (fault) {
    say(fault.message, false);
  }
}

let after = null;

function shown(session) {
  const end = document.createElement("button");
  end.textContent = "End";
  const line = row([session.user, session.role, session.client, session.created, session.last_used, end]);
  end.addEventListener("click", async () => {
    if (!confirm(`End this session of ${session.user}?`)) return;
    try {
      await call("DELETE", "/sessions/" + session.id);
      line.remove();
    } catch (fault) {
      say(fault.message, false);
    }
  });
  return line;
}

async function sessions(more) {
  const wanted = new URLSearchParams();
  for (const [name, value] of new FormData(id("sessions"))) if (value) wanted.set(name, value);
  if (more && after) wanted.set("after", after);
  try {
    const found = await call("GET", "/sessions?" + wanted);
    if (!more) id("found").replaceChildren();
    id("found").append(...found.sessions.map(shown));
    after = found.next;
    id("more").hidden = !after;
  } catch (fault) {
    say(fault.message, false);
  }
}

id("sessions").addEventListener("submit", (event) => {
  event.preventDefault();
  sessions(false);
});
id("more").addEventListener("click", () => sessions(true));
id("explain").addEventListener("submit", async (event) => {
  event.preventDefault();
  const asked = new URLSearchParams();
  for (const [name, value] of new FormData(event.target)) if (value) asked.set(name, value);
  try {
    id("explanation").textContent = JSON.stringify(await call("GET", "/explain?" + asked), null, 2);
  } catch (fault) {
    id("explanation").textContent = fault.message;
  }
});
id("reload").addEventListener("click", async () => {
  try {
    const { generation, warnings } = await call("POST", "/reload");
    say([`generation ${generation} runs`, ...warnings].join("\n"), true);
  } catch (fault) {
    say(fault.message, false);
  }
});
refresh();
setInterval(refresh, 5000);
