// One camera: picture, masks and marks on three canvases, and the hands that point at them.

import {colourOf, labelsOf, paintMasks} from '/frames.js';
import {plural} from '/words.js';

const DRAG = 6; // CSS pixels that the pointer moves before a click becomes a box
const STALE = 3000;
const MARK_TIME = 1500;

export class View extends EventTarget {
  // Events: 'point' (detail: {x, y, background}), 'box' (detail: {box}), 'seen' (detail: a frame that is done with),
  // 'drawn', 'toggle', 'tell' (detail: a sentence).

  constructor(camera, template, settings) {
    super();
    this.camera = camera;
    this.settings = settings; // {palette, tint, tool, selected, trouble}, shared by all views
    this.element = template.content.firstElementChild.cloneNode(true);
    const find = (name) => this.element.querySelector(name);
    this.stage = find('.stage');
    this.note = find('.note');
    this.toggle = find('.toggle');
    this.canvases = {picture: find('.picture'), masks: find('.masks'), marks: find('.marks')};
    find('.name').textContent = camera;
    this.element.dataset.camera = camera;
    this.frame = null; // what is drawn: {header, lengths, ids, jpeg, labels}
    this.next = null; // the newest frame that is not drawn yet
    this.held = []; // frames that it has replaced
    this.live = null; // the newest frame behind a frozen picture
    this.busy = false;
    this.frozen = false;
    this.open = true;
    this.marks = [];
    this.drag = null;
    this.cross = null; // keyboard: {x, y, corner}
    this.listen();
  }

  emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, {detail}));
  }

  // ------------------------------------------------------------------------------------------------------- frames

  take(frame) {
    if (frame.jpeg === null) {
      this.done(frame);
    } else if (this.frozen && frame.header.stamp !== this.frame.header.stamp) {
      this.live = frame;
      this.done(frame);
    } else {
      if (this.next !== null) this.held.push(this.next);
      this.next = frame;
      this.draw();
    }
  }

  // The console keeps back further frames until those that it sent are done with.
  done(frame) {
    if (frame.seen) return;
    frame.seen = true;
    this.emit('seen', frame);
  }

  // Draws the newest frame.  While the page is hidden no frame is done with, so the console sends no further ones.
  async draw() {
    if (document.hidden) return;
    for (const frame of this.held.splice(0)) this.done(frame);
    if (this.busy) return;
    this.busy = true;
    while (this.next !== null && !document.hidden) {
      const frame = this.next;
      this.next = null;
      try {
        const picture = await createImageBitmap(frame.jpeg);
        if (!this.frozen || frame.header.stamp === this.frame.header.stamp) this.put(frame, picture);
        else this.live = frame;
        picture.close();
      } catch (error) {
        this.emit('tell', `A picture of ${this.camera} could not be shown: ${error.message}.`);
      }
      this.done(frame);
    }
    this.busy = false;
  }

  put(frame, picture) {
    const {width, height} = frame.header;
    frame.labels = labelsOf(frame);
    this.frame = frame;
    const canvas = this.canvases.picture;
    resize(canvas, picture.width, picture.height);
    canvas.getContext('2d').drawImage(picture, 0, 0);
    this.stage.style.aspectRatio = `${width} / ${height}`;
    this.paint();
    this.drawn = Date.now();
    this.element.dataset.stamp = frame.header.stamp;
    this.element.dataset.ids = [...new Set(frame.ids)].filter((id) => id !== 0).sort((a, b) => a - b).join(' ');
    this.stage.setAttribute('aria-label', `Camera ${this.camera}, ${plural(frame.header.objects.length, 'object')}`);
    this.emit('drawn');
  }

  paint() {
    if (this.frame === null) return;
    const {width, height} = this.frame.header;
    const canvas = this.canvases.masks;
    if (resize(canvas, width, height) || !this.image) this.image = new ImageData(width, height);
    const {palette, tint, selected} = this.settings;
    paintMasks(this.image, this.frame.labels, this.frame, palette, tint, selected);
    canvas.getContext('2d').putImageData(this.image, 0, 0);
    this.sketch();
  }

  freeze(frozen) {
    if (frozen && this.frame === null) return;
    this.frozen = frozen;
    this.frozenAt = Date.now();
    this.element.dataset.frozen = String(frozen);
    if (!frozen && this.live !== null) {
      this.next = this.live;
      this.draw();
    }
    this.live = null;
    this.marks = [];
    this.sketch();
  }

  idAt(x, y) {
    const {width} = this.frame.header;
    return this.frame.labels[Math.round(y) * width + Math.round(x)] ?? 0;
  }

  // What is said beside the camera's name; called every half second.
  age() {
    const seconds = (since) => Math.round((Date.now() - since) / 1000);
    const trouble = this.settings.trouble[this.camera];
    if (trouble) this.note.textContent = trouble;
    else if (this.frozen) this.note.textContent = `Still picture, ${seconds(this.frozenAt)} s old: prompts apply to it.`;
    else if (this.frame === null) this.note.textContent = 'No picture yet.';
    else if (Date.now() - this.drawn > STALE) this.note.textContent = `No new picture for ${seconds(this.drawn)} s.`;
    else this.note.textContent = this.frame.header.processed ? '' : 'Picture without masks: the node does not process it.';
  }

  // -------------------------------------------------------------------------------------------------------- marks

  // A ring where a prompt went; returns a function that shows what came of it.
  mark(shape) {
    const entry = {...shape, state: 'waiting'};
    this.marks.push(entry);
    this.sketch();
    return (success) => {
      entry.state = success ? 'done' : 'refused';
      this.sketch();
      setTimeout(() => {
        this.marks = this.marks.filter((other) => other !== entry);
        this.sketch();
      }, MARK_TIME);
    };
  }

  sketch() {
    const canvas = this.canvases.marks;
    const ratio = window.devicePixelRatio || 1;
    resize(canvas, Math.round(this.stage.clientWidth * ratio), Math.round(this.stage.clientHeight * ratio));
    const pen = canvas.getContext('2d');
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (this.frame === null) return;
    const {width, height} = this.frame.header;
    const scale = {x: canvas.width / width, y: canvas.height / height, ratio};
    drawTags(pen, this.frame.header.objects, this.settings.palette, scale);
    for (const entry of this.marks) drawMark(pen, entry, scale);
    if (this.drag?.box) drawMark(pen, {box: this.drag.box, state: 'drawing'}, scale);
    if (this.cross !== null && document.activeElement === this.stage) {
      drawMark(pen, {x: this.cross.x, y: this.cross.y, state: 'cross'}, scale);
      if (this.cross.corner) drawMark(pen, {box: ordered(this.cross.corner, this.cross), state: 'drawing'}, scale);
    }
  }

  // ------------------------------------------------------------------------------------------------ pointer and keys

  listen() {
    const stage = this.stage;
    stage.addEventListener('pointerdown', (event) => this.press(event));
    stage.addEventListener('pointermove', (event) => this.move(event));
    stage.addEventListener('pointerup', (event) => this.release(event));
    stage.addEventListener('pointercancel', () => this.cancel());
    stage.addEventListener('keydown', (event) => this.key(event));
    stage.addEventListener('focus', () => this.sketch());
    stage.addEventListener('blur', () => this.sketch());
    stage.addEventListener('contextmenu', (event) => event.preventDefault());
    this.toggle.addEventListener('click', () => this.fold());
    new ResizeObserver(() => this.sketch()).observe(stage);
  }

  fold() {
    this.open = !this.open;
    this.stage.hidden = !this.open;
    this.toggle.textContent = this.open ? 'Hide' : 'Show';
    this.toggle.setAttribute('aria-expanded', String(this.open));
    this.emit('toggle');
  }

  // Continuous pixel coordinates: the top left corner of the picture is (0, 0), its bottom right (width, height).
  place(event) {
    const area = this.stage.getBoundingClientRect();
    const {width, height} = this.frame.header;
    const within = (value, high) => Math.min(high, Math.max(0, value));
    return {
      x: within((event.clientX - area.left) / area.width, 1) * width,
      y: within((event.clientY - area.top) / area.height, 1) * height,
    };
  }

  press(event) {
    if (this.frame === null || event.button !== 0 || !event.isPrimary) return;
    this.stage.focus({preventScroll: true});
    this.cross = null;
    this.drag = {start: this.place(event), at: [event.clientX, event.clientY], shift: event.shiftKey, box: null};
    if (event.pointerType === 'mouse' || this.settings.tool === 'box') this.stage.setPointerCapture(event.pointerId);
  }

  move(event) {
    if (this.drag === null) return;
    const moved = Math.hypot(event.clientX - this.drag.at[0], event.clientY - this.drag.at[1]);
    if (moved > DRAG || this.drag.box) {
      this.drag.box = ordered(this.drag.start, this.place(event));
      this.sketch();
    }
  }

  release(event) {
    const drag = this.drag;
    this.drag = null;
    if (drag === null || this.frame === null) return;
    if (drag.box === null) {
      this.point(drag.start, drag.shift || event.shiftKey);
    } else if (event.pointerType === 'mouse' || this.settings.tool === 'box') {
      this.box(drag.box);
    }
    this.sketch();
  }

  cancel() {
    this.drag = null;
    this.sketch();
  }

  // The centre of the top left pixel is (0, 0) in a prompt.
  point({x, y}, background) {
    if (this.settings.tool === 'box') {
      this.emit('tell', 'A click is no box: drag from one corner to the other, or choose Object.');
      return;
    }
    const {width, height} = this.frame.header;
    const inside = (value, count) => Math.min(count - 1, Math.max(0, value - 0.5));
    const where = {x: inside(x, width), y: inside(y, height)};
    this.emit('point', {...where, background: background || this.settings.tool === 'background'});
  }

  box([x0, y0, x1, y1]) {
    if (x1 - x0 < 2 || y1 - y0 < 2) {
      this.emit('tell', 'That box is thinner than two pixels: drag it around the whole object.');
      return;
    }
    this.emit('box', {box: [x0, y0, x1, y1]});
  }

  key(event) {
    if (this.frame === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const {width, height} = this.frame.header;
    const step = (event.shiftKey ? 0.005 : 0.03) * width;
    const moves = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    this.cross ??= {x: width / 2, y: height / 2, corner: null};
    const cross = this.cross;
    if (moves[event.key]) {
      cross.x = Math.min(width, Math.max(0, cross.x + moves[event.key][0] * step));
      cross.y = Math.min(height, Math.max(0, cross.y + moves[event.key][1] * step));
      this.describe();
    } else if (event.key === 'Enter' || event.key === ' ') {
      this.confirm();
    } else if (event.key === 'b' || event.key === 'B') {
      this.point(cross, true);
    } else if (event.key === 'Escape' && cross.corner) {
      cross.corner = null;
      this.emit('tell', 'The begun box is let go.');
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    this.sketch();
  }

  confirm() {
    const cross = this.cross;
    if (this.settings.tool !== 'box') {
      this.point(cross, false);
    } else if (cross.corner === null) {
      cross.corner = {x: cross.x, y: cross.y};
      this.emit('tell', 'First corner set: move the cross to the opposite corner and press Enter.');
    } else {
      const box = ordered(cross.corner, cross);
      cross.corner = null;
      this.box(box);
    }
  }

  describe() {
    const {x, y} = this.cross;
    const {width, height, objects} = this.frame.header;
    const id = this.idAt(Math.min(x, width - 1), Math.min(y, height - 1));
    const known = objects.find((entry) => entry.id === id);
    const what = id === 0 ? 'background' : `object ${id}${known && known.label ? `, ${known.label}` : ''}`;
    this.emit('tell', `Cross at ${Math.round((100 * x) / width)} % across, ${Math.round((100 * y) / height)} % down: ${what}.`);
  }
}

function ordered(a, b) {
  return [Math.min(a.x, b.x), Math.min(a.y, b.y), Math.max(a.x, b.x), Math.max(a.y, b.y)];
}

function resize(canvas, width, height) {
  if (canvas.width === width && canvas.height === height) return false;
  canvas.width = width;
  canvas.height = height;
  return true;
}

// ID, label and state on a tag in the object's colour; objects that cannot be seen stand at the top left.
function drawTags(pen, objects, palette, scale) {
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

function drawMark(pen, entry, scale) {
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
