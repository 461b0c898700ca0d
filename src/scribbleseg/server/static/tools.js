// The pen: what it draws with, and the strokes that it makes. Also what is done to a whole slice.

import { UNLABELLED, between, brush, line } from "./strokes.js";

const LONGEST_PAUSE = 5; // seconds between two strokes that still count as drawing

export class Tools {
  constructor() {
    Object.assign(this, { label: 1, erasing: false, size: 3, protect: false, stroke: null, last: null, ended: 0 });
  }

  brush(plane) {
    const key = `${this.size} ${plane.height} ${plane.width}`;
    if (this.brushed !== key) [this.brushed, this.pixels] = [key, brush(this.size, plane.height, plane.width)];
    return this.pixels;
  }

  // Begins a stroke. With `joined` it begins with a straight line from the end of the last one.
  begin(scribbles, plane, pixel, erase, joined) {
    if (scribbles.stroke) return;
    scribbles.begin();
    this.stroke = { erase: erase || this.erasing, since: performance.now() };
    const { last } = this;
    const from = joined && last && last.plane === plane && last.slice === plane.slice ? last.pixel : pixel;
    this.draw(scribbles, plane, from, pixel);
  }

  draw(scribbles, plane, from, to) {
    for (const [row, column] of line(from, to)) {
      for (const [down, across] of this.brush(plane)) {
        if (plane.has(row + down, column + across)) this.#put(scribbles, plane.at(plane.slice, row + down, column + across));
      }
    }
    this.last = { plane, slice: plane.slice, pixel: to };
  }

  #put(scribbles, voxel) {
    const there = scribbles.labels[voxel];
    const others = there !== UNLABELLED && there !== this.label;
    if (this.protect && others) return;
    scribbles.put(voxel, this.stroke.erase ? UNLABELLED : this.label);
  }

  // Ends a stroke; returns whether it changed anything.
  end(scribbles, plane) {
    if (!this.stroke) return false;
    const now = performance.now();
    const pause = (this.stroke.since - this.ended) / 1000;
    const seconds = (now - this.stroke.since) / 1000 + (pause < LONGEST_PAUSE ? pause : 0);
    const label = this.stroke.erase ? null : this.label;
    this.ended = now;
    this.stroke = null;
    return scribbles.end({ axis: plane.axis, slice: plane.slice }, label, seconds);
  }

  cancel(scribbles) {
    this.stroke = null;
    scribbles.cancel();
  }
}

// Does something to a case as one step that can be undone; returns whether it changed anything.
function asOne(scribbles, plane, slice, work) {
  if (scribbles.stroke) return false;
  scribbles.begin();
  work((s, row, column, label) => {
    if (plane.has(row, column)) scribbles.put(plane.at(s, row, column), label);
  });
  return scribbles.end({ axis: plane.axis, slice });
}

// Copies the strokes of a slice to another one, beside what is drawn there already.
export function copy(scribbles, plane, to) {
  return asOne(scribbles, plane, to, (put) => {
    for (const [label, pixels] of scribbles.pixels(plane, plane.slice)) {
      for (const [row, column] of pixels) if (scribbles.labels[plane.at(to, row, column)] === UNLABELLED) put(to, row, column, label);
    }
  });
}

// Takes what a network predicts of a class on a slice as drawn, beside what is drawn there already.
export function accept(scribbles, plane, predicted, label) {
  return asOne(scribbles, plane, plane.slice, (put) => {
    for (let row = 0; row < plane.rows; row++) {
      for (let column = 0; column < plane.columns; column++) {
        const voxel = plane.at(plane.slice, row, column);
        if (predicted[voxel] === label && scribbles.labels[voxel] === UNLABELLED) put(plane.slice, row, column, label);
      }
    }
  });
}

// Clears a slice, of one class or of all.
export function clear(scribbles, plane, label = null) {
  return asOne(scribbles, plane, plane.slice, (put) => {
    for (const [other, pixels] of scribbles.pixels(plane, plane.slice)) {
      if (label === null || label === other) for (const [row, column] of pixels) put(plane.slice, row, column, UNLABELLED);
    }
  });
}

// The drawn slices around a gap: that of the slice that is shown, or else the one after it. Null where there is none.
export function gap(scribbles, plane) {
  let low = plane.slice;
  while (low >= 0 && !scribbles.drawn(plane, low)) low--;
  let high = Math.max(low, plane.slice) + 1;
  while (high < plane.depth && !scribbles.drawn(plane, high)) high++;
  return low >= 0 && high < plane.depth && high > low + 1 ? [low, high] : null;
}

// Draws the slices of a gap, for each class that both ends have.
export function interpolate(scribbles, plane, [low, high]) {
  const [first, last] = [scribbles.pixels(plane, low), scribbles.pixels(plane, high)];
  return asOne(scribbles, plane, plane.slice, (put) => {
    for (const [label, pixels] of first) {
      if (!last.has(label)) continue;
      const more = pixels.length >= last.get(label).length;
      for (let slice = low + 1; slice < high; slice++) {
        const share = (slice - low) / (high - low);
        const drawn = more ? between(pixels, last.get(label), share) : between(last.get(label), pixels, 1 - share);
        for (const [row, column] of drawn) {
          if (plane.has(row, column) && scribbles.labels[plane.at(slice, row, column)] === UNLABELLED) put(slice, row, column, label);
        }
      }
    }
  });
}
