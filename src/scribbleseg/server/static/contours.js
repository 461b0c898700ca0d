// Outlines of label maps, as paths along the edges of pixels.

// The outline of each label on a slice of a plane, in pixels of it, but for the label that stands for nothing.
export function contours(plane, slice, labels, nothing = 0) {
  const paths = new Map();
  const open = new Map(); // label to the stretch that its outline is drawn along
  const flush = (label, across) => {
    const [line, from, to] = open.get(label);
    open.delete(label);
    if (!paths.has(label)) paths.set(label, new Path2D());
    const path = paths.get(label);
    if (across) (path.moveTo(from, line), path.lineTo(to, line));
    else (path.moveTo(line, from), path.lineTo(line, to));
  };
  const at = (row, column) => (plane.has(row, column) ? labels[plane.at(slice, row, column)] : nothing);
  const scan = (lines, length, across) => {
    for (let line = 0; line <= lines; line++) {
      for (let n = 0; n < length; n++) {
        const [one, other] = across ? [at(line - 1, n), at(line, n)] : [at(n, line - 1), at(n, line)];
        if (one === other) continue;
        for (const label of [one, other]) {
          if (label === nothing) continue;
          const stretch = open.get(label);
          if (stretch && stretch[2] === n) stretch[2]++;
          else {
            if (stretch) flush(label, across);
            open.set(label, [line, n, n + 1]);
          }
        }
      }
      for (const label of [...open.keys()]) flush(label, across);
    }
  };
  scan(plane.rows, plane.columns, true);
  scan(plane.columns, plane.rows, false);
  return paths;
}

// Draws outlines where a slice lies on a canvas; `width` and `dash` are in pixels of the screen.
export function outline(context, paths, { x, y, across, down }, { colour, opacity, width = 1.8, dash = [] }) {
  context.save();
  Object.assign(context, { globalAlpha: opacity, lineJoin: "round", lineWidth: width });
  context.setLineDash(dash);
  for (const [label, path] of paths) {
    const placed = new Path2D();
    placed.addPath(path, new DOMMatrix([across, 0, 0, down, x, y]));
    context.strokeStyle = colour(label);
    context.stroke(placed);
  }
  context.restore();
}
