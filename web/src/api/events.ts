/** Server-sent events over `fetch`: the browser's own `EventSource` can send no token. */
import { open } from "./client";

export interface ServerEvent {
  id: string;
  event: string;
  data: string;
}

/** How long to wait before a stream that ended or broke is opened again. */
const PAUSE_MS = 1000;

/** Follows a stream until `signal` ends it, across its ends; each time from the last event on. */
export async function follow(
  path: string,
  query: object,
  signal: AbortSignal,
  told: (event: ServerEvent) => void,
  failed: (error: Error | null) => void,
): Promise<void> {
  let last = "";
  while (!signal.aborted) {
    try {
      const headers: Record<string, string> = last ? { "last-event-id": last } : {};
      const response = await open(path, { query, headers, signal });
      failed(null);
      const parser = new EventParser();
      const decoder = new TextDecoder();
      const reader = (response.body ?? new ReadableStream<Uint8Array>()).getReader();
      for (let read = await reader.read(); !read.done; read = await reader.read()) {
        for (const event of parser.push(decoder.decode(read.value, { stream: true }))) {
          last = event.id || last;
          told(event);
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      failed(error as Error);
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

/** Takes text in pieces as they arrive; gives the events that are whole. */
export class EventParser {
  #rest = "";

  push(text: string): ServerEvent[] {
    const blocks = (this.#rest + text).replaceAll("\r\n", "\n").split("\n\n");
    this.#rest = blocks.pop() ?? "";
    return blocks.map(eventOf).filter((event) => event.data !== "" || event.id !== "");
  }
}

function eventOf(block: string): ServerEvent {
  const event: ServerEvent = { id: "", event: "message", data: "" };
  const data: string[] = [];
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    // A line that begins with a colon is a comment.
    if (colon === 0) continue;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") data.push(value);
    else if (field === "id" || field === "event") event[field] = value;
  }
  return { ...event, data: data.join("\n") };
}
