// Frames off the wire, and masks as pixels. The layout is described in console/encoding.py.

const HALO = 0xb0000000;
const SOLID = 0xff000000;

export function readFrame(buffer) {
  const size = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  const begin = 4 + size;
  const lengths = new Uint32Array(buffer, begin, header.runs);
  const ids = new Uint16Array(buffer, begin + 4 * header.runs, header.runs);
  const jpeg = header.picture ? new Blob([new Uint8Array(buffer, begin + 6 * header.runs)], {type: 'image/jpeg'}) : null;
  return {header, lengths, ids, jpeg};
}

// Uint16Array of width * height exact IDs.
export function labelsOf(frame) {
  const labels = new Uint16Array(frame.header.width * frame.header.height);
  let at = 0;
  for (let run = 0; run < frame.lengths.length; run += 1) {
    const end = at + frame.lengths[run];
    if (frame.ids[run] !== 0) labels.fill(frame.ids[run], at, end);
    at = end;
  }
  return labels;
}

// RGB triple of an ID, the same in every picture of this project.
export function colourOf(id, palette) {
  return palette[(id - 1) % palette.length];
}

function packed([red, green, blue], alpha) {
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

// Tint inside, an outline at the edge and a dark halo around it, so that it shows on any ground.
export function paintMasks(image, labels, frame, palette, tint, selected) {
  const {width, height} = image;
  const out = new Uint32Array(image.data.buffer);
  out.fill(0);
  const thick = Math.max(1, Math.round(Math.min(width, height) / 320));
  const down = thick * width;
  let at = 0;
  for (let run = 0; run < frame.lengths.length; run += 1) {
    const id = frame.ids[run];
    const end = at + frame.lengths[run];
    if (id !== 0) {
      const colour = colourOf(id, palette);
      const fill = packed(colour, Math.round(255 * (id === selected ? Math.min(1, tint * 1.5) : tint)));
      const edge = (packed(colour, 255) | SOLID) >>> 0;
      for (let i = at; i < end; i += 1) {
        const x = i % width;
        const left = x >= thick ? labels[i - thick] : id;
        const right = x < width - thick ? labels[i + thick] : id;
        const above = i >= down ? labels[i - down] : id;
        const below = i + down < labels.length ? labels[i + down] : id;
        if (left === id && right === id && above === id && below === id) {
          out[i] = fill;
          continue;
        }
        out[i] = edge;
        if (left === 0) out[i - thick] = HALO;
        if (right === 0) out[i + thick] = HALO;
        if (above === 0) out[i - down] = HALO;
        if (below === 0) out[i + down] = HALO;
      }
    }
    at = end;
  }
}
