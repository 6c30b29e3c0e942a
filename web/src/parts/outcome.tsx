/** A resource's outcome, in words and a sign that does not rest on colour. */
import { useQuery } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import { ask, type Finding, type Status } from "../api/client";
import { Link, pathOf } from "../router";
import { outcomeOf, share, type Told } from "../text/outcome";

const SIGNS: Record<Told["tone"], string> = { good: "●", moving: "◐", warn: "▲", bad: "✕", unsure: "?" };
const REFRESH_MS = 10_000;

export function useStatus(name: string, enabled = true) {
  return useQuery({
    queryKey: ["status", name],
    queryFn: ({ signal }) => ask("status", name, undefined, signal),
    refetchInterval: REFRESH_MS,
    enabled,
  });
}

export function Badge({ status }: { status: Pick<Status, "outcome"> & Partial<Status> }) {
  const told = outcomeOf(status);
  return (
    <span className={`badge ${told.tone}`} title={told.about}>
      <span aria-hidden="true">{SIGNS[told.tone]}</span> {told.word}
    </span>
  );
}

/** The sign alone, with the word for who cannot see it; asked for once it is on the screen. */
export function Dot({ name }: { name: string }) {
  const place = useRef<HTMLSpanElement>(null);
  const seen = useSeen(place);
  const { data } = useStatus(name, seen);
  const told = data && outcomeOf(data.status);
  return (
    <span ref={place} className={`dot ${told?.tone ?? ""}`} title={told && `${told.word}: ${told.about}`}>
      <span aria-hidden="true">{told ? SIGNS[told.tone] : "·"}</span>
      {told && <span className="hidden">{told.word}: </span>}
    </span>
  );
}

export function StatusView({ status }: { status: Status }) {
  const clusters = Object.entries(status.clusters);
  return (
    <>
      <p>
        <Badge status={status} /> {outcomeOf(status).about}.
      </p>
      {clusters.length === 0 ? (
        <p className="empty">It concerns no cluster, so no proxy has anything to take from it.</p>
      ) : (
        <div className="scroll">
          <table>
            <thead>
              <tr>
                <th scope="col">Cluster</th>
                <th scope="col">Outcome</th>
                <th scope="col">Proxies that run it</th>
                <th scope="col">Edge</th>
                <th scope="col">In its own words</th>
              </tr>
            </thead>
            <tbody>
              {clusters.map(([cluster, of]) => (
                <tr key={cluster}>
                  <th scope="row">{cluster}</th>
                  <td>
                    <Badge status={of} />
                  </td>
                  <td>{share(of)}</td>
                  <td>{of.agent}</td>
                  <td>
                    {(of.rejections ?? []).map((words) => (
                      <p key={words} className="words">
                        {words}
                      </p>
                    ))}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      <Findings findings={status.findings ?? []} />
    </>
  );
}

export function Findings({ findings }: { findings: Finding[] }) {
  if (findings.length === 0) return null;
  return (
    <section aria-label="Findings">
      <h3>Findings</h3>
      <ul className="findings">
        {findings.map((finding, at) => (
          <li key={at} className={finding.severity === "Error" ? "bad" : "warn"}>
            <strong>{finding.code}</strong> <Link to={pathOf(finding.resource)}>{finding.resource}</Link>
            {finding.field && <code> {finding.field}</code>}
            {finding.cluster && <> in {finding.cluster}</>}: {finding.message}
          </li>
        ))}
      </ul>
    </section>
  );
}

function useSeen(place: React.RefObject<Element | null>): boolean {
  const [seen, setSeen] = useState(false);
  useEffect(() => {
    if (!place.current) return;
    const observer = new IntersectionObserver((entries) => setSeen(entries.some((entry) => entry.isIntersecting)));
    observer.observe(place.current);
    return () => observer.disconnect();
  }, [place]);
  return seen;
}
