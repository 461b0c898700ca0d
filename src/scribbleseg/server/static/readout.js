// What is under the cursor, in words: voxel, millimetres, intensity, label, and who drew it where several did.

import { UNLABELLED } from "./strokes.js";

export function readout({ volume, scribbles }, voxel, labels, area, drawn) {
  const [d, h, w] = volume.index(voxel);
  const places = volume.flat ? [`row ${h + 1}, column ${w + 1}`] : [`slice ${d + 1}, row ${h + 1}, column ${w + 1}`];
  if (volume.unit === "mm") {
    const [x, y, z] = volume.world(voxel).map((value) => Math.abs(value).toFixed(1));
    const world = volume.world(voxel);
    places.push(`${world[0] < 0 ? "L" : "R"} ${x}  ${world[1] < 0 ? "P" : "A"} ${y}  ${world[2] < 0 ? "I" : "S"} ${z} mm`);
  }
  const values = volume.channels.map((_, n) => +volume.intensity(voxel, n).toPrecision(5));
  places.push(`intensity ${volume.colour || volume.blend.share ? values.join(" ") : values[volume.shown]}`);
  const label = scribbles.labels[voxel];
  if (label !== UNLABELLED) places.push(labels[label]);
  else if (area !== UNLABELLED) places.push(`area of ${labels[area]}`);
  return [...places, ...drawn].join("   ·   ");
}
