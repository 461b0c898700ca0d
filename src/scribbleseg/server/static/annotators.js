// Where strokes of several annotators are merged: whose they are, by outlines in a style for each, with a legend.

import * as api from "./api.js";
import { $, make } from "./panel.js";
import { UNLABELLED } from "./strokes.js";

const DASHES = [[], [6, 4], [2, 3], [10, 3, 2, 3]]; // in turn, where there are more annotators

export class Annotators {
  // `draw` paints the views.
  constructor(draw) {
    Object.assign(this, { names: [], off: new Set(), draw });
  }

  begin(names) {
    this.names = names;
    $("annotators").hidden = !names.length;
    $("annotator-list").replaceChildren(...names.map((name, n) => this.#row(name, n)));
  }

  #row(name, n) {
    const check = make("input", { type: "checkbox", checked: true });
    check.onchange = () => (check.checked ? this.off.delete(n) : this.off.add(n), this.draw());
    const line = make("canvas", { width: 34, height: 10, className: "line" });
    const context = line.getContext("2d");
    Object.assign(context, { lineWidth: 2, strokeStyle: getComputedStyle(document.body).color });
    context.setLineDash(DASHES[n % DASHES.length]);
    context.moveTo(0, 5);
    context.lineTo(34, 5);
    context.stroke();
    return make("label", { className: "check" }, check, line, make("span", { textContent: name }));
  }

  // What each of them drew in a case, one byte a voxel.
  labels(number) {
    return Promise.all(this.names.map((_, n) => api.labelsOf(number, n)));
  }

  // What is outlined: the strokes of each who is not switched off, and how.
  outlined(labels) {
    return (labels || []).map((each, n) => ({ labels: each, n, dash: DASHES[n % DASHES.length] })).filter(({ n }) => !this.off.has(n));
  }

  // Who drew on a voxel, and what, in words.
  at(labels, voxel, names) {
    return this.outlined(labels).filter((each) => each.labels[voxel] !== UNLABELLED).map((each) => `${this.names[each.n]}: ${names[each.labels[voxel]]}`);
  }
}
