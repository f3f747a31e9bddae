// Durable jobs: how many wait, the batches with their progress, the latest ones, and what can be done about them.
import { between, count, plural, priorityName, seconds, when, words } from "./format.js";
import { Drawer, Empty, Icon, Segmented, State } from "./ui.js";

const OVER = new Set(["done", "failed", "cancelled", "dead"]);
const TOGETHER = /^(.+)-\d+$/;

const JobDrawer = {
  components: { Drawer, Empty, State },
  inject: ["store", "mayOperate"],
  props: { job: Object },
  emits: ["close", "act"],
  data: () => ({ found: null, error: "" }),
  computed: { took: (it) => between(it.job.started_at, it.job.finished_at, it.store.state.at) },
  watch: {
    "job.state"() {
      this.look();
    },
  },
  mounted() {
    this.look();
  },
  methods: {
    when, priorityName, seconds,
    async look() {
      if (!this.mayOperate) return;
      try {
        const found = await this.store.ask("job", { job_id: this.job.id });
        // a job's prompt is stored until it ends: what was seen stays
        this.found = { ...found, prompt: found.prompt || this.found?.prompt };
        this.error = "";
      } catch (error) {
        this.error = error.message;
      }
    },
  },
  template: `<Drawer :title="'Job ' + job.id" @close="$emit('close')">
    <p class="row gap"><State :state="job.state"/></p>
    <dl class="facts"><dt>Model</dt><dd>{{ job.model || '–' }}</dd><dt>Node</dt><dd>{{ job.node_id || '–' }}</dd><dt>Priority</dt><dd>{{ priorityName(job.priority ?? 5) }}</dd>
      <dt>Duration</dt><dd class="num">{{ seconds(took) }}</dd><dt>Tries</dt><dd class="num">{{ job.tries ?? 0 }}</dd><dt>Submitted</dt><dd class="num">{{ when(job.submitted_at) }}</dd><dt>Started</dt><dd class="num">{{ when(job.started_at) }}</dd><dt>Finished</dt><dd class="num">{{ when(job.finished_at) }}</dd>
      <template v-if="job.not_before"><dt>Not before</dt><dd class="num">{{ when(job.not_before) }}</dd></template></dl>
    <p v-if="job.error" class="problem">{{ job.error }}</p>
    <slot/>
    <section v-if="found" class="stack" aria-label="Prompt"><h3>Prompt</h3><pre v-if="found.prompt" class="answer">{{ found.prompt }}</pre><p v-else class="muted">{{ found.is_own ? 'Not kept: a prompt is stored until its job has ended.' : 'Shown to its owner alone.' }}</p></section>
    <section v-if="found?.text" class="stack"><h3>Answer</h3><pre class="answer">{{ found.text }}</pre></section>
    <p v-else-if="error" class="muted">{{ error }}</p>
  </Drawer>`,
};

const Batch = {
  components: { State },
  inject: ["store", "mayOperate"],
  props: { batch: Object, isOpen: Boolean },
  emits: ["open"],
  computed: {
    done: (it) => it.batch.done ?? 0,
    failed: (it) => it.batch.failed ?? 0,
    cancelled: (it) => it.batch.cancelled ?? 0,
    running: (it) => it.batch.running ?? 0,
    ended: (it) => it.done + it.failed + it.cancelled,
    total: (it) => it.batch.total ?? 0,
    isGoing: (it) => it.batch.stage === "running",
    nodes: (it) => Object.keys(it.batch.by_node ?? {}).length,
    took: (it) => between(it.batch.began_at, it.batch.ended_at, it.store.state.at),
    time() {
      if (this.isGoing) return this.batch.left_s == null ? "" : `about ${seconds(Math.round(this.batch.left_s))} left`;
      return this.took == null || !this.batch.ended_at ? "" : `took ${seconds(Math.round(this.took))}`;
    },
    words() {
      const parts = [`${count(this.ended)} of ${count(this.total)}`];
      if (this.failed) parts.push(`${count(this.failed)} failed`);
      if (this.cancelled) parts.push(`${count(this.cancelled)} cancelled`);
      if (this.running) parts.push(`${count(this.running)} running`);
      return parts.join(", ");
    },
    parts() {
      const share = (number) => `${(100 * number) / Math.max(1, this.total)}%`;
      return [["good", share(this.done)], ["bad", share(this.failed)], ["quiet", share(this.cancelled)], ["busy", share(this.running)]];
    },
    why: (it) => (it.batch.reasons ?? []).slice(0, 3).map((one) => `${count(one.count ?? 1)} × ${one.message || words(one.code)}`).join("; "),
  },
  methods: {
    seconds, plural, priorityName,
    cancel() {
      this.store.operate("batch_cancel", { batch_id: this.batch.batch_id }, `Batch ${this.batch.batch_id} is cancelled`);
    },
  },
  template: `<li class="batch"><State :state="batch.stage"/><button class="link" :aria-expanded="isOpen" @click="$emit('open')"><b>{{ batch.batch_id }}</b></button>
    <span class="muted clip"><span class="num">priority {{ priorityName(batch.priority ?? 1) }}</span><template v-if="nodes">, on {{ plural(nodes, 'node') }}</template><template v-if="batch.rate_per_s >= 0.05">, <span class="num">{{ batch.rate_per_s.toFixed(1) }} a second</span></template></span>
    <span class="num when muted">{{ time }} <button v-if="isGoing" class="button small" :disabled="!mayOperate" @click="cancel">Cancel</button></span>
    <span class="progress" role="progressbar" :aria-valuenow="ended" aria-valuemin="0" :aria-valuemax="total" :aria-valuetext="words" :aria-label="'Batch ' + batch.batch_id"><i v-for="[kind, width] in parts" :key="kind" :class="kind" :style="{ width }"></i></span>
    <span class="num words">{{ words }}</span><span v-if="why" class="bad-text small wide">{{ why }}</span></li>`,
};

export const JobsView = {
  components: { Batch, Empty, Icon, JobDrawer, Segmented, State },
  inject: ["store", "mayOperate"],
  data: () => ({ wanted: "all", opened: null, busy: "", batch: "" }),
  computed: {
    state: (it) => it.store.state,
    jobs: (it) => it.state.jobs,
    batches: (it) => it.jobs?.batches ?? [],
    all: (it) => it.jobs?.jobs ?? [],
    waiting: (it) => Object.entries(it.jobs?.waiting ?? {}).filter(([, number]) => number).sort((a, b) => b[0] - a[0]),
    stored: (it) => it.waiting.reduce((sum, [, number]) => sum + number, 0),
    most: (it) => Math.max(1, ...it.waiting.map(([, number]) => number)),
    tiles() {
      const of = this.jobs?.by_state ?? {};
      return [["queued", "wait or run", this.stored], ["async", "not due yet", this.jobs?.delayed ?? 0], ["dead", "dead letters", this.jobs?.dead ?? 0],
        ["done", "done", of.done], ["failed", "failed", (of.failed ?? 0) + (of.dead ?? 0)], ["cancelled", "cancelled", of.cancelled]];
    },
    rows() {
      if (this.batch) return this.all.filter((job) => this.batchOf(job) === this.batch);
      if (this.wanted === "letters") return this.all.filter((job) => job.has_letter || job.state === "dead");
      const known = new Set(this.batches.map((batch) => batch.batch_id));
      return this.all.filter((job) => (this.wanted === "all" || job.state === this.wanted) && !known.has(this.batchOf(job)));
    },
    options() {
      const letters = this.all.filter((job) => job.has_letter || job.state === "dead").length;
      return [["all", "All"], ["queued", "Queued"], ["running", "Running"], ["done", "Done"], ["letters", `Dead letters ${Math.max(letters, this.jobs?.dead ?? 0)}`]];
    },
    job: (it) => it.all.find((job) => job.id === it.opened),
  },
  methods: {
    count, plural, priorityName, seconds, when,
    batchOf: (job) => TOGETHER.exec(job.id)?.[1] ?? "",
    canCancel: (job) => !OVER.has(job.state),
    canRetry: (job) => job.has_letter || job.state === "dead" || job.state === "failed",
    time(job) {
      const took = between(job.started_at, job.finished_at, this.state.at);
      if (job.not_before && job.state === "queued") return `not before ${when(job.not_before)}`;
      if (job.state === "queued" || took == null) return job.submitted_at ? `since ${when(job.submitted_at)}` : "–";
      return job.state === "running" ? `for ${seconds(Math.round(took))}` : seconds(took);
    },
    async act(op, job, done) {
      this.busy = job.id;
      await this.store.operate(op, { job_id: job.id }, done);
      this.busy = "";
    },
  },
  template: `<section class="view" aria-label="Jobs">
    <div class="tiles" v-if="jobs"><div class="tile" v-for="[icon, label, number] in tiles" :key="label"><State :state="number ? icon : ''" :label="label"/><b class="num">{{ count(number ?? 0) }}</b></div></div>
    <p class="muted small" v-if="jobs && !jobs.is_whole">Done, failed and cancelled are counted among the latest {{ count(all.length) }} jobs; the first three are exact.</p>
    <section v-if="batches.length" class="panel" aria-label="Batches"><h2>Batches</h2>
      <ul class="batches"><Batch v-for="one in batches" :key="one.batch_id" :batch="one" :is-open="batch === one.batch_id" @open="batch = batch === one.batch_id ? '' : one.batch_id"/></ul></section>
    <section class="panel" v-if="waiting.length > 1" aria-label="Waiting by priority"><h2>Stored, by priority</h2>
      <ul class="waits"><li v-for="[priority, number] in waiting" :key="priority"><span class="num">{{ priorityName(priority) }}</span>
        <span class="bar-track tall"><span class="bar-fill" :style="{ transform: 'scaleX(' + number / most + ')' }"></span></span><span class="num muted">{{ plural(number, 'job') }}</span></li></ul></section>
    <div class="toolbar"><button v-if="batch" class="button" @click="batch = ''"><Icon name="close"/>Jobs of {{ batch }}</button><Segmented v-else v-model="wanted" :options="options" label="State"/></div>
    <ul class="rows" v-if="rows.length" aria-label="Jobs">
      <li v-for="job in rows" :key="job.id" class="job">
        <State :state="job.state"/>
        <button class="link" @click="opened = job.id">{{ job.id }}</button>
        <span class="meta"><span class="muted clip">{{ job.model || 'model not told yet' }}</span><span class="clip">{{ job.node_id || '–' }}</span>
        <span class="num muted">{{ priorityName(job.priority ?? 5) }}</span>
        <span class="num">{{ time(job) }}<span class="muted" v-if="job.tokens"> · {{ count(job.tokens) }} tokens</span></span></span>
        <span class="acts"><button v-if="canCancel(job)" class="button small" :disabled="!mayOperate || busy === job.id" @click="act('job_cancel', job, 'Job ' + job.id + ' is cancelled')">Cancel</button>
          <button v-if="canRetry(job)" class="button small" :disabled="!mayOperate || busy === job.id" @click="act('job_retry', job, 'Job ' + job.id + ' runs again')">Retry</button></span>
        <span v-if="job.error" class="bad-text wide">{{ job.error }}</span>
      </li>
    </ul>
    <Empty v-else-if="!jobs" icon="jobs" title="Asking for the jobs">They come in a moment.</Empty>
    <p v-else-if="batches.length && wanted === 'all'" class="muted">No jobs beside the batches.</p>
    <Empty v-else-if="wanted !== 'all'" icon="jobs" title="No such job">Choose another state above.</Empty>
    <Empty v-else icon="jobs" title="No jobs yet">Work that may wait goes in as a durable job: <code>sollol jobs submit MODEL PROMPT</code>; a file of them as a batch: <code>sollol batch run questions.jsonl answers.jsonl</code>.</Empty>
    <JobDrawer v-if="job" :job="job" @close="opened = null">
      <div class="row gap"><button v-if="canCancel(job)" class="button" :disabled="!mayOperate" @click="act('job_cancel', job, 'Job ' + job.id + ' is cancelled')">Cancel</button>
        <button v-if="canRetry(job)" class="button" :disabled="!mayOperate" @click="act('job_retry', job, 'Job ' + job.id + ' runs again')">Retry</button></div></JobDrawer>
  </section>`,
};
