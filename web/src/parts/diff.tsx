/** What differs between two states of a resource. */
import { Link, pathOf } from "../router";
import { diff, inContext } from "../text/diff";
import { textOf, yaml } from "../text/document";

const SIGNS = { same: " ", out: "-", in: "+" };
const WORDS = { same: "", out: "removed: ", in: "added: " };

export interface Change {
  name: string;
  action: string;
  before?: object;
  after?: object;
}

export function Changes({ changes }: { changes: Change[] }) {
  return (
    <>
      {changes.map((change) => (
        <section key={change.name} aria-label={`${change.action} ${change.name}`}>
          <h4>
            <span className={`action ${change.action}`}>{change.action}</span>{" "}
            <Link to={pathOf(change.name)}>{change.name}</Link>
          </h4>
          <Difference before={textOf(change.before ?? {})} after={textOf(change.after ?? {})} />
        </section>
      ))}
    </>
  );
}

/** Of any two values. */
export function ValueDifference({ before, after }: { before: unknown; after: unknown }) {
  return <Difference before={yaml(before)} after={yaml(after)} />;
}

function Difference({ before, after }: { before: string; after: string }) {
  const [a, b] = [before, after].map((text) => (text === "{}\n" ? "" : text));
  const lines = inContext(diff(a ?? "", b ?? ""));
  if (lines.every((line) => line === null)) return <p className="empty">Nothing that a person has written differs.</p>;
  return (
    <pre className="diff" tabIndex={0} aria-label="Difference, line by line">
      {lines.map((line, at) =>
        line === null ? (
          <span key={at} className="gap">
            {"…\n"}
          </span>
        ) : (
          <span key={at} className={line.how}>
            <span className="hidden">{WORDS[line.how]}</span>
            <span aria-hidden="true">{SIGNS[line.how]}</span> {`${line.text}\n`}
          </span>
        ),
      )}
    </pre>
  );
}
