// The page: opens cases, and joins views, tools, areas and saving.

import * as api from "./api.js";
import { Annotators } from "./annotators.js";
import { Areas } from "./areas.js";
import { Keys } from "./keys.js";
import { name } from "./naming.js";
import { Network } from "./network.js";
import { tell, untell } from "./notice.js";
import { $, drawStrip, fillCases, fillChannels, fillHelp, fillLabels, fillPresets, make, showLabels } from "./panel.js";
import { readout } from "./readout.js";
import { Saver, TAB, recover } from "./saving.js";
import { Scribbles, UNLABELLED } from "./strokes.js";
import * as tools from "./tools.js";
import { View } from "./view.js";
import { Volume } from "./volume.js";

const PRESENCE_MS = 3000;
const NO_AREAS = new Map();
const REMEMBERED = 3; // cases whose history is kept when another one is opened

const pen = new tools.Tools();
const shown = { hidden: false, panning: false, smooth: true, areas: true };
const sessions = new Map(); // number of a case to what is open of it, the last one last
let project = null;
let rows = [];
let now = null; // the session of the case that is shown
let strokes = 0;

const large = new View(document.querySelector(".large canvas"), handlers());
const linked = [...document.querySelectorAll("#linked canvas")].map((canvas) => new View(canvas, handlers()));
const views = [large, ...linked];

function handlers() {
  return {
    look: () => ({
      colours: project.colours,
      areas: shown.areas && now.areas ? now.areas.found : NO_AREAS,
      grown: shown.areas ? now.areas.revision : -1,
      strokes: 0.92,
      fill: 0.3,
      smooth: shown.smooth,
      hidden: shown.hidden,
      annotators: annotators.outlined(now.theirs),
      network: network.shown,
      opacity: network.opacity,
      panning: shown.panning,
      cross: !now.volume.flat && !shown.hidden,
      planes: now.volume.planes,
      brush: (plane) => pen.brush(plane),
      pen: pen.erasing ? "#fff" : project.colours[pen.label],
    }),
    stroke(view, pixel, erase, joined) {
      if (!now || now.taken || shown.hidden) return false;
      pen.begin(now.scribbles, view.plane, pixel, erase, joined);
      drawAll();
      return true;
    },
    move(view, from, to) {
      pen.draw(now.scribbles, view.plane, from, to);
      drawAll();
    },
    end(view) {
      strokes++;
      if (pen.end(now.scribbles, view.plane)) changed();
    },
    cancel() {
      pen.cancel(now.scribbles);
      changed();
    },
    hover: (view, pixel, follow) => hover(view, pixel, follow),
    scroll: (view, steps) => go(view.plane, view.plane.slice + steps),
    window(dx, dy) {
      const n = now.volume.shown;
      const [low, high] = now.volume.windows[n];
      const [level, width] = [(low + high) / 2, high - low];
      const step = Math.max(width, 1e-6) / 250;
      setWindow(level + dy * step - (width * Math.exp(dx / 250)) / 2, level + dy * step + (width * Math.exp(dx / 250)) / 2);
    },
  };
}

const annotators = new Annotators(() => now && drawAll());

const network = new Network({
  session: () => now,
  cases: () => rows.length,
  draw: () => now && drawAll(),
  save: () => now?.saver.save(),
  trained: () => refreshCases().catch(() => {}),
  chosen: (tau) => chosen(tau),
  tell,
});

// Areas grow with the tau that the newest training chose, until a person moves the slider.
function chosen(tau) {
  for (const { settings } of sessions.values()) if (!settings.own) settings.tau = tau;
  if (!now) return;
  $("tau").value = now.settings.tau;
  refresh();
}

const drawAll = () => views.forEach((view) => view.draw());

// ---- cases

async function open(number) {
  const before = now;
  if (before && before.number !== number) {
    await before.saver.save();
    api.presence(before.number, { tab: TAB, leave: true }).catch(() => {});
  }
  delete document.body.dataset.ready;
  $("where").textContent = rows[number].name;
  const loading = ($("loading").textContent = `Loading ${rows[number].name} …`);
  try {
    const described = await api.described(number);
    const session = await read(number, described);
    session.theirs = await annotators.labels(number);
    sessions.delete(number);
    sessions.set(number, session);
    for (const [other, old] of sessions) if (sessions.size > REMEMBERED && !old.scribbles.unsaved) sessions.delete(other);
    now = session;
  } catch (error) {
    tell(error.message);
    $("where").textContent = before ? before.name : "";
    if (before) document.body.dataset.ready = before.number;
    return refreshCases();
  } finally {
    if ($("loading").textContent === loading) $("loading").textContent = ""; // else another case loads by now
  }
  show();
  await attend(false);
  refreshCases();
  document.body.dataset.ready = number;
  network.want();
  return undefined;
}

async function read(number, described) {
  const old = sessions.get(number);
  if (old) {
    if (old.scribbles.version !== described.version) {
      const { labels, version } = await api.labels(number);
      old.scribbles.replace(labels, version);
    }
    return Object.assign(old, { record: described.record, taken: false });
  }
  const channels = [];
  for (let n = 0; n < described.channels; n++) channels.push(await api.channel(number, n));
  const { labels, version } = await api.labels(number);
  const scribbles = new Scribbles(labels, version, described.shape, described.counts);
  const session = { number, name: described.name, volume: new Volume(described, channels), scribbles, record: described.record, taken: false };
  session.saver = new Saver(project, number, described.name, scribbles, {
    state: (state) => saved(session, state),
    stale: () => renew(session),
    kept: (file) => tell(`${session.name} was changed by another program meanwhile. What it had written is kept in ${file}.`),
  });
  session.settings = { ...described.walker, own: false };
  session.settings.tau = network.state?.tau ?? session.settings.tau;
  session.areas = new Areas(number, scribbles, session.settings, {
    grown(slice) {
      if (session !== now) return;
      document.body.dataset.areas = session.areas.found.has(slice) ? slice : "";
      drawAll();
    },
    state: (text) => session === now && ($("areas-state").textContent = text),
  });
  session.order = [...session.volume.planes];
  return session;
}

// Takes over strokes that came from elsewhere.
async function renew(session) {
  const { labels, version } = await api.labels(session.number);
  session.scribbles.replace(labels, version);
  if (session === now) refresh();
}

function show() {
  const { volume, scribbles } = now;
  document.body.classList.toggle("flat", volume.flat);
  $("where").textContent = now.name;
  document.title = `${now.name} – scribbleseg`;
  views.forEach((view, n) => {
    const plane = now.order[n];
    view.show(volume, scribbles, plane);
    const section = view.canvas.parentElement;
    ["left", "right", "top", "bottom"].forEach((side, k) => (section.querySelector(`.side.${side}`).textContent = plane.sides[k] || ""));
  });
  fillChannels(volume, () => (showWindow(), refresh()));
  [$("done").checked, $("flag").value] = [now.record.done, now.record.flag];
  const settings = now.settings;
  [$("tau").value, $("beta").value] = [settings.tau, Math.log10(settings.beta)];
  $("slices").hidden = $("slice-tools").hidden = volume.flat;
  saved(now, scribbles.unsaved ? "saving" : "saved");
  showWindow();
  network.want();
  refresh();
}

// Shows everything that depends on the slice or its strokes.
function refresh() {
  if (!now) return;
  const plane = now.volume.planes[0];
  views.forEach((view) => {
    const what = view.canvas.parentElement.querySelector(".what");
    const place = view === large ? `${view.plane.slice + 1} / ${view.plane.depth}` : view.plane.slice + 1;
    what.textContent = now.volume.flat ? "" : `${view.plane.name} ${place}`;
  });
  showLabels(pen, now.scribbles.counts[plane.slice]);
  $("tau-shown").textContent = now.settings.tau.toFixed(2);
  $("beta-shown").textContent = Math.round(now.settings.beta);
  drawStrip($("strip"), now.scribbles, plane, project.colours, [...project.labels.keys()].slice(1).concat(0));
  [$("undo").disabled, $("redo").disabled] = [!now.scribbles.done.length, !now.scribbles.undone.length];
  if (shown.areas) now.areas.want(plane.slice);
  drawAll();
}

function changed() {
  now.saver.changed();
  refresh();
}

async function refreshCases() {
  rows = await api.cases();
  fillCases(rows, now ? now.number : -1, open);
}

const attend = async (take) => {
  const session = now;
  if (!session) return;
  try {
    const answer = await api.presence(session.number, { tab: TAB, take });
    const was = session.taken;
    session.taken = answer.taken;
    if (session !== now) return;
    if (answer.taken && !was) tell(`${session.name} is open in another tab or window, so this one only shows it.`, "Draw here instead", () => attend(true), "taken");
    else if (!answer.taken && was) untell("taken");
    const { scribbles } = session;
    if (answer.version !== scribbles.version && !scribbles.unsaved && !scribbles.stroke) {
      await renew(session);
      if (answer.changed) tell("Another program has changed these scribbles: they are shown as they are now.");
    }
  } catch (error) {
    if (error.status !== 422) saved(session, error);
  }
};

// ---- what is told

function saved(session, state) {
  if (state instanceof Error && !session.scribbles.unsaved) tell(state.message, "", null, "unsaved");
  else if (state instanceof Error) {
    const kept = session.saver.kept ? "Your strokes are kept in this browser." : "This browser cannot keep your strokes: leave this tab open until they are saved.";
    tell(`Not saved yet: ${state.message} ${kept}${state.status === 422 ? "" : " Saving is tried again."}`, "", null, "unsaved");
  }
  else if (state === "saved") untell("unsaved");
  const failed = state instanceof Error && session.scribbles.unsaved;
  const text = failed ? "not saved" : session.scribbles.unsaved ? "saving …" : "saved";
  if (session !== now) return;
  $("saved").textContent = text;
  $("saved").className = failed ? "bad" : "";
  document.body.dataset.saved = session.scribbles.unsaved ? "no" : "yes";
  if (state === "saved") refreshCasesSoon();
}

let soon = null;
function refreshCasesSoon() {
  clearTimeout(soon);
  soon = setTimeout(() => refreshCases().catch(() => {}), 400);
}

// ---- where one is

function go(plane, slice) {
  $("why").textContent = "";
  plane.slice = Math.min(plane.depth - 1, Math.max(0, slice));
  refresh();
}

function hover(view, pixel, follow) {
  now.hovered = pixel && view.plane.has(...pixel) ? { view, voxel: view.plane.at(view.plane.slice, ...pixel) } : null;
  const { hovered, volume } = now;
  $("readout").textContent = hovered ? readout(now, hovered.voxel, project.labels, areaAt(hovered.voxel), annotators.at(now.theirs, hovered.voxel, project.labels)) : "";
  if (!hovered || !follow || volume.flat || now.scribbles.stroke) return;
  const index = volume.index(hovered.voxel);
  for (const plane of volume.planes) if (plane !== view.plane) plane.slice = index[plane.axis];
  refresh();
}

function areaAt(voxel) {
  const { perSlice } = now.scribbles;
  return (shown.areas && now.areas.found.get(Math.floor(voxel / perSlice))?.[voxel % perSlice]) ?? UNLABELLED;
}

function setWindow(low, high) {
  const { volume } = now;
  if (!(high > low)) high = low + 1e-6;
  if (volume.colour) volume.windows.forEach((_, n) => (volume.windows[n] = [low, high]));
  else volume.windows[volume.shown] = [low, high];
  showWindow();
  drawAll();
}

function showWindow() {
  const { volume } = now;
  const [low, high] = volume.windows[volume.shown];
  [$("level").value, $("width").value] = [(low + high) / 2, high - low].map((value) => +value.toPrecision(4));
  if ($("presets").dataset.of !== `${now.number} ${volume.shown}`) {
    fillPresets(volume, setWindow);
    $("presets").dataset.of = `${now.number} ${volume.shown}`;
  }
}

// ---- what is done

function step(to) {
  const where = to === "undo" ? now.scribbles.undo() : now.scribbles.redo();
  if (!where) return;
  const plane = now.volume.planes.find((each) => each.axis === where.axis);
  plane.slice = where.slice;
  changed();
}

const here = () => large.plane;

const doing = (work, otherwise = "") => () => {
  if (!now || now.taken) return;
  if (work()) changed();
  else if (otherwise) tell(otherwise);
};

const interpolated = () => {
  const found = tools.gap(now.scribbles, here());
  return found && tools.interpolate(now.scribbles, here(), found);
};

const copied = (by) => () => {
  const to = here().slice + by;
  if (to < 0 || to >= here().depth) return false;
  const any = tools.copy(now.scribbles, here(), to);
  if (any) here().slice = to;
  return any;
};

const accepted = () => now.predicted?.labels && tools.accept(now.scribbles, here(), now.predicted.labels, pen.label);

async function next() {
  if (now?.scribbles.unsaved) await now.saver.save();
  const found = now ? await api.next(now.number, here().axis, here().slice) : null;
  if (!found) return tell("There is no slice left that needs strokes. Draw where you like, or mark cases as done.");
  const number = rows.findIndex((row) => row.name === found.case);
  if (!now || number !== now.number) await open(number);
  for (let n = 0; n < 3 && here().axis !== found.axis; n++) actions.planes();
  go(here(), found.slice_index);
  $("why").textContent = found.why;
  return undefined;
}

async function note() {
  const session = now;
  try {
    session.record = await api.note(session.number, { done: $("done").checked, flag: $("flag").value });
    await refreshCases();
  } catch (error) {
    tell(error.message);
  }
}

const toggle = (id) => () => {
  $(id).checked = !$(id).checked;
  $(id).dispatchEvent(new Event("change"));
};

const choose = (label) => {
  if (label === null) pen.erasing = true;
  else if (label >= project.labels.length) return false;
  else Object.assign(pen, { label, erasing: false });
  showLabels(pen, now?.scribbles.counts[now.volume.planes[0].slice]);
  drawAll();
  return true;
};

function resize(by) {
  pen.size = Math.min(40, Math.max(1, pen.size + by));
  [$("size").value, $("size-shown").textContent] = [pen.size, pen.size];
  drawAll();
}

const held = (name) => (on) => {
  shown[name] = on;
  document.body.classList.toggle(name, on);
  if (now) drawAll();
};

const theme = () => {
  const dark = getComputedStyle(document.documentElement).colorScheme !== "light";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("scribbleseg theme", document.documentElement.dataset.theme);
  refresh();
};

const actions = {
  choose: (label) => choose(label),
  background: () => choose(0),
  erase(on) {
    const before = pen.erasing;
    pen.erasing = on ?? true;
    showLabels(pen, now?.scribbles.counts[now.volume.planes[0].slice]);
    drawAll();
    return before;
  },
  strokes: () => strokes,
  pick() {
    if (!now?.hovered) return;
    const { voxel } = now.hovered;
    const label = now.scribbles.labels[voxel] === UNLABELLED ? areaAt(voxel) : now.scribbles.labels[voxel];
    if (label !== UNLABELLED) choose(label);
  },
  smaller: () => resize(-1),
  larger: () => resize(1),
  protect: toggle("protect"),
  undo: () => now && !now.taken && step("undo"),
  redo: () => now && !now.taken && step("redo"),
  save: () => now?.saver.save(),
  up: () => now && go(here(), here().slice - 1),
  down: () => now && go(here(), here().slice + 1),
  pageUp: () => now && go(here(), here().slice - 10),
  pageDown: () => now && go(here(), here().slice + 10),
  first: () => now && go(here(), 0),
  last: () => now && go(here(), here().depth - 1),
  next: () => next().catch((error) => tell(error.message)),
  copy: doing(copied(1), "There is nothing on this slice that the next one does not have."),
  copyBack: doing(copied(-1), "There is nothing on this slice that the one before does not have."),
  interpolate: doing(interpolated, "There is no gap between two drawn slices here that share a class."),
  accept: doing(accepted, "The network predicts nothing of this class on this slice that is not drawn already."),
  prediction: toggle("show-prediction"),
  doubt: toggle("show-doubt"),
  before: toggle("show-before"),
  clearClass: doing(() => tools.clear(now.scribbles, here(), pen.label)),
  clearSlice: doing(() => tools.clear(now.scribbles, here())),
  previousCase: () => now && now.number > 0 && open(now.number - 1),
  nextCase: () => now && now.number < rows.length - 1 && open(now.number + 1),
  zoomIn: () => now && large.zoom(1.25),
  zoomOut: () => now && large.zoom(0.8),
  fit() {
    for (const plane of now?.volume.planes || []) Object.assign(plane, { zoom: 1, pan: [0, 0] });
    drawAll();
  },
  panning: held("panning"),
  hide: held("hidden"),
  window: () => now && setWindow(...now.volume.channels[now.volume.shown].window),
  areas: toggle("show-areas"),
  planes() {
    if (!now || now.volume.flat) return;
    now.order.push(now.order.shift());
    show();
  },
  channel() {
    if (!now || now.volume.colour) return;
    now.volume.shown = (now.volume.shown + 1) % now.volume.channels.length;
    show();
  },
  smooth: toggle("smooth"),
  theme,
  done: toggle("done"),
  flag: () => $("flag").focus(),
  help: () => ($("help").open ? $("help").close() : $("help").showModal()),
};

function listen() {
  new Keys(actions);
  const click = { undo: "undo", redo: "redo", next: "next", accept: "accept", copy: "copy", interpolate: "interpolate", "slice-back": "up", "slice-on": "down", "clear-class": "clearClass", "clear-slice": "clearSlice", theme: "theme", "help-button": "help" };
  for (const [id, name] of Object.entries(click)) $(id).onclick = () => (actions[name](), large.canvas.focus({ preventScroll: true }));
  $("show-cases").onclick = () => document.body.classList.toggle("cases-shown");
  $("size").oninput = () => resize(Number($("size").value) - pen.size);
  $("protect").onchange = () => (pen.protect = $("protect").checked);
  $("smooth").onchange = () => ((shown.smooth = $("smooth").checked), drawAll());
  $("show-areas").onchange = () => ((shown.areas = $("show-areas").checked), refresh());
  $("tau").oninput = () => (Object.assign(now.settings, { tau: Number($("tau").value), own: true }), refresh());
  $("beta").oninput = () => ((now.settings.beta = Math.round(10 ** Number($("beta").value))), refresh());
  $("done").onchange = $("flag").onchange = note;
  $("level").onchange = $("width").onchange = () => {
    const [level, width] = [Number($("level").value), Math.max(Number($("width").value), 1e-6)];
    setWindow(level - width / 2, level + width / 2);
  };
  const strip = (event) => event.buttons && now && go(now.volume.planes[0], Math.floor((event.offsetX / $("strip").clientWidth) * now.volume.planes[0].depth));
  $("strip").onpointerdown = strip;
  $("strip").onpointermove = strip;
  addEventListener("resize", refresh);
  addEventListener("pagehide", () => {
    if (!now) return;
    now.saver.save({ keepalive: true });
    api.presence(now.number, { tab: TAB, leave: true }, { keepalive: true }).catch(() => {});
  });
  setInterval(() => attend(false), PRESENCE_MS);
}

// ---- the start

async function begin() {
  project = await api.project();
  $("title").textContent = project.name;
  $("title").title = `Scribbles go to ${project.folder}`;
  if (!project.labels.length) return name(begin);
  fillLabels(project.labels, project.colours, choose);
  annotators.begin(project.merged);
  choose(1);
  resize(0);
  rows = await api.cases();
  fillCases(rows, -1, open);
  const recovered = await recover(project, rows.map((row) => row.name));
  const first = rows.findIndex((row) => row.state !== "done" && !row.error);
  await open(Math.max(0, recovered.names.length ? rows.findIndex((row) => row.name === recovered.names[0]) : first));
  network.watch();
  const replaced = recovered.kept.length ? ` What they replaced is kept in ${recovered.kept.join(", ")}.` : "";
  if (recovered.names.length) tell(`Strokes that had not been saved were recovered: ${recovered.names.join(", ")}.${replaced}`);
  return undefined;
}

history.replaceState(null, "", "/"); // the key leaves the address
const theme_ = localStorage.getItem("scribbleseg theme");
if (theme_) document.documentElement.dataset.theme = theme_;
fillHelp($("help"));
if (!large.context) document.body.replaceChildren(make("p", { className: "plain", textContent: "This browser cannot draw on a canvas. Open the page in a current Firefox, Chrome, Edge or Safari." }));
else {
  listen();
  begin().catch((error) => tell(error.message));
}
