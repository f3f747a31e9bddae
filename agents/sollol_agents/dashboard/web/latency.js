// Latency, throughput and prediction error over the last ten minutes, every mode in each chart.
import { count, number, percent, seconds } from "./format.js";
import { LineChart, gridOf } from "./chart.js";
import { Mode, Segmented } from "./ui.js";

const MODES = ["fast", "reliable", "async", "cheap"];

export const LatencyView = {
  components: { LineChart, Mode, Segmented },
  inject: ["store"],
  data: () => ({ share: "p95_s" }),
  computed: {
    state: (it) => it.store.state,
    summary: (it) => it.state.summary ?? { modes: {}, waits: {} },
    grid: (it) => gridOf(it.state),
    latency: (it) => it.byMode((point, mode) => point?.modes?.[mode]?.[it.share] ?? null),
    throughput: (it) => it.byMode((point, mode) => (point ? point.modes?.[mode]?.tps ?? 0 : null)),
    requests: (it) => it.byMode((point, mode) => (point ? (point.modes?.[mode]?.requests ?? 0) / 5 : null)),
    error: (it) => [{ name: "median error", kind: "s2", values: it.grid.map(([t, point]) => [t, point?.error_ratio ?? null]) }],
    modes: (it) => MODES.map((mode) => [mode, it.summary.modes[mode] ?? {}]),
    title: (it) => `Latency, ${it.share.slice(0, 3).toUpperCase()} by mode`,
  },
  methods: {
    count, number, percent, seconds,
    byMode(valueOf) {
      return MODES.map((mode, i) => ({ name: mode, kind: `m${i + 1}`, values: this.grid.map(([t, point]) => [t, valueOf(point, mode)]) }));
    },
    tps: (value) => number(value),
  },
  template: `<section class="view" aria-label="Latency and throughput">
    <section class="panel" aria-label="Last minute"><h2>The last minute</h2>
      <div class="scroll"><table class="table stacks"><thead><tr><th>Mode</th><th class="r">P50</th><th class="r">P95</th><th class="r">P99</th><th class="r">Speed</th><th class="r">Attempts</th><th class="r">Failed</th></tr></thead>
        <tbody><tr v-for="[mode, figures] in modes" :key="mode"><td><Mode :mode="mode"/></td><td class="r num" data-label="P50">{{ seconds(figures.p50_s) }}</td><td class="r num" data-label="P95">{{ seconds(figures.p95_s) }}</td><td class="r num" data-label="P99">{{ seconds(figures.p99_s) }}</td>
          <td class="r num" data-label="Speed">{{ number(figures.tps ?? 0) }}<small> tok/s</small></td><td class="r num" data-label="Attempts">{{ count(figures.requests ?? 0) }}</td><td class="r num" :class="{ 'bad-text': figures.failures }" data-label="Failed">{{ count(figures.failures ?? 0) }}</td></tr></tbody></table></div></section>
    <div class="toolbar"><Segmented v-model="share" :options="[['p50_s', 'P50'], ['p95_s', 'P95'], ['p99_s', 'P99']]" label="Latency that so many stay below"/></div>
    <div class="charts">
      <div class="panel"><LineChart :title="title" :at="state.at" :series="latency" :format="seconds"/></div>
      <div class="panel"><LineChart title="Tokens per second by mode" :at="state.at" :series="throughput" :format="tps"/></div>
      <div class="panel"><LineChart title="Attempts that ended per second by mode" :at="state.at" :series="requests" :format="tps"/></div>
      <div class="panel"><LineChart title="Prediction error" :at="state.at" :series="error" :format="percent"/></div>
    </div>
  </section>`,
};
