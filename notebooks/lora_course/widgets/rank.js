// ΔW cut to rank k: a picture of its corner, its spectrum, and the loss.

const signedBytes = (base64) => new Int8Array(bytes(base64).buffer);

function cornerOf(layer, k) {  // rows x columns, the first k pieces added up
  const n = layer.values.length;
  const [left, right] = [signedBytes(layer.left), signedBytes(layer.right)];
  const found = new Float64Array(layer.rows * layer.columns);
  for (let i = 0; i < layer.rows; i += 1) {
    for (let piece = 0; piece < Math.min(k, n); piece += 1) {
      const part = layer.scale[piece] * left[i * n + piece];
      for (let j = 0; j < layer.columns; j += 1) found[i * layer.columns + j] += part * right[j * n + piece];
    }
  }
  return found;
}

function energyOf(layer, k) {
  const squares = layer.values.map((v) => v * v);
  const total = squares.reduce((a, b) => a + b, 0);
  return squares.slice(0, k).reduce((a, b) => a + b, 0) / total;
}

function paint(canvas, layer, values, most) {
  [canvas.width, canvas.height] = [layer.columns, layer.rows];
  const context = canvas.getContext("2d");
  const image = context.createImageData(layer.columns, layer.rows);
  values.forEach((value, i) => {
    const part = Math.max(-1, Math.min(1, value / most));
    const end = part < 0 ? [0, 90, 160] : [200, 80, 0];
    const strength = Math.sqrt(Math.abs(part));
    end.forEach((channel, c) => { image.data[4 * i + c] = 250 + strength * (channel - 250); });
    image.data[4 * i + 3] = 255;
  });
  context.putImageData(image, 0, 0);
}

function mount(body, data) {
  const names = Object.keys(data.layers);
  const state = { layer: names[0], at: Math.max(0, data.ranks.indexOf(8)) };
  const [words, panels] = [say(), make("div", { class: "lw-panels" })];
  const [cut, uncut] = [make("canvas", { role: "img" }), make("canvas", { role: "img" })];
  const captions = [make("figcaption"), make("figcaption")];

  function spectrum(layer, k) {
    const [width, height] = [300, 190];
    const n = layer.values.length;
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${n} singular values, the first ${k} are kept` });
    const step = (width - 10) / n;
    layer.values.forEach((value, i) => {
      const size = (150 * value) / layer.values[0];
      svg.append(draw("rect", { x: 5 + i * step, y: 165 - size, width: Math.max(0.8, 0.8 * step), height: size, fill: i < k ? "var(--blue)" : "var(--line)" }));
    });
    svg.append(draw("text", { x: 5, y: 182 }, "1"), draw("text", { x: width - 5, y: 182, "text-anchor": "end" }, String(n)));
    return make("figure", {}, make("figcaption", {}, `Singular values: ${Math.min(k, n)} of ${n} kept`), svg);
  }

  function show() {
    const layer = data.layers[state.layer];
    const k = data.ranks[state.at];
    const loss = data.losses[state.at];
    const full = cornerOf(layer, layer.values.length);
    const most = full.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-30);
    paint(cut, layer, cornerOf(layer, k), most);
    paint(uncut, layer, full, most);
    captions[0].textContent = `ΔW cut to rank ${k}`;
    captions[1].textContent = "ΔW as trained";
    const [rows, columns] = [layer.rows, layer.columns];
    cut.setAttribute("aria-label", `the first ${rows} by ${columns} entries of ΔW, cut to rank ${k}`);
    uncut.setAttribute("aria-label", `the first ${rows} by ${columns} entries of ΔW`);
    const gain = (100 * (data.base - loss)) / (data.base - data.whole);
    words.textContent = `Rank ${k}: ${(100 * energyOf(layer, k)).toFixed(0)}% of the energy of ${state.layer}. `
      + `With all layers cut to rank ${k} the loss is ${loss.toFixed(3)}: ${gain.toFixed(0)}% of what full training gained.`;
    panels.replaceChildren(
      make("figure", { class: "lw-matrix" }, captions[0], cut), make("figure", { class: "lw-matrix" }, captions[1], uncut), spectrum(layer, k),
      chart({ title: "Held-out loss, all layers cut to rank k", labels: data.ranks, mark: state.at,
        series: [{ name: "cut", values: data.losses, colour: "var(--blue)" }], level: { name: "full training", value: data.whole } }));
  }

  const shapes = names.map((name) => `${name} (${data.layers[name].shape.join(" × ")})`);
  body.append(
    controls(choice("Layer in the pictures", shapes, 0, (i) => { state.layer = names[i]; show(); }),
      slider("Rank k", data.ranks, state.at, String, (k, at) => { state.at = at; show(); })),
    words, panels,
    make("p", { class: "lw-note" }, "The pictures are the upper left corner of the matrix: orange above zero, blue below. Energy: the sum of the squares of the singular values."));
  show();
}
