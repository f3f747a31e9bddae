// Durable jobs: how many, which, and what can be done about them.
import { count, plural, priorityName, when } from "./format.js";
import { Drawer, Empty, Icon, Segmented, State } from "./ui.js";

const OVER = new Set(["done", "failed", "cancelled", "dead"]);

const JobDrawer = {
  components: { Drawer, Empty, State },
  inject: ["store", "mayOperate"],
  props: { job: Object },
  emits: ["close", "act"],
  data: () => ({ found: null, error: "" }),
  watch: {
    "job.state"() {
      this.look();
    },
  },
  mounted() {
    this.look();
  },
  methods: {
    when,
    priorityName,
    async look() {
      if (!this.mayOperate) return;
      try {
        this.found = await this.store.ask("job", { job_id: this.job.id });
        this.error = "";
      } catch (error) {
        this.error = error.message;
      }
    },
  },
  template: `<Drawer :title="'Job ' + job.id" @close="$emit('close')">
    <p class="row gap"><State :state="job.state"/></p>
    <dl class="facts"><dt>Model</dt><dd>{{ job.model || '–' }}</dd><dt>Priority</dt><dd>{{ priorityName(job.priority ?? 5) }}</dd><dt>Node</dt><dd>{{ job.node_id || '–' }}</dd>
      <dt>Tries</dt><dd class="num">{{ job.tries ?? 0 }}</dd><dt>Submitted</dt><dd class="num">{{ when(job.submitted_at) }}</dd><dt>Started</dt><dd class="num">{{ when(job.started_at) }}</dd><dt>Finished</dt><dd class="num">{{ when(job.finished_at) }}</dd>
      <template v-if="job.not_before"><dt>Not before</dt><dd class="num">{{ when(job.not_before) }}</dd></template></dl>
    <p v-if="job.error" class="problem">{{ job.error }}</p>
    <slot/>
    <section v-if="found?.text" class="stack"><h3>Answer</h3><pre class="answer">{{ found.text }}</pre></section>
    <p v-else-if="error" class="muted">{{ error }}</p>
  </Drawer>`,
};

export const JobsView = {
  components: { Empty, Icon, JobDrawer, Segmented, State },
  inject: ["store", "mayOperate"],
  data: () => ({ wanted: "all", opened: null, busy: "" }),
  computed: {
    jobs: (it) => it.store.state.jobs,
    states: (it) => Object.entries(it.jobs?.by_state ?? {}),
    waiting: (it) => Object.entries(it.jobs?.waiting ?? {}).filter(([, number]) => number).sort((a, b) => b[0] - a[0]),
    most: (it) => Math.max(1, ...it.waiting.map(([, number]) => number)),
    rows() {
      const all = this.jobs?.jobs ?? [];
      if (this.wanted === "all") return all;
      if (this.wanted === "letters") return all.filter((job) => job.has_letter || job.state === "dead");
      return all.filter((job) => job.state === this.wanted);
    },
    options() {
      const letters = (this.jobs?.jobs ?? []).filter((job) => job.has_letter || job.state === "dead").length;
      return [["all", "All"], ["queued", "Queued"], ["running", "Running"], ["done", "Done"], ["letters", `Dead letters ${Math.max(letters, this.jobs?.dead ?? 0)}`]];
    },
    job: (it) => (it.jobs?.jobs ?? []).find((job) => job.id === it.opened),
  },
  methods: {
    count,
    plural,
    priorityName,
    when,
    canCancel: (job) => !OVER.has(job.state),
    canRetry: (job) => job.has_letter || job.state === "dead" || job.state === "failed",
    async act(op, job, done) {
      this.busy = job.id;
      await this.store.operate(op, { job_id: job.id }, done);
      this.busy = "";
    },
  },
  template: `<section class="view" aria-label="Jobs">
    <div class="tiles">
      <div class="tile" v-for="[state, number] in states" :key="state"><State :state="state"/><b class="num">{{ count(number) }}</b></div>
      <div class="tile"><State state="queued" label="not due yet"/><b class="num">{{ count(jobs?.delayed ?? 0) }}</b></div>
    </div>
    <section class="panel" v-if="waiting.length" aria-label="Waiting by priority"><h2>Stored, by priority</h2>
      <ul class="waits"><li v-for="[priority, number] in waiting" :key="priority"><span class="num">{{ priorityName(priority) }}</span>
        <span class="bar-track tall"><span class="bar-fill" :style="{ transform: 'scaleX(' + number / most + ')' }"></span></span><span class="num muted">{{ plural(number, 'job') }}</span></li></ul></section>
    <div class="toolbar"><Segmented v-model="wanted" :options="options" label="State"/></div>
    <ul class="rows" v-if="rows.length" aria-label="Jobs">
      <li v-for="job in rows" :key="job.id" class="job">
        <State :state="job.state"/>
        <button class="link" @click="opened = job.id">{{ job.id }}</button>
        <span class="meta"><span class="muted clip">{{ job.model || 'model not told yet' }}</span>
        <span class="num muted">priority {{ priorityName(job.priority ?? 5) }}</span>
        <span class="num muted">{{ job.tokens ? count(job.tokens) + ' tokens' : when(job.submitted_at) }}</span></span>
        <span class="acts"><button v-if="canCancel(job)" class="button small" :disabled="!mayOperate || busy === job.id" @click="act('job_cancel', job, 'Job ' + job.id + ' is cancelled')">Cancel</button>
          <button v-if="canRetry(job)" class="button small" :disabled="!mayOperate || busy === job.id" @click="act('job_retry', job, 'Job ' + job.id + ' runs again')">Retry</button></span>
        <span v-if="job.error" class="bad-text wide">{{ job.error }}</span>
      </li>
    </ul>
    <Empty v-else-if="!jobs" icon="jobs" title="Asking for the jobs">They come in a moment.</Empty>
    <Empty v-else-if="wanted !== 'all'" icon="jobs" title="No such job">Choose another state above.</Empty>
    <Empty v-else icon="jobs" title="No jobs yet">Work that may wait goes in as a durable job: <code>sollol jobs submit MODEL PROMPT</code>.</Empty>
    <JobDrawer v-if="job" :job="job" @close="opened = null">
      <div class="row gap"><button v-if="canCancel(job)" class="button" :disabled="!mayOperate" @click="act('job_cancel', job, 'Job ' + job.id + ' is cancelled')">Cancel</button>
        <button v-if="canRetry(job)" class="button" :disabled="!mayOperate" @click="act('job_retry', job, 'Job ' + job.id + ' runs again')">Retry</button></div></JobDrawer>
  </section>`,
};
