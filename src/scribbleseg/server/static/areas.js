// The areas that the strokes of a slice grow into, asked of the server one slice at a time.

import * as api from "./api.js";
import { UNLABELLED } from "./strokes.js";
import { TAB } from "./saving.js";

export class Areas {
  // `on.grown` hears that areas have changed; `on.state` gets a sentence.
  constructor(number, scribbles, settings, on) {
    Object.assign(this, { number, scribbles, settings, on, busy: false, wanted: null });
    this.found = new Map(); // slice to areas
    this.revision = 0; // grows with every change of them
    this.known = new Map(); // slice to what they were grown from
  }

  // What the areas of a slice are grown from, as a key.
  #from(slice) {
    return `${this.scribbles.stamps[slice]} ${this.settings.tau} ${this.settings.beta}`;
  }

  // Asks for the areas of a slice, unless they are known. While an answer is awaited, the newest wish waits.
  async want(slice) {
    for (const [other, from] of this.known) if (from !== this.#from(other) && other !== slice) this.#forget(other);
    if (this.known.get(slice) === this.#from(slice)) return;
    if (this.scribbles.counts[slice].filter((n) => n > 0).length < 2) {
      this.#forget(slice);
      this.on.state(this.scribbles.counts[slice].some((n) => n > 0) ? "Draw a second class on this slice, such as background." : "");
      this.on.grown(slice);
      return;
    }
    this.wanted = slice;
    if (this.busy) return;
    this.busy = true;
    try {
      while (this.wanted !== null) {
        const next = this.wanted;
        this.wanted = null;
        await this.#grow(next);
      }
    } finally {
      this.busy = false;
    }
  }

  async #grow(slice) {
    const from = this.#from(slice);
    const { perSlice, labels } = this.scribbles;
    const began = performance.now();
    this.on.state("growing …");
    try {
      const asked = { slice, tab: TAB, ...this.settings };
      const areas = await api.areas(this.number, asked, labels.slice(slice * perSlice, (slice + 1) * perSlice));
      if (this.#from(slice) !== from) {
        this.wanted ??= slice; // drawn on since: what came is stale
        return;
      }
      this.found.set(slice, areas);
      this.revision++;
      this.known.set(slice, from);
      const grown = areas.reduce((n, area) => n + (area !== UNLABELLED), 0);
      this.on.state(`${Math.round((100 * grown) / perSlice)} % of the slice, in ${Math.round(performance.now() - began)} ms`);
    } catch (error) {
      if (error.status === 409) return;
      this.#forget(slice);
      this.on.state(error.message);
    }
    this.on.grown(slice);
  }

  #forget(slice) {
    this.revision++;
    this.found.delete(slice);
    this.known.delete(slice);
  }
}
