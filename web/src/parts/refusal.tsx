/** What went wrong, why, and what to do: the one way in which every page shows it. */
import type { ReactNode } from "react";
import { adviceFor, Away, Problem } from "../api/problem";
import { Link, pathOf } from "../router";

export function Refusal({ error, children }: { error: Error; children?: ReactNode }) {
  if (error instanceof Away) {
    return (
      <div role="alert" className="notice warn">
        <p>Management does not answer. Nothing was lost here: try again when it does.</p>
        {children}
      </div>
    );
  }
  if (!(error instanceof Problem)) {
    return (
      <div role="alert" className="notice bad">
        <p>{error.message}</p>
        {children}
      </div>
    );
  }
  const { details } = error;
  const advice = adviceFor(error.word);
  return (
    <div role="alert" className="notice bad">
      <p>
        <strong>{details.title}</strong>: {details.detail}
      </p>
      {details.errors && (
        <ul>
          {details.errors.map((item, at) => (
            <li key={at}>
              {item.pointer && <code>{item.pointer}</code>} {item.detail}
              {item.resource && (
                <>
                  {" "}
                  (<Link to={pathOf(item.resource)}>{item.resource}</Link>)
                </>
              )}
            </li>
          ))}
        </ul>
      )}
      {advice && <p>{advice}</p>}
      {children}
      <p className="hint">
        {error.status} {error.word}, request {details.instance.replace("urn:tombolo:request:", "")}
      </p>
    </div>
  );
}
