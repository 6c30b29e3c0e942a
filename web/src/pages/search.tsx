/** Every resource that touches a host, a service or a namespace, and those whose name holds the text. */
import { useQuery } from "@tanstack/react-query";
import { api, type Answer } from "../api/client";
import { kindOf, leaf } from "../api/name";
import { Problem } from "../api/problem";
import { Asked } from "../parts/asked";
import { Dot } from "../parts/outcome";
import { Link, pathOf } from "../router";
import { useSession } from "../session";
import { soughtIn } from "../text/sought";
import { useTree } from "./tree";

export function SearchPage({ text }: { text: string }) {
  const session = useSession();
  const tree = useTree(session?.top ?? "");
  return (
    <>
      <h1>“{text}”</h1>
      <h2>Names</h2>
      <Asked query={tree}>
        {({ items }) => {
          const found = items.filter((item) => leaf(item.name).toLowerCase().includes(text.toLowerCase()));
          if (found.length === 0) return <p className="empty">No name holds it.</p>;
          return (
            <ul>
              {found.map(({ name }) => (
                <li key={name}>
                  <Dot name={name} /> <Link to={pathOf(name)}>{name}</Link> <span className="kind">{kindOf(name)}</span>
                </li>
              ))}
            </ul>
          );
        }}
      </Asked>
      {soughtIn(text).map((query) => (
        <Touching key={JSON.stringify(query)} query={query} />
      ))}
    </>
  );
}

type Found = Answer<"search">;

function Touching({ query }: { query: { host: string } | { service: string } | { namespace: string } }) {
  const [what, text] = Object.entries(query)[0] ?? ["", ""];
  const found = useQuery({
    queryKey: ["search", query],
    // What is no host, and no name of a namespace, touches nothing.
    queryFn: () =>
      api.search(query).catch((error: unknown): Found => {
        if (error instanceof Problem && error.word === "malformed") return { revision: 0, items: [], hidden: 0 };
        throw error;
      }),
  });
  return (
    <section aria-label={`${what} ${text}`}>
      <h2>
        Touching the {what} <code>{text}</code>
      </h2>
      <Asked query={found}>
        {({ items, hidden }) => (
          <>
            {items.length === 0 && <p className="empty">Nothing touches it.</p>}
            {items.length > 0 && (
              <table>
                <thead>
                  <tr>
                    <th scope="col">Resource</th>
                    <th scope="col">Field</th>
                    <th scope="col">Value</th>
                    <th scope="col">How</th>
                  </tr>
                </thead>
                <tbody>
                  {items.map((item) => (
                    <tr key={`${item.resource} ${item.field}`}>
                      <td>
                        <Link to={pathOf(item.resource)}>{item.resource}</Link> <span className="kind">{item.kind}</span>
                      </td>
                      <td>
                        <code>{item.field}</code>
                      </td>
                      <td>
                        <code>{item.value}</code>
                      </td>
                      <td>{item.how}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            )}
            {hidden > 0 && <p className="hint">{hidden} more that you may not read.</p>}
          </>
        )}
      </Asked>
    </section>
  );
}
