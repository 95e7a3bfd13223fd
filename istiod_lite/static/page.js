// Asks the control plane for the mesh every few seconds and shows it. Reads only.
import { amount, drawn, elements, health, padlock } from "./graph.js";

const EVERY_MS = 5000;
const LAID_OUT = 300; // nodes; more are put into a grid, since forces take seconds
const TOKEN = "ambient-dashboard-token";
const byId = (id) => document.getElementById(id);
let mesh = null;
let graph = null;
let tab = "Graph";
let chosen = null;
let shape = "";
let picture = null;
const EMPTY = {
  Workloads: "No workloads here.", Traffic: "No traffic was seen.", Policies: "No policies: everything is allowed.",
  Waypoints: "No waypoints: nobody looks into HTTP.", Certificates: "No certificates yet.",
  Problems: "No problems were found.", Proxies: "No proxy is connected to this replica.",
};

// The token comes in the fragment, which no server and no log sees, and leaves the address bar.
function token() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(TOKEN, given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem(TOKEN) ?? "";
}

function element(name, text, classes = "") {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (classes) made.className = classes;
  return made;
}

// With a mesh on the page what is bad stands above it; without one there is room in the middle.
function say(text, bad = false) {
  byId("state").textContent = text;
  byId("state").title = text;
  byId("state").className = bad ? "bad" : "";
  byId("nothing").hidden = !bad || mesh !== null;
  byId("nothing").textContent = text;
}

function days(iso) {
  return (new Date(iso) - Date.now()) / 86400e3;
}

const TABS = {
  Graph: null,
  Workloads: () => table(
    ["Workload", "Pods", "In the mesh", "Identity", "Versions", "Nodes"],
    mesh.nodes.filter((node) => node.pods).filter(inNamespace).map((node) => [
      node.id,
      [`${node.healthy} of ${node.pods}`, node.healthy < node.pods ? "bad" : "ok"],
      [node.inMesh === node.pods && node.pods ? "🛡 yes" : node.inMesh ? `${node.inMesh} of ${node.pods}` : "no", node.inMesh ? "ok" : "idle"],
      node.identities.join("\n"), node.versions.join(", "), node.nodes.join(", "),
    ]),
  ),
  Traffic: () => table(
    ["From", "To", "Service", "mTLS", "Req/s", "5xx/s", "Refused", "p50", "p99", "Conn/s", "Denied", "Failed", "Sent", "Received"],
    mesh.edges.filter((edge) => inNamespace({ namespace: edge.source.split("/")[0] }) || inNamespace({ namespace: edge.target.split("/")[0] })).map((edge) => [
      edge.source, edge.target, short(edge.service), [padlock(edge), health(edge)],
      number(edge.requests, ""), number(edge.errors, "", "bad"), number(edge.refused, "", "denied"),
      number(edge.p50Ms, "ms"), number(edge.p99Ms, "ms"),
      number(edge.opened, ""), number(edge.denied, "", "denied"), number(edge.failed, "", "bad"),
      number(edge.sent, "B/s"), number(edge.received, "B/s"),
    ]),
  ),
  Policies: () => table(
    ["Policy", "Layer", "Action", "Scope", "Allowed", "Denied", "Would deny"],
    mesh.policies.filter((each) => inNamespace({ namespace: each.name.split("/")[0] })).map((each) => [
      each.name, each.layer, each.dryRun ? `${each.action} (dry run)` : each.action, each.scope,
      number(each.allowed, ""), number(each.denied, ""), number(each.would_deny, ""),
    ]),
  ),
  Waypoints: () => table(
    ["Waypoint", "Ready pods", "Routes", "Used by"],
    mesh.waypoints.filter((each) => inNamespace({ namespace: each.name.split("/")[0] })).map((each) => [
      each.name, [String(each.ready), each.ready ? "ok" : "bad"], String(each.routes),
      each.users.length ? each.users.join("\n") : ["nobody", "warn"],
    ]),
  ),
  Certificates: () => table(
    ["Certificate", "Ends", "Days left"],
    mesh.certificates.map((each) => {
      const left = days(each.ends);
      return [each.name, each.ends, [left.toFixed(0), left < 7 ? "bad" : left < 30 ? "warn" : "ok"]];
    }),
  ),
  Problems: () => table(
    ["Kind", "Object", "What", "Remedy"],
    mesh.problems.filter((each) => !each.object.includes("/") || inNamespace({ namespace: each.object.split("/")[0] })).map((each) => [each.kind, each.object, [each.text, "warn"], each.hint]),
  ),
  Proxies: () => table(
    ["Proxy", "Kind", "Synced", "Refused"],
    mesh.proxies.map((each) => [
      each.name, each.kind, [each.synced ? "yes" : "no", each.synced ? "ok" : "warn"], [each.error, "bad"],
    ]),
  ),
};

function inNamespace(each) {
  const wanted = byId("namespace").value;
  return !wanted || each.namespace === wanted;
}

// Zeros recede, so that what happens is seen; ``loud`` is the colour of a number that should be zero.
function number(value, unit, loud = "") {
  return [value === null ? "–" : amount(value, unit), `number ${value ? loud : "idle"}`];
}

// The part that Kubernetes' names have in common says nothing.
function short(hostname) {
  return hostname.replace(/\.svc\.cluster\.local$/, "");
}

function table(heads, rows) {
  const made = element("table");
  made.createCaption().textContent = tab;
  const head = made.createTHead().insertRow();
  for (const [at, text] of heads.entries()) {
    const cell = element("th", text, rows[0]?.[at]?.[1]?.startsWith("number") ? "number" : "");
    cell.scope = "col";
    head.append(cell);
  }
  const body = made.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const cell of row) {
      const [text, classes] = Array.isArray(cell) ? cell : [cell, ""];
      const made = element("td", undefined, classes);
      text.split("\n").forEach((part, index) => made.append(...(index ? [element("br")] : []), part));
      line.append(made);
    }
  }
  if (!rows.length) {
    const cell = element("td", EMPTY[tab], "idle");
    cell.colSpan = heads.length;
    body.insertRow().append(cell);
  }
  return made;
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(`--${name}`).trim();
}

function look() {
  const colour = colours();
  const line = (name) => ({ selector: `edge.${name}`, style: { "line-color": colour(name), "target-arrow-color": colour(name) } });
  return [
    { selector: "node", style: { label: "data(label)", color: colour("front"), "background-color": colour("accent"), "font-size": 12, "text-valign": "bottom", "text-margin-y": 4, "min-zoomed-font-size": 7, "text-background-color": colour("back"), "text-background-opacity": 0.7, "text-background-padding": 1, width: 28, height: 28 } },
    { selector: "node.waypoint", style: { shape: "diamond" } },
    { selector: "node.service", style: { "background-color": colour("idle"), shape: "round-rectangle" } },
    { selector: "node.unknown", style: { "background-color": colour("idle"), shape: "ellipse" } },
    { selector: "node.unwell", style: { "background-color": colour("bad") } },
    { selector: "node.namespace", style: { "background-color": colour("soft"), "border-color": colour("line"), "border-width": 1, shape: "round-rectangle", "text-valign": "top", "text-background-opacity": 0, "font-weight": "bold", padding: 24 } },
    { selector: "node:selected", style: { "border-width": 3, "border-color": colour("front") } },
    { selector: "edge", style: { label: "data(label)", "font-size": 10, "min-zoomed-font-size": 7, color: colour("front"), "text-background-color": colour("back"), "text-background-opacity": 0.85, "curve-style": "bezier", "target-arrow-shape": "triangle", width: 2 } },
    { selector: "edge.idle", style: { "line-style": "dashed", width: 1 } },
    ...["ok", "warn", "bad", "denied", "idle"].map(line),
    { selector: "edge:selected", style: { width: 4 } },
  ];
}

function draw() {
  const options = { namespace: byId("namespace").value, hops: byId("hops").checked, idle: byId("idle").checked };
  picture = drawn(mesh, options);
  byId("note").textContent = picture.together
    ? `${picture.together} workloads are too many for one picture: these are their namespaces. Choose one.`
    : "";
  byId("nothing").hidden = picture.nodes.length > 0;
  byId("nothing").textContent = `${EMPTY.Workloads} kubectl label namespace NAME istio.io/dataplane-mode=ambient takes one into the mesh.`;
  const wanted = elements(picture);
  const now = wanted.map((each) => each.data.id).join("|");
  if (graph === null) {
    graph = cytoscape({ container: byId("canvas"), style: look(), wheelSensitivity: 0.3 });
    graph.on("select unselect", () => {
      chosen = graph.$(":selected").first().data("id") ?? null;
      const group = picture.nodes.find((each) => each.id === chosen && each.kind === "group");
      if (group && chosen !== "ns:") { // into it
        byId("namespace").value = group.name;
        chosen = null;
        show();
      } else detail();
    });
    new ResizeObserver(() => { // a window of another size, or a phone that is turned
      graph.resize();
      graph.fit(undefined, 30);
    }).observe(byId("canvas"));
    window.meshGraph = graph;
  }
  if (now !== shape) { // somebody came or went: lay it out again
    shape = now;
    const places = new Map(graph.nodes().map((node) => [node.id(), { ...node.position() }]));
    graph.elements().remove();
    graph.add(wanted);
    const strangers = graph.nodes().filter((node) => !places.has(node.id()));
    for (const [id, place] of places) graph.$id(id).position(place);
    const name = picture.nodes.length > LAID_OUT ? "grid" : "cose";
    // Who was there stays about where it was; the first time, and in another picture, from scratch.
    const randomize = strangers.length > places.size / 2;
    graph.layout({ name, randomize, animate: false, nodeDimensionsIncludeLabels: true, idealEdgeLength: () => 170, nodeRepulsion: () => 2000000, edgeElasticity: () => 100, gravity: 0.3, nodeOverlap: 30, padding: 30 }).run();
    if (chosen) graph.$id(chosen).select();
  } else {
    for (const each of wanted) graph.$id(each.data.id).data(each.data).classes(each.classes);
  }
  detail();
}

function detail() {
  const place = byId("details");
  place.replaceChildren();
  if (!chosen || !mesh) {
    place.append(element("p", "Choose a workload or a connection.", "idle"));
    return;
  }
  const node = mesh.nodes.find((each) => each.id === chosen);
  place.append(element("h2", chosen.replace(" ", " → ")));
  if (node) {
    place.append(list([
      ["pods", `${node.healthy} of ${node.pods} healthy`], ["in the mesh", `${node.inMesh} of ${node.pods}`],
      ["identity", node.identities.join(" ")], ["services", node.services.join(" ")], ["nodes", node.nodes.join(" ")],
    ]));
    return;
  }
  const line = picture.lines.find((each) => `${each.source} ${each.target}` === chosen);
  const shown = picture.together ? [{ ...line?.sum, service: "all together", p50Ms: null }] : line?.edges;
  for (const edge of line ? shown : []) {
    place.append(element("h2", short(edge.service) || "by its address", health(edge)), list([
      ["mutual TLS", edge.secured === null ? "–" : `${padlock(edge)} ${(edge.secured * 100).toFixed(0)} %`],
      ["requests", amount(edge.requests, "/s")], ["5xx", amount(edge.errors, "/s")], ["refused", amount(edge.refused, "/s")],
      ["p50, p99", `${amount(edge.p50Ms, "ms")}, ${amount(edge.p99Ms, "ms")}`],
      ["connections", amount(edge.opened, "/s")], ["denied", amount(edge.denied, "/s")], ["failed", amount(edge.failed, "/s")],
      ["sent, received", `${amount(edge.sent, "B/s")}, ${amount(edge.received, "B/s")}`],
    ]));
  }
}

function list(pairs) {
  const made = element("dl");
  for (const [name, text] of pairs) made.append(element("dt", name), element("dd", text || "–"));
  return made;
}

function show() {
  byId("graph").hidden = tab !== "Graph";
  byId("tables").hidden = tab === "Graph";
  for (const button of byId("tabs").children) {
    const name = button.dataset.tab;
    const count = name === "Problems" && mesh ? ` (${mesh.problems.length})` : "";
    button.textContent = name + count;
    button.setAttribute("aria-selected", String(name === tab));
    button.tabIndex = name === tab ? 0 : -1;
    if (name === tab) byId("tables").setAttribute("aria-labelledby", button.id);
  }
  if (!mesh) return;
  byId("nothing").hidden = true;
  if (tab === "Graph") draw();
  else byId("tables").replaceChildren(TABS[tab]());
}

function namespaces() {
  const select = byId("namespace");
  const known = new Set([...select.options].map((option) => option.value));
  for (const name of new Set(mesh.nodes.map((node) => node.namespace))) {
    if (name && !known.has(name)) select.append(new Option(name, name));
  }
}

async function ask() {
  try {
    const answer = await fetch("mesh.json", { headers: { authorization: `Bearer ${token()}` } });
    if (!answer.ok) {
      say((await answer.text()).trim() || `the control plane answers ${answer.status}`, true);
      return;
    }
    mesh = await answer.json();
  } catch (error) {
    say(`the control plane does not answer: ${error.message}`, true);
    return;
  }
  const stale = mesh.staleSeconds ? `; the API server is away for ${mesh.staleSeconds.toFixed(0)} s` : "";
  const lost = mesh.unreachable.length ? `; cannot read ${mesh.unreachable.join(", ")}` : "";
  const rates = mesh.measuredSeconds ? `rates over ${mesh.measuredSeconds.toFixed(0)} s` : "measuring";
  say(`version ${mesh.version}, ${rates}${stale}${lost}`, Boolean(stale || lost));
  namespaces();
  show();
}

for (const name of Object.keys(TABS)) {
  const button = element("button", name);
  button.dataset.tab = name;
  button.id = `tab-${name}`;
  button.setAttribute("role", "tab");
  button.setAttribute("aria-controls", name === "Graph" ? "graph" : "tables");
  button.addEventListener("click", () => {
    tab = name;
    show();
  });
  byId("tabs").append(button);
}
// One stop of the Tab key; the arrows go on from there (WAI-ARIA tabs).
byId("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const buttons = [...byId("tabs").children];
  const at = buttons.indexOf(document.activeElement);
  if (!step || at < 0) return;
  const next = buttons[(at + step + buttons.length) % buttons.length];
  next.click();
  next.focus();
});
for (const id of ["namespace", "hops", "idle"]) byId(id).addEventListener("change", show);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => graph?.style(look()));
show();
(async () => {
  for (;;) {
    if (!document.hidden) await ask();
    await new Promise((done) => setTimeout(done, EVERY_MS));
  }
})();
