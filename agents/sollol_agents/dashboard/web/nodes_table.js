// Many nodes in little space: a row each, and above a large fleet a map with a square each.
import { gib, number, percent, seconds, shortGpu } from "./format.js";
import { Spark } from "./spark.js";
import { Icon, State } from "./ui.js";

const DOTS = 8;

export function machineOf(row) {
  if (!row.gpu) return "CPU";
  return (row.gpus > 1 ? `${row.gpus} × ` : "") + shortGpu(row.gpu);
}

export function loadOf(row) {
  return (row.gpu && row.gpu_ratio != null ? row.gpu_ratio : row.cpu_ratio) ?? 0;
}

// More runs or waits than there are cores: a share of a hundred would say nothing.
export function loadText(load) {
  return load > 1.005 ? `${number(load)} per core` : percent(load);
}

export function memoryOf(row) {
  const isVideo = row.vram_total_mib > 0;
  const used = (isVideo ? row.vram_used_mib : row.ram_used_mib) ?? 0;
  const total = (isVideo ? row.vram_total_mib : row.ram_total_mib) ?? 0;
  return { name: isVideo ? "VRAM" : "RAM", used, total, ratio: total ? Math.min(1, used / total) : 0, text: `${gib(used)} / ${gib(total)} GiB` };
}

// A bar's colour: video memory may be full of models, which is what it is for; other memory may not.
export function heatOf(name, ratio) {
  return name !== "RAM" ? "" : ratio >= 0.96 ? "bad" : ratio >= 0.9 ? "high" : "";
}

export function dotsOf(row) {
  const slots = Math.max(row.slots ?? 0, row.running?.length ?? 0);
  return Array.from({ length: slots }, (_, i) => (row.running?.[i] ? row.running[i].phase ?? "reading" : "free"));
}

const NodeLine = {
  components: { Icon, Spark, State },
  inject: ["store"],
  props: { row: Object, isCompact: Boolean },
  emits: ["open"],
  computed: {
    memory: (it) => memoryOf(it.row),
    load: (it) => loadOf(it.row),
    dots: (it) => dotsOf(it.row),
    isGone: (it) => ["down", "left", "asleep"].includes(it.row.state),
    spark: (it) => it.store.state.sparks?.nodes?.[it.row.id],
    models() {
      const loaded = this.row.loaded ?? [];
      return (loaded[0]?.name ?? "no model in memory") + (loaded.length > 1 ? ` +${loaded.length - 1}` : "");
    },
  },
  methods: { number, percent, seconds, machineOf, heatOf, loadText },
  template: `<li class="node node-row" :class="[row.state, { compact: isCompact }, row.concern ? 'concern-' + row.concern : '']">
    <State :state="row.state"/>
    <span class="who"><button class="node-name" @click="$emit('open', row.id)" :aria-label="'Open ' + row.id"><h3>{{ row.id }}</h3></button>
      <span v-if="row.concern" class="small" :class="row.concern > 2 ? 'bad-text' : 'warn-text'">{{ row.concern_text }}</span>
      <span v-else-if="row.state === 'left'" class="small muted">ended in order</span>
      <span v-else-if="row.state === 'asleep'" class="small muted">sleeps until it is needed</span>
      <span v-else class="small muted">{{ machineOf(row) }} · {{ models }}</span></span>
    <template v-if="!isGone">
      <span class="dots" role="img" :aria-label="(row.busy ?? 0) + ' of ' + (row.slots ?? 0) + ' slots busy'"><template v-if="dots.length <= ${DOTS}"><i v-for="(phase, i) in dots" :key="i" class="slot" :class="phase"></i></template><span class="num small muted">{{ row.busy ?? 0 }} / {{ row.slots ?? 0 }}</span></span>
      <span class="mini memory" role="img" :aria-label="memory.name + ': ' + memory.text"><span class="num small"><span class="muted">{{ memory.name }}</span> {{ memory.text }}</span><span class="bar-track"><span class="bar-fill" :class="heatOf(memory.name, memory.ratio)" :style="{ transform: 'scaleX(' + memory.ratio + ')' }"></span></span></span>
      <span class="mini load" role="img" :aria-label="'load: ' + loadText(load)"><span class="num small"><span class="muted">{{ row.gpu && row.gpu_ratio != null ? 'GPU' : 'CPU' }}</span> {{ loadText(load) }}<span v-if="row.temperature_c != null" :class="row.temperature_c >= 92 ? 'bad-text' : row.temperature_c >= 85 ? 'warn-text' : 'muted'">{{ ' · ' + row.temperature_c }} °C</span></span><span class="bar-track"><span class="bar-fill" :style="{ transform: 'scaleX(' + Math.min(1, load) + ')' }"></span></span></span>
      <span class="speed num"><Spark :values="spark"/><span>{{ number(row.tps ?? 0) }}<small class="muted"> tok/s</small></span></span>
      <span class="num success" :class="{ 'warn-text': row.attempts >= 20 && row.success_ratio < 0.9 }">{{ row.attempts ? percent(row.success_ratio) : '–' }}</span>
    </template>
    <span v-else class="rest small num">{{ row.silent_s ? 'last heard ' + seconds(row.silent_s) + ' ago' : '' }}</span>
  </li>`,
};

export const NodeTable = {
  components: { NodeLine },
  props: { rows: Array },
  emits: ["open"],
  template: `<div class="node-table">
    <div class="node-row heads small muted" aria-hidden="true"><span>state</span><span>node</span><span>slots busy</span><span>memory</span><span>load</span><span>speed, last 4 min</span><span class="success">success</span></div>
    <ul aria-label="Nodes"><NodeLine v-for="row in rows" :key="row.id" :row="row" :is-compact="rows.length > 24" @open="$emit('open', $event)"/></ul></div>`,
};

export const NodeMap = {
  props: { rows: Array },
  emits: ["open"],
  computed: {
    cells() {
      return this.rows.map((row) => {
        const busy = row.slots ? Math.min(1, (row.busy ?? 0) / row.slots) : 0;
        const kind = row.state === "left" || row.state === "asleep" ? "left" : row.concern > 2 ? "bad" : row.concern ? "warn" : row.state === "draining" ? "draining" : "";
        const words = row.concern_text || `${row.state}, ${row.busy ?? 0} of ${row.slots ?? 0} slots busy`;
        return { id: row.id, kind, busy, title: `${row.id}: ${words}`, mark: kind === "bad" ? "×" : kind === "warn" ? "!" : "" };
      });
    },
  },
  // the table below says the same and is reached by the keyboard
  template: `<div class="panel map" aria-hidden="true">
    <div class="map-cells"><button v-for="cell in cells" :key="cell.id" tabindex="-1" class="cell" :class="cell.kind" :title="cell.title" :style="{ '--busy': cell.busy }" @click="$emit('open', cell.id)">{{ cell.mark }}</button></div>
    <p class="legend small"><span><i class="cell" style="--busy: 0"></i>idle</span><span><i class="cell" style="--busy: 1"></i>every slot busy</span><span><i class="cell warn">!</i>needs a look</span><span><i class="cell bad">×</i>serves nothing</span></p></div>`,
};
