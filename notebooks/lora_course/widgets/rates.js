// A map of learning rate by rank: every cell is a button that opens its runs.

const STOPS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];
const MEASURES = ["loss on held-out prose", "loss on source: what was forgotten"];

function meanOf(cell, which) {
  const values = cell.map((seed) => seed[which]);
  return values.includes(null) || !values.length ? null : values.reduce((a, b) => a + b) / values.length;
}

function colourOf(part) {
  const at = Math.min(0.9999, Math.max(0, part)) * (STOPS.length - 1);
  const [low, high] = [STOPS[Math.floor(at)], STOPS[Math.floor(at) + 1]];
  return low.map((v, i) => Math.round(v + (at % 1) * (high[i] - v)));
}

function mount(body, data) {
  const state = { group: data.start, which: 1, rank: data.ranks.indexOf(8), rate: 2 };
  const groups = Object.keys(data.maps);
  const map = make("table", { class: "lw-map" });
  const details = make("div", { class: "lw-panels" });
  const words = say();
  const again = make("p", { class: "lw-note" });
  let buttons = [];

  function colours(cell) {
    const value = meanOf(cell, state.which);
    const base = state.which === 1 ? data.base.prose : data.base.source + 0.6;
    const least = state.which === 1 ? 1.0 : data.base.source;
    if (value === null || value > base) return "background:#b9bec4;color:#111";
    const rgb = colourOf((value - least) / (base - least));
    return `background:rgb(${rgb});color:${0.3 * rgb[0] + 0.6 * rgb[1] + 0.1 * rgb[2] > 120 ? "#111" : "#fff"}`;
  }

  function best(rank) {  // by validation text, as in the notebook
    const losses = data.maps[state.group][rank].map((cell) => meanOf(cell, 0) ?? Infinity);
    return losses.indexOf(Math.min(...losses));
  }

  function choose(rank, rate, focus) {
    state.rank = Math.min(data.ranks.length - 1, Math.max(0, rank));
    state.rate = Math.min(data.rates.length - 1, Math.max(0, rate));
    open();
    if (focus) buttons[state.rank][state.rate].focus();
  }

  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  map.addEventListener("keydown", (event) => {
    if (!moves[event.key]) return;
    event.preventDefault();
    choose(state.rank + moves[event.key][0], state.rate + moves[event.key][1], true);
  });

  function redraw() {
    buttons = data.ranks.map(() => []);
    const rows = data.rates.map((rate, j) => {
      const row = data.ranks.map((rank, i) => {
        const value = meanOf(data.maps[state.group][i][j], state.which);
        const name = `rank ${rank}, learning rate ${rate}: ${value === null ? "diverged" : value.toFixed(3)}`;
        buttons[i][j] = make("button", {
          type: "button", "aria-label": name, style: colours(data.maps[state.group][i][j]),
          "data-best": best(i) === j, onclick: () => choose(i, j),
        }, value === null ? "–" : value.toFixed(value < 10 ? 2 : 1));
        return make("td", {}, buttons[i][j]);
      });
      return make("tr", {}, make("th", { scope: "row" }, String(rate)), ...row);
    }).reverse();
    const head = make("tr", {}, make("th", {}, "lr \\ r"), ...data.ranks.map((r) => make("th", { scope: "col" }, String(r))));
    map.replaceChildren(...rows, head);
    open();
  }

  function open() {
    const cells = data.maps[state.group];
    const cell = cells[state.rank][state.rate];
    const [rank, rate] = [data.ranks[state.rank], data.rates[state.rate]];
    buttons.flat().forEach((b) => fill(b, { "aria-pressed": "false", tabindex: -1 }, []));
    fill(buttons[state.rank][state.rate], { "aria-pressed": "true", tabindex: 0 }, []);
    const [prose, forgotten] = [meanOf(cell, 1), meanOf(cell, 2)];
    const [targets, rule] = data.groups[state.group];
    const trained = data.sizes[targets][state.rank].toLocaleString("en");
    words.textContent = prose === null
      ? `Rank ${rank} at ${rate}: a run diverged.`
      : `Rank ${rank} at ${rate}: loss on prose ${prose.toFixed(3)} (learnt ${number(data.base.prose - prose)}), `
        + `on source ${forgotten.toFixed(3)} (forgotten ${number(forgotten - data.base.source)}). Trained: ${trained} numbers.`
        + (best(state.rank) === state.rate ? " The best rate of this rank on validation text." : "");
    const seeds = cell.map((seed, i) => make("tr", {}, ...[i, ...seed.map((v) => (v === null ? "–" : v.toFixed(3)))].map((v) => make("td", {}, String(v)))));
    const head = make("tr", {}, ...["seed", "validation", "prose", "source"].map((name) => make("th", {}, name)));
    const shown = (c) => { const v = meanOf(c, state.which); return v !== null && v < 2 ? v : null; };
    const series = (values) => [{ name: "mean of three seeds", values, colour: "var(--blue)" }];
    const level = state.which === 1 ? { name: "full training", value: data.full } : null;
    const charts = [
      chart({ title: `Rank ${rank} at every rate`, labels: data.rates, series: series(cells[state.rank].map(shown)), mark: state.rate, level }),
      chart({ title: `Every rank at ${rate}`, labels: data.ranks, series: series(cells.map((row) => shown(row[state.rate]))), mark: state.rank, level })];
    for (const one of charts) one.style.flex = "1 1 190px";  // the table takes more of a row than they do
    details.replaceChildren(
      make("div", { style: "flex: 1 1 240px" }, make("table", {}, make("caption", {}, `The runs: rank ${rank}, learning rate ${rate}`), head, ...seeds)),
      ...charts);
    again.replaceChildren("Make the first of them again: ", make("code", {},
      `Adaptation(steps=${data.steps}).run(lora_config("${targets}", ${rank}, "${rule}"), learning_rate=${rate}, seed=0)`));
  }

  body.append(
    controls(
      choice("Layers and rule for alpha", groups, groups.indexOf(state.group), (i) => { state.group = groups[i]; redraw(); }),
      choice("Colour", MEASURES, 0, (i) => { state.which = i + 1; redraw(); })),
    map,
    make("p", { class: "lw-note" }, "Dark is low, grey is worse than before training or off the scale. A frame marks the best rate of each rank, chosen on "
      + "validation text. Arrow keys move from cell to cell."),
    words, details, again);
  redraw();
}
