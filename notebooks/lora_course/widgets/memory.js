// Memory of one training step. The sums are those of lora_np/costs/memory.py, on coefficients from Python.

const PARTS = ["weights", "adapters", "gradients", "optimizer", "activations"];
const COLOURS = ["var(--blue)", "var(--green)", "var(--orange)", "var(--purple)", "var(--grey)"];

function activationsOf(model, set, state) {
  const width = state.bits === 32 ? 4 : 2;
  const kept = state.checkpointing ? set.checkpointed : set.kept;
  return Math.round(state.tokens * (width * kept + model.head));
}

const together = (parts) => ({ ...parts, total: PARTS.reduce((sum, part) => sum + parts[part], 0) });

function fullNeeds(model, state) {
  const width = state.bits === 32 ? 4 : 2;
  const weights = width * model.size;
  const optimizer = 4 * model.size * (width < 4 ? 3 : 2);
  return together({ weights, adapters: 0, gradients: weights, optimizer, activations: activationsOf(model, model.full, state) });
}

function loraNeeds(model, state) {
  const set = model.sets[state.targets];
  const trained = state.rank * set.trained;
  const weights = state.bits === 4 ? model.four_bit : (state.bits / 8) * model.size;
  const activations = activationsOf(model, set, state);
  return together({ weights, adapters: 4 * trained, gradients: 4 * trained, optimizer: 8 * trained, activations });
}

function size(count) {
  const [unit, by] = count >= 1e11 ? ["GB", 0] : count >= 1e9 ? ["GB", 1] : count >= 1e8 ? ["MB", 0] : ["MB", 1];
  return `${(count / (unit === "GB" ? 1e9 : 1e6)).toFixed(by)} ${unit}`;
}

function mount(body, data) {
  const state = { ...data.start };
  const names = Object.keys(data.models);
  const words = say();
  const table = make("table");
  const bars = make("div");
  const set = (name) => (value) => {
    state[name] = value;
    show();
  };
  const powers = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => 2 ** (from + i));
  const [ranks, tokens] = [powers(0, 8), powers(7, 17)];
  const plain = (value) => value.toLocaleString("en");

  function bar(name, needs, most) {
    const pieces = PARTS.map((part, i) => make("i", { style: `width:${(100 * needs[part]) / most}%;background:${COLOURS[i]}` }));
    const alt = `${name}: ${size(needs.total)}`;
    return make("div", { style: "margin:6px 0" }, make("div", {}, `${name}: `, make("b", {}, size(needs.total))),
      make("div", { class: "lw-bar", role: "img", "aria-label": alt }, ...pieces));
  }

  function show() {
    const model = data.models[state.model];
    const [full, lora] = [fullNeeds(model, state), loraNeeds(model, state)];
    const trained = state.rank * model.sets[state.targets].trained;
    const share = ((100 * trained) / (model.size + trained)).toPrecision(3);
    words.textContent = `LoRA trains ${plain(trained)} numbers, ${share}% of all; its file has ${size(4 * trained)} in float32. `
      + `The step takes ${size(lora.total)}, ${(full.total / lora.total).toFixed(1)} times less than full training.`;
    const most = Math.max(full.total, lora.total);
    bars.replaceChildren(bar("Full training", full, most), bar("LoRA", lora, most));
    const rows = PARTS.map((part, i) => make("tr", {},
      make("td", {}, make("span", { class: "lw-key", style: `background:${COLOURS[i]}` }), part),
      make("td", {}, size(full[part])), make("td", {}, size(lora[part]))));
    table.replaceChildren(make("tr", {}, ...["part", "full training", "LoRA"].map((head) => make("th", {}, head))), ...rows);
  }

  const bits = data.bits.map((b) => ({ 32: "32 (all in float32)", 16: "16 (bfloat16)", 8: "8 (one byte for every weight)", 4: "4 (NF4, as in QLoRA)" })[b]);
  body.append(
    controls(
      choice("Model", names, names.indexOf(state.model), (i) => set("model")(names[i])),
      choice("Targets", data.targets, data.targets.indexOf(state.targets), (i) => set("targets")(data.targets[i])),
      choice("Bits of the base", bits, data.bits.indexOf(state.bits), (i) => set("bits")(data.bits[i])),
      slider("Rank", ranks, ranks.indexOf(state.rank), plain, set("rank")),
      slider("Tokens in the batch", tokens, tokens.indexOf(state.tokens), plain, set("tokens")),
      tick("Checkpointing", state.checkpointing, set("checkpointing"))),
    words, bars, table,
    make("p", { class: "lw-note" }, "An estimate: without temporary buffers and what an allocator wastes. Full training is "
      + "in mixed precision (16 bytes a parameter), or in float32 when the base is."));
  show();
}
