// Why a request went where it went: every candidate with every term, who was refused, and how each attempt ended.
import { clock, count, number, priorityName, seconds, signedSeconds, when, words } from "./format.js";
import { Drawer, Empty, Icon, Mode, State } from "./ui.js";

const TERMS = [
  ["wait_s", "waiting"],
  ["overtaking_s", "overtaking"],
  ["wake_s", "waking the machine"],
  ["load_s", "loading the model"],
  ["prefill_s", "reading the prompt"],
  ["decode_s", "writing"],
  ["slowdown_s", "slowed by others, and slowing them"],
  ["evict_s", "evicting models"],
  ["prefix_evict_s", "evicting prefixes"],
  ["risk_s", "risk of failure"],
  ["preference_s", "preferences"],
  ["rtt_s", "round trip"],
];

const Candidate = {
  components: { Icon },
  props: { cost: Object, chosen: Boolean, longest: Number, best: Number, contrast: String },
  computed: {
    terms: (it) => TERMS.map(([key, label]) => [key, label, it.cost[key] ?? 0]).filter(([, , value]) => Math.abs(value) >= 0.00005),
    parts() {
      let at = 0;
      return this.terms.filter(([, , value]) => value > 0).map(([key, label, value]) => {
        const part = { key, label, left: at / this.longest, width: value / this.longest };
        at += value;
        return part;
      });
    },
  },
  methods: { seconds, signedSeconds, count },
  template: `<details class="candidate" :class="{ chosen }" :open="chosen"><summary>
      <span class="row gap"><b>{{ cost.node_id }}</b><span v-if="chosen" class="state good"><Icon name="up" :size="13"/>chosen</span><span v-if="cost.completion_s && !cost.is_busy" class="muted small">free now</span></span>
      <span class="num"><b>{{ signedSeconds(cost.total_s) }}</b><span v-if="!chosen" class="delta"> {{ cost.total_s >= best ? '+' : '−' }}{{ seconds(Math.abs(cost.total_s - best)) }}</span></span>
      <span v-if="contrast" class="small muted wide">{{ contrast }}</span>
      <span class="stackbar" aria-hidden="true"><i v-for="part in parts" :key="part.key" :class="part.key" :style="{ left: part.left * 100 + '%', width: 'max(2px, ' + part.width * 100 + '%)' }"></i></span>
    </summary>
    <dl class="terms"><template v-for="[key, label, value] in terms" :key="key"><dt><i class="swatch" :class="key"></i>{{ label }}</dt><dd class="num">{{ signedSeconds(value) }}</dd></template>
      <template v-if="cost.prefix_hit_tokens"><dt>prompt tokens known there</dt><dd class="num">{{ count(cost.prefix_hit_tokens) }}</dd></template>
      <dt><b>cost, which is compared</b></dt><dd class="num"><b>{{ signedSeconds(cost.total_s) }}</b></dd>
      <template v-if="cost.completion_s"><dt>complete after</dt><dd class="num">{{ seconds(cost.completion_s) }}</dd></template></dl>
  </details>`,
};

// The explanation of one decision, from the decision itself or from the recorder.
export const Explanation = {
  components: { Candidate, Empty, Mode, State },
  props: { why: Object },
  computed: {
    decisions: (it) => it.why.decisions ?? [],
    outcomes: (it) => it.why.outcomes ?? [],
  },
  methods: {
    clock, count, number, priorityName, seconds, when, words,
    longest: (event) =>
      Math.max(0.001, ...(event.candidates ?? []).map((cost) => TERMS.reduce((sum, [key]) => sum + Math.max(0, cost[key] ?? 0), 0))),
    ordered: (event) => [...(event.candidates ?? [])].sort((a, b) => a.total_s - b.total_s),
    best: (event) => (event.candidates ?? []).find((cost) => cost.node_id === event.decision.node_id)?.total_s ?? 0,
    used: (event) => TERMS.filter(([key]) => (event.candidates ?? []).some((cost) => (cost[key] ?? 0) >= 0.00005)),
    refusals(event) {
      const kinds = new Map();
      for (const { node_id, reason, detail } of event.rejections ?? []) {
        const what = words(reason) + (detail ? `: ${detail}` : "");
        kinds.set(what, [...(kinds.get(what) ?? []), node_id]);
      }
      return [...kinds].sort((a, b) => b[1].length - a[1].length);
    },
    endOf: (outcome) => (outcome.code === "moved" ? "moved" : outcome.status),
    waited(event) {
      const known = this.why.waited ?? {};
      const id = event.decision.attempt_id;
      return id in known ? known[id] : (event.decision.queue_s ?? 0);
    },
    outcomeOf(event) {
      return this.outcomes.find((outcome) => outcome.decision.attempt_id === event.decision.attempt_id);
    },
  },
  template: `<div class="stack">
    <section v-for="event in decisions" :key="event.decision.attempt_id" class="stack">
      <div class="row gap wrap"><Mode :mode="event.decision.mode ?? 'fast'"/><State v-if="outcomeOf(event)" :state="endOf(outcomeOf(event))"/><span class="muted small">attempt {{ event.decision.attempt ?? 1 }} · {{ when(event.decided_at) }}</span></div>
      <p class="verdict"><b>{{ event.decision.node_id }}</b><span v-if="event.decision.reason">{{ event.decision.reason }}</span></p>
      <dl class="facts"><dt>Model</dt><dd>{{ event.decision.model }}</dd><dt>Task</dt><dd>{{ words(event.decision.task_type || 'unknown') }}</dd>
        <dt>Strategy</dt><dd>{{ event.decision.strategy ?? 'plan' }}</dd><dt>Priority</dt><dd>{{ priorityName(event.decision.priority ?? 5) }}</dd>
        <dt>Prompt</dt><dd class="num">{{ count(event.decision.forecast?.prompt_tokens ?? 0) }} tokens</dd><dt>Expected answer</dt><dd class="num">{{ count(event.decision.forecast?.output_tokens ?? 0) }} tokens</dd>
        <template v-if="event.decision.continued_tokens"><dt>Resumed</dt><dd class="num">after {{ count(event.decision.continued_tokens) }} tokens of the answer</dd></template>
        <dt>Waited</dt><dd class="num">{{ seconds(waited(event)) }}</dd><dt>Predicted</dt><dd class="num">{{ seconds(event.decision.forecast?.total_s ?? 0) }}</dd>
        <template v-if="outcomeOf(event)?.figures"><dt>Actual</dt><dd class="num">{{ seconds(outcomeOf(event).figures.actual_s) }}</dd><dt>First token</dt><dd class="num">{{ seconds(outcomeOf(event).figures.ttft_s) }}</dd></template></dl>
      <h3>Candidates, the least cost first</h3>
      <ul class="legend wrap" v-if="used(event).length"><li v-for="[key, label] in used(event)" :key="key"><i class="swatch" :class="key"></i>{{ label }}</li></ul>
      <Candidate v-for="cost in ordered(event)" :key="cost.node_id" :cost="cost" :chosen="cost.node_id === event.decision.node_id" :longest="longest(event)" :best="best(event)" :contrast="why.contrasts?.[event.decision.attempt_id]?.[cost.node_id]"/>
      <p v-if="!event.candidates?.length" class="muted">This strategy compares no costs.</p>
      <template v-if="event.rejections?.length"><h3>Refused</h3>
        <ul class="lines"><li v-for="[what, nodes] in refusals(event)" :key="what"><span class="muted">{{ what }}</span><b class="clip">{{ nodes.slice(0, 6).join(', ') }}{{ nodes.length > 6 ? ' and ' + (nodes.length - 6) + ' more' : '' }}</b></li></ul></template>
    </section>
    <section v-if="outcomes.length" class="stack"><h3>Attempts</h3>
      <ul class="lines"><li v-for="outcome in outcomes" :key="outcome.decision.attempt_id + outcome.status"><span class="row gap"><State :state="endOf(outcome)"/><b>{{ outcome.decision.node_id === '_none' ? 'no node' : outcome.decision.node_id }}</b></span>
        <span class="muted num">{{ outcome.message || '' }}<template v-if="outcome.figures"> {{ seconds(outcome.figures.actual_s) }}, {{ count(outcome.figures.output_tokens ?? 0) }} tokens</template></span></li></ul></section>
    <section v-if="why.cuts?.length" class="stack"><h3>Moved</h3>
      <ul class="lines"><li v-for="cut in why.cuts" :key="cut.attempt_id"><b>{{ cut.node_id }}</b><span class="muted">{{ cut.text || words(cut.reason) }}</span></li></ul></section>
    <section v-if="why.gave_way?.length" class="stack"><h3>Got the slot of</h3>
      <ul class="lines"><li v-for="cut in why.gave_way" :key="cut.attempt_id"><b>{{ cut.request_id }}</b><span class="muted">{{ cut.node_id }}: {{ cut.text || words(cut.reason) }}</span></li></ul></section>
    <p v-if="decisions.length" class="muted small">Cost: predicted seconds that the request takes on a node, those included that it takes from others; the least wins. Predicted: from the start on the node to the end of the answer. Actual: the same, as the node measured it.</p>
    <Empty v-if="!decisions.length && !outcomes.length" title="Nothing recorded">The recorder knows nothing of this request (yet).</Empty>
  </div>`,
};

export const ExplainDrawer = {
  components: { Drawer, Empty, Explanation },
  inject: ["store"],
  props: { requestId: String },
  emits: ["close"],
  data: () => ({ why: null, error: "", isOpen: true }),
  computed: {
    // changes when an attempt of this request begins or ends
    news: (it) => it.store.state.decisions.filter((row) => row.request_id === it.requestId).map((row) => row.id + row.status).join(),
  },
  watch: {
    news() {
      this.look();
    },
  },
  mounted() {
    this.look();
  },
  unmounted() {
    this.isOpen = false;
  },
  methods: {
    async look() {
      this.error = "";
      // the recorder writes a moment after the decision was heard here
      for (let tries = 0; this.isOpen; tries++) {
        try {
          this.why = await this.store.ask("why", { request_id: this.requestId });
          return;
        } catch (error) {
          if (tries === 4) {
            this.error = error.message;
            return;
          }
        }
        await new Promise((done) => setTimeout(done, 500));
      }
    },
  },
  template: `<Drawer title="Why this node?" @close="$emit('close')">
    <p class="muted small">Request <code>{{ requestId }}</code></p>
    <Explanation v-if="why" :why="why"/>
    <Empty v-else-if="error" icon="suspect" title="No explanation">{{ error }} <button class="button small" @click="look">Ask again</button></Empty>
    <p v-else class="muted" role="status">Asking the recorder…</p>
  </Drawer>`,
};
