/** A resource as the text that a person edits, and back. */
import { LineCounter, parseDocument, stringify } from "yaml";
import type { ProblemDetails } from "../api/problem";

/** What the server writes into a resource, and takes from nobody. */
const OF_THE_SERVER = ["kind", "uid", "etag", "revision", "createTime", "updateTime", "managedBy", "managedRevision", "managedFields", "owner"];

export interface Mistake {
  /** From 1; 0 when it is about no line. */
  line: number;
  detail: string;
}

export type Read = { fields: Record<string, unknown> } | { mistakes: Mistake[] };

/** Without what the server writes. */
export function textOf(resource: object): string {
  return yaml(Object.fromEntries(Object.entries(resource).filter(([field]) => !OF_THE_SERVER.includes(field))));
}

export function yaml(value: unknown): string {
  return value === undefined || value === null ? "" : stringify(value, { lineWidth: 0 });
}

export function read(text: string): Read {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  // Those after the first mostly follow from it.
  const [error] = document.errors;
  if (error) {
    const detail = (error.message.split("\n")[0] ?? "").replace(/ at line \d+, column \d+:?$/, "");
    return { mistakes: [{ line: lines.linePos(error.pos[0]).line, detail }] };
  }
  const fields: unknown = document.toJS();
  if (typeof fields !== "object" || fields === null || Array.isArray(fields)) {
    return { mistakes: [{ line: 1, detail: "a resource has fields; it begins with `name:`" }] };
  }
  return { fields: fields as Record<string, unknown> };
}

/** What a refusal says about this document: of what it does to other resources, the refusal itself tells. */
export function mistakesIn(text: string, name: string, errors: NonNullable<ProblemDetails["errors"]>): Mistake[] {
  return errors
    .filter(({ resource }) => resource === undefined || resource === name)
    .map(({ pointer, detail }) => ({ line: lineOf(text, pointer ?? ""), detail }));
}

/** The line of what a JSON pointer (RFC 6901) points at in the text; of the nearest thing above it when that is not there. */
export function lineOf(text: string, pointer: string): number {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const path = pointer
    .split("/")
    .slice(1)
    .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"))
    .map((part) => (/^\d+$/.test(part) ? Number(part) : part));
  for (let depth = path.length; depth > 0; depth -= 1) {
    const node = document.getIn(path.slice(0, depth), true) as { range?: [number, number, number] } | undefined;
    if (node?.range) return lines.linePos(node.range[0]).line;
  }
  return 0;
}
