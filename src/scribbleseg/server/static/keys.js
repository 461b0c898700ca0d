// The keys: which does what. Keys in a field of text belong to that field.

const TWO_DIGITS_MS = 700; // within which a second digit belongs to the first
const TAP_MS = 250; // an eraser key that is held longer than this is let go again

export class Keys {
  // `act` has an action for each name in `NAMES`, and `choose` and `strokes`.
  constructor(act) {
    Object.assign(this, { act, typed: "", typedAt: 0, erasing: null });
    this.held = new Set();
    addEventListener("keydown", (event) => this.#down(event));
    addEventListener("keyup", (event) => this.#up(event));
    addEventListener("blur", () => this.#letGo());
  }

  #down(event) {
    const { key } = event;
    const field = event.target.closest?.("input:not([type=range]):not([type=checkbox]), textarea, select");
    if (field) {
      if (key === "Escape" || (key === "Enter" && field.tagName === "INPUT")) field.blur();
      return;
    }
    if (document.querySelector("dialog[open]")) {
      if (key === "?" && document.getElementById("help").open) this.act.help();
      return;
    }
    const name = this.#named(event);
    if (!name) return;
    event.preventDefault();
    if (name !== "digit") this.typed = "";
    if (HOLDS.has(name)) {
      if (this.held.has(name)) return;
      this.held.add(name);
    } else if (event.repeat && !REPEATS.has(name)) return;
    if (name === "digit") this.#digit(key);
    else if (name === "erase") this.erasing = { since: performance.now(), before: this.act.erase(null), strokes: this.act.strokes() };
    else this.act[name](true);
  }

  #named({ key, ctrlKey, metaKey, altKey, shiftKey }) {
    if (altKey) return null;
    if (ctrlKey || metaKey) return { z: shiftKey ? "redo" : "undo", Z: "redo", y: "redo", s: "save" }[key] || null;
    if (/^[1-9]$/.test(key) || (key === "0" && this.typed && performance.now() - this.typedAt < TWO_DIGITS_MS)) return "digit";
    if (key === "Delete" || key === "Backspace") return shiftKey ? "clearSlice" : "clearClass";
    if (key === "C") return "copyBack";
    return NAMES[key] || NAMES[key.toLowerCase()] || null;
  }

  #digit(key) {
    const now = performance.now();
    const both = now - this.typedAt < TWO_DIGITS_MS ? this.typed + key : key;
    if (key === "0" && !this.act.choose(Number(both))) return this.act.fit(); // there are not so many classes
    this.typed = this.act.choose(Number(both)) ? both : key;
    if (this.typed === key && both !== key) this.act.choose(Number(key));
    this.typedAt = now;
    return undefined;
  }

  #up({ key }) {
    const name = NAMES[key] || NAMES[key.toLowerCase()];
    if (!HOLDS.has(name) || !this.held.delete(name)) return;
    if (name !== "erase") this.act[name](false);
    else if (this.erasing) {
      const used = this.act.strokes() > this.erasing.strokes;
      const held = performance.now() - this.erasing.since > TAP_MS;
      if (used || held) this.act.erase(this.erasing.before);
      else this.act.erase(!this.erasing.before);
      this.erasing = null;
    }
  }

  #letGo() {
    for (const name of this.held) if (name !== "erase") this.act[name](false);
    if (this.erasing) this.act.erase(this.erasing.before);
    this.erasing = null;
    this.held.clear();
  }
}

const NAMES = {
  b: "background", e: "erase", p: "pick", "[": "smaller", "]": "larger", l: "protect",
  ArrowUp: "up", ArrowDown: "down", PageUp: "pageUp", PageDown: "pageDown", Home: "first", End: "last",
  n: "next", c: "copy", i: "interpolate", ",": "previousCase", ".": "nextCase",
  "+": "zoomIn", "=": "zoomIn", "-": "zoomOut", 0: "fit", " ": "panning", w: "window", h: "hide", a: "areas", v: "planes",
  o: "prediction", u: "doubt", g: "before", y: "accept",
  x: "channel", s: "smooth", t: "theme", d: "done", f: "flag", "?": "help",
};

const HOLDS = new Set(["erase", "hide", "panning"]);
const REPEATS = new Set(["up", "down", "pageUp", "pageDown", "smaller", "larger", "undo", "redo", "zoomIn", "zoomOut"]);
