// One plane on the screen: the image, what is laid over it, and the pointers that move on it.

import { contours, outline } from "./contours.js";
import { UNLABELLED } from "./strokes.js";

const PINCH_MS = 250; // a second finger that comes so soon after the first means that no stroke was meant
const DARK = "rgb(0 0 0 / .55)";
const DOUBT = "#ff3b5c";
const SURE = 13; // of 255: less doubt than this (0.05) is not shown
const STEP = 40; // pixels of a wheel or a trackpad for one slice

export class View {
  // `on` has: look (colours and what is shown), stroke, move, end, cancel, hover, scroll, window.
  constructor(canvas, on) {
    this.canvas = canvas;
    this.on = on;
    this.context = canvas.getContext("2d");
    this.pointers = new Map();
    this.wheel = 0;
    this.cursor = null;
    this.penSeen = false;
    new ResizeObserver(() => this.draw()).observe(canvas);
    const listen = (name, handler) => canvas.addEventListener(name, handler, { passive: false });
    listen("pointerdown", (event) => this.#down(event));
    listen("pointermove", (event) => this.#moved(event));
    listen("pointerup", (event) => this.#up(event));
    listen("pointercancel", (event) => this.#up(event));
    listen("pointerleave", () => this.#hover(null));
    listen("wheel", (event) => this.#wheeled(event));
    listen("contextmenu", (event) => event.preventDefault());
  }

  show(volume, scribbles, plane) {
    Object.assign(this, { volume, scribbles, plane });
    this.picture = layer(plane);
    this.overlay = layer(plane);
    this.doubt = layer(plane);
    this.outlines = new Map(); // kept for the slice that is shown
    this.canvas.dataset.axis = plane.axis;
    this.draw();
  }

  // Where the slice lies on the canvas: the corner of its first pixel, and the size of a pixel, in CSS pixels.
  get #placed() {
    const { plane, canvas } = this;
    const [width, height] = [plane.columns * plane.width, plane.rows * plane.height];
    const scale = Math.min(canvas.clientWidth / width, canvas.clientHeight / height) * 0.97 * plane.zoom;
    const x = canvas.clientWidth / 2 - (width / 2 - plane.pan[0]) * scale;
    const y = canvas.clientHeight / 2 - (height / 2 - plane.pan[1]) * scale;
    return { x, y, scale, across: plane.width * scale, down: plane.height * scale };
  }

  // The row and column under a pointer, which may lie outside of the slice.
  #pixel(event) {
    const box = this.canvas.getBoundingClientRect();
    const { x, y, across, down } = this.#placed;
    return [Math.floor((event.clientY - box.top - y) / down), Math.floor((event.clientX - box.left - x) / across)];
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      if (this.plane) this.#paint();
    });
  }

  #paint() {
    const { canvas, context, plane, volume } = this;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const look = this.on.look();
    const image = [plane.slice, volume.shown, volume.blend.channel, volume.blend.share, ...volume.windows].join();
    if (this.picture.of !== image) {
      volume.paint(plane, this.picture.pixels);
      this.picture.put(image);
    }
    const drawn = [plane.slice, this.scribbles.edits, look.grown].join();
    if (this.overlay.of !== drawn) {
      this.#lay(look);
      this.overlay.put(drawn);
    }
    const { x, y, scale, across, down } = this.#placed;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    const size = [plane.columns * plane.width * scale, plane.rows * plane.height * scale];
    context.imageSmoothingEnabled = look.smooth;
    context.drawImage(this.picture.canvas, x, y, ...size);
    context.imageSmoothingEnabled = false;
    if (!look.hidden) {
      this.#doubtful(look, x, y, size);
      context.drawImage(this.overlay.canvas, x, y, ...size);
      this.#outlined(look, { x, y, across, down });
    }
    this.#cross(look, x, y, size);
    this.#outline(look);
    Object.assign(canvas.dataset, { slice: plane.slice, placed: [x, y, across, down].join(" ") });
  }

  // Colours the overlay: strokes, and areas under them, with their edges.
  #lay({ colours, areas, strokes, fill }) {
    const { plane, scribbles } = this;
    const pixels = this.overlay.pixels;
    const strong = colours.map((colour) => packed(colour, strokes));
    const weak = colours.map((colour, label) => packed(colour, label ? fill : 0.4 * fill));
    const edge = colours.map((colour) => packed(colour, Math.min(1, 2.2 * fill)));
    const { perSlice } = scribbles;
    const empty = plane.axis === 0 && !areas.has(plane.slice) && scribbles.counts[plane.slice].every((n) => n === 0);
    if (empty) return void pixels.fill(0);
    const areaAt = (voxel) => areas.get(Math.floor(voxel / perSlice))?.[voxel % perSlice] ?? UNLABELLED;
    let pixel = 0;
    for (let row = 0; row < plane.rows; row++) {
      let voxel = plane.at(plane.slice, row, 0);
      for (let column = 0; column < plane.columns; column++, voxel += plane.perColumn) {
        const label = scribbles.labels[voxel];
        if (label !== UNLABELLED) pixels[pixel++] = strong[label];
        else if (!areas.size) pixels[pixel++] = 0;
        else {
          const area = areaAt(voxel);
          if (area === UNLABELLED) pixels[pixel++] = 0;
          else {
            const inner =
              (column === 0 || areaAt(voxel - plane.perColumn) === area) &&
              (column === plane.columns - 1 || areaAt(voxel + plane.perColumn) === area) &&
              (row === 0 || areaAt(voxel - plane.perRow) === area) &&
              (row === plane.rows - 1 || areaAt(voxel + plane.perRow) === area);
            pixels[pixel++] = inner ? weak[area] : edge[area];
          }
        }
      }
    }
    return undefined;
  }

  // Colours what a network is in doubt about.
  #doubtful({ network, opacity }, x, y, size) {
    const { plane, doubt, context } = this;
    if (!network.doubt) return;
    const of = `${plane.slice} ${network.of}`;
    if (doubt.of !== of) {
      const shades = Array.from({ length: 256 }, (_, value) => (value < SURE ? 0 : packed(DOUBT, Math.min(0.6, (1.4 * value) / 255))));
      let pixel = 0;
      for (let row = 0; row < plane.rows; row++) {
        let voxel = plane.at(plane.slice, row, 0);
        for (let column = 0; column < plane.columns; column++, voxel += plane.perColumn) doubt.pixels[pixel++] = shades[network.doubt[voxel]];
      }
      doubt.put(of);
    }
    context.globalAlpha = opacity;
    context.drawImage(doubt.canvas, x, y, ...size);
    context.globalAlpha = 1;
  }

  // Outlines what annotators drew, what a network predicts, and what the one before predicted.
  #outlined({ annotators, network, colours, opacity }, placed) {
    const { plane, outlines, context } = this;
    const of = `${plane.slice} ${network.of}`;
    if (outlines.of !== of) (outlines.clear(), (outlines.of = of));
    const add = (what, labels, nothing, style) => {
      if (!labels) return;
      if (!outlines.has(what)) outlines.set(what, contours(plane, plane.slice, labels, nothing));
      outline(context, outlines.get(what), placed, style);
    };
    const colour = (label) => colours[label];
    const dark = { colour: () => DARK, width: 3.5 }; // under the lines, so that they are seen on strokes of their colour
    for (const { labels, n } of annotators) add(`annotator ${n}`, labels, UNLABELLED, { ...dark, opacity: 1 });
    for (const { labels, n, dash } of annotators) add(`annotator ${n}`, labels, UNLABELLED, { colour, opacity: 1, dash });
    add("labels", network.labels, 0, { ...dark, opacity });
    add("labels", network.labels, 0, { colour, opacity });
    add("before", network.before, 0, { colour: () => "#fff", opacity, width: 1.6, dash: [4, 4] });
  }

  // Where the other planes cut this one.
  #cross({ cross, planes }, x, y, [width, height]) {
    if (!cross) return;
    const { context, plane } = this;
    context.strokeStyle = "rgb(255 255 255 / .28)";
    context.lineWidth = 1;
    context.setLineDash([3, 4]);
    context.beginPath();
    for (const other of planes) {
      if (other === plane) continue;
      const across = other.axis === plane.view.across;
      const flipped = across ? plane.view.flip_across : plane.view.flip_down;
      const n = across ? plane.columns : plane.rows;
      const at = ((flipped ? n - 1 - other.slice : other.slice) + 0.5) / n;
      if (across) (context.moveTo(x + at * width, y), context.lineTo(x + at * width, y + height));
      else (context.moveTo(x, y + at * height), context.lineTo(x + width, y + at * height));
    }
    context.stroke();
    context.setLineDash([]);
  }

  // The outline of the brush.
  #outline({ brush, pen, hidden }) {
    if (!this.cursor || hidden) return;
    const { context } = this;
    const { x, y, across, down } = this.#placed;
    const inside = new Set(brush(this.plane).map((pixel) => pixel.join()));
    const [row, column] = this.cursor;
    context.beginPath();
    for (const key of inside) {
      const [r, c] = key.split(",").map(Number);
      const [left, top] = [x + (column + c) * across, y + (row + r) * down];
      const edge = (dr, dc, ...ends) => {
        if (inside.has(`${r + dr},${c + dc}`)) return;
        context.moveTo(left + ends[0] * across, top + ends[1] * down);
        context.lineTo(left + ends[2] * across, top + ends[3] * down);
      };
      edge(-1, 0, 0, 0, 1, 0);
      edge(1, 0, 0, 1, 1, 1);
      edge(0, -1, 0, 0, 0, 1);
      edge(0, 1, 1, 0, 1, 1);
    }
    context.lineWidth = 3;
    context.strokeStyle = "rgb(0 0 0 / .6)";
    context.stroke();
    context.lineWidth = 1.4;
    context.strokeStyle = pen;
    context.stroke();
  }

  // What a pointer that goes down means: draw, erase, pan, window, or pinch.
  #meant(event) {
    if (event.pointerType === "pen") this.penSeen = true;
    if (event.pointerType === "touch") {
      if ([...this.pointers.values()].some((other) => other.touch)) return "pinch";
      return this.penSeen ? "pan" : "draw";
    }
    if (event.button === 1 || (event.button === 0 && this.on.look().panning)) return "pan";
    if (event.button === 2) return "window";
    return event.button === 5 || event.buttons & 32 ? "erase" : "draw";
  }

  #down(event) {
    if (!this.plane) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    try {
      this.canvas.setPointerCapture(event.pointerId);
    } catch {
      // the pointer is gone already
    }
    const meant = this.#meant(event);
    const pointer = { meant, x: event.clientX, y: event.clientY, touch: event.pointerType === "touch", since: performance.now() };
    if (meant === "pinch") this.#pinched();
    this.pointers.set(event.pointerId, pointer);
    if (meant === "draw" || meant === "erase") {
      pointer.last = this.#pixel(event);
      pointer.drawing = this.on.stroke(this, pointer.last, meant === "erase", event.shiftKey);
    }
    this.#hover(event);
  }

  // The second finger is down: the first one draws no longer.
  #pinched() {
    for (const pointer of this.pointers.values()) {
      if (!pointer.touch) continue;
      if (pointer.drawing) performance.now() - pointer.since < PINCH_MS ? this.on.cancel() : this.on.end(this);
      Object.assign(pointer, { drawing: false, meant: "pinch" });
    }
  }

  #moved(event) {
    const pointer = this.pointers.get(event.pointerId);
    if (pointer?.drawing) {
      const steps = event.getCoalescedEvents?.() || [];
      for (const step of steps.length ? steps : [event]) {
        const pixel = this.#pixel(step);
        if (pixel[0] === pointer.last[0] && pixel[1] === pointer.last[1]) continue;
        this.on.move(this, pointer.last, pixel);
        pointer.last = pixel;
      }
    } else if (pointer) {
      const [dx, dy] = [event.clientX - pointer.x, event.clientY - pointer.y];
      if (pointer.meant === "pinch") this.#pinch(event, pointer);
      else if (pointer.meant === "pan") this.#pan(dx, dy);
      else if (pointer.meant === "window") this.on.window(dx, dy);
      Object.assign(pointer, { x: event.clientX, y: event.clientY });
    }
    this.#hover(event);
  }

  #up(event) {
    const pointer = this.pointers.get(event.pointerId);
    this.pointers.delete(event.pointerId);
    if (pointer?.drawing) this.on.end(this);
    if (event.pointerType === "touch") this.#hover(null);
  }

  #pan(dx, dy) {
    const { scale } = this.#placed;
    this.plane.pan = [this.plane.pan[0] + dx / scale, this.plane.pan[1] + dy / scale];
    this.draw();
  }

  #pinch(event, pointer) {
    const other = [...this.pointers.values()].find((each) => each !== pointer && each.meant === "pinch");
    if (!other) return this.#pan(event.clientX - pointer.x, event.clientY - pointer.y);
    const before = Math.hypot(pointer.x - other.x, pointer.y - other.y);
    const after = Math.hypot(event.clientX - other.x, event.clientY - other.y);
    this.zoom(after / Math.max(before, 1), (event.clientX + other.x) / 2, (event.clientY + other.y) / 2);
    return this.#pan((event.clientX - pointer.x) / 2, (event.clientY - pointer.y) / 2);
  }

  // Zooms so that what lies under a point of the screen stays there; without one, under the middle.
  zoom(factor, clientX = null, clientY = null) {
    const { plane, canvas } = this;
    const zoom = Math.min(40, Math.max(0.3, plane.zoom * factor));
    if (clientX !== null) {
      const box = canvas.getBoundingClientRect();
      const { scale } = this.#placed;
      const [x, y] = [clientX - box.left - canvas.clientWidth / 2, clientY - box.top - canvas.clientHeight / 2];
      const [before, after] = [scale, (scale * zoom) / plane.zoom];
      plane.pan = [plane.pan[0] + x / after - x / before, plane.pan[1] + y / after - y / before];
    }
    plane.zoom = zoom;
    this.draw();
  }

  #wheeled(event) {
    event.preventDefault();
    if (!this.plane) return;
    const delta = event.deltaY * [1, 20, 400][event.deltaMode];
    if (event.ctrlKey || event.metaKey) return this.zoom(Math.exp(-delta / 300), event.clientX, event.clientY);
    this.wheel += Math.abs(delta) >= STEP ? Math.sign(delta) * STEP : delta;
    const steps = Math.trunc(this.wheel / STEP);
    this.wheel -= steps * STEP;
    if (steps) this.on.scroll(this, steps);
    return undefined;
  }

  #hover(event) {
    this.cursor = event && event.pointerType !== "touch" ? this.#pixel(event) : null;
    this.on.hover(this, event ? this.#pixel(event) : null, Boolean(event?.shiftKey));
    this.draw();
  }
}

// A canvas as large as a slice, and its pixels, 32 bits each.
function layer(plane) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [plane.columns, plane.rows];
  const context = canvas.getContext("2d");
  const image = context.createImageData(plane.columns, plane.rows);
  const made = { canvas, pixels: new Uint32Array(image.data.buffer), of: null }; // `of` says what is in the pixels
  made.put = (of) => {
    context.putImageData(image, 0, 0);
    made.of = of;
  };
  return made;
}

// A colour such as "#ff0000" as 32 bits.
function packed(colour, opacity) {
  const value = parseInt(colour.slice(1), 16);
  return ((Math.round(255 * opacity) << 24) | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
}
