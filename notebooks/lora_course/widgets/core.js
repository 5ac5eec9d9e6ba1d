// What all widgets share: elements, controls, line charts, and the theme of the page around them.

let identities = 0;

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const make = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);

const draw = (name, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

// A range over a list of values; the label says the value in words.
function slider(name, values, start, words, change) {
  const shown = make("b", {}, words(values[start]));
  const input = make("input", { type: "range", min: 0, max: values.length - 1, step: 1, value: start });
  const update = () => {
    const text = words(values[+input.value]);
    shown.textContent = text;
    input.setAttribute("aria-valuetext", text);
    change(values[+input.value], +input.value);
  };
  input.setAttribute("aria-valuetext", words(values[start]));
  input.addEventListener("input", update);
  return make("label", {}, make("span", {}, `${name}: `, shown), input);
}

function choice(name, options, start, change) {
  const entries = options.map((option, i) => make("option", { value: i, selected: i === start }, option));
  const select = make("select", {}, ...entries);
  select.addEventListener("change", () => change(+select.value));
  return make("label", {}, name, select);
}

function tick(name, start, change) {
  const input = make("input", { type: "checkbox" });
  input.checked = start;
  input.addEventListener("change", () => change(input.checked));
  return make("label", { class: "lw-row" }, input, name);
}

const say = () => make("p", { class: "lw-say", role: "status", "aria-live": "polite" });

const controls = (...parts) => make("div", { class: "lw-controls" }, ...parts);

const number = (value, digits = 3) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);

// Lines over the places of a list. series: [{ name, values, colour }], null where there is no value; mark: a place.
function chart({ title, labels, series, mark, digits = 2, level = null }) {
  const [width, height, left, right, top, bottom] = [300, 190, 42, 10, 22, 28];
  const known = series.flatMap((s) => s.values).concat(level ? [level.value] : []).filter((v) => v !== null);
  let [low, high] = [Math.min(...known), Math.max(...known)];
  if (high - low < 1e-9) high = low + 1;
  [low, high] = [low - 0.05 * (high - low), high + 0.05 * (high - low)];
  const x = (i) => left + ((width - left - right) * i) / Math.max(1, labels.length - 1);
  const y = (v) => top + (height - top - bottom) * (1 - (v - low) / (high - low));
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  for (const part of [0.08, 0.5, 0.92]) {
    const value = low + part * (high - low);
    svg.append(draw("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), stroke: "var(--line)" }));
    svg.append(draw("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, number(value, digits)));
  }
  const every = Math.ceil(labels.length / 8);
  labels.forEach((label, i) => {
    if (i % every === 0) svg.append(draw("text", { x: x(i), y: height - 10, "text-anchor": "middle" }, String(label)));
  });
  if (level) {
    const line = { x1: left, x2: width - right, y1: y(level.value), y2: y(level.value), stroke: "var(--grey)" };
    svg.append(draw("line", { ...line, "stroke-dasharray": "5 4", "stroke-width": 1.5 }));
  }
  svg.append(draw("line", { x1: x(mark), x2: x(mark), y1: top, y2: height - bottom, stroke: "var(--soft)", "stroke-dasharray": "2 3" }));
  for (const { values, colour } of series) {
    const points = values.map((v, i) => (v === null ? null : [x(i), y(v)])).filter(Boolean);
    svg.append(draw("polyline", { points: points.join(" "), fill: "none", stroke: colour, "stroke-width": 2.2 }));
    if (values[mark] !== null) svg.append(draw("circle", { cx: x(mark), cy: y(values[mark]), r: 5, fill: colour }));
  }
  let place = left;
  for (const { name, colour } of level ? [...series, { name: level.name, colour: "var(--soft)" }] : series) {
    svg.append(draw("text", { x: place, y: 12, style: `fill: ${colour}` }, name));
    place += 7 * name.length + 12;
  }
  return make("figure", {}, make("figcaption", {}, title), svg);
}

// Is the page dark where the widget stands? The first background that is not transparent says so.
function onDark(node) {
  for (let at = node.parentElement; at; at = at.parentElement) {
    const [r, g, b, alpha = 1] = (getComputedStyle(at).backgroundColor.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
    if (alpha > 0.5) return 0.3 * r + 0.6 * g + 0.1 * b < 128;
  }
  const probe = document.documentElement.appendChild(make("i", { style: "background: Canvas; position: absolute" }));
  const [r, g, b] = getComputedStyle(probe).backgroundColor.match(/[\d.]+/g).map(Number);
  probe.remove();
  return 0.3 * r + 0.6 * g + 0.1 * b < 128;
}

function followTheme(root) {
  const look = () => root.toggleAttribute("data-dark", onDark(root));
  look();
  const watcher = new MutationObserver(() => requestAnimationFrame(look));
  for (const node of [document.documentElement, document.body]) {
    watcher.observe(node, { attributes: true, attributeFilter: ["class", "style", "data-theme", "data-mode", "data-jp-theme-light"] });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", look);
  addEventListener("load", look);
}

// In JupyterLab and Notebook, arrow keys go to another cell, unless what has the focus says that it wants its keys.
const keepKeys = (event) => event.target.setAttribute("data-lm-suppress-shortcuts", "true");

// Put the widget in the place of its static form, in every element of its kind that has none yet.
function mountAll(kind, mount) {
  for (const root of document.querySelectorAll(`.lora-widget[data-kind="${kind}"]:not([data-ready])`)) {
    const source = root.querySelector('script[type="application/json"]');
    if (!source) continue;
    root.setAttribute("data-ready", "");
    const body = make("div", { class: "lw-body" });
    mount(body, JSON.parse(source.textContent));
    body.addEventListener("focusin", keepKeys);
    root.querySelector(".lw-static").replaceWith(body);
    followTheme(root);
  }
}
