// Latency, throughput, queue and prediction error over the last ten minutes.
import { count, number, percent, plural, priorityName, seconds } from "./format.js";
import { LineChart } from "./chart.js";
import { Mode, Segmented } from "./ui.js";

const MODES = ["fast", "reliable", "async"];
const STEP_S = 5;

export const LatencyView = {
  components: { LineChart, Mode, Segmented },
  inject: ["store"],
  data: () => ({ mode: "fast" }),
  computed: {
    state: (it) => it.store.state,
    summary: (it) => it.state.summary ?? { modes: {}, waits: {} },
    grid() {
      // one entry for every slot that is over, so that a pause is a gap and not a line
      const known = new Map(this.state.points.map((point) => [point.t, point]));
      const last = (Math.floor(this.state.at / STEP_S) - 1) * STEP_S;
      return Array.from({ length: 120 }, (_, i) => last - (119 - i) * STEP_S).map((t) => [t, known.get(t)]);
    },
    latency() {
      return [["P50", "p50_s", "s1"], ["P95", "p95_s", "s2"], ["P99", "p99_s", "s3"]].map(([name, key, kind]) => ({
        name, kind, values: this.grid.map(([t, point]) => [t, point?.modes?.[this.mode]?.[key] ?? null]),
      }));
    },
    throughput() {
      return MODES.map((mode, i) => ({ name: mode, kind: `m${i + 1}`, values: this.grid.map(([t, point]) => [t, point ? point.modes?.[mode]?.tps ?? 0 : null]) }));
    },
    queue: (it) => [{ name: "waiting", kind: "s2", values: it.grid.map(([t, point]) => [t, point ? point.queued ?? 0 : null]) }],
    error: (it) => [{ name: "median error", kind: "s2", values: it.grid.map(([t, point]) => [t, point?.error_ratio ?? null]) }],
    modes: (it) => MODES.map((mode) => [mode, it.summary.modes[mode] ?? {}]),
    waits: (it) => Object.entries(it.summary.waits).sort((a, b) => b[0] - a[0]),
    longest: (it) => Math.max(0.001, ...it.waits.map(([, wait]) => wait.max_s)),
  },
  methods: { count, number, percent, plural, priorityName, seconds, tps: (value) => number(value), whole: (value) => (Number.isInteger(value) ? count(value) : "") },
  template: `<section class="view" aria-label="Latency and throughput">
    <section class="panel" aria-label="Last minute"><h2>The last minute</h2>
      <div class="scroll"><table class="table stacks"><thead><tr><th>Mode</th><th class="r">P50</th><th class="r">P95</th><th class="r">P99</th><th class="r">Speed</th><th class="r">Requests</th><th class="r">Failed</th></tr></thead>
        <tbody><tr v-for="[mode, figures] in modes" :key="mode"><td><Mode :mode="mode"/></td><td class="r num" data-label="P50">{{ seconds(figures.p50_s) }}</td><td class="r num" data-label="P95">{{ seconds(figures.p95_s) }}</td><td class="r num" data-label="P99">{{ seconds(figures.p99_s) }}</td>
          <td class="r num" data-label="Speed">{{ number(figures.tps ?? 0) }}<small> tok/s</small></td><td class="r num" data-label="Requests">{{ count(figures.requests ?? 0) }}</td><td class="r num" data-label="Failed">{{ count(figures.failures ?? 0) }}</td></tr></tbody></table></div></section>
    <div class="toolbar"><Segmented v-model="mode" :options="[['fast', 'Fast'], ['reliable', 'Reliable'], ['async', 'Async']]" label="Latency of mode"/></div>
    <div class="charts">
      <div class="panel"><LineChart :title="'Latency, ' + mode" :at="state.at" :series="latency" :format="seconds"/></div>
      <div class="panel"><LineChart title="Tokens per second by mode" :at="state.at" :series="throughput" :format="tps"/></div>
      <div class="panel"><LineChart title="Requests waiting" :at="state.at" :series="queue" :format="whole"/></div>
      <div class="panel"><LineChart title="Prediction error" :at="state.at" :series="error" :format="percent"/></div>
    </div>
    <section class="panel" aria-label="Wait by priority"><h2>Wait for a slot by priority</h2>
      <ul class="waits" v-if="waits.length"><li v-for="[priority, wait] in waits" :key="priority"><span class="num">{{ priorityName(priority) }}</span>
        <span class="bar-track tall"><span class="bar-fill faint" :style="{ transform: 'scaleX(' + wait.max_s / longest + ')' }"></span><span class="bar-fill" :style="{ transform: 'scaleX(' + wait.mean_s / longest + ')' }"></span></span>
        <span class="num muted">mean {{ seconds(wait.mean_s) }}, longest {{ seconds(wait.max_s) }}, {{ plural(wait.count, 'request') }}</span></li></ul>
      <p v-else class="muted">No decision in the last ten minutes.</p></section>
  </section>`,
};
