// What is drawn on top of a picture: tags of objects, and marks of prompts.

import {colourOf} from '/frames.js';

// ID, label and state on a tag in the object's colour; objects that cannot be seen stand at the top left.
export function drawTags(pen, objects, palette, scale) {
  const size = Math.round(13 * scale.ratio);
  pen.font = `600 ${size}px system-ui, sans-serif`;
  pen.textBaseline = 'middle';
  let row = 0;
  for (const entry of objects) {
    const [red, green, blue] = colourOf(entry.id, palette);
    const words = [entry.id, entry.label.length > 24 ? `${entry.label.slice(0, 22)}..` : entry.label];
    if (entry.state !== 'TRACKING') words.push(entry.state.toLowerCase(), entry.unseen);
    const text = words.filter((word) => word !== '').join(' ');
    const wide = pen.measureText(text).width + size;
    const high = Math.round(size * 1.5);
    const seen = entry.area > 0;
    const x = seen ? Math.max(0, Math.min(entry.box[0] * scale.x, pen.canvas.width - wide)) : 0;
    const y = seen ? Math.max(0, entry.box[1] * scale.y - high) : row;
    if (!seen) row += high + 2;
    pen.fillStyle = `rgb(${red} ${green} ${blue})`;
    pen.fillRect(x, y, wide, high);
    pen.fillStyle = 0.299 * red + 0.587 * green + 0.114 * blue > 110 ? '#000' : '#fff';
    pen.fillText(text, x + size / 2, y + high / 2);
  }
}

const INKS = {waiting: '#ffffff', drawing: '#ffffff', cross: '#ffffff', done: '#6fdcb0', refused: '#ff9d8a'};

export function drawMark(pen, entry, scale) {
  const stroke = (width, ink) => {
    pen.lineWidth = width * scale.ratio;
    pen.strokeStyle = ink;
    pen.setLineDash(entry.state === 'waiting' || entry.state === 'drawing' ? [6 * scale.ratio, 4 * scale.ratio] : []);
    pen.stroke();
  };
  pen.beginPath();
  if (entry.box) {
    const [x0, y0, x1, y1] = entry.box;
    pen.rect(x0 * scale.x, y0 * scale.y, (x1 - x0) * scale.x, (y1 - y0) * scale.y);
  } else {
    const [x, y, radius] = [(entry.x + 0.5) * scale.x, (entry.y + 0.5) * scale.y, 9 * scale.ratio];
    if (entry.state !== 'cross') pen.arc(x, y, radius, 0, 2 * Math.PI);
    if (entry.state === 'cross' || !entry.background) {
      pen.moveTo(x, y - radius);
      pen.lineTo(x, y + radius);
    }
    pen.moveTo(x - radius, y);
    pen.lineTo(x + radius, y);
  }
  stroke(5, '#000000');
  stroke(2.5, INKS[entry.state]);
}
