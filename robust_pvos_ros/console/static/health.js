// The health panel and the pills: what the node reports once a second.

const FIGURES = [
  ['Rate', (f) => (f.fps === undefined ? null : `${f.fps.toFixed(1)} of ${(f.input_fps ?? 0).toFixed(1)} fps`)],
  ['Latency, median', (f) => milliseconds(f.image_age_p50_ms)],
  ['Latency, p99', (f) => milliseconds(f.image_age_p99_ms)],
  ['Computing, median', (f) => milliseconds(f.total_p50_ms)],
  ['Frames dropped', (f) => (f.dropped === undefined ? null : `${f.dropped} of ${f.received ?? 0}`)],
  ['Malformed, failed', (f) => (f.malformed || f.failed ? `${f.malformed ?? 0}, ${f.failed ?? 0}` : null)],
  ['Memory of objects', (f) => megabytes(f.object_memory_mb)],
  ['Memory of past frames', (f) => megabytes(f.history_mb)],
];

const TEXTS = [
  ['Model', 'model'], ['Encoder', 'encoder'], ['Because', 'encoder_reason'], ['Device', 'device'],
  ['Precision', 'precision'], ['Adapter', 'adapter'], ['Overload policy', 'overload_policy'],
];

export function showHealth(state) {
  const {node, cameras} = state;
  setPill(document.getElementById('node'), nodeLevel(node), `Node ${node.state}`);
  write(document.getElementById('health-text'), node.text);
  const boxes = document.getElementById('health-cameras');
  const several = cameras.map((camera) => camera.name).join(' ');
  if (boxes.dataset.names !== several) {
    boxes.dataset.names = several;
    boxes.replaceChildren(...cameras.map(cameraBox));
  }
  cameras.forEach((camera, index) => {
    const rows = FIGURES.map(([name, text]) => [name, text(camera.figures)]);
    fill(boxes.children[index].querySelector('dl'), rows);
  });
  const rows = TEXTS.map(([name, key]) => [name, node.texts[key]]);
  rows.unshift(['Memory of the node', megabytes(node.memory_mb)]);
  rows.push(['Open pages', String(state.pages)]);
  fill(document.getElementById('health-node'), rows);
}

export function setPill(pill, level, text) {
  pill.dataset.level = level;
  write(pill, text);
}

function nodeLevel(node) {
  if (!node.present) return 'bad';
  return node.state === 'active' ? 'good' : 'wait';
}

function cameraBox(camera) {
  const box = document.createElement('div');
  const title = document.createElement('h3');
  title.textContent = `Camera: ${camera.name}`;
  box.append(title, document.createElement('dl'));
  return box;
}

function fill(list, rows) {
  const shown = rows.filter(([, text]) => text !== null && text !== undefined && text !== '');
  const names = shown.map(([name]) => name).join('|');
  if (list.dataset.names !== names) {
    list.dataset.names = names;
    list.replaceChildren(...shown.flatMap(() => [document.createElement('dt'), document.createElement('dd')]));
  }
  shown.forEach(([name, text], index) => {
    write(list.children[2 * index], name);
    write(list.children[2 * index + 1], text);
  });
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function milliseconds(value) {
  return value === undefined ? null : `${value.toFixed(0)} ms`;
}

function megabytes(value) {
  return value === undefined || value === null ? null : `${value.toFixed(0)} MB`;
}
