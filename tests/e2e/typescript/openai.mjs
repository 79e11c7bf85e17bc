// The official `openai` client against the proxy. Prints what it saw as one JSON object.

import OpenAI from "openai";

import { CITY, MODEL, NO_TOKEN, PROXY_TOKEN, PROXY_URL, QUESTION, named, thrown } from "./report.mjs";

const connect = (apiKey) => new OpenAI({ baseURL: `${PROXY_URL}/v1`, apiKey, maxRetries: 0 });
const client = connect(PROXY_TOKEN);
const asked = { model: MODEL, messages: QUESTION };
const tools = [{ type: "function", function: { name: "weather", parameters: CITY } }];

async function buffered() {
  const { data, response } = await client.chat.completions
    .create(asked, named(process.env.CHAT))
    .withResponse();
  return {
    text: data.choices[0].message.content,
    finish: data.choices[0].finish_reason,
    tokens: data.usage.total_tokens,
    provider: response.headers.get("x-proxy-provider"),
  };
}

async function streamed() {
  const seen = { words: [], finish: null, tokens: null };
  const body = { ...asked, stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await client.chat.completions.create(body, named(process.env.STREAM))) {
    const [choice] = chunk.choices;
    if (choice?.delta.content) seen.words.push(choice.delta.content);
    seen.finish = choice?.finish_reason ?? seen.finish;
    seen.tokens = chunk.usage?.total_tokens ?? seen.tokens;
  }
  return seen;
}

async function roundTrip(stream) {
  const first = stream
    ? await client.chat.completions.stream({ ...asked, tools }).finalChatCompletion()
    : await client.chat.completions.create({ ...asked, tools });
  const { message, finish_reason: finish } = first.choices[0];
  const [call] = message.tool_calls;
  const result = { role: "tool", tool_call_id: call.id, content: "Rain." };
  const messages = [...QUESTION, message, result];
  const last = await client.chat.completions.create({ ...asked, tools, messages });
  return {
    finish,
    name: call.function.name,
    input: JSON.parse(call.function.arguments),
    text: last.choices[0].message.content,
  };
}

async function models() {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  return ids;
}

const failing = { ...asked, model: process.env.FAILING_MODEL };
const seen = {
  buffered: await buffered(),
  streamed: await streamed(),
  tools: await roundTrip(false),
  streamedTools: await roundTrip(true),
  models: await models(),
  upstreamError: await thrown(() => client.chat.completions.create(failing)),
  streamedError: await thrown(() => client.chat.completions.create({ ...failing, stream: true })),
  noModel: await thrown(() => client.chat.completions.create({ ...asked, model: "no-such-model" })),
  noToken: await thrown(() => connect(NO_TOKEN).models.list()),
};
console.log(JSON.stringify(seen));
