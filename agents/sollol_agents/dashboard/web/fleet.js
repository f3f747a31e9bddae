// The fleet: the node that needs a person first, as cards or, from a handful on, as rows.
import { clock, number, percent, seconds } from "./format.js";
import { ConnectPanel } from "./connect.js";
import { NodeDrawer } from "./node.js";
import { NodeMap, NodeTable, dotsOf, heatOf, loadOf, loadText, machineOf, memoryOf } from "./nodes_table.js";
import { Spark } from "./spark.js";
import { Bar, Empty, Icon, Segmented, State } from "./ui.js";

const CARDS_UP_TO = 4;
const MAP_FROM = 24;
const SHOWN_NOTICES = 12;
const KEPT_AS = "sollol-fleet-look";

function together(who, what) {
  const names = who.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const named = names.length > 4 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
  return `${named} ${what.replace(/^is /, "are ")}`;
}

const NodeCard = {
  components: { Bar, Icon, Spark, State },
  inject: ["store"],
  props: { row: Object },
  emits: ["open"],
  computed: {
    dots: (it) => dotsOf(it.row).slice(0, 32),
    chips: (it) => (it.row.loaded ?? []).slice(0, 3),
    more: (it) => Math.max(0, (it.row.loaded ?? []).length - 3),
    memory: (it) => memoryOf(it.row),
    load: (it) => loadOf(it.row),
    spark: (it) => it.store.state.sparks?.nodes?.[it.row.id],
    heat: (it) => (it.row.temperature_c >= 92 ? "bad-text" : it.row.temperature_c >= 85 ? "warn-text" : ""),
  },
  methods: { number, percent, seconds, machineOf, heatOf, loadText },
  template: `<article class="card node" :class="[row.state, row.concern ? 'concern-' + row.concern : '']">
    <header><span class="row gap"><State :state="row.state"/><State v-if="row.breaker && row.breaker !== 'closed'" :state="row.breaker" :label="'breaker ' + row.breaker.replaceAll('_', ' ')"/></span>
      <span class="badge" :class="{ cpu: !row.gpu }">{{ machineOf(row) }}</span></header>
    <button class="node-name" @click="$emit('open', row.id)" :aria-label="'Open ' + row.id"><h3>{{ row.id }}</h3></button>
    <p class="node-note">
      <span v-if="row.state === 'asleep'">sleeps until it is needed</span>
      <span v-if="row.state === 'left'">ended in order<template v-if="row.silent_s"> {{ seconds(row.silent_s) }} ago</template></span>
      <span v-else-if="row.concern" :class="row.concern > 2 ? 'bad-text' : 'warn-text'">{{ row.concern_text }}<template v-if="row.state === 'down' && row.silent_s"> · silent for {{ seconds(row.silent_s) }}</template></span>
      <span v-else>{{ row.engine || 'engine unknown' }}</span><template v-if="row.weight !== undefined && row.weight !== 1"> · weight {{ number(row.weight) }}</template><span v-if="row.temperature_c != null" class="num" :class="heat"> · {{ row.temperature_c }} °C</span><span v-if="row.power_w != null" class="num"> · {{ row.power_w }} W</span>
    </p>
    <div class="bars">
      <Bar v-if="memory.total" :label="memory.name" :used="memory.used" :total="memory.total" :text="memory.text" :kind="heatOf(memory.name, memory.ratio)"/>
      <Bar :label="row.gpu && row.gpu_ratio != null ? 'GPU' : 'CPU load'" :used="load" :total="1" :text="loadText(load)"/>
    </div>
    <div class="slots" role="img" :aria-label="(row.busy ?? 0) + ' of ' + (row.slots ?? 0) + ' slots busy'">
      <span class="dots"><i v-for="(phase, i) in dots" :key="i" class="slot" :class="phase"></i></span>
      <span class="num muted">{{ row.busy ?? 0 }} / {{ row.slots ?? 0 }} slots</span>
    </div>
    <div class="chips"><span v-for="model in chips" :key="model.name" class="chip">{{ model.name }}</span>
      <span v-if="more" class="chip">+{{ more }}</span><span v-if="!chips.length" class="muted small">no model in memory</span></div>
    <dl class="figures">
      <div class="wide"><dt>speed</dt><dd class="num"><span>{{ number(row.tps ?? 0) }}<small> tok/s</small></span><Spark :values="spark"/></dd></div>
      <div><dt>success</dt><dd class="num">{{ row.attempts ? percent(row.success_ratio) : '–' }}<small v-if="row.success_bound != null"> ≥ {{ percent(row.success_bound) }}</small></dd></div>
      <div><dt>round trip</dt><dd class="num">{{ number(row.rtt_ms ?? 0) }}<small> ms</small></dd></div>
    </dl>
  </article>`,
};

export const Notices = {
  components: { Icon },
  props: { notices: Array },
  computed: {
    // what happened to several nodes at a time is told once
    told() {
      const told = [];
      for (const notice of this.notices) {
        const [who, ...rest] = notice.text.split(" ");
        const [what, last] = [rest.join(" "), told.at(-1)];
        if (notice.kind === "node" && last?.what === what && Math.abs(last.at - notice.at) < 2) last.who.push(who);
        else told.push({ ...notice, who: [who], what: notice.kind === "node" ? what : null });
        if (told.length > SHOWN_NOTICES) break;
      }
      return told.slice(0, SHOWN_NOTICES).map((one) => (one.who.length > 1 ? { ...one, text: together(one.who, one.what) } : one));
    },
  },
  methods: { clock },
  template: `<section class="panel" aria-label="Events"><h2>What happened</h2>
    <ol class="notices"><li v-for="notice in told" :key="notice.id">
      <time class="num muted">{{ clock(notice.at) }}</time><span class="mark" :class="notice.state"><Icon :name="{ good: 'up', bad: 'down', warn: 'suspect', info: 'info' }[notice.state]" :size="13"/></span><span>{{ notice.text }}</span></li></ol></section>`,
};

function keptLook() {
  try {
    return localStorage.getItem(KEPT_AS) ?? "";
  } catch {
    return ""; // a browser that keeps nothing
  }
}

export const FleetView = {
  components: { ConnectPanel, NodeCard, NodeDrawer, NodeMap, NodeTable, Notices, Empty, Segmented },
  inject: ["store"],
  data: () => ({ text: "", wanted: "all", sort: "trouble", opened: null, chosen: keptLook() }),
  computed: {
    state: (it) => it.store.state,
    all: (it) => Object.values(it.state.nodes),
    look: (it) => it.chosen || (it.all.length > CARDS_UP_TO ? "rows" : "cards"),
    hasMap: (it) => it.look === "rows" && it.rows.length >= MAP_FROM,
    options() {
      const options = [["all", `All ${this.all.length}`]];
      for (const state of ["up", "draining", "suspect", "down", "asleep", "left"]) {
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
      const need = (row) => (row.state === "left" || row.state === "asleep" ? -1 : row.concern ?? 0) + (row.state === "draining" ? 0.5 : 0);
      const by = {
        trouble: (a, b) => need(b) - need(a),
        name: () => 0,
        speed: (a, b) => (b.tps ?? 0) - (a.tps ?? 0),
        load: (a, b) => (b.busy ?? 0) - (a.busy ?? 0),
      }[this.sort];
      return rows.sort((a, b) => by(a, b) || a.id.localeCompare(b.id, "en", { numeric: true }));
    },
    row: (it) => it.state.nodes[it.opened],
  },
  methods: {
    choose(look) {
      this.chosen = look;
      try {
        localStorage.setItem(KEPT_AS, look);
      } catch {
        // it holds for this page then
      }
    },
  },
  template: `<section class="view" aria-label="Fleet">
    <template v-if="all.length">
      <div class="toolbar">
        <input class="input" type="search" v-model="text" placeholder="Filter nodes" aria-label="Filter nodes">
        <Segmented v-model="wanted" :options="options" label="State"/>
        <label class="inline"><span class="muted">Sort by</span>
          <select class="input" v-model="sort"><option value="trouble">trouble</option><option value="name">name</option><option value="load">load</option><option value="speed">speed</option></select></label>
        <Segmented class="push" :model-value="look" :options="[['cards', 'Cards'], ['rows', 'Rows']]" label="Look" @update:model-value="choose"/>
      </div>
      <NodeMap v-if="hasMap" :rows="rows" @open="opened = $event"/>
      <div v-if="rows.length && look === 'cards'" class="cards"><NodeCard v-for="row in rows" :key="row.id" :row="row" @open="opened = $event"/></div>
      <NodeTable v-else-if="rows.length" :rows="rows" @open="opened = $event"/>
      <Empty v-else title="No node matches">Change the filter or the state above.</Empty>
    </template>
    <template v-else>
      <Empty title="No node has joined yet">Start one beside an engine, and it appears here by itself. The lines below are for this fleet.</Empty>
      <section class="panel" aria-label="Connect"><ConnectPanel is-joining/></section>
    </template>
    <Notices v-if="state.notices.length" :notices="state.notices"/>
    <NodeDrawer v-if="row" :row="row" @close="opened = null"/>
  </section>`,
};
