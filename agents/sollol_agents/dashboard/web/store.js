// What the page knows: filled by updates of the server, and the questions that wait for their answers.
import { markRaw, reactive } from "vue";

const SHOWN_DECISIONS = 150;
const SHOWN_NOTICES = 60;
const TIMELINE_S = 600;
const SILENT_S = 2.3;
const LONGEST_LOOK_S = 0.5;

export function makeStore(emit) {
  const state = reactive({
    isReady: false,
    topic: "",
    at: 0,
    head: null,
    frozenForS: 0,
    sparks: null,
    waits: null,
    waiting: [],
    holders: {},
    nodes: {},
    notices: [],
    decisions: [],
    points: [],
    summary: null,
    jobs: null,
    strategy: null,
    breakers: null,
    models: [],
    groups: [],
    toasts: [],
  });
  const waiting = new Map();
  let nextId = 1;
  let nextToast = 1;
  let silentS = 0;
  let watchedAt = performance.now();

  function merge(old, fresh, limit) {
    const byId = new Map(old.map((row) => [row.id, row]));
    for (const row of fresh) byId.set(row.id, markRaw(row));
    return [...byId.values()].sort((a, b) => b.at - a.at || (a.id < b.id ? 1 : -1)).slice(0, limit);
  }

  // The server says something at least once a second: silence means that it, or the way to it, stands still.
  // It waits until the page has drawn, and a page that is hidden or busy itself hears nothing: that is no silence.
  function watch(isDrawing) {
    const now = performance.now();
    silentS = isDrawing || document.hidden ? 0 : silentS + Math.min((now - watchedAt) / 1000, LONGEST_LOOK_S);
    watchedAt = now;
    state.frozenForS = silentS >= SILENT_S ? silentS : 0;
  }

  function apply(update) {
    heard();
    if (update.full) {
      state.nodes = {};
      state.notices = state.decisions = state.points = [];
    }
    state.at = update.at;
    state.topic = update.topic;
    state.isReady = true;
    if (update.head) state.head = markRaw(update.head);
    for (const row of update.nodes ?? []) state.nodes[row.id] = markRaw(row);
    for (const id of update.gone ?? []) delete state.nodes[id];
    if (update.notices) state.notices = merge(state.notices, update.notices, SHOWN_NOTICES);
    if (update.decisions) state.decisions = merge(state.decisions, update.decisions, SHOWN_DECISIONS);
    if (update.points) {
      const byTime = new Map(state.points.map((point) => [point.t, point]));
      for (const point of update.points) byTime.set(point.t, markRaw(point));
      const first = update.at - TIMELINE_S;
      state.points = [...byTime.values()].filter((point) => point.t >= first).sort((a, b) => a.t - b.t);
    }
    for (const name of ["summary", "jobs", "strategy", "breakers", "models", "groups", "sparks", "waits", "waiting", "holders"]) {
      if (update[name] != null) state[name] = markRaw(update[name]);
    }
  }

  function heard() {
    silentS = 0;
    state.frozenForS = 0;
  }

  function ask(op, args = {}, onTold = null) {
    const id = nextId++;
    const answer = new Promise((resolve, reject) => waiting.set(id, { resolve, reject, onTold }));
    emit("ask", { id, op, args });
    return Object.assign(answer, { stop: () => emit("ask", { id: nextId++, op: "stop", args: { id } }) });
  }

  function told(answer) {
    const asked = waiting.get(answer.id);
    if (!asked) return;
    if (answer.told) {
      for (const news of answer.told) asked.onTold?.(news);
      return;
    }
    waiting.delete(answer.id);
    if (answer.error) asked.reject(new Error(answer.error.message));
    else asked.resolve(answer.result);
  }

  function toast(text, kind = "good") {
    const item = { id: nextToast++, text, kind };
    state.toasts = [...state.toasts.slice(-3), item];
    setTimeout(() => (state.toasts = state.toasts.filter((other) => other !== item && other.id !== item.id)), 6000);
  }

  async function operate(op, args, done) {
    try {
      const result = await ask(op, args);
      if (done) toast(done);
      return result;
    } catch (error) {
      toast(error.message, "bad");
      return null;
    }
  }

  return { state, apply, heard, watch, ask, told, toast, operate };
}
