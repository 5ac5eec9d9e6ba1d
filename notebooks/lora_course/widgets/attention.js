// Point at a letter, or move there with the arrow keys: the letters that a head looks at from there are shaded.

const SIGNS = { " ": "·", "\n": "↵", "\t": "→" };

function mount(body, data) {
  const T = data.text.length;
  const all = bytes(data.weights);
  const each = (T * (T + 1)) / 2;
  const state = { here: data.here, block: data.start[0], head: data.start[1] };
  const sign = (i) => SIGNS[data.text[i]] || data.text[i];
  const words = say();

  function row(block, head, from) {
    const start = (block * data.heads + head) * each + (from * (from + 1)) / 2;
    return Array.from(all.subarray(start, start + from + 1), (v) => v / 255);
  }

  const shade = (share) => `background:rgba(var(--tint),${Math.sqrt(share).toFixed(3)})`;

  const letters = Array.from(data.text, (letter, i) => make("span", {
    tabindex: i === data.here ? 0 : -1, role: "button", "aria-label": `letter ${sign(i)}, position ${i}`,
    onmouseenter: () => go(i), onclick: () => go(i, true), onfocus: () => go(i),
  }, sign(i)));
  const text = make("p", { class: "lw-text" });
  letters.forEach((letter, i) => text.append(letter, ...(data.text[i] === "\n" && i < T - 1 ? ["\n"] : [])));

  text.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -T, End: T }[event.key];
    if (!step) return;
    event.preventDefault();
    go(Math.min(T - 1, Math.max(0, state.here + step)), true);
  });

  const heads = [];
  for (let block = 0; block < data.blocks; block += 1) {
    for (let head = 0; head < data.heads; head += 1) {
      const strip = make("span", { class: "lw-strip" }, ...Array.from(data.text, () => make("i")));
      const most = make("span");
      const press = () => { [state.block, state.head] = [block, head]; show(); };
      const button = make("button", { type: "button", onclick: press }, `${block}.${head} `, most, strip);
      heads.push({ block, head, strip, most, button });
    }
  }

  function go(i, focus) {
    state.here = i;
    show();
    if (focus && document.activeElement !== letters[i]) letters[i].focus();
  }

  function show() {
    const shares = row(state.block, state.head, state.here);
    letters.forEach((letter, i) => {
      letter.setAttribute("style", shade(shares[i] || 0));
      letter.tabIndex = i === state.here ? 0 : -1;
      letter.toggleAttribute("data-here", i === state.here);
    });
    const order = shares.map((share, i) => [share, i]).sort((a, b) => b[0] - a[0]).slice(0, 3);
    words.textContent = `From ${sign(state.here)} (position ${state.here}), block ${state.block}, head ${state.head} looks at `
      + order.map(([share, i]) => `${sign(i)} at ${i}: ${share.toFixed(2)}`).join(", ") + ".";
    for (const { block, head, strip, most, button } of heads) {
      const weights = row(block, head, state.here);
      const best = weights.indexOf(Math.max(...weights));
      [...strip.children].forEach((cell, i) => cell.setAttribute("style", shade(weights[i] || 0)));
      most.textContent = `${sign(best)} ${weights[best].toFixed(2)}`;
      button.setAttribute("aria-label", `block ${block}, head ${head}: most at ${sign(best)}, position ${best}, ${weights[best].toFixed(2)}`);
      button.setAttribute("aria-pressed", String(block === state.block && head === state.head));
    }
  }

  const columns = `grid-template-columns:repeat(${data.heads},minmax(0,1fr))`;
  body.append(text, words,
    make("p", { class: "lw-note" }, "All heads, from the same letter: block.head, the letter that gets most, and the text as a strip. Press one to see it above."),
    make("div", { class: "lw-heads", style: columns }, ...heads.map((h) => h.button)));
  show();
}
