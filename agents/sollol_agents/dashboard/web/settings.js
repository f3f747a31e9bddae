// How the scorer decides, and whom it does not trust: changed while it works.
import { clock, plural, seconds, words } from "./format.js";
import { Empty, Icon, State } from "./ui.js";

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

export const SettingsView = {
  components: { Empty, Icon, State },
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
  },
  methods: {
    clock, plural, seconds, words,
    label: (name) => (name.endsWith("_s") ? `${words(name.slice(0, -2))}, in seconds` : words(name)),
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
        <form @submit.prevent="apply"><div class="fields"><label v-for="[name, value] in settings" :key="name" class="field"><span>{{ label(name) }}</span>
            <input class="input num" type="number" step="any" :value="edits[name] ?? value" @input="edits[name] = $event.target.value" :disabled="!mayOperate"></label></div>
          <div class="row gap"><button class="button primary" :disabled="!mayOperate || busy || !hasChanges">Apply</button><button type="button" class="button ghost" :disabled="!hasChanges" @click="edits = {}">Undo</button></div></form></section>
    </template>
    <Empty v-else icon="settings" title="No scorer answers">Strategy and thresholds belong to the scorer in office. Start one: <code>sollol scorer</code>. They appear by themselves.</Empty>
    <section class="panel" aria-label="Circuit breakers"><div class="row between"><h2>Circuit breakers</h2>
        <button class="button small" :disabled="!mayOperate || !breakers.length" @click="reset('', '', 'all breakers')">Reset all</button></div>
      <ul class="lines" v-if="breakers.length"><li v-for="breaker in breakers" :key="breaker.node_id + breaker.model">
        <span class="row gap wrap"><State :state="breaker.state ?? 'closed'"/><b>{{ breaker.node_id }}</b><span class="muted">{{ breaker.model || 'the node itself' }}</span></span>
        <span class="row gap"><span class="muted num small">{{ plural(breaker.failures ?? 0, 'failure') }}<template v-if="breaker.opens_for_s">, tried in {{ seconds(breaker.opens_for_s) }}</template></span>
          <button class="button small" :disabled="!mayOperate" @click="reset(breaker.node_id, breaker.model ?? '', breaker.node_id)">Reset</button></span></li></ul>
      <p v-else class="muted">Every breaker is closed and has seen no failure since its last success.</p></section>
    <section class="panel" v-if="state.notices.length" aria-label="Events"><h2>What happened</h2>
      <ol class="notices"><li v-for="notice in state.notices.slice(0, 12)" :key="notice.id"><time class="num muted">{{ clock(notice.at) }}</time><span class="mark" :class="notice.state"><Icon :name="{ good: 'up', bad: 'down', warn: 'suspect', info: 'info' }[notice.state]" :size="13"/></span><span>{{ notice.text }}</span></li></ol></section>
  </section>`,
};
