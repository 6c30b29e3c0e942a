/** The revisions that changed a resource, what each changed, and the way back. */
import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { ask, type HistoryEntry } from "../api/client";
import { leaf } from "../api/name";
import { Asked } from "../parts/asked";
import { Changes } from "../parts/diff";
import { Proposal } from "../parts/proposal";
import { Refusal } from "../parts/refusal";
import { ago } from "../text/time";

const PAGE_SIZE = 50;

type Look = { revision: number; what: "change" | "since" | "rollback" };

export function History({ name }: { name: string }) {
  const [withBelow, setWithBelow] = useState(false);
  const [look, setLook] = useState<Look | null>(null);
  const history = useInfiniteQuery({
    queryKey: ["history", name, withBelow],
    queryFn: ({ pageParam }) =>
      ask("history", name, { pageSize: PAGE_SIZE, ...(withBelow && { below: true }), ...(pageParam && { pageToken: pageParam }) }),
    initialPageParam: "",
    getNextPageParam: (page) => page.nextPageToken,
  });
  if (look?.what === "rollback") {
    return (
      <>
        <h2>
          Back to revision {look.revision}: {leaf(name)} and all below it
        </h2>
        <Proposal
          wish={{ rollback: { name, revision: look.revision } }}
          onCancel={() => setLook(null)}
          onDone={() => setLook(null)}
        />
      </>
    );
  }
  const entries = history.data?.pages.flatMap((page) => page.items) ?? [];
  const revisions = [...new Set(entries.map((entry) => entry.revision))];
  return (
    <>
      <label className="check">
        <input type="checkbox" checked={withBelow} onChange={(event) => setWithBelow(event.target.checked)} />
        With all that stands below
      </label>
      {history.error && <Refusal error={history.error} />}
      {history.isPending && <p className="loading">Loading …</p>}
      <ol className="history">
        {revisions.map((revision) => (
          <li key={revision}>
            <Revision
              name={name}
              entries={entries.filter((entry) => entry.revision === revision)}
              look={look?.revision === revision ? look.what : null}
              withBelow={withBelow}
              onLook={(what) => setLook(what ? { revision, what } : null)}
            />
          </li>
        ))}
      </ol>
      {history.hasNextPage && (
        <button type="button" onClick={() => void history.fetchNextPage()} disabled={history.isFetchingNextPage}>
          Older
        </button>
      )}
    </>
  );
}

interface RevisionProps {
  name: string;
  entries: HistoryEntry[];
  look: Look["what"] | null;
  withBelow: boolean;
  onLook: (what: Look["what"] | null) => void;
}

function Revision({ name, entries, look, withBelow, onLook }: RevisionProps) {
  const first = entries[0];
  if (!first) return null;
  const turn = (what: Look["what"], title: string) => (
    <button type="button" aria-expanded={look === what} onClick={() => onLook(look === what ? null : what)}>
      {title}
    </button>
  );
  return (
    <article aria-label={`Revision ${first.revision}`}>
      <p>
        <strong>revision {first.revision}</strong> <span className={`action ${first.action}`}>{first.action}</span> by{" "}
        {leaf(first.actor)}, <time dateTime={first.time}>{ago(first.time, new Date())}</time>
        {withBelow && <span className="hint"> {entries.map((entry) => leaf(entry.name)).join(", ")}</span>}
      </p>
      <p className="buttons">
        {turn("change", "What it changed")}
        {turn("since", "What changed since")}
        <button type="button" onClick={() => onLook("rollback")}>
          Roll back to it
        </button>
      </p>
      {look === "change" && <Between name={name} from={first.revision - 1} to={first.revision} withBelow={withBelow} />}
      {look === "since" && <Between name={name} from={first.revision} withBelow={withBelow} />}
    </article>
  );
}

function Between({ name, from, to, withBelow }: { name: string; from: number; to?: number; withBelow: boolean }) {
  const difference = useQuery({
    queryKey: ["diff", name, from, to],
    queryFn: ({ signal }) => ask("diff", name, { from, ...(to !== undefined && { to }) }, signal),
  });
  return (
    <Asked query={difference}>
      {({ changes }) => {
        const shown = changes.filter((change) => withBelow || change.name === name);
        return shown.length > 0 ? <Changes changes={shown} /> : <p className="empty">Nothing differs.</p>;
      }}
    </Asked>
  );
}
