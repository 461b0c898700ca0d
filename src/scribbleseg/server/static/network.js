// What a network makes of the images, and its training from the page.

import * as api from "./api.js";
import { $, count } from "./panel.js";

const BUSY_MS = 1500; // between two questions while a training or a network is at work
const IDLE_MS = 8000;
const NOTHING = { of: "" };

export class Network {
  // `on` has: session (what is open), cases (how many there are), draw, tell, save, and trained, which hears that a training
  // has ended, and chosen, which hears the tau that the newest training grew its areas with.
  constructor(on) {
    Object.assign(this, { on, state: null, opacity: 0.9, timer: null, stopping: "" });
    this.shows = { labels: true, doubt: false, before: false };
    this.paces = []; // when how many iterations were done
    const checks = { "show-prediction": "labels", "show-doubt": "doubt", "show-before": "before" };
    for (const [id, what] of Object.entries(checks)) {
      $(id).onchange = () => {
        this.shows[what] = $(id).checked;
        this.want();
        on.draw();
      };
    }
    $("opacity").oninput = () => ((this.opacity = Number($("opacity").value)), on.draw());
    $("train").onclick = () => this.train();
    $("stop").onclick = () => this.stop();
    $("show-log").onclick = () => $("log").showModal();
    $("close-log").onclick = () => $("log").close();
  }

  // What the views show of the case that is open.
  get shown() {
    const { predicted } = this.on.session() || {};
    if (!predicted) return NOTHING;
    const shown = { of: predicted.of };
    for (const [what, on] of Object.entries(this.shows)) if (on) shown[what] = predicted[what];
    return shown;
  }

  // Fetches what is shown of the case that is open, as far as a network has looked at it.
  async want() {
    const session = this.on.session();
    if (!session || !this.state?.runs.length) return;
    const of = this.state.runs.map((run) => `${run.name} ${run.network}`).join();
    if (session.predicted?.of !== of) session.predicted = { of, asked: new Set() };
    const { predicted } = session;
    for (const what of ["labels", "doubt", "before"]) {
      const seen = (what === "before" ? this.state.seen_before : this.state.seen).includes(session.number);
      const key = `${what} ${seen}`;
      if (predicted[what] || predicted.asked.has(key) || (what !== "labels" && !(seen && this.shows[what]))) continue;
      predicted.asked.add(key); // also before it was looked at: it comes first then
      try {
        predicted[what] = await api.predicted(session.number, what);
      } catch (error) {
        predicted.asked.delete(key);
        return;
      }
      if (session === this.on.session()) this.#opened();
    }
    this.#opened();
  }

  #opened() {
    const { predicted, name } = this.on.session();
    document.body.dataset.predicted = predicted?.labels ? predicted.of : "";
    const error = this.state.errors[name];
    const [run] = this.state.runs;
    const seen = this.state.seen.length;
    const text = error || this.state.problem || (!run ? "" : this.state.looking ? `The network of ${run.name} has looked at ${seen} of ${count(this.on.cases(), "case")}` : run.name);
    $("network-state").textContent = text;
    $("accept").disabled = !predicted?.labels;
    this.on.draw();
  }

  // Asks how things stand, again and again.
  async watch() {
    clearTimeout(this.timer);
    try {
      this.#take(await api.run());
    } catch {
      // the server is away: saving says so
    }
    const busy = this.state && (this.state.looking || this.state.training.working);
    this.timer = setTimeout(() => this.watch(), busy ? BUSY_MS : IDLE_MS);
  }

  #take(state) {
    const worked = this.state?.training.working;
    const before = this.state?.tau;
    this.state = state;
    if (state.tau !== null && state.tau !== before) this.on.chosen(state.tau);
    $("prediction").hidden = !state.runs.length;
    $("show-before").parentElement.hidden = state.runs.length < 2;
    if (state.runs.length > 1) $("before-name").textContent = `${state.runs[1].name}, dashed`;
    this.#training(state.training);
    if (worked && !state.training.working) this.on.trained();
    this.want();
    if (this.on.session()) this.#opened();
  }

  #training(training) {
    const { working, iteration, of, plan, code, log } = training;
    $("train").hidden = working;
    $("iterations").disabled = working;
    $("stop").hidden = !working;
    $("stop").disabled = this.stopping === training.folder;
    if (!working) this.stopping = "";
    $("train").textContent = training.goes_on && iteration < of ? "Go on" : "Train";
    $("train").title = training.goes_on ? `Goes on in ${training.next}` : training.starts_from ? `Trains on in ${training.next}, from the network of ${training.starts_from}` : `Trains a new network, in ${training.next}`;
    $("training-bar").hidden = !working;
    if (of && iteration) $("training-bar").value = iteration / of;
    else $("training-bar").removeAttribute("value");
    $("show-log").hidden = !log;
    const pre = $("log-text");
    const follows = pre.scrollTop + pre.clientHeight > pre.scrollHeight - 30;
    if (pre.textContent !== log) pre.textContent = log;
    if (follows) pre.scrollTop = pre.scrollHeight;
    $("training-state").textContent = working ? this.#pace(training) : ended(training);
    $("training-state").className = !working && code > 0 && code !== 130 ? "bad" : "soft";
    $("training-state").title = plan;
    document.body.dataset.training = working ? "yes" : "no";
  }

  // What a training is at, in words.
  #pace({ folder, iteration, of, loss, plan }) {
    const run = folder.split("/").pop();
    if (!iteration) return plan ? `${run} is at work. ${plan.split("; ").pop()}` : `${run} is starting …`;
    if (this.paces[0]?.folder !== folder) this.paces = [];
    const last = this.paces[this.paces.length - 1];
    if (last?.iteration !== iteration) this.paces.push({ folder, iteration, at: performance.now() });
    const first = this.paces[0];
    const done = iteration - first.iteration;
    const left = done ? ((of - iteration) * (this.paces[this.paces.length - 1].at - first.at)) / done / 60000 : null;
    const time = left === null ? "" : `, about ${left < 1 ? "a minute" : `${Math.ceil(left)} minutes`} left`;
    return `${run}: ${iteration} of ${count(of, "iteration")}${time}; loss ${loss?.toFixed(3) ?? "–"}`;
  }

  async train() {
    const text = $("iterations").value.trim();
    await this.on.save();
    await this.#ask(() => api.train(text ? Math.round(Number(text)) : null));
  }

  async stop() {
    this.stopping = this.state.training.folder;
    $("stop").disabled = true;
    await this.#ask(() => api.stop(this.stopping));
  }

  async #ask(question) {
    try {
      this.#take(await question());
    } catch (error) {
      this.on.tell(error.message);
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.watch(), BUSY_MS);
  }
}

// What became of a training, in words.
function ended({ folder, code, iteration, of, log, next, goes_on: goesOn, starts_from: from }) {
  const run = folder.split("/").pop();
  if (!run) return "";
  const next_ = goesOn ? "" : ` The strokes have changed since: the next training is ${next}${from ? `, from the network of ${from}` : ""}.`;
  if (code === 130) return `${run} was stopped after ${iteration} of ${count(of, "iteration")}.${next_}`;
  if (code > 0) return log.trim().split("\n").pop();
  if (code < 0) return `${run} was ended by signal ${-code}; Go on continues it.`;
  return of && iteration >= of ? `${run} is trained.${next_ || " Draw where it is in doubt, and train again."}` : of ? `${run}: ${iteration} of ${count(of, "iteration")}.${next_}` : "";
}
