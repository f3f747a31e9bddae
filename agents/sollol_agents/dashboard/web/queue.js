// What waits for a slot, for how long, and who could serve it.
import { count, plural, priorityName, seconds } from "./format.js";
import { LineChart, gridOf } from "./chart.js";
import { Empty, State } from "./ui.js";

export const QueueView = {
  components: { Empty, LineChart, State },
  inject: ["store"],
  computed: {
    state: (it) => it.store.state,
    head: (it) => it.state.head ?? {},
    shares: (it) => it.state.waiting ?? [],
    most: (it) => Math.max(1, ...it.shares.map((share) => share.count)),
    oldest: (it) => Math.max(0, ...it.shares.map((share) => share.oldest_s)),
    queue: (it) => [{ name: "waiting", kind: "s2", values: gridOf(it.state).map(([t, point]) => [t, point ? point.queued ?? 0 : null]) }],
    waits: (it) => Object.entries(it.state.waits ?? {}).sort((a, b) => b[0] - a[0]),
    longest: (it) => Math.max(0.001, ...it.waits.map(([, wait]) => wait.max_s)),
  },
  methods: {
    count, plural, priorityName, seconds,
    why(share) {
      const [nodes, free, slots] = this.state.holders?.[share.model] ?? [0, 0, 0];
      if (!nodes) return "no node that is up has the model";
      if (!free) return `on ${plural(nodes, "node")}, ${slots === 1 ? "whose slot is" : `all ${slots} slots`} busy`;
      return `on ${plural(nodes, "node")}, ${free} of ${slots} slots free: it waits for a better one`;
    },
  },
  template: `<section class="view" aria-label="Queue">
    <section class="panel" aria-label="Waiting now"><div class="between wrap"><h2>{{ head.queued ? plural(head.queued, 'request') + (head.queued === 1 ? ' waits' : ' wait') : 'Nothing waits' }}</h2><span class="muted" v-if="oldest">longest for <b class="num">{{ seconds(Math.round(oldest)) }}</b></span></div>
      <ul class="shares" v-if="shares.length"><li v-for="share in shares" :key="share.model + share.priority + share.is_jobs">
        <b class="clip">{{ share.model }}</b><span class="muted num">{{ share.is_jobs ? 'jobs' : 'requests' }}, priority {{ priorityName(share.priority) }}</span>
        <span class="bar-track tall" aria-hidden="true"><span class="bar-fill" :class="{ high: share.oldest_s > 30 }" :style="{ transform: 'scaleX(' + share.count / most + ')' }"></span></span>
        <span class="num">{{ count(share.count) }}<span class="muted">, first for {{ seconds(Math.round(share.oldest_s)) }}</span></span>
        <span class="small" :class="(state.holders?.[share.model] ?? [0])[0] ? 'muted' : 'bad-text'">{{ why(share) }}</span></li></ul>
      <p v-else-if="head.queued" class="muted" role="status">Asking the scorer what waits…</p>
      <p v-else class="muted">Requests wait here when every node that could serve them is busy, or when waiting for a better one saves time. {{ head.slots ? head.busy + ' of ' + head.slots + ' slots are busy.' : '' }}</p></section>
    <div class="panel"><LineChart title="Requests waiting" :at="state.at" :series="queue" :format="count" :least-step="1" :height="180"/></div>
    <section class="panel" aria-label="Wait by priority"><h2>Wait for a slot by priority, last ten minutes</h2>
      <ul class="waits" v-if="waits.length"><li v-for="[priority, wait] in waits" :key="priority"><span class="num">{{ priorityName(priority) }}</span>
        <span class="bar-track tall"><span class="bar-fill faint" :style="{ transform: 'scaleX(' + wait.max_s / longest + ')' }"></span><span class="bar-fill" :style="{ transform: 'scaleX(' + wait.mean_s / longest + ')' }"></span></span>
        <span class="num muted">mean {{ seconds(wait.mean_s) }}, longest {{ seconds(wait.max_s) }}, {{ plural(wait.count, 'request') }}</span></li></ul>
      <p v-else class="muted">No decision in the last ten minutes.</p></section>
  </section>`,
};
