// Makes types in one language of all definitions of the JSON Schema named, and writes them.
import { readFileSync, writeFileSync } from 'node:fs';
import { InputData, JSONSchemaInput, quicktype } from 'quicktype-core';

const [source, lang, target] = process.argv.slice(2);
const schema = new JSONSchemaInput(undefined);
await schema.addSource({ name: 'sollol', schema: readFileSync(source, 'utf8'), uris: ['#/$defs/'] });
const inputData = new InputData();
inputData.addInput(schema);
const { lines } = await quicktype({ inputData, lang });
writeFileSync(target, lines.join('\n'));
