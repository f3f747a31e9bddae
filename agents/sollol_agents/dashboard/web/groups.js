// Groups of models: what was learnt of each model, and what a trial has shown.
import { count, percent } from "./format.js";
import { State } from "./ui.js";

export const Groups = {
  components: { State },
  props: { groups: Array },
  methods: {
    count, percent,
    about: (group) => (group.is_built_in ? "every model that can do the request" : `picked by ${group.strategy.replaceAll("_", " ")}`),
  },
  template: `<section class="panel" aria-label="Groups of models"><h2>Groups of models</h2>
    <p class="muted">A request may name one like a model. <code>sollol group set</code> makes one; ratings teach which of its models is good.</p>
    <template v-for="group in groups" :key="group.name">
      <h3>{{ group.name }} <span class="muted small">{{ about(group) }}</span></h3>
      <div class="scroll" v-if="group.members.length"><table class="table"><thead><tr><th>Model</th><th class="r">Good</th><th class="r">Ratings</th><th class="r">Answers</th><th class="r">Nodes</th><th>Breaker</th></tr></thead>
        <tbody><tr v-for="member in group.members" :key="member.model"><td>{{ member.model }}<span v-if="member.share" class="muted small"> trial, {{ percent(member.share) }}</span></td>
          <td class="r num">{{ member.quality == null ? '–' : percent(member.quality) }}</td><td class="r num">{{ member.feedback ? count(member.feedback) : '–' }}</td>
          <td class="r num">{{ member.answers ? count(member.answers) : '–' }}</td><td class="r num">{{ member.nodes || 'none' }}</td><td><State :state="member.breaker"/></td></tr></tbody></table></div>
      <p v-else class="muted">None of its models is on any node.</p>
      <p v-if="group.more" class="muted small">and {{ group.more }} more</p>
      <p v-if="group.verdict" class="small">{{ group.verdict }}</p>
    </template>
  </section>`,
};
