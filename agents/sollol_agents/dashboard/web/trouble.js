// What is wrong, above everything else; and whether what the page shows is still true.
import { seconds } from "./format.js";
import { Icon } from "./ui.js";

const SHOWN = 3;

export const Troubles = {
  components: { Icon },
  inject: ["store"],
  data: () => ({ isWhole: false }),
  computed: {
    frozen: (it) => it.store.state.frozenForS,
    all: (it) => it.store.state.head?.troubles ?? [],
    shown: (it) => (it.isWhole ? it.all : it.all.slice(0, SHOWN)),
    worst: (it) => (it.all.some((one) => one.level === "bad") ? "bad" : "warn"),
  },
  methods: { seconds: (value) => seconds(Math.round(value)) },
  template: `<div role="alert" class="troubles-box">
    <div v-if="frozen" class="troubles bad"><Icon name="suspect" :size="18"/><p><b>The dashboard does not answer.</b> What you see was true {{ seconds(frozen) }} ago; it goes on by itself when <code>sollol up</code> or <code>sollol dashboard</code> answers again.</p></div>
    <div v-else-if="all.length" class="troubles" :class="worst"><Icon name="suspect" :size="18"/>
      <ul><li v-for="one in shown" :key="one.text"><span class="mark" :class="one.level" v-if="worst !== one.level"></span><a :href="'#' + one.view">{{ one.text }}</a><template v-if="one.text.startsWith('No scorer')"> Start one: <code>sollol scorer</code></template></li></ul>
      <button v-if="all.length > ${SHOWN}" class="button small ghost" @click="isWhole = !isWhole">{{ isWhole ? 'Fewer' : all.length - ${SHOWN} + ' more' }}</button></div>
  </div>`,
};
