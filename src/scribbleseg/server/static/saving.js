// Saves strokes within a second, keeps in the browser what is not on disk, and tells other tabs apart.

import * as api from "./api.js";

const SOON = 250; // ms after the last stroke
const AGAIN = 2500; // ms until a failed save is tried again

export const TAB = Array.from(crypto.getRandomValues(new Uint8Array(10)), (byte) => byte.toString(16).padStart(2, "0")).join("");

// Held as long as this tab lives, so that others know that its strokes are not left behind.
navigator.locks?.request(`scribbleseg ${TAB}`, () => new Promise(() => {}));

export class Saver {
  // `on.state` hears "saved", "saving", or a Refusal; `on.stale` that the server has other strokes, too.
  constructor(project, number, name, scribbles, on) {
    Object.assign(this, { number, scribbles, on, timer: null, failed: false, kept: true });
    this.key = `${prefix(project)}${name}:${TAB}`;
    this.name = name;
  }

  // After every change.
  changed() {
    this.#keep();
    this.on.state("saving");
    this.#in(this.failed ? AGAIN : SOON);
  }

  #in(ms) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.save(), ms);
  }

  #keep() {
    const journal = this.scribbles.journal();
    try {
      if (journal) localStorage.setItem(this.key, JSON.stringify({ name: this.name, ...journal }));
      else localStorage.removeItem(this.key);
      this.kept = true;
    } catch {
      this.kept = false; // the browser's storage is full or forbidden: the last strokes are in this tab alone
    }
  }

  async save(more = {}) {
    clearTimeout(this.timer);
    const { scribbles } = this;
    if (scribbles.sending) return this.#in(SOON);
    if (!scribbles.unsaved) return undefined;
    try {
      const saved = await api.strokes(this.number, { tab: TAB, ...scribbles.take() }, more);
      scribbles.sent(saved.version);
      this.failed = false;
      if (!saved.alone) this.on.stale(this);
      if (saved.kept) this.on.kept(saved.kept);
    } catch (error) {
      scribbles.sent(null);
      this.failed = true;
      this.#keep();
      this.on.state(error);
      if (error.status !== 422) this.#in(AGAIN);
      return undefined;
    }
    this.#keep();
    if (scribbles.unsaved) this.#in(SOON);
    else this.on.state("saved");
    return undefined;
  }
}

const prefix = (project) => `scribbleseg:${project.id}:`;

// Sends what an earlier page could not save. Returns the names of the cases, and the files of what that replaced.
export async function recover(project, names) {
  const held = (await navigator.locks?.query())?.held.map((lock) => lock.name) || [];
  const recovered = { names: [], kept: [] };
  for (const key of Object.keys(localStorage)) {
    if (!key.startsWith(prefix(project)) || held.includes(`scribbleseg ${key.slice(-TAB.length)}`)) continue;
    try {
      const { name, ...journal } = JSON.parse(localStorage.getItem(key));
      if (!names.includes(name)) continue;
      const saved = await api.strokes(names.indexOf(name), { tab: TAB, base: -1, ...journal });
      localStorage.removeItem(key);
      if (!recovered.names.includes(name)) recovered.names.push(name);
      if (saved.kept) recovered.kept.push(saved.kept);
    } catch {
      // it stays where it is, for the next start
    }
  }
  return recovered;
}
