// Reads the AsyncAPI document named, and makes TypeScript types of it; prints what was found as JSON.
import { readFileSync, writeFileSync } from 'node:fs';
import { TypeScriptGenerator } from '@asyncapi/modelina';
import { Parser } from '@asyncapi/parser';

const [source, target] = process.argv.slice(2);
const { document, diagnostics } = await new Parser().parse(readFileSync(source, 'utf8'));
const complaints = diagnostics.filter((one) => one.severity < 2).map((one) => `${one.path.join('/')}: ${one.message}`);
const models = document ? await new TypeScriptGenerator({ modelType: 'interface' }).generate(document) : [];
writeFileSync(target, models.map((model) => model.result).join('\n'));
console.log(JSON.stringify({
  complaints,
  channels: document?.channels().all().length ?? 0,
  messages: document?.allMessages().all().length ?? 0,
  models: models.map((model) => model.modelName),
}));
