// The fleet: one card a node.
import { number, gib, percent, seconds, shortGpu, clock } from "./format.js";
import { NodeDrawer } from "./node.js";
import { Bar, Empty, Icon, Segmented, State } from "./ui.js";

const NodeCard = {
  components: { Bar, Icon, State },
  props: { row: Object },
  emits: ["open"],
  computed: {
    dots: (it) => {
      const slots = Math.max(it.row.slots ?? 0, it.row.running?.length ?? 0);
      return Array.from({ length: Math.min(slots, 32) }, (_, i) => it.row.running?.[i]?.phase ?? (it.row.running?.[i] ? "reading" : "free"));
    },
    chips: (it) => (it.row.loaded ?? []).slice(0, 3),
    more: (it) => Math.max(0, (it.row.loaded ?? []).length - 3),
    breaker: (it) => it.row.breaker ?? "closed",
    isReachable: (it) => it.row.is_reachable !== false,
    machine: (it) => {
      if (!it.row.gpu) return "CPU";
      return (it.row.gpus > 1 ? `${it.row.gpus} × ` : "") + shortGpu(it.row.gpu);
    },
    load: (it) => (it.row.gpu && it.row.gpu_ratio != null ? it.row.gpu_ratio : it.row.cpu_ratio ?? 0),
  },
  methods: { number, gib, percent, seconds },
  template: `<article class="card node" :class="row.state">
    <header>
      <State :state="row.state"/>
      <span class="badge" :class="{ cpu: !row.gpu }">{{ machine }}</span>
    </header>
    <button class="node-name" @click="$emit('open', row.id)" :aria-label="'Open ' + row.id"><h3>{{ row.id }}</h3></button>
    <p class="node-note">
      <span v-if="row.state === 'down'">{{ row.reason || 'no heartbeat' }}<template v-if="row.silent_s"> · silent for {{ seconds(row.silent_s) }}</template></span>
      <span v-else-if="row.state === 'left'">ended in order<template v-if="row.silent_s"> {{ seconds(row.silent_s) }} ago</template></span>
      <span v-else-if="!isReachable" class="bad-text">engine does not answer: {{ row.engine_detail || 'no reason told' }}</span>
      <span v-else-if="row.state === 'suspect'">{{ row.reason || 'heartbeats are late' }}</span>
      <span v-else>{{ row.engine || 'engine unknown' }}<template v-if="row.weight !== undefined && row.weight !== 1"> · weight {{ number(row.weight) }}</template></span>
    </p>
    <div class="bars">
      <Bar v-if="row.vram_total_mib" label="VRAM" :used="row.vram_used_mib ?? 0" :total="row.vram_total_mib" :text="gib(row.vram_used_mib ?? 0) + ' / ' + gib(row.vram_total_mib) + ' GiB'"/>
      <Bar v-if="row.ram_total_mib" label="RAM" :used="row.ram_used_mib ?? 0" :total="row.ram_total_mib ?? 0" :text="gib(row.ram_used_mib ?? 0) + ' / ' + gib(row.ram_total_mib ?? 0) + ' GiB'"/>
      <Bar may-fill :label="row.gpu && row.gpu_ratio != null ? 'GPU' : 'CPU load'" :used="load" :total="1" :text="percent(load)"/>
    </div>
    <div class="slots" role="img" :aria-label="(row.busy ?? 0) + ' of ' + (row.slots ?? 0) + ' slots busy'">
      <span class="dots"><i v-for="(phase, i) in dots" :key="i" class="slot" :class="phase"></i></span>
      <span class="num muted">{{ row.busy ?? 0 }} / {{ row.slots ?? 0 }} slots</span>
    </div>
    <div class="chips"><span v-for="model in chips" :key="model.name" class="chip" :title="model.name">{{ model.name }}</span>
      <span v-if="more" class="chip">+{{ more }}</span><span v-if="!chips.length" class="muted small">no model in memory</span></div>
    <dl class="figures">
      <div><dt>speed</dt><dd class="num">{{ number(row.tps ?? 0) }}<small> tok/s</small></dd></div>
      <div><dt>success</dt><dd class="num">{{ percent(row.success_ratio) }}<small v-if="row.success_bound != null"> ≥ {{ percent(row.success_bound) }}</small></dd></div>
      <div><dt>round trip</dt><dd class="num">{{ number(row.rtt_ms ?? 0) }}<small> ms</small></dd></div>
      <div><dt>breaker</dt><dd><State :state="breaker"/></dd></div>
      <div v-if="row.temperature_c != null"><dt>heat</dt><dd class="num">{{ row.temperature_c }}<small> °C</small></dd></div>
      <div v-if="row.power_w != null"><dt>power</dt><dd class="num">{{ row.power_w }}<small> W</small></dd></div>
    </dl>
  </article>`,
};

export const FleetView = {
  components: { NodeCard, NodeDrawer, Empty, Segmented, Icon },
  inject: ["store"],
  data: () => ({ text: "", wanted: "all", sort: "name", opened: null }),
  computed: {
    state: (it) => it.store.state,
    all: (it) => Object.values(it.state.nodes),
    options() {
      const options = [["all", `All ${this.all.length}`]];
      for (const state of ["up", "draining", "suspect", "down", "left"]) {
        const count = this.all.filter((row) => row.state === state).length;
        if (count || state === this.wanted) options.push([state, `${state[0].toUpperCase()}${state.slice(1)} ${count}`]);
      }
      return options;
    },
    rows() {
      const text = this.text.trim().toLowerCase();
      const rows = this.all.filter(
        (row) =>
          (this.wanted === "all" || row.state === this.wanted) &&
          (!text || `${row.id} ${row.gpu ?? "cpu"} ${row.host ?? ""} ${(row.loaded ?? []).map((m) => m.name)}`.toLowerCase().includes(text)),
      );
      const by = { name: () => 0, speed: (a, b) => (b.tps ?? 0) - (a.tps ?? 0), load: (a, b) => (b.busy ?? 0) - (a.busy ?? 0) }[this.sort];
      return rows.sort((a, b) => by(a, b) || a.id.localeCompare(b.id, "en", { numeric: true }));
    },
    row: (it) => it.state.nodes[it.opened],
  },
  methods: { clock },
  template: `<section class="view" aria-label="Fleet">
    <div class="toolbar">
      <input class="input" type="search" v-model="text" placeholder="Filter nodes" aria-label="Filter nodes">
      <Segmented v-model="wanted" :options="options" label="State"/>
      <label class="inline"><span class="muted">Sort by</span>
        <select class="input" v-model="sort"><option value="name">name</option><option value="load">load</option><option value="speed">speed</option></select></label>
    </div>
    <div v-if="rows.length" class="cards"><NodeCard v-for="row in rows" :key="row.id" :row="row" @open="opened = $event"/></div>
    <Empty v-else-if="all.length" title="No node matches">Change the filter or the state above.</Empty>
    <Empty v-else title="No node has joined yet">Start one beside an engine: <code>sollol node --nats ADDRESS</code>. It appears here by itself.</Empty>
    <section class="panel" v-if="state.notices.length" aria-label="Events">
      <h2>What happened</h2>
      <ol class="notices"><li v-for="notice in state.notices.slice(0, 12)" :key="notice.id">
        <time class="num muted">{{ clock(notice.at) }}</time><span class="mark" :class="notice.state"><Icon :name="{ good: 'up', bad: 'down', warn: 'suspect', info: 'info' }[notice.state]" :size="13"/></span><span>{{ notice.text }}</span></li></ol>
    </section>
    <NodeDrawer v-if="row" :row="row" @close="opened = null"/>
  </section>`,
};
