/** The form of a question, where a request goes, as the API takes it. */
import type { components } from "../api/generated";

export interface Form {
  from: string;
  method: string;
  url: string;
  /** One `name: value` per line. */
  headers: string;
}

/** A header that stands twice becomes one value, with commas; a line that is no header is an error. */
export function questionOf(form: Form): components["schemas"]["Question"] {
  const headers: Record<string, string> = {};
  for (const line of form.headers.split("\n").map((line) => line.trim())) {
    if (line === "") continue;
    const colon = line.indexOf(":");
    if (colon < 1) throw new Error(`“${line}” is no header: write NAME: VALUE`);
    const name = line.slice(0, colon).trim().toLowerCase();
    const value = line.slice(colon + 1).trim();
    headers[name] = name in headers ? `${headers[name]}, ${value}` : value;
  }
  return { from: form.from.trim(), request: { method: form.method, url: form.url.trim(), headers } };
}
