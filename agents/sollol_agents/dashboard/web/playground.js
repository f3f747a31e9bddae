// Try a prompt: the answer as it streams, where it is made and why.
import { count, number, PRIORITIES, seconds } from "./format.js";
import { ExplainDrawer } from "./explain.js";
import { Empty, Icon, Mode, Segmented } from "./ui.js";

export const PlaygroundView = {
  components: { Empty, ExplainDrawer, Icon, Mode, Segmented },
  inject: ["store", "mayOperate"],
  data: () => ({ model: "", prompt: "", mode: "fast", priority: 5, text: "", thinking: "", decision: null, figures: null, requestId: "", error: "", isExplained: false, asked: null }),
  computed: {
    models: (it) => it.store.state.models,
    groups: (it) => it.store.state.groups.filter((group) => group.members.length && !it.models.includes(group.name)).map((group) => group.name),
    chosen: (it) => ([...it.models, ...it.groups].includes(it.model) ? it.model : it.models[0] ?? ""),
    canRun: (it) => it.mayOperate && !it.asked && it.chosen && it.prompt.trim(),
    speed: (it) => (it.figures?.output_tokens && it.figures.decode_s ? it.figures.output_tokens / it.figures.decode_s : null),
    priorities: () => PRIORITIES,
  },
  unmounted() {
    this.asked?.stop();
  },
  methods: {
    count, number, seconds,
    onTold(news) {
      if (news.request_id) this.requestId = news.request_id;
      if (news.decision) this.decision = news.decision;
      this.text += news.text ?? "";
      this.thinking += news.thinking ?? "";
    },
    async run() {
      if (!this.canRun) return;
      Object.assign(this, { text: "", thinking: "", decision: null, figures: null, requestId: "", error: "" });
      this.asked = this.store.ask("generate", { model: this.chosen, prompt: this.prompt, mode: this.mode, priority: Number(this.priority) }, this.onTold);
      try {
        const result = await this.asked;
        this.figures = result.figures;
        this.decision = result.decision ?? this.decision;
      } catch (error) {
        this.error = error.message;
      }
      this.asked = null;
    },
  },
  template: `<section class="view playground" aria-label="Playground">
    <form class="panel stack" @submit.prevent="run">
      <p v-if="!mayOperate" class="muted">Looking only: asking needs an administrator's key.</p>
      <label class="field"><span>Prompt</span><textarea class="input" rows="6" v-model="prompt" placeholder="Why is the sky blue?" @keydown.ctrl.enter.prevent="run" @keydown.meta.enter.prevent="run"></textarea></label>
      <label class="field"><span>Model</span><select class="input" :value="chosen" @change="model = $event.target.value" :disabled="!models.length"><option v-for="name in models" :key="name" :value="name">{{ name }}</option><optgroup v-if="models.length && groups.length" label="Groups of models"><option v-for="name in groups" :key="name" :value="name">{{ name }}</option></optgroup><option v-if="!models.length" value="">no model in the fleet</option></select></label>
      <div class="field"><span>Mode</span><Segmented v-model="mode" :options="[['fast', 'Fast'], ['reliable', 'Reliable'], ['async', 'Async'], ['cheap', 'Cheap'], ['auto', 'Auto']]" label="Mode"/></div>
      <label class="field"><span>Priority</span><select class="input" v-model="priority"><option v-for="[value, name] in priorities" :key="value" :value="value">{{ value }} {{ name }}</option></select></label>
      <div class="row gap"><button class="button primary" :disabled="!canRun"><Icon name="running"/>Run</button>
        <button v-if="asked" type="button" class="button" @click="asked.stop()">Stop</button></div>
    </form>
    <div class="stack">
      <section class="panel stack" aria-label="Answer"><h2>Answer</h2>
        <pre v-if="thinking" class="answer muted">{{ thinking }}</pre>
        <pre v-if="text" class="answer" aria-live="polite">{{ text }}</pre>
        <p v-if="error" class="problem" role="alert">{{ error }}</p>
        <p v-else-if="asked && !text" class="muted" role="status">{{ decision ? 'Streaming…' : 'Waiting for a slot and the first token…' }}</p>
        <p v-else-if="!text && !thinking" class="muted">The answer streams in here, straight from the node that makes it.</p>
        <p v-if="figures" class="muted num small">{{ seconds(figures.actual_s) }} in all, first token after {{ seconds(figures.ttft_s) }}, {{ count(figures.output_tokens) }} tokens<template v-if="speed">, {{ number(speed) }} tok/s</template></p>
      </section>
      <section class="panel stack" v-if="decision" aria-label="Decision"><div class="row between"><h2>Decision</h2><Mode :mode="decision.mode ?? 'fast'"/></div>
        <p class="verdict"><b>{{ decision.node_id }}</b>{{ decision.reason ? ': ' + decision.reason : '' }}</p>
        <dl class="facts"><dt>Predicted</dt><dd class="num">{{ seconds(decision.forecast?.total_s ?? 0) }}</dd><dt>Actual</dt><dd class="num">{{ seconds(figures?.actual_s) }}</dd><dt>Waited</dt><dd class="num">{{ seconds(decision.queue_s ?? 0) }}</dd><dt>Strategy</dt><dd>{{ decision.strategy ?? 'plan' }}</dd></dl>
        <div><button class="button" @click="isExplained = true">Why this node?</button></div></section>
    </div>
    <ExplainDrawer v-if="isExplained" :request-id="requestId" :key="requestId" @close="isExplained = false"/>
  </section>`,
};
