// The graph of an expression; a step visits one node, says what has arrived there and what is handed on.

const short = (value) => String(+value.toPrecision(4)).replace("-", "−");

// Columns by the longest way from a leaf, rows by order: { name: [column, row, rows in that column] }.
function placed(nodes) {
  const depth = {};
  const columns = [];
  for (const { name, parents } of nodes) depth[name] = parents.length ? 1 + Math.max(...parents.map((p) => depth[p])) : 0;
  for (const { name, parents } of nodes) {
    if (!parents.length) depth[name] = Math.max(0, Math.min(...nodes.filter((n) => n.parents.includes(name)).map((n) => depth[n.name])) - 1);
    (columns[depth[name]] ||= []).push(name);
  }
  const places = {};
  columns.forEach((names, column) => names.forEach((name, row) => { places[name] = [column, row, names.length]; }));
  return { places, columns: columns.length, rows: Math.max(...columns.map((names) => names.length)) };
}

// What each node has received before a step, and what has been visited.
function before(walk, step) {
  const last = walk.nodes[walk.nodes.length - 1].name;
  const received = step > 0 ? { [last]: 1 } : {};
  const visited = walk.steps.slice(0, step).map((s) => s.node);
  for (const { given } of walk.steps.slice(0, step)) {
    for (const [name, value] of given) received[name] = (received[name] || 0) + value;
  }
  return { received, visited };
}

function tell(walk, step) {
  const count = walk.steps.length;
  const last = walk.nodes[walk.nodes.length - 1].name;
  if (step === 0) return `Forward is done: every node has its value. Press "Next" to start at d${last}/d${last} = 1.`;
  const { node, arrived, given } = walk.steps[step - 1];
  const { received } = before(walk, step);
  const begin = `Step ${step} of ${count}: visit ${node}. Its gradient is ${short(arrived)}. `;
  if (!given.length) return `${begin}A leaf: it stays in ${node}.grad.`;
  const names = [...new Set(given.map(([name]) => name))];
  return begin + "It hands on " + given.map(([name, value]) => `${short(value)} to ${name}`).join(" and ") + ". Now "
    + names.map((name) => `${name} has ${short(received[name])}`).join(", ") + ".";
}

function graph(walk, step) {
  const { places, columns, rows } = placed(walk.nodes);
  const [wide, high, box] = [360 / columns, Math.max(84, 200 / rows), Math.min(58, 360 / columns - 14)];
  const height = Math.max(110, rows * high + 8);
  const at = (name) => {
    const [column, row, of] = places[name];
    return [wide * (column + 0.5), height / 2 + (row - (of - 1) / 2) * high];
  };
  const { received, visited } = before(walk, step);
  const now = step ? walk.steps[step - 1] : { node: null, given: [] };
  const svg = draw("svg", { viewBox: `0 0 360 ${height}`, role: "img", "aria-label": `graph: ${walk.nodes.map((n) => n.formula ? `${n.name} = ${n.formula}` : n.name).join(", ")}` });
  for (const { name, parents } of walk.nodes) {
    parents.forEach((parent, i) => {
      const [[x1, y1], [x2, y2]] = [at(parent), at(name)];
      const twice = parents.filter((p) => p === parent).length > 1;
      const bend = twice ? (parents.indexOf(parent) === i ? -24 : 24) : 0;
      const active = now.node === name;
      const colour = active ? "var(--orange)" : "var(--grey)";
      const path = `M${x1 + box / 2},${y1} Q${(x1 + x2) / 2},${(y1 + y2) / 2 + bend * 1.6} ${x2 - box / 2},${y2}`;
      svg.append(draw("path", { d: path, fill: "none", stroke: colour, "stroke-width": active ? 2.5 : 1.3 }));
      if (active) {
        const value = now.given[i][1];
        const label = { x: (x1 + x2) / 2, y: (y1 + y2) / 2 + bend - 4 + (bend > 0 ? 12 : 0), "text-anchor": "middle" };
        svg.append(draw("text", { ...label, style: "fill:var(--orange);font-weight:600" }, `←${short(value)}`));
      }
    });
  }
  for (const { name, formula, value } of walk.nodes) {
    const [x, y] = at(name);
    const here = now.node === name;
    const stroke = here ? "var(--orange)" : visited.includes(name) ? "var(--green)" : "var(--soft)";
    svg.append(draw("rect", { x: x - box / 2, y: y - 19, width: box, height: 38, rx: 6, fill: "var(--raised)", stroke, "stroke-width": here ? 3 : 1.6 }));
    svg.append(draw("text", { x, y: y - 3, "text-anchor": "middle", style: "font-weight:600" }, name));
    svg.append(draw("text", { x, y: y + 13, "text-anchor": "middle" }, short(value)));
    if (formula) svg.append(draw("text", { x, y: y - 25, "text-anchor": "middle", style: "fill:var(--soft);font-size:11px" }, formula));
    if (name in received) {
      svg.append(draw("text", { x, y: y + 34, "text-anchor": "middle", style: "fill:var(--blue);font-weight:600" }, `grad ${short(received[name])}`));
    }
  }
  return svg;
}

function mount(body, data) {
  const state = { walk: 0, step: 0 };
  const words = say();
  const picture = make("div", { style: "max-width:620px;margin:auto" });
  const back = make("button", { type: "button", onclick: () => go(state.step - 1) }, "Back");
  const next = make("button", { type: "button", onclick: () => go(state.step + 1) }, "Next");
  const reset = make("button", { type: "button", onclick: () => go(0) }, "From the start");

  function go(step) {
    const walk = data.walks[state.walk];
    state.step = Math.min(walk.steps.length, Math.max(0, step));
    picture.replaceChildren(graph(walk, state.step));
    words.textContent = tell(walk, state.step);
    back.setAttribute("aria-disabled", String(state.step === 0));
    next.setAttribute("aria-disabled", String(state.step === walk.steps.length));
    for (const button of [back, next]) button.style.opacity = button.getAttribute("aria-disabled") === "true" ? 0.45 : 1;
  }

  const choose = (i) => { state.walk = i; go(0); };
  body.append(controls(choice("Expression", data.walks.map((w) => w.title), 0, choose)),
    make("div", { style: "display:flex;gap:8px;flex-wrap:wrap" }, back, next, reset), words, picture,
    make("p", { class: "lw-note" }, "Orange: the node that is visited, and what it hands on. Blue: the gradient that has arrived so far. Green: done."));
  go(0);
}
