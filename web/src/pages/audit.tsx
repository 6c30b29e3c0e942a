/** The audit record: newest first, filtered, and followed as it grows. */
import { useInfiniteQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { api, type AuditRecord } from "../api/client";
import { follow } from "../api/events";
import { leaf } from "../api/name";
import { Changes } from "../parts/diff";
import { submitted } from "../parts/form";
import { Refusal } from "../parts/refusal";
import { go, Link, pathOf } from "../router";

const FILTERS = ["text", "actor", "name", "kind", "verb", "since", "until"] as const;
const TITLES: Record<(typeof FILTERS)[number], string> = {
  text: "Words",
  actor: "Who",
  name: "Resource, and below",
  kind: "Kind",
  verb: "What was done",
  since: "Since",
  until: "Until",
};
const OUTCOMES = ["done", "denied", "unauthenticated"];
const PAGE_SIZE = 50;
/** What is followed is kept up to here; the rest is on the pages below. */
const NEW_MAX = 500;

type Wanted = Record<string, string>;

export function AuditPage({ address }: { address: URL }) {
  const wanted: Wanted = Object.fromEntries([...address.searchParams].filter(([, value]) => value !== ""));
  return (
    <>
      <h1>Audit</h1>
      <Filters key={address.search} wanted={wanted} />
      <Records key={`records ${address.search}`} wanted={wanted} />
    </>
  );
}

function Filters({ wanted }: { wanted: Wanted }) {
  const show = (form: FormData) => {
    const given = [...form].flatMap(([name, value]): [string, string][] => {
      const text = String(value).trim();
      const isTime = name === "since" || name === "until";
      return text ? [[name, isTime ? new Date(text).toISOString() : text]] : [];
    });
    go(`/audit?${new URLSearchParams(given)}`);
  };
  return (
    <form className="filters" onSubmit={submitted(show)} aria-label="Filters">
      {FILTERS.map((name) => {
        const isTime = name === "since" || name === "until";
        return (
          <label key={name}>
            {TITLES[name]}
            <input
              name={name}
              type={isTime ? "datetime-local" : "text"}
              defaultValue={isTime ? localTime(wanted[name]) : wanted[name]}
            />
          </label>
        );
      })}
      <label>
        Outcome
        <select name="outcome" defaultValue={wanted.outcome ?? ""}>
          <option value="">all</option>
          {OUTCOMES.map((outcome) => (
            <option key={outcome}>{outcome}</option>
          ))}
        </select>
      </label>
      <span className="buttons">
        <button type="submit" className="primary">
          Show
        </button>
        <Link to="/audit">all records</Link>
      </span>
    </form>
  );
}

function Records({ wanted }: { wanted: Wanted }) {
  const [live, setLive] = useState(false);
  const records = useInfiniteQuery({
    queryKey: ["audit", wanted],
    queryFn: ({ pageParam }) => api.audit({ ...wanted, pageSize: PAGE_SIZE, ...(pageParam && { pageToken: pageParam }) }),
    initialPageParam: "",
    getNextPageParam: (page) => page.nextPageToken,
    refetchOnWindowFocus: false,
  });
  // What was written between the list and the first moment of the stream is in a list that is read again then.
  const { refetch } = records;
  const { news, error } = useTail(wanted, live, refetch);
  const known = new Set(news.map(keyOf));
  const older = (records.data?.pages.flatMap((page) => page.items) ?? []).filter((record) => !known.has(keyOf(record)));
  const shown = [...news, ...older];
  return (
    <>
      <label className="check">
        <input type="checkbox" checked={live} onChange={(event) => setLive(event.target.checked)} />
        Show new records as they are written
      </label>
      {live && !error && (
        <p className="hint" role="status">
          Following{news.length > 0 ? `: ${news.length} new` : ""}.
        </p>
      )}
      {live && error && <Refusal error={error} />}
      {records.error && <Refusal error={records.error} />}
      {records.isPending && <p className="loading">Loading …</p>}
      {records.data && shown.length === 0 && <p className="empty">No record that you may read is like that.</p>}
      {shown.length > 0 && (
        <div className="scroll">
          <table className="audit">
            <thead>
              <tr>
                <th scope="col">Time</th>
                <th scope="col">Who</th>
                <th scope="col">What</th>
                <th scope="col">Resource</th>
                <th scope="col">Outcome</th>
                <th scope="col">More</th>
              </tr>
            </thead>
            <tbody>
              {shown.map((record) => (
                <Row key={keyOf(record)} record={record} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {records.hasNextPage && (
        <button type="button" onClick={() => void records.fetchNextPage()} disabled={records.isFetchingNextPage}>
          Older
        </button>
      )}
    </>
  );
}

function Row({ record }: { record: AuditRecord }) {
  const states = { ...(record.before && { before: record.before }), ...(record.after && { after: record.after }) };
  return (
    <tr className={record.outcome === "done" ? "" : "denied"}>
      <td>
        <time dateTime={record.time}>{record.time?.slice(0, 19).replace("T", " ")}</time>
      </td>
      <td title={record.actor}>{leaf(record.actor ?? "")}</td>
      <td>{record.verb}</td>
      <td>{record.name && <Link to={pathOf(record.name)}>{record.name}</Link>}</td>
      <td>
        <span className={`badge ${record.outcome === "done" ? "good" : "bad"}`}>{record.outcome}</span>
      </td>
      <td>
        <details>
          <summary>
            {record.revision !== undefined ? `revision ${record.revision}` : `${record.chain} ${record.sequence}`}
          </summary>
          <dl>
            {record.reason && (
              <>
                <dt>Reason</dt>
                <dd>{record.reason}</dd>
              </>
            )}
            <dt>From</dt>
            <dd>{record.source}</dd>
            {record.repeated !== undefined && (
              <>
                <dt>Alike</dt>
                <dd>{record.repeated} more</dd>
              </>
            )}
            <dt>Request</dt>
            <dd>{record.requestId}</dd>
            <dt>Record</dt>
            <dd>
              {record.chain} {record.sequence}, <code>{record.hash.slice(0, 16)}…</code>
            </dd>
          </dl>
          {record.name && (record.before ?? record.after) && (
            <Changes changes={[{ name: record.name, action: record.verb ?? "", ...states }]} />
          )}
        </details>
      </td>
    </tr>
  );
}

/** New records, newest first, for as long as it is wanted. */
function useTail(wanted: Wanted, live: boolean, onOpen: () => unknown) {
  const [news, setNews] = useState<AuditRecord[]>([]);
  const [error, setError] = useState<Error | null>(null);
  const filter = JSON.stringify(wanted);
  useEffect(() => {
    if (!live) return;
    const ending = new AbortController();
    const told = ({ data }: { data: string }) => {
      if (!data) return;
      const record = JSON.parse(data) as AuditRecord;
      setNews((before) =>
        before.some((other) => keyOf(other) === keyOf(record)) ? before : [record, ...before].slice(0, NEW_MAX),
      );
    };
    const changed = (error: Error | null) => {
      setError(error);
      if (!error) onOpen();
    };
    void follow("audit:tail", JSON.parse(filter) as Wanted, ending.signal, told, changed);
    return () => ending.abort();
  }, [filter, live, onOpen]);
  return { news, error };
}

function keyOf(record: AuditRecord): string {
  return `${record.chain} ${record.sequence}`;
}

/** As `datetime-local` has it, in the time zone of the reader. */
function localTime(time: string | undefined): string {
  if (!time) return "";
  const at = new Date(time);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}
