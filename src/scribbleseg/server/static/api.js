// Speaks to the server; every failure is a Refusal with the sentence to show.

export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status; // 0: no answer at all
  }
}

const AWAY = "The server does not answer: start `scribbleseg annotate` again.";
const RESTARTED = "The server was started anew: open the address that it printed.";

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, AWAY);
  }
  if (answer.ok) return answer;
  if (answer.status === 403) throw new Refusal(403, RESTARTED);
  let message = `The server refused this (${answer.status}).`;
  try {
    message = (await answer.json()).error || message;
  } catch {
    // an answer without a sentence of its own
  }
  throw new Refusal(answer.status, message);
}

const json = async (path) => (await ask(path)).json();

const post = async (path, body, more = {}) =>
  (await ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), ...more })).json();

export const project = () => json("/api/project");
export const cases = () => json("/api/cases");
export const next = (number, axis, slice) => json(`/api/next?case=${number}&axis=${axis}&slice=${slice}`);
export const run = () => json("/api/run");
export const train = (iterations) => post("/api/training", { iterations });
export const stop = (folder) => post("/api/training/stop", { folder });
export const described = (number) => json(`/api/cases/${number}`);
export const nameStructures = (names) => post("/api/project/structures", { names });
export const note = (number, body) => post(`/api/cases/${number}/note`, body);
export const presence = (number, body, more) => post(`/api/cases/${number}/presence`, body, more);
export const strokes = (number, body, more) => post(`/api/cases/${number}/strokes`, body, more);

// One channel: its values, and how they become intensities.
export async function channel(number, n) {
  const answer = await ask(`/api/cases/${number}/channels/${n}`);
  const [slope, intercept] = answer.headers.get("X-Scale").split(" ").map(Number);
  const [window, range] = ["X-Window", "X-Range"].map((name) => answer.headers.get(name).split(" ").map(Number));
  const bytes = await answer.arrayBuffer();
  const values = answer.headers.get("X-Bytes") === "2" ? new Uint16Array(bytes) : new Uint8Array(bytes);
  return { values, slope, intercept, window, range };
}

// What a network makes of a case, one byte a voxel; null where it has not looked at it yet.
export async function predicted(number, what) {
  const bytes = await (await ask(`/api/cases/${number}/predicted/${what}`)).arrayBuffer();
  return bytes.byteLength ? new Uint8Array(bytes) : null;
}

export async function labels(number) {
  const answer = await ask(`/api/cases/${number}/labels`);
  const version = Number(answer.headers.get("X-Version"));
  return { labels: new Uint8Array(await answer.arrayBuffer()), version };
}

// What one of the annotators drew whose scribbles are merged.
export const labelsOf = async (number, annotator) => new Uint8Array(await (await ask(`/api/cases/${number}/labels/${annotator}`)).arrayBuffer());

export async function areas(number, { slice, tau, beta, tab }, scribbles) {
  const answer = await ask(`/api/cases/${number}/areas?slice=${slice}&tau=${tau}&beta=${beta}&tab=${tab}`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream" },
    body: scribbles,
  });
  return new Uint8Array(await answer.arrayBuffer());
}
