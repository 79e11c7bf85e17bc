// The official `@anthropic-ai/sdk` client against the proxy. Prints what it saw as one JSON object.
// SDK is the package: the newest one, or the last 0.x, which sends `apiKey` as `x-api-key`.
// CREDENTIAL says how the client takes the access token: `apiKey` or `authToken`.

import { CITY, MODEL, NO_TOKEN, PROXY_TOKEN, PROXY_URL, QUESTION, named, thrown } from "./report.mjs";

const { default: Anthropic } = await import(process.env.SDK);

/** The header lines in which the client sent the access token. */
const places = new Set();

function sending(url, init) {
  for (const [name, value] of new Headers(init.headers)) {
    if (value.includes(PROXY_TOKEN)) places.add(name);
  }
  return fetch(url, init);
}

const connect = (token) =>
  new Anthropic({
    baseURL: PROXY_URL,
    apiKey: null,
    authToken: null,
    [process.env.CREDENTIAL]: token,
    maxRetries: 0,
    fetch: sending,
  });
const client = connect(PROXY_TOKEN);
const asked = { model: MODEL, max_tokens: 2000, messages: QUESTION };
const tools = [{ name: "weather", description: "The weather of a city.", input_schema: CITY }];

async function buffered() {
  const { data, response } = await client.messages
    .create(asked, named(process.env.CHAT))
    .withResponse();
  return {
    text: data.content[0].text,
    finish: data.stop_reason,
    tokens: data.usage.output_tokens,
    provider: response.headers.get("x-proxy-provider"),
  };
}

async function streamed() {
  const stream = client.messages.stream(asked, named(process.env.STREAM));
  const words = [];
  stream.on("text", (word) => words.push(word));
  const message = await stream.finalMessage();
  return { words, finish: message.stop_reason, tokens: message.usage.output_tokens };
}

async function roundTrip(stream) {
  const body = { ...asked, tools };
  const first = stream
    ? await client.messages.stream(body).finalMessage()
    : await client.messages.create(body);
  const [call] = first.content;
  const result = { type: "tool_result", tool_use_id: call.id, content: "Rain." };
  const messages = [
    ...QUESTION,
    { role: "assistant", content: first.content },
    { role: "user", content: [result] },
  ];
  const last = await client.messages.create({ ...body, messages });
  return { finish: first.stop_reason, name: call.name, input: call.input, text: last.content[0].text };
}

async function models() {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  return ids;
}

const failing = { ...asked, model: process.env.FAILING_MODEL };

/** The tokens, or the status of the error. */
const counted = await client.messages
  .countTokens({ model: MODEL, messages: QUESTION })
  .then((found) => found.input_tokens, (error) => error.status);
const seen = {
  buffered: await buffered(),
  streamed: await streamed(),
  tools: await roundTrip(false),
  streamedTools: await roundTrip(true),
  counted,
  models: await models(),
  upstreamError: await thrown(() => client.messages.create(failing)),
  streamedError: await thrown(() => client.messages.stream(failing).finalMessage()),
  noModel: await thrown(() => client.messages.create({ ...asked, model: "no-such-model" })),
  noToken: await thrown(() => connect(NO_TOKEN).messages.create(asked)),
};
console.log(JSON.stringify({ ...seen, places: [...places] }));
