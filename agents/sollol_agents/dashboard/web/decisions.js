// The decisions as they are taken, and what became of each.
import { clock, priorityName, seconds } from "./format.js";
import { ExplainDrawer } from "./explain.js";
import { Empty, Icon, Mode, Segmented, State } from "./ui.js";

export const DecisionsView = {
  components: { Empty, ExplainDrawer, Icon, Mode, Segmented, State },
  inject: ["store"],
  data: () => ({ mode: "all", frozen: null, opened: null }),
  computed: {
    live: (it) => it.store.state.decisions,
    rows() {
      const rows = this.frozen ?? this.live;
      return rows.filter((row) => this.mode === "all" || row.mode === this.mode).slice(0, 100);
    },
    fresh: (it) => (it.frozen ? it.live.filter((row) => row.at > (it.frozen[0]?.at ?? 0)).length : 0),
  },
  methods: {
    clock,
    priorityName,
    seconds,
    toggle() {
      this.frozen = this.frozen ? null : [...this.live];
    },
  },
  template: `<section class="view" aria-label="Decisions">
    <div class="toolbar">
      <Segmented v-model="mode" :options="[['all', 'All'], ['fast', 'Fast'], ['reliable', 'Reliable'], ['async', 'Async'], ['cheap', 'Cheap']]" label="Mode"/>
      <button class="button" :aria-pressed="!!frozen" @click="toggle"><Icon :name="frozen ? 'running' : 'pause'"/>{{ frozen ? (fresh ? 'Resume, ' + fresh + ' new' : 'Resume') : 'Pause' }}</button>
    </div>
    <ol class="feed" v-if="rows.length">
      <li v-for="row in rows" :key="row.id"><button class="decision" :data-request="row.request_id" @click="opened = row.request_id">
        <time class="num muted">{{ clock(row.at) }}</time>
        <Mode :mode="row.mode"/>
        <span class="where"><b>{{ row.node_id || 'no node' }}</b><span class="muted">{{ row.model }}</span></span>
        <span class="times num"><span><small class="muted">predicted</small> {{ row.predicted_s ? seconds(row.predicted_s) : '–' }}</span>
          <span><small class="muted">actual</small> {{ seconds(row.actual_s) }}</span></span>
        <State :state="row.status || 'running'" :label="row.status ? undefined : row.continued_tokens ? 'resumed' : 'running'"/>
        <span class="reason">{{ row.message || row.reason || 'open it to ask the recorder for the reason' }}</span>
        <span class="extra muted small num">priority {{ priorityName(row.priority ?? 5) }}<template v-if="row.queue_s > 0.0005"> · waited {{ seconds(row.queue_s) }}</template><template v-if="row.attempt > 1"> · attempt {{ row.attempt }}</template><template v-if="row.continued_tokens"> · resumed after {{ row.continued_tokens }} tokens</template></span>
      </button></li>
    </ol>
    <Empty v-else icon="decisions" title="No decision yet">Each request shows here when it gets its node, with the reason. Try the playground, or <code>sollol generate MODEL PROMPT</code>.</Empty>
    <ExplainDrawer v-if="opened" :request-id="opened" :key="opened" @close="opened = null"/>
  </section>`,
};
