/** The settings that count for a node or one of its services, each with who decided it. */
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, type Answer } from "../api/client";
import { kindOf } from "../api/name";
import { Asked } from "../parts/asked";
import { submitted } from "../parts/form";
import { Link, pathOf } from "../router";
import { yaml } from "../text/document";

type Field = Answer<"effectiveWorkspace">["fields"][number];
type Origin = NonNullable<Field["origin"]>;

/** Kinds whose services can be asked for one by one. */
const WITH_SERVICES = ["Workspace", "TrafficGroup", "SecurityGroup"];

export function Effective({ name }: { name: string }) {
  const [service, setService] = useState("");
  const effective = useQuery({
    queryKey: ["effective", name, service],
    queryFn: () => api.effective(name, service ? { service } : {}),
  });
  return (
    <>
      {WITH_SERVICES.includes(kindOf(name)) && (
        <form className="row-form" onSubmit={submitted((form) => setService(String(form.get("service")).trim()))}>
          <label>
            For one service only
            <input name="service" placeholder="namespace/name" defaultValue={service} />
          </label>
          <button type="submit">Show</button>
        </form>
      )}
      <Asked query={effective}>
        {({ fields }) =>
          fields.length === 0 ? (
            <p className="empty">Nobody has set anything; every setting is as it is built in.</p>
          ) : (
            <div className="scroll">
              <table>
                <thead>
                  <tr>
                    <th scope="col">Setting</th>
                    <th scope="col">Value</th>
                    <th scope="col">Decided by</th>
                    <th scope="col">Not enforced yet</th>
                  </tr>
                </thead>
                <tbody>
                  {fields.map((field) => (
                    <tr key={field.field}>
                      <th scope="row">
                        <code>{field.field}</code>
                      </th>
                      <td>
                        <code className="value">{yaml(field.value).trim() || "none"}</code>
                      </td>
                      <td>
                        {field.origin ? <OriginView origin={field.origin} /> : "built in"}
                        {(field.with ?? []).map((origin, at) => (
                          <p key={at}>
                            and <OriginView origin={origin} />
                          </p>
                        ))}
                      </td>
                      <td className="warn-text">{field.notEnforced}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </div>
          )
        }
      </Asked>
    </>
  );
}

/** Who decided, and whose word did not count beside it. */
export function OriginView({ origin }: { origin: Origin }) {
  const hidden = origin.lostHidden ?? 0;
  return (
    <>
      <Link to={pathOf(origin.resource)}>{origin.resource}</Link>
      {origin.field && <code> {origin.field}</code>}
      {(origin.lost ?? []).map((loser) => (
        <span key={loser} className="lost">
          over <Link to={pathOf(loser)}>{loser}</Link>
        </span>
      ))}
      {hidden > 0 && <span className="lost">over {hidden} that you may not read</span>}
    </>
  );
}
