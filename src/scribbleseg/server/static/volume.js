// The image of a case, and the three planes that are cut from it. Arrays are flat, in the order depth, height, width.

export class Plane {
  // How the slices of one plane lie in the flat array; `view` is display.View of the server.
  constructor(shape, spacing, view) {
    const strides = [shape[1] * shape[2], shape[2], 1];
    Object.assign(this, { view, axis: view.axis, sides: view.sides, name: view.plane, shape });
    this.depth = shape[view.axis];
    this.rows = shape[view.down];
    this.columns = shape[view.across];
    this.height = spacing[view.down]; // of a pixel, in mm
    this.width = spacing[view.across];
    this.perSlice = strides[view.axis];
    this.perRow = view.flip_down ? -strides[view.down] : strides[view.down];
    this.perColumn = view.flip_across ? -strides[view.across] : strides[view.across];
    this.first = (view.flip_down ? (this.rows - 1) * strides[view.down] : 0) + (view.flip_across ? (this.columns - 1) * strides[view.across] : 0);
    this.slice = this.depth >> 1;
    this.zoom = 1;
    this.pan = [0, 0]; // of the middle of the slice, in mm
  }

  at(slice, row, column) {
    return this.first + slice * this.perSlice + row * this.perRow + column * this.perColumn;
  }

  has(row, column) {
    return row >= 0 && column >= 0 && row < this.rows && column < this.columns;
  }

  // Which slice, row and column a voxel has in this plane.
  place(voxel) {
    const [, height, width] = this.shape;
    const index = [Math.floor(voxel / (height * width)), Math.floor(voxel / width) % height, voxel % width];
    const { down, across, flip_down: up, flip_across: left } = this.view;
    return [index[this.axis], up ? this.rows - 1 - index[down] : index[down], left ? this.columns - 1 - index[across] : index[across]];
  }
}

export class Volume {
  constructor(described, channels) {
    Object.assign(this, { shape: described.shape, unit: described.unit, affine: described.affine, kind: described.kind, channels });
    this.spacing = described.spacing;
    this.planes = described.views.map((view) => new Plane(described.shape, described.spacing, view));
    this.flat = described.shape[0] === 1; // a picture: there is one plane
    this.colour = described.kind === "colour";
    this.shown = 0;
    this.blend = { channel: channels.length > 1 ? 1 : 0, share: 0 };
    this.windows = channels.map((channel) => (this.colour ? [0, channel.range[1] > 255 ? 65535 : 255] : [...channel.window]));
  }

  intensity(voxel, n = this.shown) {
    const { values, slope, intercept } = this.channels[n];
    return values[voxel] * slope + intercept;
  }

  // Depth, height and width of a voxel.
  index(voxel) {
    const [, height, width] = this.shape;
    return [Math.floor(voxel / (height * width)), Math.floor(voxel / width) % height, voxel % width];
  }

  // Right, anterior and superior millimetres of a voxel.
  world(voxel) {
    const at = [...this.index(voxel), 1];
    return this.affine.slice(0, 3).map((row) => row.reduce((sum, value, n) => sum + value * at[n], 0));
  }

  // The grey of every value of a channel, 0 to 255, kept until the window changes.
  greys(n) {
    const channel = this.channels[n];
    const [low, high] = this.windows[n];
    if (!channel.greys || channel.greyed[0] !== low || channel.greyed[1] !== high) {
      const greys = new Uint8ClampedArray(channel.values.BYTES_PER_ELEMENT === 1 ? 256 : 65536);
      const scale = 255 / Math.max(high - low, 1e-9);
      for (let value = 0; value < greys.length; value++) greys[value] = (value * channel.slope + channel.intercept - low) * scale;
      channel.greys = greys;
      channel.greyed = [low, high];
    }
    return channel.greys;
  }

  // Writes a slice into pixels, 32 bits each.
  paint(plane, pixels) {
    const [red, green, blue] = this.colour ? [0, 1, 2] : [this.shown, this.shown, this.shown];
    const share = this.colour ? 0 : this.blend.share;
    const [r, g, b] = [red, green, blue].map((n) => this.channels[n].values);
    const [toRed, toGreen, toBlue] = [red, green, blue].map((n) => this.greys(n));
    const other = this.channels[this.blend.channel].values;
    const toOther = this.greys(this.blend.channel);
    let pixel = 0;
    for (let row = 0; row < plane.rows; row++) {
      let voxel = plane.at(plane.slice, row, 0);
      for (let column = 0; column < plane.columns; column++, voxel += plane.perColumn) {
        if (this.colour) pixels[pixel++] = 0xff000000 | (toBlue[b[voxel]] << 16) | (toGreen[g[voxel]] << 8) | toRed[r[voxel]];
        else {
          let grey = toRed[r[voxel]];
          if (share) grey = (grey * (1 - share) + toOther[other[voxel]] * share) | 0;
          pixels[pixel++] = 0xff000000 | (grey * 0x10101);
        }
      }
    }
  }
}
