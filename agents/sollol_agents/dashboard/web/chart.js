// A line chart of the last ten minutes: SVG, with round figures and round times on its axes, a legend in words and the
// values under the pointer.
import { clock } from "./format.js";

const LONGEST_S = 600;
const SHORTEST_S = 120;
const LEFT = 52;
const BOTTOM = 22;
const TOP = 8;
const RIGHT = 8;

const SLOT_S = 5;
const SLOTS = 120;
const TICK_STEPS_S = [10, 15, 30, 60, 120, 300];
const TICK_ROOM = 72;

// One entry for every slot that is over, so that a pause is a gap and not a line.
export function gridOf(state) {
  const known = new Map(state.points.map((point) => [point.t, point]));
  const last = (Math.floor(state.at / SLOT_S) - 1) * SLOT_S;
  return Array.from({ length: SLOTS }, (_, i) => last - (SLOTS - 1 - i) * SLOT_S).map((t) => [t, known.get(t)]);
}

// A time on the axis, with seconds only where ticks are less than a minute apart.
function timeLabel(t, step) {
  return step < 60 ? clock(t) : clock(t).slice(0, 5);
}

function niceStep(max) {
  const rough = max / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
}

export const LineChart = {
  props: {
    title: String,
    at: Number,
    series: Array, // {name, kind, values: [[t, value or null]]}
    format: Function,
    leastStep: { type: Number, default: 0 },
    height: { type: Number, default: 220 },
  },
  data: () => ({ width: 640, hover: null }),
  computed: {
    right: (it) => Math.ceil(it.at / 5) * 5,
    top: (it) => {
      const all = it.series.flatMap((line) => line.values.map(([, value]) => value ?? 0));
      return Math.max(Math.max(...all, 0) * 1.08, 4 * it.leastStep) || 1; // nothing but zeros is drawn on the ground
    },
    ticks() {
      if (this.isEmpty) return [];
      const step = Math.max(this.leastStep, niceStep(this.top));
      return Array.from({ length: Math.floor(this.top / step) + 1 }, (_, i) => i * step);
    },
    span() {
      // a young page has little to show: it fills the width with that
      const first = Math.min(this.right, ...this.series.flatMap((line) => line.values.filter(([, value]) => value != null).map(([t]) => t)));
      return Math.min(LONGEST_S, Math.max(SHORTEST_S, Math.ceil((this.right - first) / 60) * 60));
    },
    times() {
      const fit = Math.max(2, Math.floor((this.width - LEFT - RIGHT) / TICK_ROOM));
      const step = TICK_STEPS_S.find((size) => this.span / size <= fit) ?? 300;
      const first = Math.ceil((this.right - this.span) / step) * step;
      const last = this.right - this.span * (30 / (this.width - LEFT - RIGHT)); // half a label must fit
      const ticks = [];
      for (let t = first; t <= last; t += step) if (this.x(t) > LEFT + 24 || t === this.right - this.span) ticks.push([t, timeLabel(t, step)]);
      return ticks;
    },
    isEmpty: (it) => !it.series.some((line) => line.values.some(([, value]) => value != null)),
    paths() {
      return this.series.map((line) => ({ ...line, d: this.path(line.values), dots: this.lonely(line.values) }));
    },
    under() {
      if (this.hover == null) return null;
      const rows = this.series.map((line) => {
        const point = line.values.find(([t]) => t === this.hover);
        return { name: line.name, kind: line.kind, value: point?.[1] };
      });
      return { x: this.x(this.hover), time: clock(this.hover), rows };
    },
  },
  mounted() {
    this.observer = new ResizeObserver(([entry]) => (this.width = Math.max(240, Math.round(entry.contentRect.width))));
    this.observer.observe(this.$refs.box);
  },
  unmounted() {
    this.observer.disconnect();
  },
  methods: {
    x(t) {
      return LEFT + (1 - (this.right - t) / this.span) * (this.width - LEFT - RIGHT);
    },
    y(value) {
      return TOP + (1 - value / this.top) * (this.height - TOP - BOTTOM);
    },
    path(values) {
      let d = "";
      let isDown = false;
      for (const [t, value] of values) {
        if (value == null || t < this.right - this.span) isDown = false;
        else {
          d += `${isDown ? "L" : "M"}${this.x(t).toFixed(1)} ${this.y(value).toFixed(1)}`;
          isDown = true;
        }
      }
      return d;
    },
    lonely(values) {
      // a value without neighbours would draw no line
      return values
        .filter(([t, value], i) => value != null && t >= this.right - this.span && values[i - 1]?.[1] == null && values[i + 1]?.[1] == null)
        .map(([t, value]) => [this.x(t), this.y(value)]);
    },
    onMove(event) {
      const share = (event.offsetX - LEFT) / (this.width - LEFT - RIGHT);
      const t = this.right - this.span + share * this.span;
      const known = this.series[0]?.values.map(([time]) => time) ?? [];
      this.hover = known.reduce((best, time) => (best == null || Math.abs(time - t) < Math.abs(best - t) ? time : best), null);
    },
  },
  template: `<figure class="chart" ref="box">
    <figcaption><h3>{{ title }}</h3>
      <ul class="legend"><li v-for="line in series" :key="line.name"><span class="swatch" :class="line.kind"></span>{{ line.name }}</li></ul>
    </figcaption>
    <div class="plot" :style="{ height: height + 'px' }">
      <svg :width="width" :height="height" role="img" :aria-label="title + ', last ten minutes'" @pointermove="onMove" @pointerleave="hover = null">
        <g class="grid"><template v-for="tick in ticks" :key="tick">
          <line :x1="${LEFT}" :x2="width - ${RIGHT}" :y1="y(tick)" :y2="y(tick)"/>
          <text :x="${LEFT - 8}" :y="y(tick) + 4" text-anchor="end">{{ format(tick) }}</text></template></g>
        <g class="grid"><template v-for="[t, label] in times" :key="t"><line class="upright" :x1="x(t)" :x2="x(t)" y1="${TOP}" :y2="height - ${BOTTOM}"/>
          <text :x="x(t)" :y="height - 4" text-anchor="middle">{{ label }}</text></template></g>
        <g v-for="line in paths" :key="line.name"><path class="line" :class="line.kind" :d="line.d"/>
          <circle v-for="[cx, cy] in line.dots" class="dot" :class="line.kind" :cx="cx" :cy="cy" r="2.5"/></g>
        <line v-if="under" class="cursor" :x1="under.x" :x2="under.x" :y1="${TOP}" :y2="height - ${BOTTOM}"/>
      </svg>
      <p v-if="isEmpty" class="chart-empty muted">Nothing in the last ten minutes</p>
      <div v-if="under" class="tip num" :style="under.x > width / 2 ? { right: width - under.x + 10 + 'px' } : { left: under.x + 10 + 'px' }">
        <b>{{ under.time }}</b>
        <span v-for="row in under.rows" :key="row.name"><i class="swatch" :class="row.kind"></i>{{ row.name }} {{ row.value == null ? '–' : format(row.value) }}</span>
      </div>
    </div>
  </figure>`,
};
