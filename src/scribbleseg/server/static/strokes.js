// The scribbles of a case: what is drawn, what can be undone, and what has not been saved yet.

export const UNLABELLED = 255;

export class Scribbles {
  // `counts` has for each slice how many voxels of each label it has.
  constructor(labels, version, shape, counts) {
    Object.assign(this, { labels, version, shape, counts });
    this.perSlice = shape[1] * shape[2];
    this.edits = 0; // grows with every change of any slice
    this.stamps = new Uint32Array(shape[0]); // a slice's number grows with every change of it
    this.done = [];
    this.undone = [];
    this.pending = emptyPending();
    this.sending = null;
    this.stroke = null;
  }

  #count() {
    for (const counts of this.counts) counts.fill(0);
    for (let voxel = 0; voxel < this.labels.length; voxel++) {
      if (this.labels[voxel] !== UNLABELLED) this.counts[Math.floor(voxel / this.perSlice)][this.labels[voxel]]++;
    }
  }

  #set(voxel, label) {
    const slice = Math.floor(voxel / this.perSlice);
    const before = this.labels[voxel];
    if (before !== UNLABELLED) this.counts[slice][before]--;
    if (label !== UNLABELLED) this.counts[slice][label]++;
    this.labels[voxel] = label;
    this.stamps[slice]++;
    this.edits++;
    this.pending.voxels.add(voxel);
  }

  begin() {
    this.stroke = new Map(); // voxel to the label before
  }

  put(voxel, label) {
    const before = this.labels[voxel];
    if (before === label) return;
    if (!this.stroke.has(voxel)) this.stroke.set(voxel, before);
    this.#set(voxel, label);
  }

  // Ends a stroke; returns whether it changed anything. `label` is counted as drawn with; null is no stroke of a pen.
  end(where, label = null, seconds = 0) {
    const voxels = Uint32Array.from(this.stroke.keys());
    const before = Uint8Array.from(this.stroke.values());
    this.stroke = null;
    if (!voxels.length) return false;
    this.done.push({ voxels, before, after: Uint8Array.from(voxels, (voxel) => this.labels[voxel]), where });
    this.undone.length = 0;
    if (label !== null && label !== UNLABELLED) this.pending.strokes[label] = (this.pending.strokes[label] || 0) + 1;
    this.pending.seconds += seconds;
    return true;
  }

  cancel() {
    for (const [voxel, before] of this.stroke || []) this.#set(voxel, before);
    this.stroke = null;
  }

  undo() {
    return this.#move(this.done, this.undone, "before");
  }

  redo() {
    return this.#move(this.undone, this.done, "after");
  }

  #move(from, to, state) {
    if (this.stroke || !from.length) return null;
    const step = from.pop();
    step.voxels.forEach((voxel, n) => this.#set(voxel, step[state][n]));
    to.push(step);
    return step.where;
  }

  get unsaved() {
    // A stroke counts at its end, when all of its voxels may have been sent.
    return this.pending.voxels.size > 0 || Object.keys(this.pending.strokes).length > 0 || this.sending !== null;
  }

  // What is to be sent now; `sent` says what became of it.
  take() {
    this.sending = this.pending;
    this.pending = emptyPending();
    return { base: this.version, ...this.#plain(this.sending) };
  }

  sent(version) {
    if (version === null) {
      for (const voxel of this.pending.voxels) this.sending.voxels.add(voxel);
      for (const [label, n] of Object.entries(this.pending.strokes)) this.sending.strokes[label] = (this.sending.strokes[label] || 0) + n;
      this.sending.seconds += this.pending.seconds;
      this.pending = this.sending;
    } else this.version = version;
    this.sending = null;
  }

  // All that is not on disk, as it can be kept in the browser's storage; null where there is nothing.
  journal() {
    if (!this.unsaved) return null;
    const voxels = new Set([...(this.sending?.voxels || []), ...this.pending.voxels]);
    return this.#plain({ ...this.pending, voxels });
  }

  #plain({ voxels, strokes, seconds }) {
    const sorted = Uint32Array.from(voxels).sort();
    const runs = [];
    for (const voxel of sorted) {
      const last = runs[runs.length - 1];
      if (last && last[0] + last[1] === voxel && last[2] === this.labels[voxel]) last[1]++;
      else runs.push([voxel, 1, this.labels[voxel]]);
    }
    return { runs, strokes, seconds };
  }

  // Takes over what the server has, and keeps on top of it what has not been saved.
  replace(labels, version) {
    const ours = [...this.pending.voxels, ...(this.sending?.voxels || [])].map((voxel) => [voxel, this.labels[voxel]]);
    this.labels = labels;
    this.version = version;
    for (const [voxel, label] of ours) labels[voxel] = label;
    this.done.length = this.undone.length = 0;
    for (let slice = 0; slice < this.stamps.length; slice++) this.stamps[slice]++;
    this.edits++;
    this.#count();
  }

  // Whether a slice of a plane has any stroke.
  drawn(plane, slice) {
    if (plane.axis === 0) return this.counts[slice].some((n) => n > 0);
    for (let row = 0; row < plane.rows; row++) {
      for (let column = 0; column < plane.columns; column++) if (this.labels[plane.at(slice, row, column)] !== UNLABELLED) return true;
    }
    return false;
  }

  // The pixels of a slice by label.
  pixels(plane, slice) {
    const found = new Map();
    for (let row = 0; row < plane.rows; row++) {
      for (let column = 0; column < plane.columns; column++) {
        const label = this.labels[plane.at(slice, row, column)];
        if (label === UNLABELLED) continue;
        if (!found.has(label)) found.set(label, []);
        found.get(label).push([row, column]);
      }
    }
    return found;
  }
}

const emptyPending = () => ({ voxels: new Set(), strokes: {}, seconds: 0 });

// The pixels of a straight line between two, both included (Bresenham).
export function line([row, column], [toRow, toColumn]) {
  const pixels = [];
  const down = Math.abs(toRow - row);
  const across = Math.abs(toColumn - column);
  const stepRow = row < toRow ? 1 : -1;
  const stepColumn = column < toColumn ? 1 : -1;
  let error = across - down;
  for (;;) {
    pixels.push([row, column]);
    if (row === toRow && column === toColumn) return pixels;
    const twice = 2 * error;
    if (twice >= -down) {
      error -= down;
      column += stepColumn;
    }
    if (twice <= across) {
      error += across;
      row += stepRow;
    }
  }
}

// The pixels of a round brush around [0, 0]; the diameter is in units of the smaller side of a pixel.
export function brush(diameter, height, width) {
  const unit = Math.min(height, width);
  const radius = diameter / 2;
  const pixels = [];
  for (let row = -Math.ceil(radius); row <= radius; row++) {
    for (let column = -Math.ceil(radius); column <= radius; column++) {
      const apart = Math.hypot((row * height) / unit, (column * width) / unit);
      if (apart < radius || (row === 0 && column === 0)) pixels.push([row, column]);
    }
  }
  return pixels;
}

// The pixels of a stroke that lies a share of the way from one stroke to another. Each pixel of the first is moved
// towards the nearest one of the second, the middles of both laid on each other; neighbours stay joined.
export function between(from, to, share) {
  const middle = (pixels) => [0, 1].map((axis) => pixels.reduce((sum, pixel) => sum + pixel[axis], 0) / pixels.length);
  const [a, b] = [middle(from), middle(to)];
  const shift = [b[0] - a[0], b[1] - a[1]];
  const moved = new Map();
  for (const [row, column] of from) {
    let best = Infinity;
    let nearest = null;
    for (const pixel of to) {
      const apart = (pixel[0] - row - shift[0]) ** 2 + (pixel[1] - column - shift[1]) ** 2;
      if (apart < best) [best, nearest] = [apart, pixel];
    }
    moved.set(`${row},${column}`, [Math.round(row + share * (nearest[0] - row)), Math.round(column + share * (nearest[1] - column))]);
  }
  const found = new Map();
  const add = (pixel) => found.set(pixel.join(), pixel);
  for (const [row, column] of from) {
    const here = moved.get(`${row},${column}`);
    add(here);
    for (const [down, across] of [[0, 1], [1, -1], [1, 0], [1, 1]]) {
      const there = moved.get(`${row + down},${column + across}`);
      if (there && Math.hypot(there[0] - here[0], there[1] - here[1]) <= JOINED) line(here, there).forEach(add);
    }
  }
  return [...found.values()];
}

const JOINED = 6; // pixels: neighbours that were moved further apart than this belong to different parts of a stroke
