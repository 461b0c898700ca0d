// What stands around the views: labels, the list of cases, windows of intensity, the strip of slices, and help.

export const $ = (id) => document.getElementById(id);

// An element with properties and children.
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

// "1 case", "3 cases": the same as plural.py.
export const count = (n, thing) => `${n} ${thing}${n === 1 ? "" : "s"}`;

export const KEYS = [
  ["Draw", [["1 2 3 …", "choose a class; 1 then 2 for the twelfth"], ["B", "background"], ["E", "eraser; hold it to erase for a moment"],
    ["P", "pick the class under the cursor"], ["[  ]", "smaller or larger brush"], ["Shift + click", "straight line from the last point"],
    ["L", "protect other classes"], ["Ctrl + Z", "undo, on any slice"], ["Ctrl + Shift + Z", "redo"]]],
  ["Slices", [["Wheel, ↑ ↓", "one slice"], ["Page ↑ ↓", "ten slices"], ["Home, End", "first and last slice"], ["N", "next slice to draw; again for the one after"],
    ["C, Shift + C", "copy strokes to the next slice, the one before"], ["I", "interpolate between two drawn slices"],
    ["Delete", "clear the class on this slice"], ["Shift + Delete", "clear the slice"], [",  .", "previous or next case"]]],
  ["Look", [["Ctrl + wheel, + −", "zoom"], ["Space + drag, middle drag", "move the image"], ["Right drag", "window and level"], ["W", "automatic window"],
    ["H", "hold to hide strokes and areas"], ["A", "areas on or off"], ["V", "another plane in the large view"],
    ["Shift + move", "other planes follow the cursor"], ["0", "fit the slice"], ["X", "next channel"], ["S", "smooth pixels"], ["T", "dark room or daylight"]]],
  ["Network", [["O", "prediction on or off"], ["U", "doubt on or off"],
    ["G", "prediction before the last training"], ["Y", "accept the predicted class on this slice"]]],
  ["Case", [["D", "done, or not done"], ["F", "flag with a note"], ["Ctrl + S", "save at once (it is saved anyway)"], ["?", "these keys"]]],
  ["Touch and pen", [["One finger, pen", "draw"], ["Two fingers", "zoom and move"], ["Pen's other end", "erase"], ["Finger beside a pen", "move the image"]]],
];

export function fillHelp(dialog) {
  const groups = KEYS.map(([title, keys]) =>
    make("section", {}, make("h3", { textContent: title }), make("dl", {}, ...keys.flatMap(([key, what]) => [make("dt", {}, make("kbd", { textContent: key })), make("dd", { textContent: what })]))));
  const close = make("button", { type: "button", textContent: "Close", onclick: () => dialog.close() });
  dialog.replaceChildren(make("header", {}, make("h2", { textContent: "Keys" }), close), make("div", { className: "groups" }, ...groups));
  dialog.onclick = (event) => event.target === dialog && dialog.close();
}

// The classes that can be drawn, structures first as their numbers are; and the eraser.
export function fillLabels(labels, colours, choose) {
  const row = (n, key, name) => {
    const swatch = make("i", { className: n === null ? "swatch none" : "swatch" });
    if (n !== null) swatch.style.background = colours[n];
    const button = make("button", { type: "button", role: "radio", onclick: () => choose(n) }, make("kbd", { textContent: key }), swatch, make("span", { textContent: name }), make("small"));
    button.dataset.label = n === null ? "erase" : n;
    return button;
  };
  const structures = labels.slice(1).map((name, n) => row(n + 1, String(n + 1), name));
  $("labels").replaceChildren(...structures, row(0, "B", labels[0]), row(null, "E", "eraser"));
}

export function showLabels(tools, counts) {
  for (const button of $("labels").children) {
    const { label } = button.dataset;
    const chosen = label === "erase" ? tools.erasing : !tools.erasing && Number(label) === tools.label;
    button.setAttribute("aria-checked", chosen);
    if (chosen) button.scrollIntoView({ block: "nearest" });
    button.lastChild.textContent = label === "erase" || !counts?.[label] ? "" : counts[label];
  }
}

const MARKS = { untouched: "", begun: "◐", done: "✓" };

export function fillCases(rows, current, open) {
  const done = rows.filter((row) => row.state === "done").length;
  $("progress").textContent = `${done} of ${rows.length} done`;
  $("case-list").replaceChildren(
    ...rows.map((row, n) => {
      const mark = make("i", { className: `mark ${row.error ? "error" : row.state}`, textContent: row.error ? "!" : MARKS[row.state] });
      const flag = row.flag ? [make("i", { className: "flag", textContent: "⚑", title: row.flag })] : [];
      const slices = make("small", { textContent: row.slices ? `${row.slices}` : "", title: "slices drawn" });
      const button = make("button", { type: "button", title: row.error || `${row.name}: ${row.state}`, onclick: () => open(n) }, mark, make("span", { textContent: row.name }), ...flag, slices);
      button.dataset.state = row.error ? "error" : row.state;
      button.setAttribute("aria-current", n === current);
      return make("li", {}, button);
    }),
  );
}

export const CT = [["Soft tissue", -160, 240], ["Lung", -1350, 150], ["Bone", -450, 1050], ["Brain", 0, 80]];

export function fillPresets(volume, choose) {
  const n = volume.shown;
  const presets = [["Auto", ...volume.channels[n].window], ["Full", ...volume.channels[n].range], ...(volume.kind === "ct" ? CT : [])];
  $("presets").replaceChildren(...presets.map(([name, low, high]) => make("button", { type: "button", textContent: name, onclick: () => choose(low, high) })));
}

export function fillChannels(volume, changed) {
  const several = volume.channels.length > 1 && !volume.colour;
  const options = () => volume.channels.map((_, n) => make("option", { value: n, textContent: `channel ${n + 1}` }));
  $("blending").hidden = !several;
  $("channels").hidden = !several;
  if (!several) return;
  const shown = make("select", { onchange: () => ((volume.shown = Number(shown.value)), changed()) }, ...options());
  const other = make("select", { onchange: () => ((volume.blend.channel = Number(other.value)), changed()) }, ...options());
  const share = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: volume.blend.share, title: "how much of the second channel", oninput: () => ((volume.blend.share = Number(share.value)), changed()) });
  [shown.value, other.value] = [volume.shown, volume.blend.channel];
  $("channels").replaceChildren("Show", shown);
  $("blending").replaceChildren("Blend", other, share);
}

// The strip: one column a slice, one row a class, filled where the class is drawn.
export function drawStrip(canvas, scribbles, plane, colours, order) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width) return;
  [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const style = getComputedStyle(canvas);
  const step = width / plane.depth;
  const rows = order.length;
  const each = (height - 4) / rows;
  const space = step > 4 ? 1 : 0;
  for (let slice = 0; slice < plane.depth; slice++) {
    order.forEach((label, row) => {
      const drawn = scribbles.counts[slice][label] > 0;
      context.fillStyle = drawn ? colours[label] : style.getPropertyValue("--empty");
      context.fillRect(slice * step, 2 + row * each, step - space, each - (each > 3 ? 1 : 0));
    });
  }
  context.strokeStyle = style.getPropertyValue("--ink");
  context.lineWidth = 2;
  context.strokeRect(plane.slice * step - (step < 4 ? 1.5 : 0), 1, Math.max(step - space, 4), height - 2);
}
