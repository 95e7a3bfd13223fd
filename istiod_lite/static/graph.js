// The service graph: what of the mesh is drawn, and in which colours. No network, no clock.

const IDLE = 0.005; // a second; below this nothing is going on

export function health(edge) {
  const busy = edge.requests + edge.opened + edge.denied + edge.failed;
  if (busy < IDLE) return "idle";
  const failing = edge.requests >= IDLE
    ? edge.errors / edge.requests
    : (edge.failed + edge.denied) / (edge.opened + edge.failed + edge.denied);
  return failing > 0.05 ? "bad" : failing > 0.01 ? "warn" : "ok";
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
  if (edge.denied >= IDLE) parts.push(`⛔ ${amount(edge.denied, "/s")}`);
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
  return { nodes, lines: kept.map((line) => ({ ...line, sum: sum(line.edges) })) };
}

export function sum(edges) {
  const total = { requests: 0, errors: 0, refused: 0, opened: 0, denied: 0, failed: 0, sent: 0, received: 0 };
  let weight = 0;
  let secured = 0;
  let slowest = null;
  for (const edge of edges) {
    for (const name of Object.keys(total)) total[name] += edge[name];
    if (edge.secured !== null) {
      const share = edge.requests + edge.opened;
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
