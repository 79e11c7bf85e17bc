// What both scripts share: how an error is told, and the environment of the script.

export const { PROXY_URL, PROXY_TOKEN, MODEL } = process.env;
export const NO_TOKEN = "sk-" + "A".repeat(22);
export const QUESTION = [{ role: "user", content: "Hi" }];
export const CITY = { type: "object", properties: { city: { type: "string" } } };

/** The identifier of a request, by which its event is found. */
export const named = (name) => ({ headers: { "X-Request-ID": name } });

/** What the client throws; nothing thrown is a fault of its own. */
export async function thrown(call) {
  try {
    await call();
  } catch (error) {
    const { status, code, type, message, requestID } = error;
    return { class: error.constructor.name, status, code, type, message, requestID, body: error.error };
  }
  throw new Error("the client threw nothing");
}
