// A curve without axes, for a figure's last four minutes; what it says stands beside it in words.
const WIDTH = 72;
const HEIGHT = 22;

export const Spark = {
  props: { values: Array, kind: { type: String, default: "" } },
  computed: {
    points() {
      const values = this.values ?? [];
      if (values.length < 2) return "";
      const top = Math.max(...values) || 1;
      const step = WIDTH / Math.max(1, values.length - 1);
      return values.map((value, i) => `${(i * step).toFixed(1)},${(HEIGHT - 2 - (value / top) * (HEIGHT - 4)).toFixed(1)}`).join(" ");
    },
  },
  template: `<svg class="spark" :class="kind" viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" aria-hidden="true">
    <polygon v-if="points" :points="'0,${HEIGHT} ' + points + ' ${WIDTH},${HEIGHT}'"/><polyline v-if="points" :points="points"/></svg>`,
};
