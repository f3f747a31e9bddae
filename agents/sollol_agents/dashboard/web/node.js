// One node, opened: everything about it, and what an operator can do with it.
import { bytes, number, percent, seconds } from "./format.js";
import { Drawer, Empty, Icon, State } from "./ui.js";

export const NodeDrawer = {
  components: { Drawer, Empty, Icon, State },
  inject: ["store", "mayOperate"],
  props: { row: Object },
  emits: ["close"],
  data: () => ({ detail: null, weight: 1, model: "", busy: "", pulling: null }),
  computed: {
    installed: (it) => it.detail?.installed ?? [],
    loaded: (it) => new Set((it.row.loaded ?? []).map((model) => model.name)),
    isDraining: (it) => it.row.state === "draining",
    isGone: (it) => ["down", "left", "asleep"].includes(it.row.state),
    facts() {
      const row = this.row;
      const detail = this.detail;
      if (!detail) return [];
      return [
        ["Host", row.host || "–"],
        ["Engine", row.engine],
        ["Address", detail.url],
        ["GPU", row.gpu ? (row.gpus > 1 ? `${row.gpus} × ` : "") + row.gpu : "none"],
        ["Cores", String(detail.cpu_count)],
        ["Attempts", row.attempts ? `${row.attempts}, ${percent(row.success_ratio)} succeeded` : "none yet"],
        ["Runs since", seconds(detail.uptime_s)],
        ["Version", detail.version || "–"],
        ["Price", detail.price || "not known"],
        ...Object.entries(detail.labels).map(([key, value]) => [`Label ${key}`, value]),
      ];
    },
  },
  watch: {
    // a heartbeat tells of a model that came or went
    "row.models"() {
      this.look();
    },
  },
  async mounted() {
    this.weight = this.row.weight ?? 1;
    await this.look();
  },
  methods: {
    bytes,
    number,
    seconds,
    percent,
    async look() {
      this.detail = await this.store.operate("node", { node_id: this.row.id });
    },
    async act(name, op, args, done) {
      this.busy = name;
      await this.store.operate(op, { node_id: this.row.id, ...args }, done);
      this.busy = "";
      await this.look();
    },
    async pull() {
      const model = this.model.trim();
      if (!model) return;
      this.pulling = { model, status: "starting", ratio: null };
      try {
        await this.store.ask("pull", { node_id: this.row.id, model }, (step) => {
          this.pulling = { model, status: step.status, ratio: step.total ? (step.done ?? 0) / step.total : null };
        });
        this.store.toast(`${model} is on the disk of ${this.row.id}`);
        this.model = "";
      } catch (error) {
        this.store.toast(error.message, "bad");
      }
      this.pulling = null;
      await this.look();
    },
  },
  template: `<Drawer :title="row.id" @close="$emit('close')">
    <p class="row gap"><State :state="row.state"/><span class="muted" v-if="row.reason">{{ row.reason }}</span></p>
    <dl class="facts" v-if="facts.length"><template v-for="[name, value] in facts" :key="name"><dt>{{ name }}</dt><dd>{{ value }}</dd></template></dl>
    <section v-if="row.running?.length" class="stack"><h3>Running</h3>
      <ul class="lines"><li v-for="(attempt, i) in row.running" :key="i"><span>{{ attempt.model }}</span><span class="num muted">{{ attempt.phase ?? 'reading' }}, {{ attempt.tokens ?? 0 }} tokens</span></li></ul></section>
    <section class="stack"><h3>Service</h3>
      <p v-if="!mayOperate" class="muted">Looking only: operating needs an administrator's key.</p>
      <div class="row gap wrap">
        <button v-if="isDraining" class="button" :disabled="!mayOperate || !!busy" @click="act('drain', 'drain', { is_draining: false }, row.id + ' takes work again')"><Icon name="up"/>Put back into service</button>
        <button v-else class="button" :disabled="!mayOperate || !!busy || isGone" @click="act('drain', 'drain', {}, row.id + ' takes no new work')"><Icon name="draining"/>Drain</button>
        <form class="row gap" @submit.prevent="act('weight', 'weight', { weight: Number(weight) }, 'Weight of ' + row.id + ' is ' + weight)">
          <label class="inline"><span class="muted">Weight</span><input class="input short num" type="number" min="0.01" max="100" step="0.01" v-model="weight" :disabled="!mayOperate"></label>
          <button class="button" :disabled="!mayOperate || !!busy">Set</button></form>
      </div></section>
    <section class="stack"><h3>Models on disk</h3>
      <ul class="lines models" v-if="installed.length"><li v-for="[name, size, quantization] in installed" :key="name">
        <span class="grow"><b>{{ name }}</b><span class="muted small num">{{ bytes(size) }}<template v-if="quantization"> · {{ quantization }}</template><template v-if="loaded.has(name)"> · in memory</template></span></span>
        <button v-if="loaded.has(name)" class="button small" :disabled="!mayOperate || !!busy" @click="act(name, 'load', { model: name, is_loaded: false }, name + ' is unloaded')">{{ busy === name ? 'Unloading…' : 'Unload' }}</button>
        <button v-else class="button small" :disabled="!mayOperate || !!busy || isGone" @click="act(name, 'load', { model: name }, name + ' is loaded')">{{ busy === name ? 'Loading…' : 'Load' }}</button></li></ul>
      <p v-else class="muted">None.</p>
      <form class="row gap" @submit.prevent="pull">
        <input class="input grow" v-model="model" placeholder="llama3.2:3b" aria-label="Model to pull" :disabled="!mayOperate || !!pulling">
        <button class="button" :disabled="!mayOperate || !!pulling || !model.trim()">Pull</button></form>
      <div v-if="pulling" class="stack tight" role="status"><span class="small">{{ pulling.model }}: {{ pulling.status }}<span class="num" v-if="pulling.ratio != null"> {{ percent(pulling.ratio) }}</span></span>
        <progress :value="pulling.ratio ?? undefined" max="1"></progress></div>
    </section>
    <section class="stack" v-if="detail?.speeds.length"><h3>Measured speed</h3>
      <div class="scroll"><table class="table"><thead><tr><th>Model</th><th class="r">reading</th><th class="r">writing</th><th class="r">load</th></tr></thead>
        <tbody><tr v-for="[name, read, write, load] in detail.speeds" :key="name"><td>{{ name }}</td><td class="r num">{{ number(read) }} tok/s</td><td class="r num">{{ number(write) }} tok/s</td><td class="r num">{{ seconds(load) }}</td></tr></tbody></table></div></section>
  </Drawer>`,
};
