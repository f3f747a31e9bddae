// The whole page: navigation, the fleet in a few numbers, and one view at a time.
import { computed } from "vue";
import { count, number, seconds } from "sollol-dashboard/format.js";
import { makeStore } from "sollol-dashboard/store.js";
import { Drawer, Icon } from "sollol-dashboard/ui.js";
import { FleetView } from "sollol-dashboard/fleet.js";
import { DecisionsView } from "sollol-dashboard/decisions.js";
import { LatencyView } from "sollol-dashboard/latency.js";
import { JobsView } from "sollol-dashboard/jobs.js";
import { ConnectPanel } from "sollol-dashboard/connect.js";
import { QueueView } from "sollol-dashboard/queue.js";
import { Spark } from "sollol-dashboard/spark.js";
import { Troubles } from "sollol-dashboard/trouble.js";
import { SettingsView } from "sollol-dashboard/settings.js";
import { PlaygroundView } from "sollol-dashboard/playground.js";

const VIEWS = [
  ["fleet", "Fleet", FleetView],
  ["decisions", "Decisions", DecisionsView],
  ["queue", "Queue", QueueView],
  ["jobs", "Jobs", JobsView],
  ["latency", "Latency", LatencyView],
  ["settings", "Settings", SettingsView],
  ["playground", "Playground", PlaygroundView],
];

// On a phone these have room at the foot; the others are behind "More".
const ON_PHONE = new Set(["fleet", "decisions", "queue", "jobs"]);
const WATCH_MS = 250;

function topicOf(hash) {
  const wanted = hash.replace("#", "");
  return VIEWS.some(([topic]) => topic === wanted) ? wanted : "fleet";
}

export default {
  components: { ConnectPanel, Drawer, Icon, Spark, Troubles },
  props: { version: String, person: String, mayOperate: Boolean, canLogOut: Boolean },
  emits: ["show", "drawn", "ask"],
  provide() {
    return { store: this.store, mayOperate: computed(() => this.mayOperate) };
  },
  data: () => ({ topic: topicOf(location.hash), isConnecting: false, isMore: false }),
  computed: {
    views: () => VIEWS,
    state: (it) => it.store.state,
    head: (it) => it.state.head,
    title: (it) => (it.topic === "latency" ? "Latency and throughput" : VIEWS.find(([topic]) => topic === it.topic)[1]),
    view: (it) => VIEWS.find(([topic]) => topic === it.topic)[2],
    isDrawn: (it) => it.state.isReady && it.state.topic === it.topic,
    curves: (it) => it.state.sparks?.fleet ?? {},
    isStale: (it) => it.state.frozenForS > 0 || it.head?.is_connected === false,
    failed: (it) => (it.head?.requests ? it.head.failures / it.head.requests : null),
  },
  beforeCreate() {
    this.store = makeStore((name, value) => this.$emit(name, value));
    this.drawing = 0;
  },
  mounted() {
    window.addEventListener("hashchange", this.onHash);
    document.title = `${this.title} · SOLLOL`;
    this.$emit("show", this.topic);
    this.watching = setInterval(() => this.store.watch(this.drawing > 0), WATCH_MS);
  },
  unmounted() {
    window.removeEventListener("hashchange", this.onHash);
    clearInterval(this.watching);
  },
  methods: {
    count, number, seconds,
    apply(text) {
      const update = JSON.parse(text);
      this.store.heard();
      if (update.topic === this.topic) this.store.apply(update);
      // said after the next frame: a page that draws slowly, or not at all, is not sent more
      this.drawing++;
      requestAnimationFrame(() => {
        this.drawing--;
        this.$emit("drawn", update.v);
      });
    },
    isOnPhone: (name) => ON_PHONE.has(name),
    told(text) {
      this.store.heard();
      this.store.told(JSON.parse(text));
    },
    onHash() {
      const topic = topicOf(location.hash);
      this.isMore = false;
      if (topic === this.topic) return;
      this.topic = topic;
      document.title = `${this.title} · SOLLOL`;
      this.$emit("show", topic);
      this.$nextTick(() => window.scrollTo(0, 0));
    },
    theme: () => window.sollolTheme(),
  },
  template: `<div class="shell">
    <a class="skip" href="#content" @click.prevent="$refs.content.focus()">Skip to the content</a>
    <nav class="nav" :class="{ open: isMore }" aria-label="Views">
      <div class="brand"><img src="/assets/icon.svg" alt="" width="28" height="28"><span>SOLLOL</span></div>
      <a v-for="[name, text] in views" :key="name" :href="'#' + name" :class="{ second: !isOnPhone(name) }" :aria-current="name === topic ? 'page' : undefined"><Icon :name="name" :size="20"/><span>{{ text }}</span></a>
      <button class="more" :aria-expanded="isMore" @click="isMore = !isMore"><Icon name="more" :size="20"/><span>More</span></button>
      <div class="nav-foot second"><button class="button ghost" @click="isConnecting = true; isMore = false"><Icon name="connect"/><span>Connect</span></button>
        <button class="button ghost" @click="theme"><Icon name="theme"/><span>Light or dark</span></button>
        <form v-if="canLogOut" method="post" action="/logout"><button class="button ghost"><Icon name="logout"/><span>Log out{{ person ? ' ' + person : '' }}</span></button></form>
        <span class="muted small num version">version {{ version }}</span></div>
    </nav>
    <main id="content" ref="content" tabindex="-1" class="main" :class="{ stale: isStale }">
      <header class="top"><h1>{{ title }}</h1></header>
      <Troubles/>
      <dl class="pulse" v-if="head" aria-label="The fleet now">
        <div><dt>nodes up</dt><dd class="num">{{ head.nodes_up }}<small> of {{ head.nodes }}</small></dd></div>
        <div><dt>slots busy</dt><dd class="num">{{ head.busy }}<small> of {{ head.slots }}</small></dd><Spark :values="curves.busy"/></div>
        <div><dt>waiting</dt><dd class="num" :class="{ 'warn-text': head.queued >= 10 && head.queued >= head.slots }">{{ count(head.queued) }}</dd><Spark :values="curves.queued"/></div>
        <div><dt>speed</dt><dd class="num">{{ number(head.tps) }}<small> tok/s</small></dd><Spark :values="curves.tps"/></div>
        <div class="second"><dt>decisions</dt><dd class="num">{{ number(head.decisions_per_s) }}<small> /s</small></dd><Spark :values="curves.decisions"/></div>
        <div class="second"><dt>P95, last minute</dt><dd class="num">{{ seconds(head.p95_s) }}</dd></div>
        <div class="second"><dt>failed, last minute</dt><dd class="num" :class="failed >= 0.25 ? 'bad-text' : head.failures ? 'warn-text' : ''">{{ failed == null ? '–' : head.failures + ' of ' + count(head.requests) }}</dd></div>
      </dl>
      <component v-if="isDrawn" :is="view"/>
      <div v-else class="waiting" role="status"><span class="muted">Listening to the bus…</span></div>
    </main>
    <Drawer v-if="isConnecting" title="Connect" @close="isConnecting = false"><ConnectPanel/></Drawer>
    <div class="toasts" role="status" aria-live="polite"><p v-for="toast in state.toasts" :key="toast.id" class="toast" :class="toast.kind"><Icon :name="toast.kind === 'bad' ? 'suspect' : 'up'"/>{{ toast.text }}</p></div>
  </div>`,
};
