// The list of objects: rows stay while their object does, so that focus and screen readers keep their place.

import {colourOf, plural} from '/words.js';

const STATES = {TRACKING: ['●', 'tracking'], OCCLUDED: ['◐', 'occluded'], LOST: ['○', 'lost']};

export class ObjectList extends EventTarget {
  // Events: 'choose' (detail: {id, camera}), 'remove' (detail: id), 'rename' (detail: {id, label}).

  constructor(list, empty, template, settings) {
    super();
    this.list = list;
    this.empty = empty;
    this.template = template;
    this.settings = settings;
    this.rows = new Map(); // ID -> {element, entry, camera, ...}
    this.cameras = new Map(); // camera -> its objects
  }

  emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, {detail}));
  }

  get ids() {
    return [...this.rows.keys()];
  }

  has(id) {
    return this.rows.has(id);
  }

  cameraOf(id) {
    return this.rows.get(id)?.camera;
  }

  nameOf(id) {
    const label = this.rows.get(id)?.entry.label;
    return label ? `${id}, ${label}` : `${id}`;
  }

  update(camera, objects) {
    this.cameras.set(camera, objects);
    this.refresh();
  }

  forget(camera) {
    this.cameras.delete(camera);
    this.refresh();
  }

  refresh() {
    const all = [];
    for (const [name, entries] of this.cameras) for (const entry of entries) all.push([name, entry]);
    all.sort((a, b) => a[1].id - b[1].id);
    const present = new Set(all.map(([, entry]) => entry.id));
    for (const [id, row] of this.rows) {
      if (!present.has(id)) this.drop(id, row);
    }
    for (const [name, entry] of all) this.show(name, entry);
    this.empty.hidden = all.length > 0;
  }

  // When the row that has the focus goes, the focus goes to the list's neighbour and not to the top of the page.
  drop(id, row) {
    const focused = row.element.contains(document.activeElement);
    const next = row.element.nextElementSibling ?? row.element.previousElementSibling;
    row.element.remove();
    this.rows.delete(id);
    if (focused) (next ? next.querySelector('.chip') : document.getElementById('objects')).focus();
  }

  show(camera, entry) {
    let row = this.rows.get(entry.id);
    if (row === undefined) {
      row = this.create(entry.id);
      const later = [...this.rows.keys()].filter((id) => id > entry.id);
      this.list.insertBefore(row.element, later.length ? this.rows.get(Math.min(...later)).element : null);
      this.rows.set(entry.id, row);
      this.rows = new Map([...this.rows].sort((a, b) => a[0] - b[0]));
    }
    row.entry = entry;
    row.camera = camera;
    const [sign, word] = STATES[entry.state] ?? ['?', entry.state];
    const unseen = entry.unseen ? `, unseen for ${plural(entry.unseen, 'frame')}` : '';
    const where = this.cameras.size > 1 ? `, ${camera}` : '';
    write(row.title, entry.label ? `${entry.id} ${entry.label}` : `${entry.id}`);
    write(row.facts, `${sign} ${word}${unseen}, score ${entry.score.toFixed(2)}, ${duration(entry.age)}${where}`);
    row.element.dataset.state = entry.state;
    row.chip.setAttribute('aria-pressed', String(this.settings.selected === entry.id));
    const name = entry.label ? `${entry.id}, ${entry.label}` : `${entry.id}`;
    row.rename.setAttribute('aria-label', `Rename object ${name}`);
    row.remove.setAttribute('aria-label', `Remove object ${name}`);
  }

  create(id) {
    const element = this.template.content.firstElementChild.cloneNode(true);
    const find = (name) => element.querySelector(name);
    const row = {
      element, chip: find('.chip'), title: find('.title'), facts: find('.facts'), thumb: find('.thumb'),
      form: find('.renaming'), input: find('.renaming input'), rename: find('.rename'), remove: find('.remove'),
      pictured: false,
    };
    element.dataset.id = id;
    const [red, green, blue] = colourOf(id, this.settings.palette);
    row.chip.style.setProperty('--swatch', `rgb(${red} ${green} ${blue})`);
    row.input.setAttribute('aria-label', `Label of object ${id}`);
    row.chip.addEventListener('click', () => this.emit('choose', id));
    row.remove.addEventListener('click', () => this.emit('remove', id));
    row.rename.addEventListener('click', () => this.rename(id));
    row.form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.emit('rename', {id, label: row.input.value.trim()});
      this.endRename(row);
    });
    row.input.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape') return;
      event.stopPropagation();
      this.endRename(row);
    });
    return row;
  }

  rename(id) {
    const row = this.rows.get(id);
    if (row === undefined) return;
    row.input.value = row.entry.label;
    row.form.hidden = false;
    row.chip.hidden = row.rename.hidden = true;
    row.input.focus();
    row.input.select();
  }

  endRename(row) {
    row.form.hidden = true;
    row.chip.hidden = row.rename.hidden = false;
    row.rename.focus();
  }

  // Whether one of these objects could be seen, but has no small picture yet.
  lacksPicture(objects) {
    return objects.some((entry) => entry.area && this.rows.get(entry.id)?.pictured === false);
  }

  // Small pictures of a camera's objects, cut out of canvases with its picture and its masks.
  thumbnails({picture, masks, header}) {
    const {width, height, objects} = header;
    for (const entry of objects) {
      const row = this.rows.get(entry.id);
      if (row === undefined || !entry.area) continue;
      row.pictured = true;
      const pen = row.thumb.getContext('2d');
      const [x0, y0, x1, y1] = entry.box;
      const side = 1.15 * Math.max(x1 - x0, y1 - y0);
      const from = [(x0 + x1 - side) / 2, (y0 + y1 - side) / 2];
      pen.fillRect(0, 0, row.thumb.width, row.thumb.height);
      for (const source of [picture, masks]) {
        const [sx, sy] = [source.width / width, source.height / height];
        pen.drawImage(source, from[0] * sx, from[1] * sy, side * sx, side * sy, 0, 0, row.thumb.width, row.thumb.height);
      }
    }
  }
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function duration(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}
