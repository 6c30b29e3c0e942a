/** The REST API, typed by the operations of docs/openapi.json. Every request of the admin passes through `send`. */
import { proof } from "../session";
import { heard, unheard } from "./connection";
import type { components, operations } from "./generated";
import { Away, Problem, type ProblemDetails } from "./problem";

type Id = keyof operations;
type Content<R> = R extends { content: { "application/json": infer Body } } ? Body : never;
/** What an operation answers when it succeeds. */
export type Answer<I extends Id> = {
  [S in keyof operations[I]["responses"]]: S extends 200 | 201 ? Content<operations[I]["responses"][S]> : never;
}[keyof operations[I]["responses"]];
export type QueryOf<I extends Id> = NonNullable<operations[I]["parameters"]["query"]>;
type Schema<Name extends keyof components["schemas"]> = components["schemas"][Name];

export type Resource = Answer<"treeOrganization">["items"][number];
export type Plan = Schema<"Plan">;
export type KeptPlan = Schema<"KeptPlan">;
export type Changed = Schema<"Changed">;
export type Finding = Schema<"Finding">;
export type Status = Schema<"Status">;
export type AuditRecord = Schema<"AuditRecord">;
export type Explanation = Schema<"Explanation">;
export type Readiness = Schema<"Readiness">;
export type HistoryEntry = Schema<"History">["items"][number];

/** What can be asked of any name. What the organization answers has the shape that every other kind answers. */
type Question = "status" | "receipt" | "tree" | "history" | "diff";

interface Sending {
  method?: "GET" | "POST" | "PUT" | "DELETE";
  query?: object | undefined;
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
}

/** A question about one name. */
export function ask<Q extends Question>(
  question: Q,
  name: string,
  query?: QueryOf<`${Q}Organization`>,
  signal?: AbortSignal,
): Promise<Answer<`${Q}Organization`>> {
  return send(`${name}:${question}`, { query, signal });
}

export const api = {
  loginMethods: () => send<Answer<"loginMethods">>("auth:methods"),
  login: (body: Schema<"LoginWish">) => send<Answer<"login">>("auth:login", { method: "POST", body }),
  logout: () => send<Answer<"logout">>("auth:logout", { method: "POST" }),
  whoami: (headers: Record<string, string>) => send<Answer<"whoami">>("auth:whoami", { headers }),
  organizations: (headers: Record<string, string>) => send<Answer<"listOrganization">>("organizations", { headers }),
  top: (name: string, headers: Record<string, string>) =>
    send<Answer<"treeOrganization">>(`${name}:tree`, { headers, query: { pageSize: 1 } }),
  get: (name: string) => send<Resource>(name),
  effective: (name: string, query: QueryOf<"effectiveWorkspace">) =>
    send<Answer<"effectiveWorkspace">>(`${name}:effective`, { query }),
  readiness: (name: string) => whole<Answer<"readinessWorkspace">>(`${name}:readiness`),
  schema: (kind: string) => send<Answer<"getSchema">>(`schemas/${kind}`),
  search: (query: QueryOf<"search">) => whole<Answer<"search">>("search", query),
  explain: (body: Schema<"Question">) => send<Answer<"explain">>("explain", { method: "POST", body }),
  audit: (query: QueryOf<"listAudit">) => send<Answer<"listAudit">>("audit", { query }),
  plans: () => send<Answer<"listPlans">>("plans"),
  keptPlan: (id: string) => send<Answer<"getPlan">>(`plans/${id}`),
  vote: (id: string, vote: "approve" | "reject", comment: string) =>
    send<Answer<"approvePlan">>(`plans/${id}:${vote}`, { method: "POST", body: { comment } }),
  applyKept: (id: string, comment: string) =>
    send<Answer<"applyPlan">>(`plans/${id}:apply`, { method: "POST", body: { comment } }),
  /** `wish` is what `POST /v1/changes` takes too. */
  plan: (wish: unknown, query: QueryOf<"plan"> = {}) => send<Plan>("plans", { method: "POST", body: wish, query }),
  submit: (wish: unknown, query: QueryOf<"plan">) =>
    send<Schema<"SubmittedPlan">>("plans", { method: "POST", body: wish, query: { ...query, submit: true } }),
  apply: (wish: unknown, query: QueryOf<"change">, headers: Record<string, string>) =>
    send<Changed>("changes", { method: "POST", body: wish, query, headers }),
};

/** Of `:tree`, all pages up to this many resources: more would be a wall, and the search finds them. */
const TREE_MAX = 5000;

export async function wholeTree(name: string, signal?: AbortSignal): Promise<{ items: Resource[]; more: boolean }> {
  const items: Resource[] = [];
  let pageToken: string | undefined;
  do {
    const page = await ask("tree", name, { pageSize: 500, ...(pageToken && { pageToken }) }, signal);
    items.push(...page.items);
    pageToken = page.nextPageToken;
  } while (pageToken && items.length < TREE_MAX);
  return { items, more: pageToken !== undefined };
}

/** A list with all of its pages. */
async function whole<List extends { items: unknown[]; nextPageToken?: string }>(
  path: string,
  query: object = {},
): Promise<List> {
  const page = (pageToken?: string) =>
    send<List>(path, { query: { ...query, pageSize: 500, ...(pageToken && { pageToken }) } });
  const list = await page();
  for (let token = list.nextPageToken; token; ) {
    const next = await page(token);
    list.items.push(...next.items);
    token = next.nextPageToken;
  }
  delete list.nextPageToken;
  return list;
}

async function send<Body>(path: string, sending: Sending = {}): Promise<Body> {
  return (await (await open(path, sending)).json()) as Body;
}

/** The answer of management, if it is one: anything else is thrown as what it is. */
export async function open(path: string, { method = "GET", query, body, headers, signal }: Sending): Promise<Response> {
  const request: RequestInit = {
    method,
    headers: { ...proof(), ...(body !== undefined && { "content-type": "application/json" }), ...headers },
    ...(body !== undefined && { body: JSON.stringify(body) }),
    ...(signal && { signal }),
    cache: "no-store",
  };
  let response: Response;
  try {
    response = await fetch(`/v1/${path}${queryText(query)}`, request);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw unheard(new Away());
  }
  if (response.ok) {
    heard();
    return response;
  }
  if (!response.headers.get("content-type")?.startsWith("application/problem+json")) throw unheard(new Away());
  heard();
  throw new Problem((await response.json()) as ProblemDetails);
}

export function queryText(query: object = {}): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== "") parameters.set(name, String(value));
  }
  const text = parameters.toString();
  return text && `?${text}`;
}
