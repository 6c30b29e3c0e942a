/** Names are paths, `organizations/acme/tenants/payments`; a kind is told by the collection that it stands in. */
import type { Resource } from "./client";
import places from "./places.json";

const BELOW: Record<string, Record<string, string>> = places;
const KINDS = new Map(Object.values(BELOW).flatMap((below) => Object.entries(below)));

/** A resource with those below it. */
export interface Branch {
  resource: Resource;
  children: Branch[];
}

export function leaf(name: string): string {
  return name.slice(name.lastIndexOf("/") + 1);
}

export function kindOf(name: string): string {
  return KINDS.get(name.split("/").at(-2) ?? "") ?? "";
}

/** The name and all above it, from the top. */
export function lineage(name: string): string[] {
  const parts = name.split("/");
  return parts.flatMap((_, at) => (at % 2 === 1 ? [parts.slice(0, at + 1).join("/")] : []));
}

export function isWithin(name: string, node: string): boolean {
  return name === node || name.startsWith(`${node}/`);
}

/** What may be created below a resource of this kind: by collection, the kind. */
export function below(kind: string): [collection: string, kind: string][] {
  return Object.entries(BELOW[kind] ?? {});
}

/** Makes a tree of a list; what has nobody above it in the list stands at the top. */
export function nest(resources: Resource[]): Branch[] {
  const branches = new Map(resources.map((resource) => [resource.name, { resource, children: [] } as Branch]));
  const top: Branch[] = [];
  for (const branch of branches.values()) {
    const above = lineage(branch.resource.name).at(-2);
    const parent = above === undefined ? undefined : branches.get(above);
    (parent?.children ?? top).push(branch);
  }
  const sort = (list: Branch[]): void => {
    list.sort((a, b) => rank(a.resource) - rank(b.resource) || a.resource.name.localeCompare(b.resource.name));
    list.forEach((branch) => sort(branch.children));
  };
  sort(top);
  return top;
}

/** Those whose name holds the text, with all above them. */
export function matching(branches: Branch[], text: string): Branch[] {
  const wanted = text.trim().toLowerCase();
  if (wanted === "") return branches;
  return branches.flatMap((branch) => {
    const children = matching(branch.children, wanted);
    const holds = leaf(branch.resource.name).toLowerCase().includes(wanted);
    return holds || children.length > 0 ? [{ resource: branch.resource, children }] : [];
  });
}

/** Who owns comes before what is set, and people come last. */
const ORDER = ["Tenant", "Workspace", "TrafficGroup", "GatewayGroup", "SecurityGroup", "Application", "Cluster"];
const LAST = ["ApprovalPolicy", "Quota", "Binding", "User"];

function rank(resource: Resource): number {
  const kind = kindOf(resource.name);
  if (LAST.includes(kind)) return ORDER.length + 1 + LAST.indexOf(kind);
  return ORDER.includes(kind) ? ORDER.indexOf(kind) : ORDER.length;
}
