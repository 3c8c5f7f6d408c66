// One camera: picture, masks and marks on three canvases, and the hands that point at them.

import {labelsOf, paintMasks} from '/frames.js';
import {drawMark, drawTags} from '/marks.js';
import {plural} from '/words.js';

const DRAG = 6; // CSS pixels that the pointer moves before a click becomes a box
const STALE = 3000;
const MARK_TIME = 1500;

export class View extends EventTarget {
  // Events: 'point' (detail: {x, y, background}), 'box' (detail: {box}), 'seen' (detail: a frame that is done with),
  // 'drawn', 'kept' (detail: a frame that waits behind a still picture), 'glimpse' (detail: {picture, masks, header} of
  // one), 'toggle', 'tell' (detail: {text, bad}).  `frame` is what a 'point' or 'box' was drawn on while it is told.

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
    this.replaced = []; // frames that gave way to it
    this.live = null; // the newest frame behind a picture that stands still
    this.busy = false;
    this.glimpsing = false;
    this.frozen = false;
    this.open = true;
    this.marks = [];
    this.drag = null; // {pointer, start, at, shift, box, strayed}
    this.cross = null; // keyboard: {x, y, corner}
    this.listen();
  }

  // Frozen, or amid a gesture: what is pointed at must not move on before the prompt says which picture it is for.
  get still() {
    return this.frozen || this.drag !== null || Boolean(this.cross?.corner);
  }

  emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, {detail}));
  }

  // ------------------------------------------------------------------------------------------------------- frames

  take(frame) {
    frame.arrived = Date.now() - 1000 * frame.header.age;
    if (frame.jpeg === null) {
      this.done(frame);
    } else if (this.isKept(frame)) {
      this.live = frame;
      this.emit('kept', frame);
      this.done(frame);
    } else {
      if (this.next !== null) this.replaced.push(this.next);
      this.next = frame;
      this.draw();
    }
  }

  // Whether a frame waits behind a picture that stands still; new masks of that very picture do not.
  isKept(frame) {
    return this.still && frame.header.stamp !== this.frame.header.stamp;
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
    for (const frame of this.replaced.splice(0)) this.done(frame);
    if (this.busy) return;
    this.busy = true;
    while (this.next !== null && !document.hidden) {
      const frame = this.next;
      this.next = null;
      try {
        const picture = await createImageBitmap(frame.jpeg);
        if (this.isKept(frame)) this.live ??= frame; // what has come meanwhile is newer
        else this.put(frame, picture);
        picture.close();
      } catch (error) {
        this.tell(`A picture of ${this.camera} could not be shown: ${error.message}.`);
      }
      this.done(frame);
    }
    this.busy = false;
  }

  // The camera is no more: frames that wait must not count as being on their way if it comes back.
  close() {
    for (const frame of this.replaced.splice(0)) this.done(frame);
    if (this.next !== null) this.done(this.next);
    this.next = null;
    this.element.remove();
  }

  // A frame behind a still picture in a canvas for each layer, which nobody sees; it has been done with.
  async glimpse(frame) {
    if (this.glimpsing) return;
    this.glimpsing = true;
    const {width, height} = frame.header;
    const {palette, tint} = this.settings;
    try {
      const picture = await createImageBitmap(frame.jpeg);
      const image = new ImageData(width, height);
      paintMasks(image, labelsOf(frame), frame, palette, tint, 0);
      const masks = new OffscreenCanvas(width, height);
      masks.getContext('2d').putImageData(image, 0, 0);
      this.emit('glimpse', {picture, masks, header: frame.header});
      picture.close();
    } catch (error) {
      this.tell(`A picture of ${this.camera} could not be shown: ${error.message}.`);
    }
    this.glimpsing = false;
  }

  // Masks that came of a prompt on a picture which is still on the screen.
  amend({header, lengths, ids}) {
    if (this.frame === null || header.stamp !== this.frame.header.stamp) return;
    const {width, height} = this.frame.header;
    if (header.width !== width || header.height !== height) return;
    this.show({...this.frame, header: {...this.frame.header, objects: header.objects}, lengths, ids});
  }

  put(frame, picture) {
    const canvas = this.canvases.picture;
    resize(canvas, picture.width, picture.height);
    canvas.getContext('2d').drawImage(picture, 0, 0);
    this.stage.style.aspectRatio = `${frame.header.width} / ${frame.header.height}`;
    this.show(frame);
  }

  // A frame whose picture is drawn: its masks, and what is told of it.
  show(frame) {
    frame.labels = labelsOf(frame);
    this.frame = frame;
    this.paint();
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
    this.element.dataset.frozen = String(frozen);
    this.marks = [];
    this.goOn();
  }

  // Let a gesture go that is under way.
  letGo() {
    this.drag = null;
    if (this.cross !== null) this.cross.corner = null;
    this.goOn();
  }

  // Show what has come behind a picture that stood still, once it need not any longer.
  goOn() {
    if (!this.still && this.live !== null) {
      if (this.next !== null) this.replaced.push(this.next);
      this.next = this.live;
      this.live = null;
      this.draw();
    }
    this.sketch();
  }

  idAt(x, y) {
    const {width} = this.frame.header;
    return this.frame.labels[Math.round(y) * width + Math.round(x)] ?? 0;
  }

  // What is said beside the camera's name; called every half second.
  age() {
    const trouble = this.settings.trouble[this.camera];
    const old = this.frame === null ? 0 : Date.now() - this.frame.arrived;
    const seconds = Math.round(old / 1000);
    if (trouble) this.note.textContent = trouble;
    else if (this.frame === null) this.note.textContent = 'No picture yet.';
    else if (this.frozen) this.note.textContent = `Still picture, ${seconds} s old: prompts apply to it.`;
    else if (this.still) this.note.textContent = `The picture waits for the prompt, ${seconds} s old.`;
    else if (old > STALE) this.note.textContent = `No new picture for ${seconds} s.`;
    else this.note.textContent = this.frame.header.processed ? '' : 'Picture without masks: the node does not process it.';
  }

  tell(text, bad = false) {
    this.emit('tell', {text, bad});
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
    stage.addEventListener('pointercancel', (event) => this.follows(event) && this.letGo());
    stage.addEventListener('lostpointercapture', (event) => {
      if (event.target === stage && this.follows(event)) this.letGo(); // not what a canvas loses to the stage
    });
    stage.addEventListener('keydown', (event) => this.key(event));
    stage.addEventListener('focus', () => this.sketch());
    stage.addEventListener('blur', () => this.leave());
    stage.addEventListener('contextmenu', (event) => event.preventDefault());
    this.toggle.addEventListener('click', () => this.fold());
    new ResizeObserver(() => this.sketch()).observe(stage);
  }

  // A box that is begun on the keyboard needs the focus: nothing else would let the picture go on.
  leave() {
    if (this.cross?.corner) this.tell('The begun box is let go.');
    this.letGo();
  }

  fold() {
    this.open = !this.open;
    this.letGo();
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

  // A finger that drags scrolls the page, unless the tool is Box.
  drawsBoxes(event) {
    return event.pointerType === 'mouse' || this.settings.tool === 'box';
  }

  // Whether an event belongs to the gesture that is under way.
  follows(event) {
    return this.drag !== null && this.drag.pointer === event.pointerId;
  }

  press(event) {
    if (this.frame === null || event.button !== 0 || !event.isPrimary) return;
    this.stage.focus({preventScroll: true});
    this.cross = null;
    this.drag = {
      pointer: event.pointerId, start: this.place(event), at: [event.clientX, event.clientY], shift: event.shiftKey,
      box: null, strayed: false,
    };
    if (this.drawsBoxes(event)) this.stage.setPointerCapture(event.pointerId);
  }

  move(event) {
    if (!this.follows(event)) return;
    const drag = this.drag;
    drag.strayed ||= Math.hypot(event.clientX - drag.at[0], event.clientY - drag.at[1]) > DRAG;
    if (!drag.strayed || !this.drawsBoxes(event)) return;
    drag.box = ordered(drag.start, this.place(event));
    this.sketch();
  }

  release(event) {
    if (!this.follows(event)) return;
    const {start, shift, box, strayed} = this.drag;
    if (box !== null) this.box(box);
    else if (strayed) this.tell('To drag a box with a finger or a pen choose Box first; a tap is a point.', true);
    else this.point(start, shift || event.shiftKey);
    this.letGo();
  }

  // The centre of the top left pixel is (0, 0) in a prompt.
  point({x, y}, background) {
    if (this.settings.tool === 'box') {
      this.tell('A click is no box: drag from one corner to the other, or choose Object.', true);
      return;
    }
    const {width, height} = this.frame.header;
    const inside = (value, count) => Math.min(count - 1, Math.max(0, value - 0.5));
    const where = {x: inside(x, width), y: inside(y, height)};
    this.emit('point', {...where, background: background || this.settings.tool === 'background'});
  }

  box([x0, y0, x1, y1]) {
    if (x1 - x0 < 2 || y1 - y0 < 2) {
      this.tell('That box is thinner than two pixels: drag it around the whole object.', true);
      return;
    }
    this.emit('box', {box: [x0, y0, x1, y1]});
  }

  key(event) {
    if (this.frame === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const begun = this.drag !== null || Boolean(this.cross?.corner);
    if (event.key === 'Escape' && !begun) return;
    const {width, height} = this.frame.header;
    const step = (event.shiftKey ? 0.005 : 0.03) * width;
    const moves = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    if (this.drag === null) this.cross ??= {x: width / 2, y: height / 2, corner: null};
    const cross = this.cross;
    if (event.key === 'Escape') {
      this.letGo();
      this.tell('The begun box is let go.');
    } else if (cross === null) {
      return;
    } else if (moves[event.key]) {
      cross.x = Math.min(width, Math.max(0, cross.x + moves[event.key][0] * step));
      cross.y = Math.min(height, Math.max(0, cross.y + moves[event.key][1] * step));
      this.describe();
    } else if (event.key === 'Enter' || event.key === ' ') {
      this.confirm();
    } else if (event.key === 'b' || event.key === 'B') {
      this.point(cross, true);
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
      this.tell('First corner set: move the cross to the opposite corner and press Enter.');
    } else {
      this.box(ordered(cross.corner, cross));
      this.letGo();
    }
  }

  describe() {
    const {x, y} = this.cross;
    const {width, height, objects} = this.frame.header;
    const id = this.idAt(Math.min(x, width - 1), Math.min(y, height - 1));
    const known = objects.find((entry) => entry.id === id);
    const what = id === 0 ? 'background' : `object ${id}${known && known.label ? `, ${known.label}` : ''}`;
    this.tell(`Cross at ${Math.round((100 * x) / width)} % across, ${Math.round((100 * y) / height)} % down: ${what}.`);
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
