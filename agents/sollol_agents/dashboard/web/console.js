// The whole page: navigation, the fleet in a few numbers, and one view at a time.
import { computed } from "vue";
import { count, number, percent, seconds } from "sollol-dashboard/format.js";
import { makeStore } from "sollol-dashboard/store.js";
import { Icon } from "sollol-dashboard/ui.js";
import { FleetView } from "sollol-dashboard/fleet.js";
import { DecisionsView } from "sollol-dashboard/decisions.js";
import { LatencyView } from "sollol-dashboard/latency.js";
import { JobsView } from "sollol-dashboard/jobs.js";
import { SettingsView } from "sollol-dashboard/settings.js";
import { PlaygroundView } from "sollol-dashboard/playground.js";

const VIEWS = [
  ["fleet", "Fleet", FleetView],
  ["decisions", "Decisions", DecisionsView],
  ["latency", "Latency", LatencyView],
  ["jobs", "Jobs", JobsView],
  ["settings", "Settings", SettingsView],
  ["playground", "Playground", PlaygroundView],
];

function topicOf(hash) {
  const wanted = hash.replace("#", "");
  return VIEWS.some(([topic]) => topic === wanted) ? wanted : "fleet";
}

export default {
  components: { Icon },
  props: { version: String, person: String, mayOperate: Boolean, canLogOut: Boolean },
  emits: ["show", "drawn", "ask"],
  provide() {
    return { store: this.store, mayOperate: computed(() => this.mayOperate) };
  },
  data: () => ({ topic: topicOf(location.hash) }),
  computed: {
    views: () => VIEWS,
    state: (it) => it.store.state,
    head: (it) => it.state.head,
    title: (it) => (it.topic === "latency" ? "Latency and throughput" : VIEWS.find(([topic]) => topic === it.topic)[1]),
    view: (it) => VIEWS.find(([topic]) => topic === it.topic)[2],
    isDrawn: (it) => it.state.isReady && it.state.topic === it.topic,
    trouble() {
      if (!this.head) return "";
      if (!this.head.is_connected) return "The connection to NATS is lost. What you see is what was known before; it is renewed when the server is back.";
      if (!this.head.scorer) return "No scorer is in office: nothing is decided.";
      return "";
    },
  },
  beforeCreate() {
    this.store = makeStore((name, value) => this.$emit(name, value));
  },
  mounted() {
    window.addEventListener("hashchange", this.onHash);
    document.title = `${this.title} · SOLLOL`;
    this.$emit("show", this.topic);
  },
  unmounted() {
    window.removeEventListener("hashchange", this.onHash);
  },
  methods: {
    count, number, percent, seconds,
    apply(text) {
      const update = JSON.parse(text);
      if (update.topic === this.topic) this.store.apply(update);
      // said after the next frame: a page that draws slowly, or not at all, is not sent more
      requestAnimationFrame(() => this.$emit("drawn", update.v));
    },
    told(text) {
      this.store.told(JSON.parse(text));
    },
    onHash() {
      const topic = topicOf(location.hash);
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
    <nav class="nav" aria-label="Views">
      <div class="brand"><img src="/assets/icon.svg" alt="" width="28" height="28"><span>SOLLOL</span></div>
      <a v-for="[name, text] in views" :key="name" :href="'#' + name" :aria-current="name === topic ? 'page' : undefined"><Icon :name="name" :size="20"/><span>{{ text }}</span></a>
      <div class="nav-foot"><button class="button ghost" @click="theme"><Icon name="theme"/><span>Light or dark</span></button>
        <form v-if="canLogOut" method="post" action="/logout"><button class="button ghost"><Icon name="logout"/><span>Log out{{ person ? ' ' + person : '' }}</span></button></form>
        <span class="muted small num version">version {{ version }}</span></div>
    </nav>
    <main id="content" ref="content" tabindex="-1" class="main">
      <header class="top"><h1>{{ title }}</h1>
        <div class="top-acts"><button class="button ghost square" aria-label="Light or dark" @click="theme"><Icon name="theme"/></button></div></header>
      <dl class="pulse" v-if="head" aria-label="The fleet now">
        <div><dt>nodes up</dt><dd class="num">{{ head.nodes_up }}<small> of {{ head.nodes }}</small></dd></div>
        <div><dt>slots busy</dt><dd class="num">{{ head.busy }}<small> of {{ head.slots }}</small></dd></div>
        <div><dt>waiting</dt><dd class="num">{{ count(head.queued) }}</dd></div>
        <div><dt>speed</dt><dd class="num">{{ number(head.tps) }}<small> tok/s</small></dd></div>
        <div><dt>decisions</dt><dd class="num">{{ number(head.decisions_per_s) }}<small> /s</small></dd></div>
        <div><dt>P95, last minute</dt><dd class="num">{{ seconds(head.p95_s) }}</dd></div>
        <div><dt>failed, last minute</dt><dd class="num" :class="{ 'bad-text': head.failures }">{{ head.requests ? percent(head.failures / head.requests) : '–' }}</dd></div>
        <div><dt>strategy</dt><dd class="word">{{ head.strategy ? head.strategy.replaceAll('_', ' ') : '–' }}</dd></div>
      </dl>
      <p v-if="trouble" class="trouble" role="alert"><Icon name="suspect" :size="18"/><span>{{ trouble }}<template v-if="head && head.is_connected && !head.scorer"> Start one: <code>sollol scorer</code></template></span></p>
      <component v-if="isDrawn" :is="view"/>
      <div v-else class="waiting" role="status"><span class="muted">Listening to the bus…</span></div>
    </main>
    <div class="toasts" role="status" aria-live="polite"><p v-for="toast in state.toasts" :key="toast.id" class="toast" :class="toast.kind"><Icon :name="toast.kind === 'bad' ? 'suspect' : 'up'"/>{{ toast.text }}</p></div>
  </div>`,
};
