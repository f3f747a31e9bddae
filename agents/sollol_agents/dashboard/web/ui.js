// Small parts that several views share.
import { percent, words } from "./format.js";

const PATHS = {
  fleet: "M4 5h16v5H4zM4 14h16v5H4zM8 7.5h.01M8 16.5h.01",
  decisions: "M4 12h5l4-6h7M9 12l4 6h7M17 3l3 3-3 3M17 15l3 3-3 3",
  latency: "M4 19V5M4 19h16M7 15l4-5 3 3 5-7",
  jobs: "M5 6h14M5 12h14M5 18h9M3 6h.01",
  queue: "M5 5h14M5 10h14M5 15h8M17 14v6M14.5 17.5L17 20l2.5-2.5",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  connect: "M9 8V4M15 8V4M6 8h12v4a6 6 0 0 1-12 0zM12 18v3",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  settings: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  playground: "M5 5h14v10H9l-4 4zM9 9h6M9 12h4",
  up: "M5 12.5l4.5 4.5L19 7.5",
  down: "M6 6l12 12M18 6L6 18",
  draining: "M12 4v12M6.5 11L12 16.5 17.5 11M5 20h14",
  suspect: "M12 8v5M12 16.5v.01M12 3L2.5 20h19z",
  fast: "M13 3L5 14h6l-1 7 8-11h-6z",
  reliable: "M12 3l7 3v5c0 5-3 8-7 10-4-2-7-5-7-10V6zM9 12l2 2 4-4",
  async: "M12 7v5l3.5 2M12 3a9 9 0 1 0 .01 0z",
  cheap: "M12 3v18M16.5 7H9.8a2.6 2.6 0 0 0 0 5.2h4.4a2.6 2.6 0 0 1 0 5.2H7.5",
  running: "M7 5l12 7-12 7z",
  clock: "M12 7v5l3.5 2M12 3a9 9 0 1 0 .01 0z",
  close: "M6 6l12 12M18 6L6 18",
  theme: "M12 3a9 9 0 1 0 9 9 7 7 0 0 1-9-9z",
  info: "M12 11v6M12 7.5v.01M12 3a9 9 0 1 0 .01 0z",
  empty: "M4 8l8-4 8 4v8l-8 4-8-4zM4 8l8 4 8-4M12 12v8",
  logout: "M10 5H5v14h5M14 8l4 4-4 4M18 12H9",
  pause: "M8 5v14M16 5v14",
};

export const Icon = {
  props: { name: String, size: { type: Number, default: 16 } },
  computed: { path: (it) => PATHS[it.name] ?? PATHS.info },
  template: `<svg class="icon" :width="size" :height="size" viewBox="0 0 24 24" aria-hidden="true"><path :d="path"/></svg>`,
};

const KINDS = {
  up: ["good", "up"],
  success: ["good", "up"],
  done: ["good", "up"],
  stopped: ["warn", "pause"],
  expired: ["warn", "clock"],
  closed: ["good", "up"],
  draining: ["info", "draining"],
  queued: ["info", "clock"],
  running: ["info", "running"],
  suspect: ["warn", "suspect"],
  half_open: ["warn", "suspect"],
  retrying: ["warn", "clock"],
  moved: ["info", "running"],
  presumed_lost: ["warn", "suspect"],
  cancelled: ["quiet", "close"],
  client_error: ["quiet", "close"],
  left: ["quiet", "close"],
  down: ["bad", "down"],
  failed: ["bad", "down"],
  dead: ["bad", "down"],
  open: ["bad", "down"],
};

// A state: its colour is always beside an icon and its name.
export const State = {
  components: { Icon },
  props: { state: String, label: String },
  computed: {
    // no state at all is drawn without a colour
    kind: (it) => KINDS[it.state]?.[0] ?? "quiet",
    icon: (it) => KINDS[it.state]?.[1] ?? "info",
    text: (it) => it.label ?? words(it.state),
  },
  template: `<span class="state" :class="kind"><Icon :name="icon" :size="13"/>{{ text }}</span>`,
};

export const Mode = {
  components: { Icon },
  props: { mode: String },
  template: `<span class="mode"><Icon :name="mode" :size="12"/>{{ mode.toUpperCase() }}</span>`,
};

export const Bar = {
  props: { label: String, used: Number, total: Number, text: String, kind: { type: String, default: "" } },
  computed: {
    ratio: (it) => (it.total > 0 ? Math.min(1, it.used / it.total) : 0),
    spoken: (it) => `${it.label}: ${it.text}, ${percent(it.ratio)}`,
  },
  template: `<div class="bar" role="img" :aria-label="spoken">
    <span class="bar-label">{{ label }}</span><span class="bar-text num">{{ text }}</span>
    <span class="bar-track"><span class="bar-fill" :class="kind" :style="{ transform: 'scaleX(' + ratio + ')' }"></span></span>
  </div>`,
};

export const Empty = {
  components: { Icon },
  props: { title: String, icon: { type: String, default: "empty" } },
  template: `<div class="empty"><Icon :name="icon" :size="32"/><h3>{{ title }}</h3><p class="muted"><slot/></p></div>`,
};

// A panel from the right (from below on a phone) over the page; Escape and a click beside it close it.
export const Drawer = {
  components: { Icon },
  props: { title: String },
  emits: ["close"],
  mounted() {
    this.$refs.dialog.showModal();
  },
  methods: {
    onClick(event) {
      if (event.target === this.$refs.dialog) this.$refs.dialog.close();
    },
  },
  template: `<dialog ref="dialog" class="drawer" :aria-label="title" @close="$emit('close')" @mousedown="onClick">
    <div class="drawer-body">
      <header class="drawer-head"><h2>{{ title }}</h2>
        <button class="button ghost square" aria-label="Close" @click="$refs.dialog.close()"><Icon name="close"/></button></header>
      <slot/>
    </div>
  </dialog>`,
};

export const Segmented = {
  props: { modelValue: String, options: Array, label: String },
  emits: ["update:modelValue"],
  template: `<div class="segmented" role="group" :aria-label="label">
    <button v-for="[value, text] in options" :key="value" type="button" :aria-pressed="modelValue === value"
      @click="$emit('update:modelValue', value)">{{ text }}</button>
  </div>`,
};
