// The page of a gallery. Whatever comes from the gallery is shown as text, never as HTML.

const get = id => document.getElementById(id);
const state = {file: null, box: null, found: [], ticked: new Set(), gallery: null, asked: 0};

/** An element with properties, classes and children; strings become text. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null && child !== ''));
  return element;
}

// --- the server

async function ask(path, parameters = {}, options = {}) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of [value].flat()) if (each !== null && each !== '') words.append(name, each);
  }
  let answer;
  try {
    answer = await fetch(`api/${path}${`${words}` ? `?${words}` : ''}`, options);
  } catch {
    throw new Error('The server does not answer: does msinet-gallery serve still run?');
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.error || `The server answers ${answer.status}.`);
  return told;
}

/** Does something for the user, and shows what went wrong. */
async function attempt(action) {
  get('error').hidden = true;
  try {
    return await action();
  } catch (error) {
    get('status').textContent = '';
    get('error').textContent = error.message;
    get('error').hidden = false;
    return undefined;
  }
}

// --- words

const many = (count, one, more = `${one}s`) => `${count.toLocaleString()} ${count === 1 ? one : more}`;
const megabytes = bytes => `${(bytes / 2 ** 20).toLocaleString(undefined, {maximumFractionDigits: 1})} MB`;
const moment = (text, style = 'medium') =>
  text ? new Date(text).toLocaleString(undefined, {dateStyle: 'medium', timeStyle: style}) : '';

function span(start, end) {
  if (!start) return 'time unknown';
  if (start === end) return moment(start);
  const [a, b] = [new Date(start), new Date(end)];
  return a.toDateString() === b.toDateString()
    ? `${moment(start)} – ${b.toLocaleTimeString(undefined, {timeStyle: 'medium'})}`
    : `${moment(start)} – ${moment(end)}`;
}

const MEANING = {same: 'same', unsure: 'unsure', other: 'other'};
const verdict = found => make('span', {className: `verdict ${found.verdict || 'none'}`}, MEANING[found.verdict] || 'not calibrated');

// --- what the gallery holds

async function refresh() {
  const gallery = state.gallery = await ask('gallery');
  document.title = get('name').textContent = gallery.name;
  const facts = [many(gallery.crops, 'crop'), many(gallery.tracklets, 'tracklet'), many(gallery.identities, 'identity', 'identities'),
    many(Object.keys(gallery.cameras).length, 'camera'), megabytes(gallery.bytes)];
  if (gallery.keep_days) facts.push(`erased after ${many(gallery.keep_days, 'day')}`);
  if (gallery.readonly) facts.push('read-only, searches are not noted');
  get('facts').textContent = facts.join(' · ');
  const ticked = new Set(chosenCameras());
  get('camera-list').replaceChildren(...Object.entries(gallery.cameras).map(([name, crops]) =>
    make('label', {className: 'tick'}, make('input', {type: 'checkbox', value: name, checked: ticked.has(name)}),
      make('span', {}, name), make('small', {}, crops.toLocaleString()))));
  get('cameras').hidden = !Object.keys(gallery.cameras).length;
  if (get('log').open) await showLog();
}

const chosenCameras = () => [...get('camera-list').querySelectorAll('input:checked')].map(input => input.value);

async function showLog() {
  const entries = await ask('log');
  get('entries').replaceChildren(...entries.map(entry => make('tr', {},
    make('td', {}, moment(entry.time)), make('td', {}, entry.action), make('td', {}, entry.crops.toLocaleString()),
    make('td', {}, [entry.detail, entry.settled ? '' : 'bytes may still be on the disk'].filter(Boolean).join('; ')))));
}

// --- the image and its part

function choose(file) {
  if (!file) return;
  const most = state.gallery?.largest_upload ?? Infinity;
  if (file.size > most) {
    attempt(() => { throw new Error(`${file.name} has ${megabytes(file.size)}: an image may have ${megabytes(most)}.`); });
    return;
  }
  URL.revokeObjectURL(get('preview').src);
  state.file = file;
  setBox(null);
  get('preview').src = URL.createObjectURL(file);
  get('drop').hidden = true;
  get('chosen').hidden = false;
  get('stage').hidden = false;
  get('search').disabled = false;
  get('error').hidden = true;
  get('search').focus({preventScroll: true});
}

const size = () => [get('preview').naturalWidth, get('preview').naturalHeight];

/** Box: left, top, right, bottom in pixels of the image; null for all of it. */
function setBox(box) {
  if (box) {
    const [width, height] = size();
    const fit = (value, most) => Math.min(most, Math.max(0, Math.round(value)));
    box = [fit(box[0], width), fit(box[1], height), fit(box[2], width), fit(box[3], height)];
    if (box[2] - box[0] < 2 || box[3] - box[1] < 2) box = null;
    else {
      const style = get('box').style;
      style.left = `${100 * box[0] / width}%`;
      style.top = `${100 * box[1] / height}%`;
      style.width = `${100 * (box[2] - box[0]) / width}%`;
      style.height = `${100 * (box[3] - box[1]) / height}%`;
    }
  }
  state.box = box;
  get('box').hidden = !box;
  get('whole').disabled = !box;
  get('part').textContent = box
    ? `A part of ${box[2] - box[0]} × ${box[3] - box[1]} pixels, ${box[0]} from the left and ${box[1]} from the top.`
    : 'The whole image.';
}

function pointed(event) {
  const place = get('preview').getBoundingClientRect();
  const [width, height] = size();
  return [(event.clientX - place.left) / place.width * width, (event.clientY - place.top) / place.height * height];
}

get('stage').addEventListener('pointerdown', event => {
  if (event.button !== 0 || !size()[0]) return;
  const stage = get('stage'), [x, y] = pointed(event);
  const move = event => {
    const [toX, toY] = pointed(event);
    setBox([Math.min(x, toX), Math.min(y, toY), Math.max(x, toX), Math.max(y, toY)]);
  };
  stage.setPointerCapture(event.pointerId);
  stage.addEventListener('pointermove', move);
  for (const end of ['pointerup', 'pointercancel']) {
    stage.addEventListener(end, () => stage.removeEventListener('pointermove', move), {once: true});
  }
});

get('stage').addEventListener('keydown', event => {
  const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (event.key === 'Escape') setBox(null);
  if (!way || !size()[0]) return;
  event.preventDefault();
  const [width, height] = size();
  if (!state.box) {
    setBox([width / 4, height / 4, 3 * width / 4, 3 * height / 4]);
    return;
  }
  let [left, top, right, bottom] = state.box;
  const step = [way[0] * Math.max(1, width / 50), way[1] * Math.max(1, height / 50)];
  if (event.shiftKey) {
    right = Math.max(left + 2, right + step[0]);
    bottom = Math.max(top + 2, bottom + step[1]);
  } else {
    const by = [Math.min(width - right, Math.max(-left, step[0])), Math.min(height - bottom, Math.max(-top, step[1]))];
    [left, top, right, bottom] = [left + by[0], top + by[1], right + by[0], bottom + by[1]];
  }
  setBox([left, top, right, bottom]);
});

get('preview').addEventListener('error', () => { // such as a TIFF: the server may read it all the same
  if (!state.file) return;
  get('stage').hidden = true;
  get('part').textContent = `${state.file.name}: this browser cannot show it, so the whole image is taken.`;
});
get('whole').addEventListener('click', () => setBox(null));
get('other').addEventListener('click', () => get('file').click());
get('file').addEventListener('change', event => { choose(event.target.files[0]); event.target.value = ''; });
document.addEventListener('paste', event => choose(event.clipboardData?.files[0]));
for (const name of ['dragenter', 'dragover']) {
  document.addEventListener(name, event => { event.preventDefault(); document.body.classList.add('dragged'); });
}
document.addEventListener('dragleave', event => { if (!event.relatedTarget) document.body.classList.remove('dragged'); });
document.addEventListener('drop', event => {
  event.preventDefault();
  document.body.classList.remove('dragged');
  choose(event.dataTransfer.files[0]);
});

// --- searching

const utc = input => input.value ? new Date(input.value).toISOString() : null;

get('ask').addEventListener('submit', event => {
  event.preventDefault();
  if (state.file) attempt(search);
});

async function search() {
  const number = ++state.asked;
  get('status').textContent = 'Searching …';
  document.body.classList.add('busy');
  try {
    if (!state.gallery) await refresh();
    const found = await ask('search', {
      k: get('count').value, camera: chosenCameras(), since: utc(get('since')), until: utc(get('until')),
      box: state.box ? state.box.join(',') : null,
    }, {method: 'POST', body: state.file});
    if (number !== state.asked) return;
    state.found = found;
    state.ticked.clear();
    show();
    get('status').textContent = found.length ? `${many(found.length, 'tracklet')} found, the nearest first.` : 'Nothing found.';
    get('found').focus({preventScroll: true});
    if (get('status').getBoundingClientRect().top > innerHeight / 2) get('status').scrollIntoView({block: 'start'});
  } finally {
    if (number === state.asked) document.body.classList.remove('busy');
  }
  await refresh();
}

function show() {
  get('found').replaceChildren(...state.found.map(card));
  showLine();
  showBar();
}

function card(found, place) {
  const nearest = found.nearest[0], changes = !state.gallery.readonly;
  const same = make('input', {type: 'checkbox', checked: state.ticked.has(found.tracklet)});
  same.addEventListener('change', () => {
    state.ticked[same.checked ? 'add' : 'delete'](found.tracklet);
    showBar();
  });
  const erase = make('button', {type: 'button', className: 'danger quiet', ariaLabel: `Erase tracklet ${found.tracklet}`}, 'Erase …');
  erase.addEventListener('click', () => attempt(() => askToErase(found)));
  const item = make('li', {className: 'card tracklet', id: `found-${place + 1}`, tabIndex: -1},
    make('div', {className: 'head'},
      make('span', {className: 'rank'}, `${place + 1}`),
      make('h3', {}, found.identity || found.tracklet),
      verdict(nearest),
      make('span', {className: 'distance', title: 'distance of embeddings, 0 to 2'}, nearest.distance.toFixed(3))),
    make('p', {className: 'facts'},
      make('span', {className: 'camera'}, found.camera ?? 'camera unknown'), make('span', {}, span(found.start, found.end)),
      make('span', {}, found.identity ? `tracklet ${found.tracklet}, ` : '',
        found.crops > found.nearest.length ? `the nearest ${found.nearest.length} of ${many(found.crops, 'crop')}` : many(found.crops, 'crop'))),
    make('div', {className: 'crops'}, ...found.nearest.map(crop => figure(crop, found))),
    changes ? make('div', {className: 'row between'}, make('label', {className: 'tick'}, same, make('span', {}, 'This is the same one')), erase) : null);
  item.dataset.tracklet = found.tracklet;
  return item;
}

function figure(crop, found) {
  const image = state.gallery.keep_crops
    ? make('img', {src: `api/crops/${crop.id}/image`, alt: `Crop ${crop.id} of ${found.camera ?? 'an unknown camera'}`, loading: 'lazy'})
    : make('div', {className: 'blank'}, 'no image kept');
  image.addEventListener('error', () => image.replaceWith(make('div', {className: 'blank'}, 'no image')));
  return make('figure', {className: crop.verdict || 'none', title: moment(crop.time)}, image,
    make('figcaption', {}, make('b', {}, crop.distance.toFixed(3)), ' ', crop.verdict || ''));
}

// --- the time line

function showLine() {
  const dated = state.found.map((found, place) => ({...found, place})).filter(found => found.start);
  get('line').hidden = !dated.length;
  if (!dated.length) return;
  const start = Math.min(...dated.map(found => Date.parse(found.start)));
  const end = Math.max(...dated.map(found => Date.parse(found.end)));
  const width = Math.max(end - start, 1000);
  const cameras = [...new Set(dated.map(found => found.camera))].sort((a, b) => (a ?? '').localeCompare(b ?? '', undefined, {numeric: true}));
  const lanes = cameras.map(camera => {
    const lane = make('div', {className: 'lane'});
    // the nearest last, so that it lies above the others
    for (const found of dated.filter(found => found.camera === camera).reverse()) {
      const near = found.nearest[0];
      const mark = make('a', {href: `#found-${found.place + 1}`, className: `mark ${near.verdict || 'none'}`,
        title: `${span(found.start, found.end)}, distance ${near.distance.toFixed(3)}`,
        ariaLabel: `${found.place + 1}: ${camera ?? 'camera unknown'}, ${span(found.start, found.end)}, ${near.verdict ?? ''}`}, `${found.place + 1}`);
      mark.style.left = `${100 * (Date.parse(found.start) - start) / width}%`;
      mark.style.width = `${100 * (Date.parse(found.end) - Date.parse(found.start)) / width}%`;
      lane.append(mark);
    }
    return make('div', {className: 'camera-row'}, make('span', {className: 'camera', title: camera ?? ''}, camera ?? 'unknown'), lane);
  });
  const ends = make('div', {className: 'camera-row ends'}, make('span'), make('div', {className: 'row between'},
    make('span', {}, moment(dated.find(found => Date.parse(found.start) === start).start, 'short')),
    make('span', {}, moment(dated.find(found => Date.parse(found.end) === end).end, 'short'))));
  get('lanes').replaceChildren(...lanes, ends);
  const undated = state.found.length - dated.length;
  get('undated').textContent = undated ? `${many(undated, 'tracklet')} without a time.` : '';
}

// --- who is the same

function showBar() {
  const count = state.ticked.size;
  get('bar').hidden = !count;
  get('ticked').textContent = count === 1 ? 'Tick another one that is the same.' : `${many(count, 'tracklet')} of the same one`;
  get('merge').disabled = count < 2;
}

const ticked = () => state.found.filter(found => state.ticked.has(found.tracklet));

get('untick').addEventListener('click', () => { state.ticked.clear(); show(); });
get('merge').addEventListener('click', () => attempt(async () => {
  const names = ticked().map(found => found.tracklet);
  const known = [...new Set(ticked().map(found => found.identity).filter(Boolean))];
  get('joined').textContent = `${many(names.length, 'tracklet')} become one identity` + (known.length > 1
    ? `, with all else that is known of ${known.join(', ')}.` : '.') + ' This cannot be undone.';
  if (await answered('join') !== 'yes') return;
  const merged = await ask('merge', {tracklet: names}, {method: 'POST'});
  for (const found of state.found) if (merged.tracklets.includes(found.tracklet)) found.identity = merged.identity;
  state.ticked.clear();
  show();
  get('status').textContent = `${many(merged.tracklets.length, 'tracklet')} are ${merged.identity} now.`;
  await refresh();
}));

/** Shows a dialog, and gives the value of the button that ends it. */
function answered(name) {
  const dialog = get(name);
  dialog.returnValue = '';
  return new Promise(resolve => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue), {once: true});
    dialog.showModal();
  });
}

// --- who is forgotten

async function askToErase(found) {
  const choices = [[`Tracklet ${found.tracklet}`, {tracklet: found.tracklet}]];
  if (found.identity) choices.push([`All of ${found.identity}, in all tracklets`, {identity: found.identity}]);
  get('choices').replaceChildren(...choices.map(([words], place) => make('label', {className: 'tick'},
    make('input', {type: 'radio', name: 'what', value: `${place}`, checked: !place}), make('span', {}, words))));
  if (await answered('erase') !== 'yes') return;
  const what = choices[Number(get('choices').querySelector('input:checked').value)][1];
  const erased = await ask('crops', what, {method: 'DELETE'});
  state.found = state.found.filter(other => what.identity ? other.identity !== what.identity : other.tracklet !== what.tracklet);
  state.ticked = new Set(ticked().map(other => other.tracklet));
  show();
  get('status').textContent = `${many(erased.crops, 'crop')} erased` + (erased.settled ? '.' : '; their bytes may still be on the disk, see the log.');
  get('found').focus({preventScroll: true});
  await refresh();
}

get('log').addEventListener('toggle', () => { if (get('log').open) attempt(showLog); });
get('zone').textContent = `Times are those of this device (${Intl.DateTimeFormat().resolvedOptions().timeZone}).`;
attempt(refresh);
