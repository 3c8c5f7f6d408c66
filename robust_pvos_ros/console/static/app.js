// The page: wires link, views, list and controls together.

import {readFrame} from '/frames.js';
import {Link} from '/link.js';
import {setPill, showHealth} from '/health.js';
import {ObjectList} from '/objects.js';
import {View} from '/view.js';
import {plural} from '/words.js';

const byId = (id) => document.getElementById(id);
const settings = {palette: [[86, 180, 233]], tint: 0.45, tool: 'object', selected: 0, trouble: {}};
const link = new Link();
const views = new Map();
const list = new ObjectList(byId('list'), byId('empty'), byId('object-template'), settings);
let state = {node: null, cameras: [], recording: {on: false}, pages: 0};
let frozen = false;
let lost = '';
let recorderIsBusy = false;
let session = 0; // counts connections: a frame is confirmed on the one that it came by
const newest = new Map(); // camera -> number of the frame whose objects are listed

// ---------------------------------------------------------------------------------------------------------- saying

function say(text, bad = false) {
  byId('said').dataset.level = bad ? 'bad' : 'good';
  byId('said').textContent = text;
}

function sentence(text) {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}

function showBanner() {
  let text = lost;
  if (!text && state.node !== null && !state.node.present) text = state.node.text;
  else if (!text && state.recording.problem) text = state.recording.problem;
  if (byId('banner').textContent !== text) byId('banner').textContent = text;
  byId('banner').hidden = !text;
}

// ------------------------------------------------------------------------------------------------------- the server

link.addEventListener('open', () => {
  lost = '';
  session += 1;
  newest.clear();
  setPill(byId('link'), 'good', 'Connected');
  showBanner();
  watch();
});

link.addEventListener('lost', ({detail}) => {
  lost = `${detail.text} Trying again in ${detail.seconds} s.`;
  setPill(byId('link'), 'bad', 'Not connected');
  showBanner();
});

link.addEventListener('message', ({detail: message}) => {
  if (message.type === 'hello') {
    settings.palette = message.palette;
    settings.tint = message.tint;
    byId('label').maxLength = message.longest_label;
  } else if (message.type === 'state') {
    takeState(message);
  } else if (message.type === 'objects') {
    takeObjects(message.camera, message.number, message.objects);
  } else if (message.type === 'refused') {
    say(sentence(`the console refused a message: ${message.message}`), true);
  }
});

link.addEventListener('frame', ({detail: buffer}) => {
  const frame = readFrame(buffer);
  if (frame.header.type === 'past') {
    views.get(frame.header.camera)?.amend(frame);
    return;
  }
  frame.session = session;
  const {camera, number, objects} = frame.header;
  takeObjects(camera, number, objects);
  const view = views.get(camera);
  if (view !== undefined) view.take(frame);
  else link.say({type: 'shown', camera, number});
});

// Objects come with the frames of a camera that is shown and by themselves for the others; a picture may be older.
function takeObjects(camera, number, objects) {
  if (!views.has(camera) || number < (newest.get(camera) ?? 0)) return;
  newest.set(camera, number);
  list.update(camera, objects);
  if (settings.selected && !list.has(settings.selected)) choose(0);
}

function takeState(message) {
  state = {cameras: [], recording: {on: false}, ...message};
  settings.trouble = state.trouble ?? {};
  if (!state.node) return;
  for (const camera of state.cameras) {
    if (!views.has(camera.name)) addView(camera.name);
  }
  if (state.node.present && state.node.state === 'active') {
    const names = new Set(state.cameras.map((camera) => camera.name));
    for (const camera of [...views.keys()]) if (!names.has(camera)) dropView(camera);
  }
  showHealth(state);
  showRecording();
  showBanner();
}

function watch() {
  const cameras = [...views.values()].filter((view) => view.open).map((view) => view.camera);
  link.say({type: 'watch', cameras});
}

// -------------------------------------------------------------------------------------------------------- the views

function addView(camera) {
  const view = new View(camera, byId('view-template'), settings);
  views.set(camera, view);
  byId('nothing').hidden = true;
  byId('views').append(view.element);
  view.stage.dataset.tool = settings.tool;
  view.addEventListener('seen', ({detail: frame}) => {
    if (frame.session === session) link.say({type: 'shown', camera, number: frame.header.number});
  });
  view.addEventListener('drawn', () => {
    if (frozen && !view.frozen) view.freeze(true); // it had no picture yet when the others were frozen
    list.thumbnails({...view.canvases, header: view.frame.header});
  });
  view.addEventListener('kept', ({detail: frame}) => {
    if (list.lacksPicture(frame.header.objects)) view.glimpse(frame);
  });
  view.addEventListener('glimpse', ({detail}) => list.thumbnails(detail));
  view.addEventListener('tell', ({detail}) => say(detail.text, detail.bad));
  view.addEventListener('toggle', watch);
  view.addEventListener('point', ({detail}) => point(view, detail));
  view.addEventListener('box', ({detail}) => prompt(view, {box: detail.box}, settings.selected, {box: detail.box}));
  watch();
}

function dropView(camera) {
  views.get(camera).close();
  views.delete(camera);
  list.forget(camera);
  newest.delete(camera);
  if (settings.selected && !list.has(settings.selected)) choose(0);
  byId('nothing').hidden = views.size > 0;
  watch();
}

function point(view, {x, y, background}) {
  let target = settings.selected;
  if (background && !target) target = view.idAt(x, y);
  if (background && !target) {
    say('Choose an object by its chip first, then click on what does not belong to it.', true);
    return;
  }
  prompt(view, {points: [[x, y, background ? 0 : 1]]}, target, {x, y, background});
}

// Every prompt carries the stamp of the picture that it was drawn on.
async function prompt(view, parts, target, shape) {
  const home = target ? list.cameraOf(target) : view.camera;
  if (home !== undefined && home !== view.camera) {
    say(`Object ${target} belongs to camera ${home}: let it go (Escape) to start a new object here.`, true);
    return;
  }
  const settle = view.mark(shape);
  const fields = {camera: view.camera, stamp: view.frame.header.stamp, ...parts};
  if (target) fields.object_id = target;
  else fields.label = byId('label').value.trim();
  const answer = await link.request(target ? 'refine' : 'add', fields);
  settle(answer.success);
  const still = answer.success && view.frozen ? ' Unfreeze (F) to follow it.' : '';
  say(sentence(answer.message) + still, !answer.success);
}

function setFrozen(on) {
  frozen = on && [...views.values()].some((view) => view.frame !== null);
  for (const view of views.values()) view.freeze(frozen);
  byId('freeze').setAttribute('aria-pressed', String(frozen));
  byId('freeze').textContent = frozen ? 'Unfreeze' : 'Freeze';
  if (on && !frozen) say('There is no picture to freeze yet.', true);
  else say(frozen ? 'The picture stands still; prompts apply to it.' : 'The picture is live.');
}

// ------------------------------------------------------------------------------------------------------ the objects

function choose(id) {
  settings.selected = settings.selected === id ? 0 : id;
  list.refresh();
  for (const view of views.values()) view.paint();
  byId('target').textContent = settings.selected
    ? `The next click corrects object ${list.nameOf(settings.selected)}.`
    : 'The next click starts a new object.';
}

async function ask(type, fields) {
  const answer = await link.request(type, fields);
  say(sentence(answer.message), !answer.success);
}

list.addEventListener('choose', ({detail}) => choose(detail));
list.addEventListener('remove', ({detail}) => ask('remove', {object_id: detail}));
list.addEventListener('rename', ({detail}) => ask('rename', {object_id: detail.id, label: detail.label}));

byId('reset').addEventListener('click', () => {
  byId('reset-text').textContent = `${plural(list.ids.length, 'object')} will be forgotten; their IDs are not used again.`;
  byId('reset-dialog').returnValue = '';
  byId('reset-dialog').showModal();
});
byId('reset-dialog').addEventListener('close', () => {
  if (byId('reset-dialog').returnValue === 'reset') ask('reset', {});
});

// ------------------------------------------------------------------------------------------------------- recording

function showRecording() {
  const {on, seconds, bytes, name} = state.recording;
  byId('record').setAttribute('aria-pressed', String(Boolean(on)));
  const time = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
  const text = on ? `Stop recording, ${time}, ${(bytes / 1e6).toFixed(1)} MB` : 'Record';
  if (byId('record').textContent !== text) byId('record').textContent = text;
  byId('record').title = on ? name : 'Record a bag';
}

byId('record').addEventListener('click', async () => {
  if (recorderIsBusy) return;
  const on = !state.recording.on;
  recorderIsBusy = true;
  say(on ? 'Starting the recorder.' : 'Completing the bag.');
  await ask('record', {on});
  recorderIsBusy = false;
});

// --------------------------------------------------------------------------------------------------------- controls

function setTool(tool) {
  settings.tool = tool;
  for (const input of document.querySelectorAll('#tools input')) input.checked = input.value === tool;
  for (const view of views.values()) {
    view.stage.dataset.tool = tool;
    view.letGo();
  }
}

function stored(key, value) {
  try {
    if (value !== undefined) localStorage.setItem(key, value);
    return localStorage.getItem(key);
  } catch {
    return null; // a browser that keeps nothing still shows the console
  }
}

const THEMES = ['auto', 'dark', 'light'];

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId('theme').textContent = `Theme: ${theme}`;
  stored('theme', theme);
}

byId('theme').addEventListener('click', () => {
  const at = THEMES.indexOf(document.documentElement.dataset.theme);
  setTheme(THEMES[(at + 1) % THEMES.length]);
});
byId('freeze').addEventListener('click', () => setFrozen(!frozen));
byId('help').addEventListener('click', () => byId('help-dialog').showModal());
byId('shortcuts').addEventListener('change', (event) => stored('shortcuts', event.target.checked ? 'on' : 'off'));
byId('tools').addEventListener('change', (event) => setTool(event.target.value));

const KEYS = {
  f: () => setFrozen(!frozen),
  r: () => byId('record').click(),
  o: () => setTool('object'),
  g: () => setTool('background'),
  x: () => setTool('box'),
  l: () => settings.selected && list.rename(settings.selected),
  '?': () => byId('help-dialog').showModal(),
};

document.addEventListener('keydown', (event) => {
  const typing = event.target.closest('input[type="text"], dialog') !== null;
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === 'Escape') {
    if (settings.selected) choose(0);
  } else if (event.key === 'Delete' && settings.selected) {
    ask('remove', {object_id: settings.selected});
  } else if (byId('shortcuts').checked && /^[1-9]$/.test(event.key)) {
    const id = list.ids[Number(event.key) - 1];
    if (id !== undefined) choose(id);
  } else if (byId('shortcuts').checked && KEYS[event.key.toLowerCase()]) {
    KEYS[event.key.toLowerCase()]();
    event.preventDefault();
  }
});

document.addEventListener('visibilitychange', () => {
  if (!document.hidden) for (const view of views.values()) view.draw();
});
setInterval(() => {
  for (const view of views.values()) view.age();
}, 500);

setTheme(THEMES.includes(stored('theme')) ? stored('theme') : 'auto');
byId('shortcuts').checked = stored('shortcuts') !== 'off';
link.connect();
