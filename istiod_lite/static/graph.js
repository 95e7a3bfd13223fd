// The service graph: what of the mesh is drawn, and in which colours. No network, no clock.

const IDLE = 0.005; // a second; below this nothing is going on
const MOST = 150; // workloads; of more than anybody can see at once, namespaces are drawn

// The share of requests, or of connections where nobody sees requests.
function failing(edge) {
  const tried = edge.requests >= IDLE ? edge.requests : edge.opened + edge.failed + edge.denied;
  return tried ? (edge.requests >= IDLE ? edge.errors : edge.failed) / tried : 0;
}

export function health(edge) {
  const busy = edge.requests + edge.opened + edge.denied + edge.failed;
  if (busy < IDLE) return "idle";
  if (failing(edge) > 0.01) return failing(edge) > 0.05 ? "bad" : "warn";
  return turnedAway(edge) >= IDLE ? "denied" : "ok";
}

// By policy: that is somebody's will, and no error.
function turnedAway(edge) {
  return edge.denied + edge.refused;
}

export function padlock(edge) {
  if (edge.secured === null) return "";
  return edge.secured >= 0.999 ? "🔒" : "🔓";
}

export function amount(value, unit) {
  if (value === null || value === undefined) return "–";
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)} M${unit}`;
  if (value >= 1e3) return `${(value / 1e3).toFixed(1)} k${unit}`;
  return `${value >= 10 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(2)} ${unit}`;
}

export function caption(edge) {
  const parts = [padlock(edge)];
  if (edge.requests >= IDLE) parts.push(`${amount(edge.requests, "req/s")}`);
  else if (edge.opened >= IDLE) parts.push(`${amount(edge.opened, "conn/s")}`);
  if (failing(edge) > 0.01) parts.push(`✖ ${(failing(edge) * 100).toFixed(0)} %`);
  if (turnedAway(edge) >= IDLE) parts.push(`⛔ ${amount(turnedAway(edge), "denied/s")}`);
  return parts.filter(Boolean).join(" ");
}

// Several services between the same two workloads are one line.
export function drawn(mesh, { namespace, hops, idle }) {
  const lines = new Map();
  for (const edge of mesh.edges) {
    if (edge.waypointHop && !hops) continue;
    const key = `${edge.source} ${edge.target}`;
    const line = lines.get(key) ?? { source: edge.source, target: edge.target, edges: [] };
    line.edges.push(edge);
    lines.set(key, line);
  }
  const inside = (id) => !namespace || id.startsWith(`${namespace}/`);
  const kept = [...lines.values()].filter((line) => inside(line.source) || inside(line.target));
  const used = new Set(kept.flatMap((line) => [line.source, line.target]));
  const nodes = mesh.nodes.filter(
    (node) => used.has(node.id)
      || (idle && inside(node.id) && node.inMesh > 0 && (hops || node.kind !== "waypoint")),
  );
  const found = { nodes, lines: kept.map((line) => ({ ...line, sum: sum(line.edges) })) };
  return nodes.length > MOST && !namespace ? byNamespace(found) : found;
}

function byNamespace({ nodes, lines }) {
  const groups = new Map();
  const groupOf = new Map();
  for (const node of nodes) {
    const group = groups.get(node.namespace)
      ?? { ...node, id: `ns:${node.namespace}`, name: node.namespace || "outside", namespace: "", kind: "group", pods: 0, healthy: 0, inMesh: 0 };
    for (const name of ["pods", "healthy", "inMesh"]) group[name] += node[name];
    groups.set(node.namespace, group);
    groupOf.set(node.id, group.id);
  }
  const joined = new Map();
  for (const { source, target, edges } of lines) {
    const [from, to] = [groupOf.get(source), groupOf.get(target)];
    const line = joined.get(`${from} ${to}`) ?? { source: from, target: to, edges: [] };
    line.edges.push(...edges);
    joined.set(`${from} ${to}`, line);
  }
  return {
    nodes: [...groups.values()],
    lines: [...joined.values()].map((line) => ({ ...line, sum: sum(line.edges) })),
    together: nodes.length,
  };
}

export function sum(edges) {
  const total = { requests: 0, errors: 0, refused: 0, opened: 0, denied: 0, failed: 0, sent: 0, received: 0 };
  let weight = 0;
  let secured = 0;
  let slowest = null;
  for (const edge of edges) {
    for (const name of Object.keys(total)) total[name] += edge[name];
    if (edge.secured !== null) {
      const share = edge.requests + edge.opened + edge.denied;
      weight += share;
      secured += edge.secured * share;
    }
    if (edge.p99Ms !== null) slowest = Math.max(slowest ?? 0, edge.p99Ms);
  }
  return { ...total, secured: weight ? secured / weight : null, p99Ms: slowest };
}

export function elements({ nodes, lines }) {
  const namespaces = [...new Set(nodes.map((node) => node.namespace).filter(Boolean))];
  return [
    ...namespaces.map((name) => ({ data: { id: `ns:${name}`, label: name }, classes: "namespace" })),
    ...nodes.map((node) => ({
      data: {
        id: node.id,
        label: `${node.name}${node.inMesh ? " 🛡" : ""}`,
        parent: node.namespace ? `ns:${node.namespace}` : undefined,
      },
      classes: `${node.kind} ${node.pods && node.healthy < node.pods ? "unwell" : ""}`,
    })),
    ...lines.map((line) => ({
      data: { id: `${line.source} ${line.target}`, source: line.source, target: line.target, label: caption(line.sum) },
      classes: health(line.sum),
    })),
  ];
}
