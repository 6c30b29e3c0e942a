/** The tree of resources, with the status of each. */
import { useQuery } from "@tanstack/react-query";
import { useMemo, useState } from "react";
import { wholeTree } from "../api/client";
import { isWithin, kindOf, leaf, matching, nest, type Branch } from "../api/name";
import { Asked } from "../parts/asked";
import { Dot } from "../parts/outcome";
import { Link, pathOf } from "../router";

const REFRESH_MS = 30_000;
/** Open from the start: down to workspaces, as a mesh has few of these. */
const OPEN_KINDS = ["Organization", "Tenant"];

export function useTree(top: string) {
  return useQuery({
    queryKey: ["tree", top],
    queryFn: ({ signal }) => wholeTree(top, signal),
    refetchInterval: REFRESH_MS,
  });
}

export function TreePanel({ top, selected }: { top: string; selected: string }) {
  const tree = useTree(top);
  const [filter, setFilter] = useState("");
  return (
    <nav className="tree" aria-label="Resources">
      <label className="hidden" htmlFor="filter">
        Show names that hold
      </label>
      <input
        id="filter"
        type="search"
        placeholder="Filter by name"
        value={filter}
        onChange={(event) => setFilter(event.target.value)}
      />
      <Asked query={tree}>
        {({ items, more }) => (
          <>
            <Branches resources={items} filter={filter} selected={selected} />
            {more && <p className="hint">These are the first {items.length}. The search finds the others.</p>}
          </>
        )}
      </Asked>
    </nav>
  );
}

function Branches({ resources, filter, selected }: { resources: Branch["resource"][]; filter: string; selected: string }) {
  const branches = useMemo(() => matching(nest(resources), filter), [resources, filter]);
  const [turned, setTurned] = useState<ReadonlyMap<string, boolean>>(new Map());
  if (branches.length === 0) return <p className="empty">No name holds “{filter}”.</p>;

  const isOpen = (name: string) =>
    turned.get(name) ?? (filter !== "" || OPEN_KINDS.includes(kindOf(name)) || isWithin(selected, name));
  const list = (branches: Branch[]) => (
    <ul>
      {branches.map(({ resource: { name }, children }) => (
        <li key={name}>
          <div className="row">
            {children.length > 0 ? (
              <button
                type="button"
                className="turn"
                aria-expanded={isOpen(name)}
                aria-label={`What stands below ${leaf(name)}`}
                onClick={() => setTurned(new Map(turned).set(name, !isOpen(name)))}
              >
                {isOpen(name) ? "▾" : "▸"}
              </button>
            ) : (
              <span className="turn" />
            )}
            <Link to={pathOf(name)} aria-current={name === selected ? "page" : undefined}>
              <Dot name={name} /> {leaf(name)} <span className="kind">{kindOf(name)}</span>
            </Link>
          </div>
          {children.length > 0 && isOpen(name) && list(children)}
        </li>
      ))}
    </ul>
  );
  return list(branches);
}
