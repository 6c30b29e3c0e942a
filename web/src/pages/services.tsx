/** The services of workspaces, and what would become of each without a cluster or a region. */
import { useQuery } from "@tanstack/react-query";
import { api, type Readiness } from "../api/client";
import { kindOf, leaf } from "../api/name";
import { Asked } from "../parts/asked";
import { Link, pathOf } from "../router";
import { useSession } from "../session";
import { useTree } from "./tree";

const SIGNS = { survives: "●", partly: "▲", lost: "✕" };
const TONES = { survives: "good", partly: "warn", lost: "bad" };

export function ServicesPage() {
  const session = useSession();
  const tree = useTree(session?.top ?? "");
  return (
    <>
      <h1>Services</h1>
      <p className="hint">
        For each service, where its requests would go without one of the clusters that offer it, or without their region; from
        what clusters report now.
      </p>
      <Asked query={tree}>
        {({ items }) => {
          const workspaces = items.filter((item) => kindOf(item.name) === "Workspace");
          if (workspaces.length === 0) return <p className="empty">You may read no workspace, or there is none yet.</p>;
          return workspaces.map(({ name }) => (
            <section key={name} aria-label={name}>
              <h2>
                <Link to={pathOf(name)}>{leaf(name)}</Link> <span className="kind">{name}</span>
              </h2>
              <ServicesOf workspace={name} />
            </section>
          ));
        }}
      </Asked>
    </>
  );
}

export function ServicesOf({ workspace }: { workspace: string }) {
  const readiness = useQuery({ queryKey: ["readiness", workspace], queryFn: () => api.readiness(workspace) });
  return (
    <Asked query={readiness}>
      {({ items }) =>
        items.length === 0 ? (
          <p className="empty">No cluster offers a service of this workspace.</p>
        ) : (
          <div className="scroll">
            <table>
              <thead>
                <tr>
                  <th scope="col">Service</th>
                  <th scope="col">Offered by</th>
                  <th scope="col">Without</th>
                  <th scope="col">It</th>
                  <th scope="col">Requests go to</th>
                  <th scope="col">What is missing</th>
                </tr>
              </thead>
              <tbody>
                {items.map((item) => (
                  <Rows key={item.service} item={item} />
                ))}
              </tbody>
            </table>
          </div>
        )
      }
    </Asked>
  );
}

function Rows({ item }: { item: Readiness }) {
  const losses = item.losses.length > 0 ? item.losses : [null];
  return losses.map((loss, at) => (
    <tr key={at}>
      {at === 0 && (
        <>
          <th scope="rowgroup" rowSpan={losses.length}>
            {item.service}
          </th>
          <td rowSpan={losses.length}>{item.clusters.join(", ")}</td>
        </>
      )}
      {loss && (
        <>
          <td>{"cluster" in loss.lost ? `cluster ${loss.lost.cluster}` : `region ${loss.lost.region}`}</td>
          <td>
            <span className={`badge ${TONES[loss.verdict]}`}>
              <span aria-hidden="true">{SIGNS[loss.verdict]}</span> {loss.verdict}
            </span>
          </td>
          <td>
            {Object.entries(loss.goesTo).map(([from, to]) => (
              <p key={from}>
                {from} → {to.length > 0 ? to.join(", ") : "nowhere"}
              </p>
            ))}
          </td>
          <td>
            {loss.missing.map((sentence) => (
              <p key={sentence}>{sentence}</p>
            ))}
          </td>
        </>
      )}
    </tr>
  ));
}
