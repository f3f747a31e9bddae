// How programs and further machines come in: lines to copy, with the address that can be dialled from here.
import { Icon } from "./ui.js";

const LOOPBACK = new Set(["127.0.0.1", "localhost", "[::1]"]);
const ANY = new Set(["0.0.0.0", "[::]"]);

// What listens on every address is reached by the name that this page was reached by.
function dialled(address) {
  try {
    const url = new URL(address);
    if (ANY.has(url.hostname)) url.hostname = location.hostname;
    return url.toString().replace(/\/$/, "");
  } catch {
    return address;
  }
}

function hostOf(address) {
  try {
    return new URL(address.replace(/^(nats|tls):/, "http:")).hostname;
  } catch {
    return "";
  }
}

const Line = {
  components: { Icon },
  inject: ["store"],
  props: { name: String, text: String },
  computed: {
    parts: (it) => it.text.split(/(\s+)/), // a line breaks between words, not after the dashes of a flag
  },
  methods: {
    async copy() {
      try {
        await navigator.clipboard.writeText(this.text);
        this.store.toast(`Copied: ${this.name}`);
      } catch {
        getSelection().selectAllChildren(this.$refs.text); // no clipboard without HTTPS: the browser's own copy does it
      }
    },
  },
  template: `<div class="snippet"><span class="small muted">{{ name }}</span><pre ref="text"><template v-for="part in parts"><span v-if="part.trim()" class="word">{{ part }}</span><template v-else>{{ part }}</template></template></pre><button class="button small" :aria-label="'Copy ' + name" @click="copy"><Icon name="copy" :size="14"/>Copy</button></div>`,
};

export const ConnectPanel = {
  components: { Line },
  inject: ["store"],
  props: { isJoining: Boolean },
  data: () => ({ known: null, error: "" }),
  computed: {
    url: (it) => (it.known?.gateways?.length ? dialled(it.known.gateways[0]) : ""),
    model: (it) => it.known?.models?.[0] ?? "llama3.2:3b",
    isHere: (it) => LOOPBACK.has(hostOf(it.url)),
    isBusHere: (it) => LOOPBACK.has(hostOf(it.known?.nats ?? "")),
    nats: (it) => it.known?.nats?.split(",")[0] ?? "nats://127.0.0.1:4222",
    lines() {
      const { url, model } = this;
      const say = '[{"role": "user", "content": "Why is the sky blue?"}]';
      return [
        ["curl", `curl ${url}/api/generate -d '{"model": "${model}", "prompt": "Why is the sky blue?"}'`],
        ["Ollama's command line", `OLLAMA_HOST=${url} ollama run ${model}`],
        ["Python, openai", `from openai import OpenAI; print(OpenAI(base_url="${url}/v1", api_key="none").chat.completions.create(model="${model}", messages=${say}).choices[0].message.content)`],
        ["Python, anthropic", `from anthropic import Anthropic; print(Anthropic(base_url="${url}", api_key="none").messages.create(model="${model}", max_tokens=500, messages=${say}).content[0].text)`],
      ];
    },
    bus: (it) => `nats --server ${it.nats} req sollol.v1.generate '{"model": "${it.model}", "prompt": "Why is the sky blue?", "stream": true}' --wait-for-empty --timeout 60s`,
  },
  async mounted() {
    try {
      this.known = await this.store.ask("connect");
    } catch (error) {
      this.error = error.message;
    }
  },
  template: `<div class="stack connect" v-if="known">
    <section class="stack"><h3>Ask it something</h3>
    <template v-if="url"><p>The gateway is <b class="num">{{ url }}</b><template v-if="isHere">, which this machine alone reaches</template>. It speaks Ollama's, OpenAI's and Anthropic's APIs; where it asks for keys, put one in place of <code>none</code>.</p>
      <Line v-for="[name, text] in lines" :key="name" :name="name" :text="text"/></template>
    <p v-else><b>No gateway answers.</b> Start one for HTTP clients: <code>sollol gateway</code></p>
    <Line name="NATS" :text="bus"/></section>
    <section class="stack" :class="{ first: isJoining }"><h3>{{ isJoining ? 'The first node' : 'One more machine' }}</h3>
    <template v-if="known.has_members"><p class="muted">Here; it prints the one line to paste on the other machine, which is valid once and for an hour:</p><Line name="invite" text="sollol invite node NAME"/></template>
    <template v-else-if="isBusHere"><Line name="an engine on this machine" text="sollol node --id NAME --engine ollama --url http://127.0.0.1:11434"/>
      <p class="muted">The bus listens to this machine alone. This makes it a fleet that other machines join by an invitation; then start <code>sollol up</code> anew:</p><Line name="open it to members" text="sollol fleet init"/></template>
    <Line v-else name="on that machine" :text="'sollol node --nats ' + nats"/></section>
  </div>
  <p v-else-if="error" class="problem">{{ error }}</p>
  <p v-else class="muted" role="status">Looking for gateways…</p>`,
};
