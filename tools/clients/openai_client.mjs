// Calls a running `candle-coreml serve` with OpenAI's Node client and checks the responses. See `run.sh`.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2] ?? "http://127.0.0.1:8080/v1", apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is the capital of Peru?" }];
const chat = { model: "tiny-qwen3", messages, temperature: 0 };

const models = [];
for await (const model of client.models.list()) models.push(model.id);
assert.ok(models.includes("tiny-qwen3"));

const whole = await client.chat.completions.create({ ...chat, logprobs: true, top_logprobs: 3 });
assert.equal(whole.choices[0].message.content, "Lima");
assert.equal(whole.choices[0].logprobs.content.map((t) => t.token).join(""), "Lima");

let text = "";
for await (const chunk of await client.chat.completions.create({ ...chat, stream: true })) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
assert.equal(text, "Lima");

const schema = {
  type: "object",
  properties: { city: { type: "string", maxLength: 5 }, days: { type: "integer", minimum: 1, maximum: 9 } },
  required: ["city", "days"],
  additionalProperties: false,
};
const formed = await client.chat.completions.create({
  ...chat, max_tokens: 100, response_format: { type: "json_schema", json_schema: { name: "x", strict: true, schema } },
});
if (formed.choices[0].finish_reason === "stop") assert.ok("city" in JSON.parse(formed.choices[0].message.content));

const stream = client.chat.completions.stream({
  model: "caller", messages, temperature: 0, tool_choice: "required", parallel_tool_calls: false,
  tools: [{ type: "function", function: { name: "weather", parameters: schema } }],
});
const called = await stream.finalChatCompletion();
assert.equal(called.choices[0].message.tool_calls[0].function.name, "weather");
assert.ok("days" in JSON.parse(called.choices[0].message.tool_calls[0].function.arguments));

const response = await client.responses.create({ model: "tiny-qwen3", input: messages, temperature: 0 });
assert.equal(response.output_text, "Lima");
let streamed = "";
for await (const event of await client.responses.create({ model: "tiny-qwen3", input: messages, temperature: 0, stream: true })) {
  if (event.type === "response.output_text.delta") streamed += event.delta;
}
assert.equal(streamed, "Lima");

await assert.rejects(client.chat.completions.create({ ...chat, n: 0 }), OpenAI.BadRequestError);
console.log("Node client: all as expected");
