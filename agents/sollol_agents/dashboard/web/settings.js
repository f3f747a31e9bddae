// How the scorer decides, and whom it does not trust: changed while it works.
import { number, plural, seconds, words } from "./format.js";
import { Notices } from "./fleet.js";
import { Groups } from "./groups.js";
import { Empty, State } from "./ui.js";

const MEANING = {
  plan: "Least predicted cost in seconds, from one queue; the default.",
  seven_factor: "Seven weighted factors, from 0 to 1 each.",
  round_robin: "One after another, whatever they can do.",
  least_loaded: "The node with the fewest requests a slot.",
  random: "Any node that can serve it.",
  performance: "The node that was fastest lately.",
  affinity: "The node that served this conversation before.",
  hybrid: "A mixture of speed, load and affinity.",
};

// Each setting in words, and what a larger and a smaller value do; a scorer may know others.
const WORDS = {
  hold: ["Wait for a better node", "requests take what is free sooner", "requests wait more often for the node that is best"],
  theta: ["Short requests first", "short requests overtake long ones more", "closer to first come, first served"],
  size_clamp: ["How far size may overtake", "size counts for more priority levels", "age and priority count for more"],
  risk_overhead_s: ["Price of a failure, in seconds", "nodes that fail are avoided more", "speed counts for more than success"],
  async_gpu_factor: ["Keep GPUs free of patient work", "patient work goes to CPU nodes sooner", "patient work uses GPUs as well"],
  soft_success_floor: ["Success that RELIABLE asks for", "fewer nodes serve reliable requests", "more nodes serve reliable requests"],
  prefer_s: ["Seconds that a preferred label is worth", "preferred nodes are waited for longer", "speed counts for more than preferred labels"],
  cheap_patience_s: ["Seconds that CHEAP may take without a deadline", "cheaper nodes serve more, and later", "dearer nodes serve more, and sooner"],
  resident_keep_alive_s: ["Keep models in demand for, in seconds", "fewer loads, less memory free", "memory is free sooner, more loads"],
  one_off_keep_alive_s: ["Keep rare models for, in seconds", "fewer loads, less memory free", "memory is free sooner, more loads"],
};

const Setting = {
  props: { name: String, value: Number, edit: String, limits: Object, disabled: Boolean },
  emits: ["edit"],
  computed: {
    words: (it) => WORDS[it.name]?.[0] ?? words(it.name),
    range: (it) => (it.limits ? `${it.limits.excludes_lowest ? "above " : ""}${it.limits.lowest} to ${it.limits.excludes_highest ? "below " : ""}${it.limits.highest}` : ""),
    text: (it) => it.edit ?? String(it.value),
    typed: (it) => Number(it.text),
    isDefault: (it) => !it.limits || it.value === it.limits.default,
    problem: (it) => (it.edit == null ? "" : problemOf(it.edit, it.limits)),
    effect() {
      const known = WORDS[this.name];
      if (!known || this.edit == null || this.problem || this.typed === this.value) return "";
      return this.typed > this.value ? known[1] : known[2];
    },
  },
  template: `<li class="setting"><label class="field"><span><b>{{ words }}</b> <code>{{ name }}</code></span>
      <input class="input num" type="number" step="any" :aria-label="words" :min="limits?.lowest" :max="limits?.highest" :value="text" :disabled="disabled" :aria-invalid="!!problem" @input="$emit('edit', $event.target.value)"></label>
    <p class="small muted">{{ limits?.text ?? '' }} <span class="num" v-if="limits">Takes {{ range }}; {{ isDefault ? 'this is the default' : 'the default is ' + limits.default }}.</span></p>
    <p class="small bad-text" role="status" v-if="problem">{{ problem }}</p><p class="small effect" role="status" v-else-if="effect">Then {{ effect }}.</p></li>`,
};

function problemOf(text, limits) {
  const value = Number(text);
  if (text.trim() === "" || Number.isNaN(value)) return "It must be a number.";
  if (!limits) return "";
  if (value < limits.lowest || (limits.excludes_lowest && value === limits.lowest)) return `It must be ${limits.excludes_lowest ? "above" : "at least"} ${limits.lowest}.`;
  if (value > limits.highest || (limits.excludes_highest && value === limits.highest)) return `It must be ${limits.excludes_highest ? "below" : "at most"} ${limits.highest}.`;
  return "";
}

export const SettingsView = {
  components: { Empty, Groups, Notices, Setting, State },
  inject: ["store", "mayOperate"],
  data: () => ({ edits: {}, busy: false }),
  computed: {
    state: (it) => it.store.state,
    strategy: (it) => it.state.strategy,
    settings: (it) => Object.entries(it.strategy?.settings ?? {}).sort(),
    breakers: (it) => it.state.breakers?.breakers ?? [],
    changed() {
      return Object.fromEntries(Object.entries(this.edits).filter(([name, text]) => text !== "" && Number(text) !== this.strategy.settings[name]).map(([name, text]) => [name, Number(text)]));
    },
    hasChanges: (it) => Object.keys(it.changed).length > 0,
    isWrong: (it) => Object.entries(it.edits).some(([name, text]) => problemOf(text, it.strategy?.limits?.[name])),
  },
  methods: {
    number, plural, seconds, words,
    meaning: (name) => MEANING[name] ?? "A strategy of your own.",
    async choose(name) {
      if (name === this.strategy.strategy) return;
      this.busy = true;
      await this.store.operate("strategy", { strategy: name }, `Strategy is ${name}`);
      this.busy = false;
    },
    async apply() {
      this.busy = true;
      const settings = this.changed;
      if (await this.store.operate("strategy", { settings }, "Settings are changed")) this.edits = {};
      this.busy = false;
    },
    reset(node_id, model, whose) {
      this.store.operate("breaker_reset", { node_id, model }, `Closed: ${whose}`);
    },
  },
  template: `<section class="view" aria-label="Settings">
    <p v-if="!mayOperate" class="panel muted">Looking only: changing settings needs an administrator's key.</p>
    <template v-if="strategy">
      <section class="panel" aria-label="Strategy"><h2>Strategy</h2><p class="muted">Holds for the next decision; what waits, waits on.</p>
        <div class="options" role="radiogroup" aria-label="Strategy">
          <label v-for="name in strategy.available" :key="name" class="option" :class="{ chosen: name === strategy.strategy }">
            <input type="radio" name="strategy" :value="name" :checked="name === strategy.strategy" :disabled="!mayOperate || busy" @change="choose(name)">
            <span><b>{{ words(name) }}</b><span class="muted small">{{ meaning(name) }}</span></span></label></div></section>
      <section class="panel" aria-label="Thresholds"><h2>Weights and thresholds</h2>
        <form novalidate @submit.prevent="apply"><ul class="settings"><Setting v-for="[name, value] in settings" :key="name" :name="name" :value="value" :edit="edits[name]" :limits="strategy.limits?.[name]" :disabled="!mayOperate" @edit="edits[name] = $event"/></ul>
          <div class="row gap"><button class="button primary" :disabled="!mayOperate || busy || !hasChanges || isWrong">Apply</button><button type="button" class="button ghost" :disabled="!Object.keys(edits).length" @click="edits = {}">Undo</button></div></form></section>
    </template>
    <Empty v-else icon="settings" title="No scorer answers">Strategy and thresholds belong to the scorer in office. Start one: <code>sollol scorer</code>. They appear by themselves.</Empty>
    <Groups v-if="state.groups.length" :groups="state.groups"/>
    <section class="panel" aria-label="Circuit breakers"><div class="row between"><h2>Circuit breakers</h2>
        <button class="button small" :disabled="!mayOperate || !breakers.length" @click="reset('', '', 'all breakers')">Reset all</button></div>
      <ul class="lines" v-if="breakers.length"><li v-for="breaker in breakers" :key="breaker.node_id + breaker.model">
        <span class="row gap wrap"><State :state="breaker.state ?? 'closed'"/><b>{{ breaker.node_id }}</b><span class="muted">{{ breaker.model || 'the node itself' }}</span></span>
        <span class="row gap"><span class="muted num small">{{ plural(breaker.failures ?? 0, 'failure') }}<template v-if="breaker.opens_for_s">, tried in {{ seconds(breaker.opens_for_s) }}</template></span>
          <button class="button small" :disabled="!mayOperate" @click="reset(breaker.node_id, breaker.model ?? '', breaker.node_id)">Reset</button></span></li></ul>
      <p v-else class="muted">Every breaker is closed and has seen no failure since its last success.</p></section>
    <Notices v-if="state.notices.length" :notices="state.notices"/>
  </section>`,
};
