/** One resource: its document, what became of it, its past, and the settings and services below it. */
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, type Resource } from "../api/client";
import { below, kindOf, leaf, lineage } from "../api/name";
import { Asked } from "../parts/asked";
import { Badge, StatusView, useStatus } from "../parts/outcome";
import { Proposal } from "../parts/proposal";
import { go, Link, pathOf } from "../router";
import { useSession } from "../session";
import { textOf } from "../text/document";
import { ago } from "../text/time";
import { Editor } from "./editor";
import { Effective } from "./effective";
import { History } from "./history";
import { ServicesOf } from "./services";

/** Kinds that settings attach to. */
const SETTABLE = ["Organization", "Tenant", "Workspace", "TrafficGroup", "SecurityGroup"];

export function ResourcePage({ name, address }: { name: string; address: URL }) {
  const resource = useQuery({ queryKey: ["resource", name], queryFn: () => api.get(name) });
  const status = useStatus(name);
  const kind = kindOf(name);
  const tabs: [id: string, title: string][] = [
    ["", "Document"],
    ["status", "Status"],
    ["history", "History"],
    ...(SETTABLE.includes(kind) ? ([["settings", "Settings"]] as [string, string][]) : []),
    ...(kind === "Workspace" ? ([["services", "Services"]] as [string, string][]) : []),
  ];
  const tab = address.searchParams.get("tab") ?? "";
  return (
    <>
      <Lineage name={name} />
      <h1>
        {leaf(name)} <span className="kind">{kind}</span> {status.data && <Badge status={status.data.status} />}
      </h1>
      <nav className="tabs" aria-label={`About ${leaf(name)}`}>
        {tabs.map(([id, title]) => (
          <Link key={id} to={pathOf(name, id)} aria-current={id === tab ? "page" : undefined}>
            {title}
          </Link>
        ))}
      </nav>
      <Asked query={resource}>
        {(resource) => {
          if (tab === "status") return <Asked query={status}>{({ status }) => <StatusView status={status} />}</Asked>;
          if (tab === "history") return <History name={name} />;
          if (tab === "settings") return <Effective name={name} />;
          if (tab === "services") return <ServicesOf workspace={name} />;
          return <DocumentTab resource={resource} />;
        }}
      </Asked>
    </>
  );
}

function Lineage({ name }: { name: string }) {
  const session = useSession();
  const top = session ? lineage(session.top).length : 1;
  const above = lineage(name).slice(top - 1, -1);
  if (above.length === 0) return null;
  return (
    <nav aria-label="Where it stands">
      <ol className="lineage">
        {above.map((node) => (
          <li key={node}>
            <Link to={pathOf(node)}>{leaf(node)}</Link>
          </li>
        ))}
      </ol>
    </nav>
  );
}

type Doing = { what: "reading" | "editing" | "deleting" } | { what: "adding"; collection: string; kind: string };

function DocumentTab({ resource }: { resource: Resource }) {
  const { name } = resource;
  const [doing, setDoing] = useState<Doing>({ what: "reading" });
  const read = () => setDoing({ what: "reading" });
  if (doing.what === "editing") {
    return <Editor start={textOf(resource)} etag={resource.etag} onCancel={read} onDone={read} />;
  }
  if (doing.what === "adding") {
    return <Adding below={name} kind={doing.kind} collection={doing.collection} onCancel={read} />;
  }
  if (doing.what === "deleting") {
    const above = lineage(name).at(-2);
    const wish = { changes: [{ op: "delete", name, ...(resource.etag && { etag: resource.etag }) }] };
    return <Proposal wish={wish} onCancel={read} onDone={() => go(above ? pathOf(above) : "/")} />;
  }
  const kinds = below(kindOf(name));
  return (
    <>
      {resource.managedBy && (
        <p className="notice">
          <strong>{resource.managedBy}</strong> keeps {resource.managedFields?.join(", ") ?? "this"} in step with a source outside.
          Change that there.
        </p>
      )}
      <pre className="document" tabIndex={0} aria-label={`Document of ${name}`}>
        {textOf(resource)}
      </pre>
      <p className="hint">
        Last changed in revision {resource.revision}
        {resource.updateTime && (
          <>
            , <time dateTime={resource.updateTime}>{ago(resource.updateTime, new Date())}</time>
          </>
        )}
        .
      </p>
      <p className="buttons">
        <button type="button" className="primary" onClick={() => setDoing({ what: "editing" })}>
          Edit
        </button>
        {kinds.length > 0 && (
          <label className="inline">
            Add below it
            <select
              value=""
              onChange={(event) => {
                const chosen = kinds.find(([collection]) => collection === event.target.value);
                if (chosen) setDoing({ what: "adding", collection: chosen[0], kind: chosen[1] });
              }}
            >
              <option value="">choose a kind …</option>
              {kinds.map(([collection, kind]) => (
                <option key={collection} value={collection}>
                  {kind}
                </option>
              ))}
            </select>
          </label>
        )}
        <button type="button" className="quiet" onClick={() => setDoing({ what: "deleting" })}>
          Delete
        </button>
      </p>
    </>
  );
}

/** A new resource, from the example of its kind. */
function Adding(props: { below: string; kind: string; collection: string; onCancel: () => void }) {
  const { below, kind, collection, onCancel } = props;
  const schema = useQuery({ queryKey: ["schema", kind], queryFn: () => api.schema(kind), staleTime: Infinity });
  return (
    <Asked query={schema}>
      {(schema) => {
        const example = (schema as { examples?: { name: string }[] }).examples?.[0];
        const name = `${below}/${collection}/${leaf(example?.name ?? "new")}`;
        return (
          <>
            <p className="hint">This is the example of the kind {kind}. Give it a name and say what you want.</p>
            <Editor start={textOf({ ...example, name })} onCancel={onCancel} onDone={(name) => go(pathOf(name))} />
          </>
        );
      }}
    </Asked>
  );
}
