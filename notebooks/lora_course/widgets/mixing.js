// The weight of an adapter: the text that was written at each weight, and the losses.

function capitalsIn(text) {
  const letters = text.match(/[A-Za-z]/g) || [];
  return letters.length ? letters.filter((letter) => letter < "a").length / letters.length : 0;
}

function mount(body, data) {
  const start = data.weights.findIndex((weight) => weight === 1);
  const state = { at: start < 0 ? data.weights.length - 1 : start, prompt: 0 };
  const words = say();
  const text = make("p", { class: "lw-text", style: "min-height:6.5em" });
  const panel = make("div", { style: "max-width:480px" });
  const colours = ["var(--blue)", "var(--orange)", "var(--green)"];
  const shown = (weight) => number(weight, 1);

  function show() {
    const written = data.texts[state.prompt][state.at];
    const weight = shown(data.weights[state.at]);
    text.replaceChildren(data.prompts[state.prompt], make("span", { class: "lw-new" }, written));
    const losses = Object.entries(data.losses).map(([name, values]) => `${values[state.at].toFixed(3)} on ${name}`);
    words.textContent = `Weight ${weight}: ${(100 * capitalsIn(written)).toFixed(0)}% of the letters it writes are capitals. Loss ${losses.join(", ")}.`;
    const series = Object.entries(data.losses).map(([name, values], i) => ({ name, values, colour: colours[i % 3] }));
    panel.replaceChildren(chart({ title: "Held-out loss by the weight of the adapter", labels: data.weights, series, mark: state.at }));
  }

  const prompts = data.prompts.map((prompt) => JSON.stringify(prompt));
  body.append(
    controls(slider("Weight", data.weights, state.at, shown, (value, at) => { state.at = at; show(); }),
      choice("Beginning", prompts, 0, (i) => { state.prompt = i; show(); })),
    words, text, panel,
    make("p", { class: "lw-note" }, "0 is the base model, 1 the adapter as it was trained. Below 0 its update is taken away, above 1 it counts more. Every text was computed before; the most likely byte is written each time."));
  show();
}
